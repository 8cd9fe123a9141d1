"""What a rank other than 0 does in a job: it trains along. Rank 0 alone has the run directory, trackers and all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from omegaconf import DictConfig, OmegaConf

from expkit.dist import Control, Dist
from expkit.errors import RankFailed, UserError
from expkit.experiment import RunDir
from expkit.recorder import Recorder
from expkit.secrets import MaskingFormatter, mask_secrets
from expkit.stopping import StopSignals
from train.blaming import blaming, rank_log
from train.config.build import extra_folders
from train.config.cluster import enter_cluster
from train.parts import assemble
from train.pictures import is_whole
from train.preparing import prepare
from train.responses import Responder, Rewind, lowered, rewinds
from train.restoring import check_continuity
from train.resume import Origin
from train.runner import Runner
from train.saving import Saver, make_manager
from train.staging import staged
from train.threads import compute_threads

__all__ = ["Plan", "agree_on_signal", "follow", "plan_of"]

log = logging.getLogger("expkit")


@dataclass(frozen=True)
class Plan:
    """What rank 0 tells the others of an attempt at a run.

    Attributes:
        config: the configuration, plain, every interpolation resolved.
        path, folders: where rank 0 looks for Python's modules, and for Hydra's files.
        origin, rewind: where the run goes on from, if it does not begin.
    """

    config: Mapping[str, Any]
    path: tuple[str, ...]
    folders: tuple[str, ...]
    origin: Origin | None
    rewind: Rewind | None


def plan_of(config: DictConfig, origin: Origin | None, rewind: Rewind | None) -> Plan:
    """Return the plan of an attempt, without what is rank 0's alone: trackers, plots, where alerts go, and keys."""
    plain: Any = OmegaConf.to_container(config, resolve=True)  # whole: other sections may refer to a tracker's
    plain |= {"tracker": {}, "plots": {}}
    if isinstance(plain.get("responses"), dict):
        plain["responses"]["webhook"] = None
    path = tuple(str(Path(each).absolute()) if each == "" else each for each in sys.path)
    return Plan(plain, path, tuple(str(each.absolute()) for each in extra_folders), origin, rewind)


def follow(dist: Dist, signals: StopSignals) -> None:
    """Do what rank 0 says, one attempt after the other."""
    while isinstance(plan := dist.broadcast(None), Plan):
        with ExitStack() as stack:
            _attempt(plan, dist, signals, stack)


def _attempt(plan: Plan, dist: Dist, signals: StopSignals, stack: ExitStack) -> None:
    sys.path[:] = plan.path
    extra_folders[:] = map(Path, plan.folders)
    plain = OmegaConf.create(dict(plan.config))
    mask_secrets(plan.config)  # so that this rank's log knows them
    enter_cluster(plain.cluster)
    config, _ = staged(plain)
    parts = assemble(config, dist)
    stack.enter_context(compute_threads(parts.trainer.threads, dist))
    control = Control(dist)
    signals.tell(lambda: control.request(Control.STOP))
    root, stored, masked = dist.broadcast(None)
    files = RunDir(root)
    stack.enter_context(_logging(files, dist.rank))
    stack.enter_context(blaming(dist))
    manager = make_manager(parts, config.checkpoint, files)
    runner, state = prepare(
        parts, config, files, manager, Recorder(), control, plan.origin, stored, masked, plan.rewind
    )
    runner.respond = responder = Responder(
        parts.responses,
        parts.detectors,
        control,
        note=lambda *_: None,  # rank 0 writes it down
        checkpoints=tuple,
        troubles=tuple,
        rewound=rewinds(stored) + (plan.rewind is not None),
        total_steps=runner.known_steps,
        lowered=lowered(stored, plan.rewind),
    )
    if manager is not None:
        runner.save = saver = Saver(manager, masked)
        if state is not None:
            saver.resumed(int(state["step"]))
            if runner.strategy.is_sharded:
                check_continuity(runner, state, manager.loss_tolerance)
    if parts.sampler is not None and dist.is_first_of_node:
        stack.enter_context(parts.sampler(lambda sample: runner.elsewhere.add(_named(sample, dist.node), late=True)))
    runner.plot = _put_together
    finished = runner.fit()
    if finished:
        responder.finish(runner)
    else:
        agree_on_signal(dist, signals)
    if manager is not None:
        manager.wait()
    if finished and responder.rewind is None:
        with runner.strategy.whole(runner.model):  # rank 0 lets the task draw samples
            pass


def agree_on_signal(dist: Dist, signals: StopSignals) -> None:
    """Let every rank know of the signal that has stopped the run: perhaps one alone has received it."""
    found = [number for number in dist.gather_all(int(signals.received or 0)) if number]
    if found:
        signals.received = Signals(found[0])


@contextmanager
def _logging(files: RunDir, rank: int) -> Iterator[None]:
    """Write warnings, and worse, to this rank's log, which is made with the first of them.

    A mistake is a line that rank 0 says. That another rank has failed is of interest where something was trained.
    """
    handler = logging.FileHandler(rank_log(files, rank), delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [log, logging.getLogger("py.warnings")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except RankFailed as failure:
        if files.metrics.exists() and files.metrics.stat().st_size:
            log.error("rank %d cannot go on: %s", rank, failure)
        raise
    except UserError:
        raise
    except Exception:  # a bug, or the user's own code: rank 0 tells the one line, this log has the traceback
        log.exception("rank %d cannot go on", rank)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _put_together(runner: Runner, last: bool) -> None:
    """Take part where rank 0 draws."""
    if is_whole(runner, last):
        with runner.strategy.whole(runner.model):
            pass


def _named(sample: Mapping[str, float], node: int) -> dict[str, float]:
    """Return what a machine says with its number in the names: `cpu/node1/percent`."""
    parts = {name: name.partition("/") for name in sample}
    return {f"{parts[name][0]}/node{node}/{parts[name][2]}": value for name, value in sample.items()}
