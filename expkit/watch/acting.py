"""What the watcher does about an event: it says so, tells a webhook, and takes a snapshot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.checkpoint_file import step_of
from expkit.detectors.base import Detector, Event
from expkit.events import LEVELS, alert_of, posted
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.snapshots import Snapshots
from expkit.snapshots.reading import BEST
from expkit.webhook import Webhook

__all__ = ["Acting"]

log = logging.getLogger("expkit")


class Acting:
    """Does what detectors' `respond` asks for, as far as that can be done from outside: alerts and snapshots.

    Args:
        run: the run directory, or the folder that takes the snapshots of another trainer's run.
        snapshots: makes what takes the snapshots, anew each time.
        status: returns what a snapshot keeps of how the run stands.
        webhook: gets the alerts, or None.
        left_to_run: names of detectors that the run has itself, with the same settings: it acts on their events.
    """

    def __init__(
        self,
        run: RunDir,
        snapshots: Callable[[], Snapshots],
        status: Callable[[], Mapping[str, Any]],
        webhook: Webhook | None = None,
        left_to_run: Sequence[str] = (),
    ) -> None:
        self.run, self.webhook, self.left_to_run = run, webhook, frozenset(left_to_run)
        self._make, self._status = snapshots, status
        self._snapshots = snapshots()

    @property
    def busy(self) -> bool:
        """Whether an alert is still on its way."""
        return self.webhook is not None and self.webhook.busy

    def alert(self, event: Event, detector: Detector) -> None:
        """Say that something happened: as an alert, if it is to be one."""
        word = "ALERT" if "alert" in detector.respond else "Noted"
        log.log(LEVELS[event.severity], "%s step %d: %s: %s", word, event.step, event.kind, event.message)
        if self.webhook is not None and "alert" in detector.respond and event.detector not in self.left_to_run:
            self.webhook.send(posted(alert_of(event), self.run))

    def observe(self, record: Record, events: Sequence[Event]) -> None:
        """Take a record, and take a snapshot if one of `events` is due for one."""
        events = [event for event in events if event.detector not in self.left_to_run]
        step = events[0].step if events else None
        checkpoint = self._checkpoint(events[0]) if events else None
        trouble = step if events and events[0].kind != BEST else None
        self._snapshots.observe(record, events, self._status, checkpoint, step, before=trouble)

    def begin_anew(self) -> None:
        """Forget what was observed."""
        self._snapshots = self._make()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later watcher needs to go on, as plain types."""
        return self._snapshots.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._snapshots.load_state_dict(state)

    def close(self) -> None:
        """Wait a little for what is on its way."""
        if self.webhook is not None:
            self.webhook.close()

    def _checkpoint(self, event: Event) -> Path | None:
        """Return the checkpoint to keep: the newest from before a trouble, or the nearest to a best model."""
        try:
            steps = {step: path for path in self.run.checkpoints.iterdir() if (step := step_of(path)) is not None}
        except OSError:
            return None
        if event.kind == BEST:
            nearest = min(steps, key=lambda step: (abs(step - event.step), step), default=None)
        else:
            nearest = max((step for step in steps if step < event.step), default=None)
        return steps[nearest] if nearest is not None else None
