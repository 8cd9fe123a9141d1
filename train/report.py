"""What a run says of itself: status.json's fields, results.json, the first and the last lines."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import step_of
from expkit.config_tracker import ConfigTracker
from expkit.ending import ending
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import write_bytes
from expkit.listing.entry import entry_of
from expkit.longer import again, longer
from expkit.results import ResultsView
from expkit.troubles import WriteTrouble
from train.parts import Parts
from train.pictures import Pictures
from train.program import shadow
from train.responses import Rewind
from train.runner import Runner

__all__ = ["Outcome", "Report", "resume_command", "say_next"]

log = logging.getLogger("expkit")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        dir: the run directory.
        state: finished, interrupted or preempted.
        best_val_loss: lowest validation loss, or None without evaluation: what a sweep minimises.
        signal: the number of the signal that stopped it before its end, or 0.
        look: what to type to look at it in the trackers' tools.
        complete: whether everything that it had to say at its end could be written.
        rewind: where it goes on from, if it has not ended.
        needs_requeue: SLURM preempts its job, and does not start it again by itself.
    """

    dir: Path
    state: str
    best_val_loss: float | None
    signal: int = 0
    look: tuple[str, ...] = ()
    complete: bool = True
    rewind: Rewind | None = None
    needs_requeue: bool = False


class Report:
    """Tells how a run stands.

    Args:
        files: the run directory, locked by this process.
        parts: what the run is made of.

    Attributes:
        runner, manager, pictures: set once they are there; the manager knows the best checkpoint.
        troubles: file -> what says which troubles it has had.
        stopped_by: the event that a detector stopped the run for, or None.
        ended: how a run that is resumed had ended, or None.
    """

    def __init__(self, files: RunDir, parts: Parts) -> None:
        self.files, self.parts = files, parts
        self.manager: CheckpointManager | None = None
        self.runner: Runner | None = None
        self.stopped_by: str | None = None
        self.ended = ending(files, locked=True)  # of a run that is resumed, before its status.json is written anew
        self.pictures: Pictures | None = None
        self._results: ResultsView | None = None
        self._results_trouble, self._config_trouble = WriteTrouble(files.results), WriteTrouble(files.config)
        self.troubles: dict[str, Callable[[], dict[str, Any]]] = {
            "results.json": self._results_trouble.summary,
            "config.json": self._config_trouble.summary,
        }
        self._to_add: dict[str, Any] = {}
        self._config: bytes | None = None

    def status(self) -> dict[str, Any]:
        """Return what status.json says of the run right now. Called from its thread."""
        fields: dict[str, Any] = {"experiment_id": self.files.id}
        if self.runner is not None:
            fields |= {
                "step": self.runner.progress.step,
                "epoch": self.runner.current_epoch,
                "total_steps": self.runner.known_steps,
                "metrics": dict(self.runner.recorder.latest),
            }
        if self.stopped_by is not None:
            fields["stopped_by"] = self.stopped_by
        troubles = {name: found for name, trouble in self.troubles.items() if (found := trouble())}
        return {**fields, "trackers": self.parts.trackers.failures(), "unwritten": troubles}

    def summary(self) -> dict[str, float]:
        """Return the final metrics."""
        latest = self.runner.recorder.latest if self.runner is not None else {}
        return {name: value for name, value in latest.items() if name.startswith("final/")}

    def results_if_due(self) -> None:
        """Bring results.json up to date, and config.json if need be, now and then."""
        if self._results is None or self._results.due():
            self.results([])

    def add_to_config(self, **fields: Any) -> None:
        """Add fields to config.json. A disk that refuses is said once; later it is tried again."""
        self._to_add |= fields
        self._keep_config()

    def _keep_config(self) -> None:
        """Have config.json on the disk as it is to be. Somebody may have deleted it: without it there is no run."""
        try:
            if self._config is not None and not self.files.config.exists() and self.files.root.is_dir():
                write_bytes(self.files.config, self._config)
                log.warning("%s was gone: it is written again", self.files.config)
            if self._to_add:
                ConfigTracker(self.files.root).add_to_config(**self._to_add)
                self._to_add = {}
            if self._config is None or self._config_trouble.error is not None:
                self._config = self.files.config.read_bytes()
        except (OSError, UserError) as error:
            self._config_trouble.failed(error)
        else:
            self._config_trouble.worked()

    def results(self, samples: list[Any]) -> None:
        """Bring results.json up to date. A disk that refuses is said once; training goes on."""
        self._keep_config()
        runner = self.runner
        if runner is None:
            return
        best: dict[str, Any] = {f"best_{name}": value for name, value in runner.best.metrics.items()}
        if runner.best.step:  # of the best checkpoint: none where its metric was never finite
            best["best_step"] = runner.best.step
        drawn = self.pictures.latest.get("samples", ()) if self.pictures is not None else ()
        shown = [str(path.relative_to(self.files.root)) for path in drawn]
        if self._results is None:
            self._results = ResultsView(
                self.files.root,
                list(self.parts.diagnostics),
                by_epoch=runner.val is None,
                summarize=self.parts.task.summarize,
            )
        try:
            found = self.manager.best_path() if self.manager is not None else None
            checkpoint = str(found.relative_to(self.files.root)) if found is not None else None
            self._results.write(best, checkpoint, samples or shown, runner.control.now())
        except OSError as error:
            self._results_trouble.failed(error)
        else:
            self._results_trouble.worked()

    def samples(self, model: nn.Module) -> list[Any]:
        """Return what the task generates with `model`. It may fail: a finished run is finished all the same."""
        model.eval()
        try:
            with torch.no_grad():
                samples = self.parts.task.samples(model)
            if samples and isinstance(samples[0], str):
                log.info("sample: %s", textwrap.shorten(samples[0], 300, placeholder=" ..."))
            return samples
        except Exception as error:  # noqa: BLE001 - samples, of whatever kind, are not worth a run
            log.warning("task.samples failed (%s: %s): results.json goes without", type(error).__name__, error)
            return []

    def begin(
        self, config: DictConfig, step: int | None, changes: list[str], parent: Mapping[str, Any] | None = None
    ) -> None:
        """Say what is about to run.

        Args:
            config: of the run.
            step: where it goes on, or None for a fresh run.
            changes: of the configuration since then.
            parent: the run and the snapshot that it begins with, or None.
        """
        runner = self.runner
        assert runner is not None
        log.info("run %s", self.files.root)
        parameters = sum(parameter.numel() for parameter in self.parts.model.parameters())
        chosen = " ".join(
            f"{group}={','.join(config[group]) or '[]'}" for group in ("tracker", "diagnostics", "detectors")
        )
        device, dist = runner.update.device, runner.dist
        ranks = f", {dist.world_size} processes ({runner.strategy.name})" if dist.world_size > 1 else ""
        log.info("%s, %s parameters, on %s%s, %s", config.run.name, f"{parameters:,}", device, ranks, chosen)
        if step is not None:
            if parent is not None:
                log.info("begins at step %d, with %s of run %s", step, parent["snapshot"], parent["run"])
            else:
                log.info("resumed at step %d", step)
            if self.ended is not None and not self.ended.clean:
                log.info("it had ended before: %s", self.ended)
            for change in changes:
                log.info("changed: %s", change)

    def end(self, state: str) -> bool:
        """Say how it ended. Return whether everything that belongs to its end could be written."""
        runner = self.runner
        assert runner is not None
        if state == "finished":
            best = runner.best
            said = f", best {best.monitor} {best.value:.5g} at step {best.step}" if best.value is not None else ""
            log.info("finished at step %d%s", runner.progress.step, said)
        else:
            where = self.files.root
            log.info("%s at step %d; go on with: %s", state, runner.progress.step, resume_command(where))
        missing = self._missing(runner.progress.step)
        if missing:
            command = resume_command(self.files.root)
            log.error("not all was saved: %s. Once %s can be written: %s", missing, self.files.root, command)
        return not missing

    def _missing(self, step: int) -> str:
        """Return what of the run's end, at `step`, is not on the disk; "" if nothing is missing."""
        missing = []
        if self.manager is not None and self.manager.failed_step is not None:
            try:
                found = self.manager.latest_path()
            except OSError:  # a folder that cannot be read is as good as none
                found = None
            newest = step_of(found) if found is not None else None
            if newest is None:
                missing.append(f"there is no checkpoint, not even of step {step}")
            else:
                missing.append(f"the newest checkpoint is that of step {newest}, not of step {step}")
        for name, trouble in self.troubles.items():
            found_trouble = trouble()
            waiting = found_trouble.get("waiting", 0)
            if found_trouble.get("failing") and name != "checkpoints":
                what = f"the last {waiting} line(s) of {name}" if waiting else name
                missing.append(f"{what} could not be written ({found_trouble['last_error']})")
        return "; ".join(missing)

    def close(self) -> None:
        """Close the journal that results.json is read from."""
        if self._results is not None:
            self._results.close()


