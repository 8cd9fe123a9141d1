"""When to take a snapshot: not too often of one kind, and a best model that came too soon a little later."""

from __future__ import annotations

import logging
import math
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.background import Background
from expkit.errors import ConfigError
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.snapshots.cleaning import Retention, remove
from expkit.snapshots.creating import Observed, Trigger, begin, check_export
from expkit.snapshots.reading import BEST, list_snapshots
from expkit.troubles import WriteTrouble

__all__ = ["Snapshots"]

log = logging.getLogger("expkit")


@dataclass(frozen=True)
class _Pending:
    """A best model whose snapshot has to wait."""

    kind: str
    reason: str
    step: int
    time: float


class Snapshots:
    """Takes the snapshots of one run: shown every record, and what in it asks for one.

    Args:
        run: the run directory.
        min_steps_between_saves: steps between two snapshots of one kind. A best model within that time is pending: it
            is saved when the time has passed, unless a better one has come.
        safetensors: write the weights in this format, too.
        history: how many of the last losses metadata.json holds.
        loss: the metric's name; of several the first that is there.
        accuracy: the same.
        retention: which snapshots to remove after each new one; None: none.
        async_save: make them in a thread, one at a time, beside the caller: `observe` does only what must be done at
            this step. The next one waits for it, `wait` does, and so does the end of the process.
        keep: puts the checkpoint of another trainer into a folder, and returns its step; None: the run's own are kept.

    Attributes:
        trouble: what could not be written, and why; it is said once.
        made: called with the first trigger of each snapshot that was asked for, the record's step, and its path (None
            if there was this one already) as soon as it is there, in the thread that has made it.

    Raises:
        ConfigError: a number is none of at least 0 (`history`: 1), or the package for `safetensors` is not installed.
    """

    def __init__(
        self,
        run: RunDir,
        min_steps_between_saves: int = 500,
        safetensors: bool = False,
        history: int = 100,
        loss: Sequence[str] = ("train_loss", "loss"),
        accuracy: Sequence[str] = ("val_accuracy", "accuracy"),
        retention: Retention | None = None,
        async_save: bool = False,
        keep: Callable[[Path], int | None] | None = None,
    ) -> None:
        for name, value, least in (("min_steps_between_saves", min_steps_between_saves, 0), ("history", history, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"snapshots.{name}={value}: it must be a whole number of at least {least}")
        if safetensors:
            check_export()
        self.run, self.min_steps_between_saves, self.safetensors = run, min_steps_between_saves, safetensors
        self.retention = retention
        self._keep = keep
        self.trouble = WriteTrouble(run.snapshots)
        self.made: Callable[[Trigger, int, Path | None], object] = _say
        self._background = Background("expkit snapshot") if async_save else None
        self._loss, self._accuracy = tuple(loss), tuple(accuracy)
        self._history: deque[tuple[int, float]] = deque(maxlen=history)
        self._last_accuracy: float | None = None
        self._best: tuple[float, int] | None = None
        self._saved: dict[str, int] = {}  # kind -> the step of its last snapshot
        self._pending: _Pending | None = None
        self._not_before = 0  # the step at which a disk that has refused is tried again

    def observe(
        self,
        record: Record,
        triggers: Sequence[Trigger] = (),
        status: Callable[[], Mapping[str, Any]] = dict,
        checkpoint: Path | None = None,
        step: int | None = None,
        before: int | None = None,
    ) -> Path | None:
        """Take one record, in order of steps, and what in it asks for a snapshot; return the snapshot, if one was made.

        With `async_save` it is being made, and None is returned.

        Args:
            record: of this step.
            triggers: events that ask for a snapshot: several make one.
            status: returns what status.json says now; called only for a snapshot.
            checkpoint: see `create`.
            step: the step of the events, if that is not the record's: an earlier one of its series.
            before: see `begin`.
        """
        self._look(record)
        step = record.step if step is None else step
        best = next((each for each in triggers if each.kind == BEST), None)
        if best is not None:
            self._pending = _Pending(best.kind, best.reason, step, record.time)
        if record.step < self._not_before:
            return None
        if any(self._is_due(each.kind, record.step) for each in triggers):
            return self._take(record, triggers, step, record.time, status, checkpoint, before=before)
        pending = self._pending
        if pending is not None and self._is_due(pending.kind, record.step):
            return self._take(record, [pending], pending.step, pending.time, status, checkpoint, near=pending.step)
        return None

    def wait(self) -> None:
        """Return once no snapshot is being made."""
        if self._background is not None:
            self._background.wait()

    def abandon(self) -> None:
        """Give up the one that is being made, after a moment: for who must leave at once. It leaves no snapshot."""
        if self._background is not None:
            self._background.abandon()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs, as plain types."""
        pending = self._pending
        return {
            "history": [list(each) for each in self._history],
            "accuracy": self._last_accuracy,
            "best": list(self._best) if self._best is not None else None,
            "saved": dict(self._saved),
            "pending": [pending.kind, pending.reason, pending.step, pending.time] if pending is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._history.clear()
        self._history.extend((int(step), float(loss)) for step, loss in state["history"])
        self._last_accuracy = state["accuracy"]
        self._best = (float(state["best"][0]), int(state["best"][1])) if state["best"] is not None else None
        self._saved = {str(kind): int(step) for kind, step in state["saved"].items()}
        self._pending = _Pending(*state["pending"]) if state["pending"] is not None else None
        self._not_before = 0

    def _look(self, record: Record) -> None:
        name = next((name for name in self._loss if name in record.series or name in record.metrics), None)
        if name is not None:
            losses = record.series[name] if name in record.series else [record.metrics[name]]
            first = record.step - len(losses) + 1
            self._history.extend((first + index, float(loss)) for index, loss in enumerate(losses))
            finite = [(float(loss), first + index) for index, loss in enumerate(losses) if math.isfinite(loss)]
            lowest = min(finite, default=None, key=operator.itemgetter(0))
            if lowest is not None and (self._best is None or lowest[0] < self._best[0]):
                self._best = lowest
        accuracy = next((record.metrics[name] for name in self._accuracy if name in record.metrics), None)
        if accuracy is not None:
            self._last_accuracy = float(accuracy)

    def _is_due(self, kind: str, step: int) -> bool:
        return kind not in self._saved or step - self._saved[kind] >= self.min_steps_between_saves

    def _take(
        self,
        record: Record,
        triggers: Sequence[Trigger],
        step: int,
        time: float,
        status: Callable[[], Mapping[str, Any]],
        checkpoint: Path | None,
        near: int | None = None,
        before: int | None = None,
    ) -> Path | None:
        losses = [(at, loss) for at, loss in self._history if at <= step]
        observed = Observed(
            step=step,
            time=time,
            loss=losses[-1][1] if losses and losses[-1][0] == step else None,
            accuracy=self._last_accuracy,
            loss_history=[loss for _, loss in losses],
            best_loss=self._best[0] if self._best is not None else None,
            best_loss_step=self._best[1] if self._best is not None else None,
        )
        self.wait()  # there is one at a time
        earlier = self._saved, self._pending
        try:
            finish = begin(
                self.run, triggers, observed, status(), checkpoint, near, self.safetensors, self._keep, before
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not worth a run
            self._failed(error, record.step)
            return None
        self._saved = {**self._saved, **{each.kind: record.step for each in triggers}}
        if any(each.kind == BEST for each in triggers):
            self._pending = None

        def work() -> Path | None:
            try:
                made = finish()
            except Exception as error:  # noqa: BLE001 - as above
                self._saved = earlier[0]
                self._pending = self._pending or earlier[1]
                self._failed(error, record.step)
                return None
            self.trouble.worked()
            self.made(triggers[0], record.step, made)
            if made is not None:
                self._clean()
            return made

        if self._background is None:
            return work()
        self._background.submit(work)
        return None

    def _failed(self, error: Exception, step: int) -> None:
        self.trouble.failed(error)
        self._not_before = step + max(1, self.min_steps_between_saves // 10)

    def _clean(self) -> None:
        if self.retention is None:
            return
        try:
            for each in self.retention.removable(list_snapshots(self.run)):
                remove(each)
        except OSError as error:
            log.warning("an old snapshot in %s cannot be removed: %s", self.run.snapshots, error.strerror or error)


def _say(trigger: Trigger, step: int, made: Path | None) -> None:  # noqa: ARG001
    if made is not None:
        log.info("snapshot %s", made)
