"""One run, from its configuration to its results: assemble, restore, train, leave the run directory complete."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from expkit.checkpoints import CheckpointManager
from expkit.config_tracker import ConfigTracker
from expkit.dist import Control, Dist
from expkit.environment import git_state
from expkit.errors import ResumeError, UserError
from expkit.events import EventLog
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import Journal, cut_journal
from expkit.recorder import Recorder
from expkit.results import ResultsView
from expkit.schedule import auto_intervals
from expkit.secrets import mask_arguments, mask_secrets
from expkit.status import StatusFile
from expkit.stopping import StopSignals
from expkit.trackers import RunInfo
from train.build import plain
from train.directory import open_directory, remove_fresh, typed_overrides
from train.display import Display, file_logging
from train.parts import Parts, assemble
from train.pictures import Pictures
from train.resume import Origin, differences, find_origin, refuse_if_running
from train.runner import Runner
from train.saving import Saver

__all__ = ["Outcome", "run"]

log = logging.getLogger("expkit")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        dir: the run directory.
        state: finished, interrupted or preempted.
        best_val_loss: lowest validation loss, or None without evaluation: what a sweep minimises.
        signal: the number of the signal that stopped it, or 0.
    """

    dir: Path
    state: str
    best_val_loss: float | None
    signal: int = 0


def run(config: DictConfig, console: Console) -> Outcome:
    """Train what `config` describes, in a fresh run directory or the one that it resumes.

    Raises:
        UserError: the configuration, the data or the run to resume cannot be used. A fresh run that fails so before
            its first step leaves no directory behind.
    """
    origin = find_origin(str(config.resume), config.run.outputs, config.run.id)
    if origin is not None:
        refuse_if_running(origin.run)
    parts = assemble(config)
    files = open_directory(config, origin, parts.model)
    try:
        return _Job(config, origin, parts, files, console).run()
    except UserError:
        if origin is None and not files.metrics.exists():
            remove_fresh(files)
        raise


