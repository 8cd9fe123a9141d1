"""What detectors' events set going: decided once, on rank 0; done by all ranks at the same step; written down."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from expkit.detectors.base import Detector, Event, Severity
from expkit.dist import Control
from expkit.errors import UserError
from expkit.lowrank import switch
from train.config.responses import ResponseSettings

if TYPE_CHECKING:
    from train.runner import Runner
    from train.update import Update

__all__ = ["Order", "Responder", "Rewind", "left_course", "lower_as_rewinds", "lowered", "passes", "rewinds"]

log = logging.getLogger("expkit")


@dataclass(frozen=True)
class Order:
    """One response to one event.

    Attributes:
        response, detector, step, message: which, to whose event, of which step, in words.
        rewind: where to go back to; None with `rewind` if there is nowhere: then the run is stopped.
        switches: of each layer to switch its name (`layer`), mode (`to`) and `r`.
    """

    response: str
    detector: str
    step: int
    message: str
    rewind: Rewind | None = None
    switches: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Rewind:
    """Where to go back to.

    Attributes:
        step: the checkpoint's.
        at: the step after which batches are passed over: the run goes the same way up to there, at the same rate.
        batches: how many.
        seen: the step of the event that asked for it.
        kind, why: of the event, and what it says.
        lr_factor: what the learning rate is multiplied by from the checkpoint on: `lower_lr` came with it.
        detector: whose event it was.
    """

    step: int
    at: int
    batches: int
    seen: int
    kind: str
    why: str
    lr_factor: float = 1.0
    detector: str = ""

    def __str__(self) -> str:
        batches = "1 batch" if self.batches == 1 else f"{self.batches} batches"
        slower = "" if self.lr_factor == 1 else f", with {self.lr_factor:.4g} times the learning rate"
        return f"back to step {self.step}, past {batches} after step {self.at}{slower}"


class Responder:
    """Carries out `stop`, `lower_lr`, `rewind` and `switch`.

    Args:
        settings: of all responses.
        detectors: name -> detector, which says how to respond.
        control: asked to bring all ranks together.
        note: writes down what was done: (detector, step, severity, message).
        checkpoints: returns the steps of the checkpoints that there are.
        troubles: returns the steps of the events so far that were warnings, or worse.
        rewound: how often the run was rewound before.
        lowered: what rewinds have multiplied the learning rate by, in all.
        total_steps: of the run, or None if that is not known.

    Attributes:
        rewind: set once the run is to go back.
        stopped_by: why it is to stop, or None.
    """

    def __init__(
        self,
        settings: ResponseSettings,
        detectors: Mapping[str, Detector],
        control: Control,
        note: Callable[[str, int, Severity, str], object],
        checkpoints: Callable[[], Sequence[int]],
        troubles: Callable[[], Sequence[int]],
        rewound: int = 0,
        total_steps: int | None = None,
        lowered: float = 1.0,
    ) -> None:
        self._settings = settings
        self._detectors = detectors
        self._control = control
        self._note = note
        self._checkpoints, self._troubles, self._rewound = checkpoints, troubles, rewound
        self._lowered = lowered
        self._around = settings.batches_around(total_steps)
        self._orders: dict[tuple[str, str], Order] = {}
        self.rewind: Rewind | None = None
        self.stopped_by: str | None = None

    def take(self, events: Sequence[Event]) -> None:
        """Take the events of one record; what they ask for is done at the next step boundary. On rank 0 only."""
        for event in events:
            for response in self._detectors[event.detector].respond:
                if response in ("stop", "lower_lr", "rewind", "switch"):
                    self._order(response, event)
        if self._orders:
            self._control.request(Control.RESPOND)

    def __call__(self, runner: Runner) -> int:
        """Do what was ordered, on every rank. Return what else is to be done at this step, as bits of `Control`."""
        orders, self._orders = runner.dist.broadcast([*self._orders.values()]), {}
        bits = 0
        lower = [order for order in orders if order.response == "lower_lr"]
        rewound = any(order.rewind is not None for order in orders)  # which would undo what is lowered before it
        for order in orders:
            if order.response == "lower_lr":
                if rewound:
                    continue
                runner.update.scale_learning_rate(self._settings.lr_factor)
                self._say(order, runner, f"the learning rate is {runner.update.learning_rate:.4g} from here on")
            elif order.rewind is not None and not bits & Control.REWIND:
                self.rewind = replace(order.rewind, lr_factor=self._settings.lr_factor ** len(lower))
                bits |= Control.REWIND
                self._say(order, runner, str(self.rewind))
            elif order.response == "switch":
                self._switch(order, runner)
            elif order.rewind is None:
                self.stopped_by = self.stopped_by or order.message
                bits |= Control.STOP
                self._say(order, runner, "the run stops here")
        return bits

    def finish(self, runner: Runner) -> None:
        """Rewind, if the last step of the run asks for it. All else there is too late for; a resume does it."""
        if runner.dist.broadcast(any(order.rewind is not None for order in self._orders.values())):
            self(runner)

    def state_dict(self) -> dict[str, Any]:
        """Return what was ordered and is not done yet, a resume does it then, and what rewinds have lowered."""
        return {"orders": [asdict(order) for order in self._orders.values()], "lowered": self._lowered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for each in state["orders"]:
            rewind = Rewind(**each["rewind"]) if each["rewind"] is not None else None
            order = Order(**{**each, "rewind": rewind, "switches": tuple(each["switches"])})
            self._orders[order.response, order.detector] = order
        if self._orders:
            self._control.request(Control.RESPOND)

    def _switch(self, order: Order, runner: Runner) -> None:
        for each in order.switches:
            try:
                changed = switch(runner.model, runner.update.optimizer, each["layer"], each["to"], each["r"])
            except UserError as error:
                log.warning("%s: not switched: %s", each["layer"], error)
                continue
            if changed:
                runner.strategy.renew()
                self._say(order, runner, f"{each['layer']} is {each['to']} from here on")

    def _order(self, response: str, event: Event) -> None:
        message = f"detectors.{event.detector} at step {event.step}: {event.message}"
        rewind = None
        if response == "rewind":
            try:
                rewind = self._where_to(event)
            except LookupError as error:
                log.warning("no rewind: %s", error)
        switches = tuple(event.details.get("switches", ())) if response == "switch" else ()
        order = Order(response, event.detector, event.step, message, rewind, switches)
        self._orders.setdefault((response, event.detector), order)

    def _where_to(self, event: Event) -> Rewind:
        settings = self._settings
        if self._rewound >= settings.rewind_times:
            raise LookupError(f"the run was rewound {self._rewound} times already (responses.rewind_times)")
        before = event.step - max(settings.rewind_back, settings.rewind_clean)
        troubles = [step for step in self._troubles() if step < event.step]
        good = [
            step
            for step in self._checkpoints()
            if step <= before and not any(step < trouble <= step + settings.rewind_clean for trouble in troubles)
        ]
        if not good:
            raise LookupError(
                f"no checkpoint is {settings.rewind_back} steps older than step {event.step} and followed by "
                f"{settings.rewind_clean} steps without a warning (responses.rewind_back, responses.rewind_clean)"
            )
        step = max(good)
        at = max(step, event.step - max(1, -(-self._around // 2)))
        batches = event.step - at + self._around // 2
        return Rewind(step, at, batches, event.step, event.kind, event.message, detector=event.detector)

    def _say(self, order: Order, runner: Runner, what: str) -> None:
        if runner.dist.is_main:
            self._note(order.detector, runner.progress.step, Severity.WARNING, f"{order.response}: {what}")


def rewinds(stored: Mapping[str, Any]) -> int:
    """Return how often a run was rewound, as its config.json says."""
    return sum("rewind" in each for each in stored.get("resumes", ()))


def passes(stored: Mapping[str, Any], rewind: Rewind | None = None) -> dict[int, int]:
    """Return the batches that a run passes over, as its config.json says: step after which -> how many.

    A rewind to an earlier checkpoint leaves those of earlier rewinds as they are, as the run goes the same way again.
    Where trouble has come again near the place of one, its batches are passed over with the new ones.

    Args:
        stored: config.json; that of a run that began with a snapshot names those of the run that it is of.
        rewind: one more, not in it yet.
    """
    found = dict((stored.get("parent") or {}).get("passes", ()))
    rewound = [each["rewind"] for each in stored.get("resumes", ()) if "rewind" in each]
    for each in [*rewound, *([asdict(rewind)] if rewind is not None else [])]:
        again = [step for step in found if step >= each["at"]]
        found[each["at"]] = each["batches"] + sum(found.pop(step) for step in again)
    return found


def lowered(stored: Mapping[str, Any], rewind: Rewind | None = None) -> float:
    """Return what rewinds have multiplied the learning rate by, in all, as config.json says; see `passes`."""
    factors = [each["rewind"].get("lr_factor", 1.0) for each in stored.get("resumes", ()) if "rewind" in each]
    before: float = (stored.get("parent") or {}).get("lr_factor", 1.0)
    return math.prod(factors, start=before) * (1.0 if rewind is None else rewind.lr_factor)


def lower_as_rewinds(
    update: Update, stored: Mapping[str, Any], state: Mapping[str, Any] | None, rewind: Rewind | None = None
) -> None:
    """Multiply the learning rate by what rewinds have, and a checkpoint does not have yet.

    Args:
        update: restored from the checkpoint.
        stored: config.json.
        state: the checkpoint, or None without one.
        rewind: one more, not in it yet.
    """
    factor = lowered(stored, rewind) / _lowered_in(state)
    if factor != 1.0:
        update.scale_learning_rate(factor)


def left_course(stored: Mapping[str, Any], state: Mapping[str, Any] | None) -> int | None:
    """Return where the last rewind has gone back to, if a checkpoint is of the course that it has left; or None.

    A run that is killed in the moment of a rewind may have noted it, and not set the later checkpoints aside yet.

    Args:
        stored: config.json.
        state: the checkpoint, or None without one.
    """
    last: Mapping[str, Any] = next(reversed(stored.get("resumes", ())), {})
    if "rewind" not in last or state is None:
        return None
    step, passed = int(state["step"]), passes(stored)
    back = int(last["rewind"]["step"])
    missing = sum(count for at, count in passed.items() if at < step) > state["sampler_state"]["cursor"]["skipped"]
    faster = step > back and _lowered_in(state) != lowered(stored)
    return back if missing or faster else None


def _lowered_in(state: Mapping[str, Any] | None) -> float:
    return float(((state or {}).get("response_state") or {}).get("lowered", 1.0))
