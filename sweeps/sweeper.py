"""What the sweeper does around Hydra's own: the sweep's folder, jobs that are run again, how all have ended."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from expkit.errors import ConfigError, UserError
from expkit.sweep.folder import JobFile, Submission, SweepDir
from sweeps.launching import say_end
from sweeps.resubmit import must_be_typed
from sweeps.settings import settings_of
from train.directory import mask_multirun
from train.sweeping import begin_sweep

__all__ = ["covering", "sweep"]


def sweep(sweeper: Any, arguments: list[str], basic: Callable[[list[str]], Any]) -> Any:
    """Run all jobs of a sweep, or those that are to be run again.

    Args:
        sweeper: `hydra_plugins.expkit_launcher.ExpkitSweeper`, set up.
        arguments: overrides of the task.
        basic: Hydra's own way to run every combination.

    Raises:
        UserError: it cannot be started. Nothing is left behind.
    """
    config: DictConfig = sweeper.config
    settings = settings_of(config)
    if not settings.wait and not hasattr(sweeper.launcher, "launch_numbered"):
        raise ConfigError(
            "sweep.wait=false: jobs go on by themselves with hydra/launcher=slurm or hydra/launcher=local"
        )
    if sweeper.jobs is not None:
        return _again(sweeper, arguments)
    jobs = _combinations(sweeper, arguments)
    with _begun(config, len(jobs)) as folder:
        try:
            if not hasattr(sweeper.launcher, "launch_numbered"):
                sweeper.validate_batch_is_legal(jobs)
                _queue(folder, dict(enumerate(jobs)))
            returned = basic(arguments)
        finally:
            mask_multirun(folder.root / "multirun.yaml")
    if settings.wait:
        say_end(folder)
    return returned


def covering(batch: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return jobs among which every option of the batch is, and every key: the values of a key compose alike."""
    seen: set[str] = set()
    found = []
    for overrides in batch:
        marks = {_composed(each) for each in overrides}
        if not seen >= marks:
            seen |= marks
            found.append(overrides)
    return found


def _composed(override: str) -> str:
    key = override.partition("=")[0]
    return key if "." in key else override  # of a group, each option is a file of its own


def _combinations(sweeper: Any, arguments: list[str]) -> list[list[str]]:
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    overrides = parser.parse_overrides([*sweeper._parse_config(), *arguments])
    batches: list[list[list[str]]] = sweeper.split_arguments(overrides, None)
    return batches[0]


@contextlib.contextmanager
def _begun(config: DictConfig, jobs: int) -> Iterator[SweepDir]:
    """Make the sweep's folder; take it away again if no job came to be."""
    there = SweepDir(config.hydra.sweep.dir)
    new = [each for each in (there.root, *there.root.parents) if not each.exists()]
    folder, begun = begin_sweep(config, jobs)
    if not begun:
        raise UserError(
            f"hydra.sweep.dir={folder.root}: another sweep is there, of the same second perhaps: start once more, or "
            f"choose another folder; its jobs are run again with: expkit sweep {folder.root} --resubmit failed"
        )
    try:
        yield folder
    except Exception:  # whatever kept all jobs from beginning: no sweep is left behind
        if not folder.numbers():
            folder.about.unlink(missing_ok=True)
            (folder.root / "multirun.yaml").unlink(missing_ok=True)
            if new:
                shutil.rmtree(folder.root, ignore_errors=True)
            with contextlib.suppress(OSError):  # another sweep may have begun in one of them
                for each in new[1:]:
                    each.rmdir()
        raise


def _queue(folder: SweepDir, jobs: dict[int, Sequence[str]]) -> None:
    """Write down jobs that this process starts one after the other."""
    for number, overrides in jobs.items():
        before = folder.job(number)
        run = before.run if before is not None else None
        folder.write(JobFile(number, tuple(overrides), run=run, suffix=before.suffix if before is not None else None))
    folder.note(Submission("local", dict.fromkeys(jobs), host=platform.node(), pid=os.getpid()))


def _again(sweeper: Any, arguments: list[str]) -> list[Sequence[JobReturn]]:
    """Run jobs of the sweep's folder once more, with `arguments` in place of what they had."""
    folder = SweepDir(sweeper.config.hydra.sweep.dir)
    jobs = {number: _overrides(folder, number, arguments) for number in sweeper.jobs}
    sweeper.validate_batch_is_legal([*jobs.values()])
    if hasattr(sweeper.launcher, "launch_numbered"):
        returned = [sweeper.launcher.launch_numbered([*jobs.values()], [*jobs])]
    else:
        _queue(folder, dict(jobs))
        returned = [sweeper.launcher.launch([overrides], number) for number, overrides in jobs.items()]
    if settings_of(sweeper.config).wait:
        say_end(folder, sweeper.jobs)
    return returned


def _overrides(folder: SweepDir, number: int, arguments: Sequence[str]) -> list[str]:
    job = folder.job(number)
    if job is None:
        raise UserError(f"{folder.file(number)} cannot be read: job {number} cannot be run again")
    found = {each.partition("=")[0]: each for each in job.overrides}
    found |= {each.partition("=")[0]: each for each in arguments}
    kept = [each for key, each in found.items() if not key.startswith("sweep.")]
    hidden = next((each for each in kept if must_be_typed(each) and each not in arguments), None)
    if hidden is not None:
        raise UserError(f"job {number}: {hidden} is not taken from the sweep's folder: type it again behind --resubmit")
    return kept
