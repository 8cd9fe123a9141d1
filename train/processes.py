"""The processes of a job: those that torchrun or srun has started, or the ones that `trainer.processes` asks for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expkit.dist import Dist, Place
from expkit.errors import ConfigError
from train.blaming import blaming
from train.config.trainer import TrainerConfig

__all__ = ["follower", "lead_or_follow", "ranks"]

log = logging.getLogger("expkit")

#: The part of the time-out, and the seconds, in which ranks find out who did not come, and end. Before they wait.
_PART, _AT_LEAST = 0.2, 5.0
#: Seconds for which rank 0 may take to be there: Python and torch come over a network sometimes.
_PATIENCE = 300.0
#: What each of the other processes runs, where Python finds what it finds here, but for a `train` of the user's own.
_FOLLOWER = (
    "import sys; sys.path[:] = [{ours!r}, *{path!r}]; from train.processes import follower; "
    "sys.path[:] = {path!r}; sys.exit(follower())"
)


@contextmanager
def ranks(section: DictConfig) -> Iterator[Dist]:
    """Give the ranks of a job, of which this process is number 0. The others are there when the block begins.

    Args:
        section: the trainer section.

    Raises:
        ConfigError: there are others than it asks for.
        RankFailed: one of the others has failed, is gone or hangs.
    """
    trainer = TrainerConfig.from_mapping(cast("dict[str, Any]", OmegaConf.to_container(section, resolve=True)))
    place = Place.current()
    if place is None and (trainer.processes or 1) == 1:
        yield Dist()
        return
    if place is not None and trainer.processes not in (None, place.world_size):
        raise ConfigError(
            f"trainer.processes={trainer.processes}, but {place.launcher} has started {place.world_size}: leave it out"
        )
    with ExitStack() as stack:
        dead: Callable[[], Mapping[int, int]] = dict
        if place is None:
            from expkit.dist.children import Children

            assert trainer.processes is not None
            _check_gpus(trainer, trainer.processes)
            command = [sys.executable, "-c", _FOLLOWER.format(ours=str(Path(__file__).parents[1]), path=sys.path)]
            children = stack.enter_context(Children(trainer.processes, command))
            place, dead = children.place, children.dead
        dist = stack.enter_context(_joined(place, trainer, dead))
        with blaming(dist):
            yield dist


def _check_gpus(trainer: TrainerConfig, processes: int) -> None:
    """Refuse processes of this machine that would share a GPU, of which NCCL says no more than "invalid usage"."""
    if trainer.torch_device(0).type != "cuda":
        return
    import torch

    gpus = torch.cuda.device_count() if trainer.device in ("auto", "cuda") else 1
    if processes > gpus:
        named = f"trainer.device={trainer.device} is" if gpus == 1 else "there are"
        raise ConfigError(
            f"trainer.processes={processes}, but {named} {gpus} GPU{'' if gpus == 1 else 's'}, and each process needs "
            f"one of its own: trainer.processes={gpus}, or trainer.device=cpu"
        )


def _joined(place: Place, trainer: TrainerConfig, dead: Callable[[], Mapping[int, int]]) -> Dist:
    from expkit.dist.group import join

    wait = trainer.wait - max(_PART * trainer.wait, min(_AT_LEAST, trainer.wait / 2))
    return join(place, wait, trainer.torch_device(place.local_rank).type, dead=dead)


def lead_or_follow(work: Callable[[], int]) -> int:
    """Do `work`, if this process is rank 0, or alone; tell the other ranks its exit code; elsewhere be one of them.

    Args:
        work: does rank 0's jobs, none or several, and returns the exit code.

    Returns:
        the exit code of this process.

    Raises:
        UserError: it is not clear which rank this is, or rank 0 is not there.
    """
    place = Place.current()
    if place is None:
        return work()
    if place.rank > 0:
        code = follower()
        # At once: rank 0 leaves now, too, whose exit code is to be the job's. Where srun ends all tasks with the first
        # (--kill-on-bad-exit), this one would be among those that were killed.
        os._exit(code)
    code = 1
    try:
        code = work()
    except SystemExit as leaving:  # of Hydra's --help, or a scheduler's handler
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    finally:
        from expkit.dist.meeting import say_over

        say_over(place, code)
    return code


def follower() -> int:
    """Be one of the ranks beside rank 0, and return the exit code.

    It is 0 where a signal has stopped the job: rank 0 alone says so, and a launcher sees one that fails.

    What goes wrong in a job is in this rank's log, and told by rank 0.

    Raises:
        UserError: rank 0 is not there.
    """
    from expkit.dist.group import join
    from expkit.dist.meeting import expect, meet
    from expkit.stopping import StopSignals
    from train.following import follow

    log.handlers[:] = [logging.NullHandler()]  # rank 0 says what all of them say
    log.propagate = False
    logging.captureWarnings(True)
    place = Place.current()
    assert place is not None
    failed = False
    meet(place, _PATIENCE)  # until then signals are the launcher's
    try:
        with StopSignals(lambda: None) as signals:
            while (code := expect(place, _PATIENCE, lambda: int(signals.received or 0))) is None:
                try:
                    with join(place) as dist:
                        follow(dist, signals)
                except Exception:  # noqa: BLE001 - it has been told to the others, and rank 0 may have another job
                    failed = True
                else:
                    signals.received = None  # the job has dealt with it
                if place.launcher == "processes":
                    break
    except KeyboardInterrupt:
        return 130
    return code or int(failed)
