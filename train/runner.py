"""The training loop, from top to bottom: what happens at a step, in which order, and when.

    for each epoch, for each update of it:
        forward and backward, piece by piece -> clip -> diagnostics of gradients -> guards -> optimizer -> scheduler
        log       every log_interval, at the end of an epoch     (the only host copy of the training metrics)
        evaluate  every eval_interval, at the end
        diagnose  what is due of the diagnostics
        record    one for the step, if anything was said: journal, trackers, detectors
        save      a checkpoint, if the saver finds it due
        plot      if due, at the end, and where it is stopped
        control   stop or save, if somebody asked

Building the parts is `train.config.build`'s job, and choosing a run directory `train.job`'s.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from expkit.checkpoints import Moment
from expkit.diagnostics import Diagnostic, DiagnosticSuite
from expkit.dist import Control, Dist
from expkit.errors import ConfigError
from expkit.machine import PeakMemory
from expkit.record import Record
from expkit.recorder import Recorder
from expkit.schedule import Every, Progress, auto_intervals
from expkit.series import StepSeries
from train.best import Best
from train.config.trainer import UNKNOWN_STEPS, TrainerConfig
from train.data import Batches
from train.measuring import training_metrics, validation_means
from train.position import LOSSES_KEPT, after, bring_to, pass_over, state_of
from train.probe import first_batch, probe_loss
from train.shares import StepBatches
from train.stopwatch import Stopwatch
from train.tasks.base import Task
from train.together import Look, agree, before_update, with_same_end
from train.update import AVERAGED, Update

__all__ = ["Runner"]

log = logging.getLogger("expkit")


class Runner:
    """Trains a task's model.

    Args:
        task: what is trained.
        model: its model, on the device.
        update: forward, backward and optimizer step.
        config: the trainer section.
        train: batches to train on.
        val: batches to evaluate on, or None.
        recorder: takes what there is to say about a step.
        diagnostics: name -> what looks at the model, each on its own schedule.
        best: knows what makes a checkpoint the best.
        save: called as `save(runner, moment)` at each step boundary; it saves if a checkpoint is due.
        plot: called as `plot(runner, last)` after each step that may have something to draw, or None; the `last` one
            may be where the run is stopped.
        respond: does what detectors' events ask for, and returns what else `Control` has to do.
        on_record: called with each record, after the recorder's sinks.
        dist, control: the ranks, and what they must do together.

    Attributes:
        looks: what is asked before each update for what has to see the gradients, as `DiagnosticSuite.look_ahead` is.
        passes: step -> how many batches are passed over once it is done; to be set before `load_state_dict`.
        actions: what `Control` had to do after the last update.
        elsewhere: what this rank's machine says of itself, for rank 0.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        update: Update,
        config: TrainerConfig,
        train: Batches,
        val: Batches | None = None,
        recorder: Recorder | None = None,
        diagnostics: Mapping[str, Diagnostic] | None = None,
        best: Best | None = None,
        save: Callable[[Runner, Moment], None] | None = None,
        plot: Callable[[Runner, bool], None] | None = None,
        respond: Callable[[Runner], int] | None = None,
        on_record: Sequence[Callable[[Record], object]] = (),
        dist: Dist | None = None,
        control: Control | None = None,
    ) -> None:
        self.task = task
        self.model = model
        self.update = update
        self.strategy = update.strategy
        self.config = config
        self.train = train
        self.val = val
        self.recorder, self.elsewhere = recorder or Recorder(), Recorder()
        self.dist = dist or Dist()
        self.control = control or Control(self.dist)
        self.progress, self.actions = Progress(), 0
        self.best = best or Best(higher_is_better=task.higher_is_better)
        self.passes: Mapping[int, int] = {}
        self.last_batch: Any = None
        self.loss_history: deque[float] = deque(maxlen=LOSSES_KEPT)
        self.series: StepSeries | None = None
        self.pending_series: dict[str, Any] | None = None
        self.total_steps = config.total_steps(train.steps)
        interval = config.log_interval
        log_steps = auto_intervals(self.total_steps)["log"] if interval == "auto" else interval
        self._log = Every(steps=log_steps)
        budget = None if config.deterministic else config.diagnostics_budget  # it goes by the clock
        self.diagnostics = DiagnosticSuite(diagnostics, budget, log_steps)
        by_epoch = config.eval_interval == "epoch"
        self._eval = Every(epochs=1) if by_epoch else Every(steps=int(config.eval_interval))
        self.looks: list[Look] = [self.diagnostics.look_ahead] if self.diagnostics else []
        self.save, self.plot, self.respond, self._on_record = save, plot, respond, on_record
        self._looking = False
        self.watch = Stopwatch()
        self.peak = PeakMemory(update.device)

    def fit(self) -> bool:
        """Train to the end. Return False if a stop was requested before it; everything is saved then."""
        self.model.train()
        self._looking = self.dist.broadcast(bool(self.looks))
        if self.dist.is_main:
            self.diagnostics.use_probe(self._probe)
        self.diagnostics.start(self.known_steps)
        self.watch.start()
        self.peak.start()
        while not self.done:
            epoch = self.progress.epoch
            self.dist.at(self.progress.step + 1, "loading data")
            for batches in self.train.epoch(epoch, skip=self.progress.batch):
                self._train_step(batches)
                stop = self._after_step()
                if stop or self.done:
                    return self.done
                if self.progress.step in self.passes or self.progress.epoch != epoch:
                    break  # the epoch may end though this rank has a batch left
                self.dist.at(self.progress.step + 1, "loading data")
            else:
                if self.progress.epoch == epoch:  # resumed with fewer, larger batches
                    done = self.progress.batch
                    log.warning("epoch %d has no more than the %d batches already done: the next", epoch + 1, done)
                    self.progress.epoch, self.progress.batch = epoch + 1, 0
        return True

    def _train_step(self, batches: StepBatches) -> None:
        if self.dist.world_size > 1:
            batches = with_same_end(batches, self.train, self.dist)
        ahead = after(self.progress, batches)
        pass_over(ahead, self.passes, self.train.steps)
        self.dist.at(ahead.step, "computing")
        before_step = None
        if self._looking:
            last = self._ends(ahead)
            before_step = before_update(self.looks, self.model, ahead, last, self.strategy, self.watch)
        values, names, count = self.update(self.task, self.model, batches.pieces, before_step)
        if self.series is None:
            doubled = next((name for name in names if names.count(name) > 1), None)
            if doubled is not None:
                raise ConfigError(f"task: StepOutput.sums holds {doubled!r}, a name that the runner logs itself")
            self.series = StepSeries(names, values[0].device, averaged=AVERAGED)
            if self.pending_series is not None:
                self.series.load_state_dict(self.pending_series)
        self.series.push(values, count)
        self.last_batch = batches.pieces[0][0]
        ahead.samples += batches.samples if batches.samples is not None else count * self.dist.world_size
        self.progress = ahead
        self.dist.at(ahead.step, "updating")

    def _after_step(self) -> bool:
        """Do what is due at this step boundary. Return whether to stop."""
        progress, control = self.progress, self.control
        self.actions = actions = control.poll(progress.step)
        if actions & Control.RESPOND and self.respond is not None:
            actions |= self.respond(self)
            if actions & Control.REWIND:
                return True
        progress.previous_elapsed, progress.elapsed = progress.elapsed, control.elapsed
        last = self.done
        logs = self._log.due(progress) or progress.epoch_ended or last
        evaluates = self.val is not None and (self._eval.due(progress) or last)
        diagnoses = self.diagnostics.due
        if logs:
            self._log_training()
        if evaluates:
            self.dist.at(progress.step, "evaluating")
            with self.watch.paused():
                means = self.task.summarize(self.evaluate())
                self.recorder.add({f"val_{name}": value for name, value in means.items()})
        if actions & Control.DIAGNOSTICS:
            self.diagnostics.lengthen(self.dist.broadcast(self.diagnostics.too_long()))
        if diagnoses:
            self._diagnose()
        if progress.epoch_ended or last:
            self.recorder.add(self.peak.take(), late=True)
        metrics, is_best = self._record(last)
        if self.dist.world_size > 1 and (logs or evaluates or diagnoses):
            guards = self.update.guards
            metrics, is_best = agree(metrics, is_best, self.dist, self.control, guards, self.recorder, self.elsewhere)
        stop = bool(actions & Control.STOP)
        if self.save is not None:
            self.save(self, Moment(progress, metrics, is_best, stop, last, bool(actions & Control.SAVE)))
        if self.plot is not None:
            self.plot(self, last or stop)
        return stop

    def _record(self, last: bool) -> tuple[dict[str, float], bool]:
        """Make the record of this step, if there is one. Return its metrics, and whether a monitored one is the best.

        On rank 0, where all of it is known; the others are told, see `train.together.agree`.
        """
        metrics, is_best = dict[str, float](), False
        if not self.dist.is_main:
            self.recorder.taken()
        elif self.recorder.pending():
            metrics = self.recorder.collected()
            is_best = self.best.update(self.progress.step, metrics)
            if last and self.best.metrics:
                self.recorder.add({f"final/best_{name}": value for name, value in self.best.metrics.items()})
            record = self.recorder.emit(self.progress.step, self.current_epoch)
            for observer in self._on_record:
                observer(record)
        return metrics, is_best

    def _log_training(self) -> None:
        assert self.series is not None
        table, counts = self.series.drain(self.dist)
        if not sum(counts):
            return
        metrics, series = training_metrics(self.task, table, counts)
        metrics["learning_rate"] = self.update.learning_rate
        metrics["samples"] = self.progress.samples
        metrics[f"{self.task.unit}_per_sec"] = sum(counts) / self.watch.lap()
        if self.update.device.type == "cuda":
            metrics["memory_allocated_mb"] = torch.cuda.memory_allocated(self.update.device) / 1024**2
        if type(self.task).model_metrics is not Task.model_metrics:
            with torch.no_grad(), self.strategy.whole(self.model) as model:
                metrics |= self.task.model_metrics(model) if self.dist.is_main else {}
        self.recorder.add(metrics, series=series)
        self.loss_history.append(metrics["train_loss"])

    def _diagnose(self) -> None:
        """Measure what is due of the diagnostics, on rank 0."""
        self.dist.at(self.progress.step, "measuring")
        with self.watch.paused(), self.strategy.whole(self.model) as model:
            if not self.dist.is_main:
                return
            self.recorder.add(*self.diagnostics.measure(model, due=True))
        if self.diagnostics.too_long():
            self.control.request(Control.DIAGNOSTICS)

    def evaluate(self) -> dict[str, float]:
        """Return the means over all validation data, see `validation_means`."""
        assert self.val is not None
        return validation_means(self.task, self.model, self.val, self.update, self.dist)

    def _probe(self) -> Callable[[nn.Module], object]:
        """Return what runs a model on a batch that is always the same."""
        batch = first_batch(self.val or self.train)
        return lambda model: probe_loss(self.task, model, self.update, batch)

    @property
    def current_epoch(self) -> int:
        """The epoch, from 1, that the last update belongs to."""
        return self.progress.epoch + (0 if self.progress.epoch_ended else 1)

    @property
    def done(self) -> bool:
        """Whether the last update has been done."""
        return self._ends(self.progress)

    def _ends(self, progress: Progress) -> bool:
        # By epochs, not by the steps that they come to: a resume may have changed the size of a batch in between.
        steps, epochs = self.config.max_steps, self.config.max_epochs
        return (steps is not None and progress.step >= steps) or (epochs is not None and progress.epoch >= epochs)

    @property
    def known_steps(self) -> int | None:
        """After how many updates the run ends, or None if only a loader of unknown length knows."""
        return self.total_steps if self.total_steps < UNKNOWN_STEPS else None

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands: what a resume needs besides model, optimizer and generators."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any], loss_history: Sequence[float] = ()) -> None:
        """Take back what `state_dict` returned."""
        bring_to(self, state, loss_history)
