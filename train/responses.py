"""What detectors' events set going: decided once, on rank 0; done by all ranks at the same step; written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from expkit.detectors.base import Detector, Event, Severity
from expkit.dist import Control
from expkit.errors import UserError
from expkit.lowrank import switch
from train.config.responses import ResponseSettings

if TYPE_CHECKING:
    from train.runner import Runner

__all__ = ["Order", "Responder", "Rewind", "rewinds", "unfinished_rewind"]

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
        batches: to pass over from there.
        why: the event that asked for it.
    """

    step: int
    batches: int
    why: str


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
    ) -> None:
        self._settings = settings
        self._detectors = detectors
        self._control = control
        self._note = note
        self._checkpoints, self._troubles, self._rewound = checkpoints, troubles, rewound
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
        for order in orders:
            if order.response == "lower_lr":
                runner.update.scale_learning_rate(self._settings.lr_factor)
                self._say(order, runner, f"the learning rate is {runner.update.learning_rate:.4g} from here on")
            elif order.rewind is not None and not bits & Control.REWIND:
                self.rewind = order.rewind
                bits |= Control.REWIND
                self._say(order, runner, _rewound(order.rewind))
            elif order.response == "switch":
                self._switch(order, runner)
            elif order.rewind is None:
                self.stopped_by = self.stopped_by or order.message
                bits |= Control.STOP
                self._say(order, runner, "the run stops here")
        return bits

    def finish(self, runner: Runner) -> None:
        """Rewind, if the last step of the run asks for it. All else there is too late for; a resume does it."""
        if any(order.rewind is not None for order in self._orders.values()):
            self(runner)

    def state_dict(self) -> dict[str, Any]:
        """Return what was ordered and is not done yet: a resume does it at the same step."""
        return {"orders": [asdict(order) for order in self._orders.values()]}

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
        return Rewind(step, max(settings.rewind_skip, event.step - step), event.message)

    def _say(self, order: Order, runner: Runner, what: str) -> None:
        if runner.dist.is_main:
            self._note(order.detector, runner.progress.step, Severity.WARNING, f"{order.response}: {what}")


def rewinds(stored: Mapping[str, Any]) -> int:
    """Return how often a run was rewound, as its config.json says."""
    return sum("rewind" in each for each in stored.get("resumes", ()))


def unfinished_rewind(stored: Mapping[str, Any], step: int) -> Rewind | None:
    """Return the rewind to `step` that the run was killed after, before it had saved anything further; or None."""
    last: Any = next(reversed(stored.get("resumes", ())), {})
    found = last.get("rewind")
    return Rewind(**found) if found is not None and found["step"] == step else None


def _rewound(rewind: Rewind) -> str:
    return f"back to step {rewind.step}, past the next {rewind.batches} batches"