class _Job:
    """The pieces of one run, put together in the order in which they depend on each other."""

    def __init__(
        self, config: DictConfig, origin: Origin | None, parts: Parts, files: RunDir, console: Console
    ) -> None:
        self.config, self.origin, self.parts, self.files = config, origin, parts, files
        self.plain: Mapping[str, Any] = mask_secrets(plain(config))
        self.display = Display(console)
        self.dist = Dist.current()
        self.runner: Runner | None = None
        self.manager: CheckpointManager | None = None
        self.status = StatusFile(files.status, self._observe)

    def run(self) -> Outcome:
        with ExitStack() as stack:
            stack.enter_context(file_logging(self.files.text_log))
            self.status.start(restarts=self._restarts())
            try:
                return self._run(stack)
            except BaseException as error:
                self.parts.trackers.finish({}, failed=True)
                self.status.stop("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise

    def _run(self, stack: ExitStack) -> Outcome:
        parts, files = self.parts, self.files
        state, manager = self._checkpoint()
        self.manager = manager
        step = int(state["step"]) if state is not None else 0
        elapsed = state["sampler_state"]["elapsed"] if state is not None else 0.0
        train = parts.batches(parts.task.train_data(), training=True)
        val_data = parts.task.val_data()
        val = parts.batches(val_data, training=False) if val_data is not None else None
        if self.origin is None:
            ConfigTracker(files.root).add_to_config(dataset=parts.task.describe_data())
        for journal_file in (files.metrics, files.events):
            cut = cut_journal(journal_file, step) if journal_file.exists() else 0
            if cut:
                log.info("%s: %d line(s) after step %d set aside; they come again", journal_file.name, cut, step)
        journal = Journal(files.metrics)
        stack.callback(journal.close)
        control = Control(self.dist, elapsed)
        signals = stack.enter_context(StopSignals(lambda: control.request(Control.STOP)))
        steps = parts.trainer.total_steps(train.steps)
        events = EventLog(files.events, parts.detectors, parts.trackers.alert)
        stack.callback(events.close)
        results = ResultsView(files.root, list(parts.diagnostics))
        stack.callback(results.close)
        pictures = Pictures(parts.plots, files, self.config.run.name, steps, parts.trackers)
        saver = None
        if manager is not None:
            saver = Saver(manager, self.plain, journal, parts.detectors, guards=[])
        runner = self.runner = Runner(
            parts.task,
            parts.model,
            parts.update(steps),
            parts.trainer,
            train,
            val,
            recorder=Recorder([journal.write, parts.trackers.log]),
            diagnostics=parts.diagnostics,
            save=saver.save if saver is not None else None,
            save_interval=self._save_interval(steps),
            plot=pictures,
            on_record=(
                events.observe,
                self.display.record,
                lambda _: self._write_results(results, pictures),
            ),
            dist=self.dist,
            control=control,
        )
        if state is not None and saver is not None and self.origin is not None:
            saver.restore(runner, state, self.origin)
        if self.origin is not None:
            self._note_resume(step)
        self._announce(step)
        parts.trackers.start(self._run_info(step))
        self.status.set("running")
        with self.display.showing(runner):
            finished = runner.fit()
        outcome = "finished" if finished else signals.state
        self._write_results(results, pictures, force=True)
        parts.trackers.finish(self._summary(runner), failed=False)
        self.status.stop(outcome)
        self._close(outcome)
        # Last of all: a scheduler's own handler may requeue the job and leave the process.
        signals.call_previous()
        best = runner.best.loss if runner.best.metrics else None
        return Outcome(files.root, outcome, best, int(signals.received or 0) if not finished else 0)

    def _note_resume(self, step: int) -> None:
        """Write down what the run is from here on: the next resume goes on from this configuration."""
        stored = self.origin.stored if self.origin is not None else {}
        moment = {
            "step": step,
            "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": mask_arguments(sys.orig_argv),
            **git_state(),
            "changed": differences(stored["config"], self.plain),
        }
        ConfigTracker(self.files.root).add_to_config(
            config=self.plain, overrides=typed_overrides(), resumes=[*stored.get("resumes", []), moment]
        )

    def _checkpoint(self) -> tuple[dict[str, Any] | None, CheckpointManager | None]:
        """Return the state to go on from, if there is one, and the manager of this run's checkpoints."""
        if self.parts.checkpoints is None:
            if self.origin is not None:
                raise ResumeError("resume needs checkpoints, but checkpoint=none was chosen: leave that out")
            return None, None
        options = {"save_interval": 1000} if self._wants_auto() else {}
        try:
            manager: CheckpointManager = self.parts.checkpoints(experiment_dir=self.files.root, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"checkpoint: {error}") from error
        if self.origin is None:
            return None, manager
        if self.origin.step is not None:
            state = manager.load_checkpoint(self.origin.step)
        else:
            state = manager.load_latest_checkpoint()
        if state is None and self.origin.step is None and not any(self.files.checkpoints.iterdir()):
            log.warning("%s was stopped before its first checkpoint: it starts again from step 0", self.files.root)
        elif state is None:
            raise ResumeError(f"{self.files.root} holds no checkpoint that can be read: start a fresh run")
        elif self.origin.step is not None:
            for path in manager.rewind(self.origin.step):
                log.info("%s is of a later step: set aside as %s", path.name.removesuffix(".rewound"), path.name)
        return state, manager

    def _wants_auto(self) -> bool:
        return bool(self.config.checkpoint.get("save_interval") == "auto")

    def _save_interval(self, steps: int) -> int | None:
        if self.parts.checkpoints is None:
            return None
        return auto_intervals(steps)["checkpoint"] if self._wants_auto() else int(self.config.checkpoint.save_interval)

    def _restarts(self) -> int:
        if self.origin is None or not self.files.status.exists():
            return 0
        return int(read_json(self.files.status).get("restarts", 0)) + 1

    def _run_info(self, step: int) -> RunInfo:
        run = self.config.run
        return RunInfo(
            id=self.files.id,
            dir=self.files.root.absolute(),
            project=run.project,
            name=run.name,
            group=run.group,
            tags=tuple(run.tags),
            notes=run.notes,
            config=self.plain,
            resumed_step=step,
        )

    def _observe(self) -> dict[str, Any]:
        """Return what status.json says of the run right now. Called from its thread."""
        fields: dict[str, Any] = {"experiment_id": self.files.id}
        if self.runner is not None:
            fields |= {
                "step": self.runner.progress.step,
                "epoch": self.runner.current_epoch,
                "total_steps": self.runner.known_steps,
                "metrics": dict(self.runner.recorder.latest),
            }
        return {**fields, "trackers": self.parts.trackers.failures()}

    def _write_results(self, results: ResultsView, pictures: Pictures, force: bool = False) -> None:
        if not force and not results.due():
            return
        runner = self.runner
        assert runner is not None
        best: dict[str, Any] = {}
        if runner.best.metrics:
            best = {f"best_{name}": value for name, value in runner.best.metrics.items()}
            best["best_step"] = runner.best.step
        samples = self.parts.task.samples(runner.model) if force else []
        shown = [str(path.relative_to(self.files.root)) for made in pictures.latest.values() for path in made]
        found = self.manager.best_path() if self.manager is not None else None
        checkpoint = str(found.relative_to(self.files.root)) if found is not None else None
        results.write(best, checkpoint, samples or shown, runner.control.now())

    def _summary(self, runner: Runner) -> dict[str, Any]:
        latest = runner.recorder.latest
        return {name: value for name, value in latest.items() if name.startswith("final/")}

    def _announce(self, step: int) -> None:
        log.info("run %s", self.files.root)
        parameters = sum(parameter.numel() for parameter in self.parts.model.parameters())
        chosen = " ".join(
            f"{group}={','.join(getattr(self.config, group)) or '[]'}"
            for group in ("tracker", "diagnostics", "detectors")
        )
        log.info("%s, %s parameters, on %s, %s", self.config.run.name, f"{parameters:,}", self._device(), chosen)
        if self.origin is not None:
            log.info("resumed at step %d", step)
            for change in differences(self.origin.stored["config"], self.plain):
                log.info("changed: %s", change)

    def _device(self) -> str:
        return str(self.parts.trainer.torch_device())

    def _close(self, outcome: str) -> None:
        runner, root = self.runner, self.files.root
        assert runner is not None
        if outcome == "finished":
            best = f", best val_loss {runner.best.loss:.5g} at step {runner.best.step}" if runner.best.metrics else ""
            log.info("finished at step %d%s", runner.progress.step, best)
        else:
            log.info("%s at step %d; go on with: python -m train resume=%s", outcome, runner.progress.step, root)
