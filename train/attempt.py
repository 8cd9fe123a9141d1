"""One attempt at a run: prepare, open the run directory, train, leave it complete.

A resume changes nothing on disk before everything has been prepared: data, model, and the checkpoint that fits it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from expkit.detectors.base import Event, Severity
from expkit.dist import Control, Dist
from expkit.endings import endings
from expkit.errors import RankFailed, ResumeError
from expkit.events import EventLog
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.recorder import Recorder
from expkit.requeue import Stop, why_stopped
from expkit.status import StatusFile, read_status
from expkit.stopping import StopSignals
from train.alerts import alerts
from train.blaming import blaming
from train.config.build import plain_masked
from train.continuing import bring_back
from train.directory import check_room, may_refuse
from train.display import Display, file_logging
from train.facts import dataset_info, process_info, run_info
from train.following import agree_on_signal
from train.loading import kill_loaders
from train.parts import Parts
from train.pictures import Pictures
from train.preparing import prepare
from train.report import Outcome, Report
from train.responses import Responder, Rewind, lowered, rewinds
from train.restoring import check_continuity
from train.resume import Origin, warn_if_other_data
from train.runner import Runner
from train.saving import Saver, make_limit, make_manager
from train.snapshotting import Snapshotter
from train.sweeping import note_broken

__all__ = ["Attempt"]

log = logging.getLogger("expkit")

#: Seconds that trackers get when somebody has pressed Ctrl-C twice (a resume sends them what they lack), and pictures
#: when a run has failed.
_PATIENCE = 2.0
#: Seconds that the end of a run waits for its last pictures; and one that is stopped from outside, when all is saved.
_DRAWING, _GRACE = 60.0, 10.0


class Attempt:
    """The pieces of one run, put together in the order in which they depend on each other."""

    def __init__(
        self,
        config: DictConfig,
        origin: Origin | None,
        parts: Parts,
        files: RunDir,
        console: Console,
        rewind: Rewind | None = None,
        dist: Dist | None = None,
    ) -> None:
        self.config, self.origin, self.parts, self.files = config, origin, parts, files
        self.resumed = None if origin is None or origin.is_fork else origin  # whose directory this is
        self.plain: Mapping[str, Any] = plain_masked(config)
        self.display = Display(console)
        self.dist = dist or Dist()
        self.control = Control(self.dist)
        self.signals = StopSignals(lambda: self.control.request(Control.STOP))
        self.recorder = Recorder()
        self.report = Report(files, parts)
        self.status = StatusFile(files.status, self.report.status)
        self.manager = make_manager(parts, config.checkpoint, files)
        if self.manager is None and origin is not None:
            raise ResumeError("resume needs checkpoints, but checkpoint=none was chosen: leave that out")
        self.limit = make_limit(self.manager, self.control)
        self.state: dict[str, Any] | None = None
        self.lost = 0  # records that come again
        self.rewind = rewind
        if self.dist.watch is not None:
            self.dist.watch.on_verdict = self._last_words

    def run(self, stack: ExitStack) -> Outcome:
        """Do everything; a run that is resumed is touched once it is known that it can be."""
        stack.enter_context(self.signals)
        if self.limit is not None:
            stack.enter_context(self.limit)
        stack.callback(self.report.close)
        if self.origin is not None:
            runner = self._prepare()
            self.lost = check_room(self.files, self.step)
        self._begin(stack)
        try:
            with blaming(self.dist, self.files):
                if self.origin is None:
                    runner = self._prepare()
                self._open(stack, runner)
                return self._train(runner)
        except BaseException as error:
            at_once = self.signals.at_once or isinstance(error, KeyboardInterrupt)
            kill_loaders()
            if self.manager is not None:
                # Without its rank a checkpoint of shards is never complete; any other rank 0 writes alone.
                in_vain = isinstance(error, RankFailed) and self.parts.strategy.is_sharded
                self.manager.abandon() if at_once or in_vain else self.manager.wait()
            self.status.stop("interrupted" if at_once else "failed")
            self.report.results([])
            if self.report.pictures is not None and not at_once:
                self.report.pictures.finish(_PATIENCE)
            self.parts.trackers.finish({}, failed=True, timeout=_PATIENCE if at_once else None)
            self.status.set(self.status.state)  # once more: the trackers' last troubles are known now
            if at_once:
                raise KeyboardInterrupt from None
            raise

    @property
    def _stored(self) -> Mapping[str, Any]:
        """What config.json says of what has led here: of a run that begins with a snapshot only where that is from."""
        return self.resumed.stored if self.resumed is not None else {"parent": self.origin and self.origin.parent}

    @property
    def step(self) -> int:
        """The step that the run goes on from."""
        return int(self.state["step"]) if self.state is not None else 0

    def _begin(self, stack: ExitStack) -> None:
        text = stack.enter_context(file_logging(self.files.text_log))
        self.report.troubles |= {"status.json": self.status.trouble.summary, "logs/training.log": text.trouble}
        before = read_status(self.files.status)
        if self.resumed is not None and not before:
            log.warning("%s is missing or damaged: it is written anew", self.files.status)
        if self.resumed is None:
            self.status.start()
        else:
            rewind = str(self.rewind) if self.rewind is not None else ""
            again = int(before.get("restarts") or 0) + 1
            self.status.start(again, endings(before, self.report.ended, rewind))

    def _prepare(self) -> Runner:
        """Return the runner, where it goes on from. Nothing is written but what a damaged checkpoint is renamed to."""
        self.dist.broadcast((self.files.root.absolute(), self._stored, self.plain))
        runner, self.state = prepare(
            self.parts,
            self.config,
            self.files,
            self.manager,
            self.recorder,
            self.control,
            self.origin,
            self._stored,
            self.plain,
            self.rewind,
        )
        self.report.runner = runner
        self.dataset = dataset_info(self.parts, runner.train, runner.val)
        if self.origin is not None:
            warn_if_other_data(self.origin, self.dataset)
        return runner

    def _open(self, stack: ExitStack, runner: Runner) -> None:
        """Bring the run directory to where the runner is, and let the runner write to it."""
        files, parts, origin = self.files, self.parts, self.origin
        changes, branch = bring_back(
            self.config, self.plain, files, origin, self.state, self.manager, self.lost, self.rewind
        )
        found = process_info(runner)
        processes = {"processes": found} if found or self._stored.get("processes") else {}
        data = {"dataset": self.dataset} if self.resumed is None else {}
        self.report.add_to_config(**data, **processes)
        with may_refuse(files.root):
            journal = Journal(files.metrics)
        stack.callback(journal.close)
        alert = stack.enter_context(alerts(parts, files, self.dist))
        events = EventLog(files.events, parts.detectors, alert, self._respond, runner.current_epoch)
        stack.callback(events.close)
        if self.rewind is not None:  # what was said of it lies beside, with what was cut off
            why = f"rewind, as of step {self.rewind.seen}: {self.rewind.why}: {self.rewind}"
            events.note(self.rewind.detector, self.step, Severity.INFO, why)
        self.responder = runner.respond = self._responder(events)
        if self.state is not None and self.state.get("response_state"):
            self.responder.load_state_dict(self.state["response_state"])
        snapshots = parts.snapshots(files)
        self.report.troubles["snapshots"] = snapshots.trouble.summary
        self.snapshotter = stack.enter_context(
            Snapshotter(snapshots, parts.detectors, self.control, self._status_now, self.manager, events.note)
        )
        if self.state is not None and self.state.get("snapshot_state"):
            self.snapshotter.load_state_dict(self.state["snapshot_state"])
        if self.manager is not None:
            self.report.troubles["checkpoints"] = self.manager.trouble
        self.report.troubles |= {"logs/metrics.jsonl": journal.trouble, "logs/events.jsonl": events.trouble}
        self.recorder.connect(
            journal.write,
            parts.trackers.log,
            events.observe,
            self.snapshotter.record,
            self.display.record,
            lambda _: self.report.results_if_due(),
        )
        name, steps = self.config.run.name, runner.total_steps
        pictures = Pictures(parts.plots, files, name, steps, parts.trackers, parts.diagnostics, parts.detectors)
        stack.callback(pictures.abandon)
        self.report.pictures = runner.plot = pictures
        if pictures.want_gradients:
            runner.looks.append(pictures.look_ahead)
        if self.manager is not None:
            self.report.manager = self.manager
            saver = Saver(self.manager, self.plain, journal, parts.detectors, self.snapshotter)
            runner.save = saver
            if self.state is not None:
                saver.resumed(self.step)
        parent = origin.parent if origin is not None else None
        self.report.begin(self.config, self.step if origin is not None else None, changes, parent)
        if self.state is not None and self.manager is not None:
            check_continuity(runner, self.state, self.manager.loss_tolerance)
        if parts.sampler is not None and self.dist.is_first_of_node:
            stack.enter_context(parts.sampler(lambda sample: self.recorder.add(sample, late=True)))
        self.info = run_info(self.config, files, self.plain, branch, self.step)
        parts.trackers.start(self.info)

    def _train(self, runner: Runner) -> Outcome:
        if runner.done:
            where = f"step {runner.progress.step}, after {runner.progress.epoch} epochs"
            log.warning("nothing is left to train: the run stands at %s; raise trainer.max_epochs or max_steps", where)
        self.status.set("running")
        with self.display.showing(runner):
            finished = runner.fit()
            if finished:
                self.responder.finish(runner)
            else:
                agree_on_signal(self.dist, self.signals)
            if self.manager is not None:
                self.manager.wait()
            self.snapshotter.finish()
            if self.signals.received is not None:  # what stops it may not wait for pictures
                self.status.stop("finished" if finished else self.signals.state)
            if self.report.pictures is not None:
                self.report.pictures.finish(_DRAWING if self.signals.received is None else _GRACE)
        if self.responder.rewind is not None and self.signals.received is None:
            self.parts.trackers.finish(self.report.summary(), failed=False)
            self.status.stop("running")
            return Outcome(self.files.root, "running", None, rewind=self.responder.rewind)
        stopped = self.responder.stopped_by is not None and self.signals.received is None
        self.report.stopped_by = self.responder.stopped_by if stopped else None
        state = "finished" if finished or stopped else self.signals.state
        self.status.stop(state)
        samples: list[Any] = []
        if finished and self.responder.rewind is None:
            with runner.strategy.whole(runner.model) as model:
                samples = self.report.samples(model)
        self.report.results(samples)
        self.parts.trackers.finish(self.report.summary(), failed=False)
        stop = why_stopped() if state == "preempted" else Stop()
        self.status.add_reason(scheduler=stop.why)
        self.status.set(state)  # once more: the trackers' last troubles are known now
        complete = self.report.end(state)
        best = runner.best.metrics.get("val_loss")
        number = 0 if finished else int(self.signals.received or 0)
        look = self.parts.trackers.where(replace(self.info, dir=self.files.root))
        return Outcome(self.files.root, state, best, number, tuple(look), complete, needs_requeue=stop.needs_requeue)

    def _last_words(self, verdict: str) -> None:
        """Leave behind why the run has failed, where this process has to be ended: it waits for a rank for ever."""
        log.error("%s", verdict)
        self.status.add_reason(error=verdict)
        self.status.stop("failed")
        note_broken(RankFailed(verdict))

    def _status_now(self) -> dict[str, Any]:
        """Return status.json, with what it is about to say of this step."""
        return {**read_status(self.files.status), **self.report.status()}

    def _respond(self, events: Sequence[Event]) -> None:
        self.responder.take(events)
        self.snapshotter.take(events)

    def _responder(self, events: EventLog) -> Responder:
        stored = self._stored
        return Responder(
            self.parts.responses,
            self.parts.detectors,
            self.control,
            events.note,
            self.manager.steps if self.manager is not None else tuple,
            events.troubles,
            rewinds(stored) + (self.rewind is not None),
            self.report.runner.known_steps if self.report.runner is not None else None,
            lowered(stored, self.rewind),
        )