def resume_command(run: Path) -> str:
    """Return what to type to go on with `run`; folders of one's own have to be given again."""
    folders = []
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
    program = "python -m train" if shadow() is None else "expkit-train"
    return again(run, folders, program)


def say_next(outcome: Outcome, config: DictConfig) -> None:
    """Print what to look at, and what to type, after a run that has finished."""
    directory = outcome.dir
    drawn = sorted(directory.glob("visualizations/*.png"), key=lambda path: path.stat().st_mtime)
    newest = {path.stem.rpartition("_step_")[0]: path for path in drawn}
    files = [*newest.values(), directory / "results.json", directory / "logs" / "metrics.jsonl"]
    said = []
    if sys.prefix != sys.base_prefix and "VIRTUAL_ENV" not in os.environ:
        said += ["", "First, once for each terminal", f"  source {os.path.relpath(sys.prefix)}/bin/activate"]
    said += ["", "Look at", *(f"  {line}" for line in (*files, *outcome.look))]
    if config.checkpoint.get("_target_") is not None:
        status = entry_of(RunDir(directory)).status
        more = longer(config.trainer, status.get("step"), status.get("total_steps"))
        said += ["Go on with it", f"  {resume_command(directory)} {more}".rstrip()]
    try:
        print(*said, sep="\n", flush=True)
    except OSError:  # nobody is there any more to read it, which is no fault of the run's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
