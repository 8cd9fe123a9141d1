"""The snapshots that detectors ask for, taken as the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from expkit.checkpoints import CheckpointManager
from expkit.detectors.base import Detector, Event, Severity
from expkit.dist import Control
from expkit.record import Record
from expkit.snapshots import Snapshots, Trigger

__all__ = ["Snapshotter"]

_BEST = "best_model"


class Snapshotter:
    """Shows each record to `snapshots`, with those of its events that ask for one.

    A best model is worth its own weights: a checkpoint is asked for, and the snapshot waits until that is there. For
    all else the newest one that there is will do, from before the trouble.

    Args:
        snapshots: takes them.
        detectors: name -> detector, which says how to respond.
        control: asked for checkpoints.
        status: returns what status.json says now.
        manager: knows what has been saved; None for a run without checkpoints.
        note: writes down what was done: (detector, step, severity, message).

    A context manager, which no snapshot outlives that is being made: only Ctrl-C, twice, does not wait for it.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        detectors: Mapping[str, Detector],
        control: Control,
        status: Callable[[], Mapping[str, object]],
        manager: CheckpointManager | None,
        note: Callable[[str, int, Severity, str], object],
    ) -> None:
        self.snapshots = snapshots
        snapshots.made = self._made
        self._note = note
        self._detectors, self._control, self._status, self._manager = detectors, control, status, manager
        self._waiting: list[Event] = []
        self._best: Event | None = None
        self._saved_up_to = -1  # a checkpoint of this step, or of a later one, is there from before a resume
        self._record: Record | None = None

    def take(self, events: Sequence[Event]) -> None:
        """Take the events of a record, before the record itself."""
        for event in events:
            if "snapshot" not in self._detectors[event.detector].respond:
                continue
            if event.kind == _BEST and self._manager is not None:
                self._best = event
                self._control.request(Control.SAVE)
            else:
                self._waiting.append(event)

    def record(self, record: Record) -> None:
        """Take a record, and make the snapshot that is due, if one is. The disk may refuse: that is said once."""
        self._record = record
        self._observe(record)

    def finish(self) -> None:
        """Make what still waits, once the last checkpoint is there, and return when all is done."""
        if self._record is not None and self._best is not None:
            self._observe(replace(self._record, metrics={}, series={}))  # its values have been seen
        self.wait()

    def wait(self) -> None:
        """Return once no snapshot is being made."""
        self.snapshots.wait()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs, as plain types: that of the snapshots, and the best model that waits."""
        best = None if self._best is None else {**asdict(self._best), "severity": str(self._best.severity)}
        return {**self.snapshots.state_dict(), "waiting_best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, out of a checkpoint that has the weights of the best model, too."""
        self.snapshots.load_state_dict(state)
        best = state.get("waiting_best")
        if best is not None:
            self._best = Event(**{**best, "severity": Severity(best["severity"])})
            self._saved_up_to = self._best.step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.snapshots.abandon() if kind is KeyboardInterrupt else self.wait()

    def _observe(self, record: Record) -> None:
        events, self._waiting = self._waiting, []
        if self._best is not None and self._is_saved(self._best.step):
            events, self._best = [*events, self._best], None
        self.snapshots.observe(record, events, self._status, step=events[0].step if events else None)

    def _made(self, trigger: Trigger, step: int, made: Path | None) -> None:
        detector = trigger.detector if isinstance(trigger, Event) else trigger.kind  # a best model that had to wait
        self._note(detector, step, Severity.INFO, f"snapshot: {made or 'it is there already'}")

    def _is_saved(self, step: int) -> bool:
        saved = self._manager.saved_step if self._manager is not None else None
        return step <= (self._saved_up_to if saved is None else max(saved, self._saved_up_to))
