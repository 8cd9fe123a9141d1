"""All diagnostics of a run: each measured when it is due, all within a share of the time."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from expkit.diagnostics.base import Diagnostic
from expkit.diagnostics.budget import stretches
from expkit.diagnostics.scheduled import Scheduled, overrides
from expkit.place import describe_at
from expkit.record import to_number, to_plain
from expkit.schedule import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["DiagnosticSuite"]

log = logging.getLogger("expkit")

_T = TypeVar("_T")

_GRACE = 1.0
#: An interval grows by so much at a time, at most: what was measured in a moment is not trusted further.
_MOST = 10.0


class DiagnosticSuite:
    """Measures every diagnostic when it is due, and puts its name before what it says.

    One that fails is said once; the others, and training, go on.

    Args:
        diagnostics: name -> diagnostic.
        budget: the share of the time, above 0 and below 1, that they may take together; None: whatever they take.
        log_interval: steps, what the interval "log" stands for.
        grace: seconds that they may take before anybody minds: a short run has the intervals that were asked for.

    Attributes:
        spent: seconds that they took.

    Raises:
        ConfigError: an interval that cannot be.
    """

    def __init__(
        self,
        diagnostics: Mapping[str, Diagnostic] | None = None,
        budget: float | None = None,
        log_interval: int = 10,
        grace: float = _GRACE,
    ) -> None:
        self._all = {name: Scheduled(name, one, log_interval) for name, one in (diagnostics or {}).items()}
        self._budget, self._grace = budget, grace
        self._due: list[Scheduled] = []
        self._failed: set[str] = set()
        self.spent = 0.0
        self.start()

    def __bool__(self) -> bool:
        return bool(self._all)

    def start(self, total_steps: int | None = None) -> None:
        """Count the time from now on. What a run of `total_steps` is too short for is said."""
        for name, each in self._all.items():
            if total_steps is not None and each.never_due(total_steps):
                log.warning(
                    "diagnostics.%s is measured %s, but the run has %d: not once; diagnostics.%s.interval=log, say",
                    name, each, total_steps, name,
                )  # fmt: skip
        self._began = time.perf_counter()
        self.spent = 0.0
        self._measured = dict.fromkeys(self._all, 0.0)

    def use_probe(self, make: Callable[[], Callable[[nn.Module], object]]) -> None:
        """Give those that want one a probe, which `make` returns."""
        wanting = [each for each in self._all.values() if overrides(each.diagnostic, "use_probe")]
        if wanting:
            forward = make()
            for each in wanting:
                try:
                    each.diagnostic.use_probe(forward)
                except Exception as error:  # noqa: BLE001 - as in `_ask`
                    self._say_failed(each, error)

    def look_ahead(self, model: nn.Module, ahead: Progress, last: bool) -> Callable[[], None] | None:
        """See what is due once the coming update is done.

        Args:
            model: the unwrapped model.
            ahead: where the run stands after that update.
            last: whether the run ends with it.

        Returns:
            What to call between clipping and the optimizer's step, or None.
        """
        self._due = [each for each in self._all.values() if each.is_due(ahead, last)]
        turns = [
            (each, turn)
            for each in self._all.values()
            if (turn := each.turn(ahead.step, each in self._due)) is not None
        ]
        if not turns:
            return None

        def before_update() -> None:
            for each, turn in turns:
                self._ask(each, model, partial(each.diagnostic.before_update, model, *turn))

        return before_update

    @property
    def due(self) -> bool:
        """Whether something is to be measured after the update that `look_ahead` was told of."""
        return bool(self._due)

    def measure(self, model: nn.Module, due: bool = False) -> tuple[dict[str, float], dict[str, Any]]:
        """Measure all, or those that are `due`.

        Returns:
            (metrics, details), names prefixed (`blob/...`); `computation_time_ms` is added.
        """
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        device = _device(model)
        if device is not None and device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)  # what training has queued is not the diagnostics' time
        for each in self._due if due else [*self._all.values()]:
            found = self._ask(each, model, partial(_numbers, each.name, each.diagnostic, model))
            took = each.take_time()
            self.spent += took
            trained = self._trained()
            each.cost.add(took, trained - self._measured[each.name])
            self._measured[each.name] = trained
            if found is not None:
                metrics |= {f"{each.name}/computation_time_ms": 1000 * took} | found[0]
                details |= found[1]
        self._due = []
        return metrics, details

    def too_long(self) -> dict[str, int]:
        """Return name -> what to lengthen an interval to, as a multiple of the configured one, to keep the budget."""
        if self._budget is None or self.spent < self._grace:
            return {}
        ratios = {name: each.cost.ratio for name, each in self._all.items()}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        factors = stretches(known, self._budget)
        return {name: math.ceil(min(factor, _MOST) * self._all[name].stretch) for name, factor in factors.items()}

    def lengthen(self, multiples: Mapping[str, int]) -> None:
        """Lengthen intervals, as `too_long` says; on all ranks at the same step."""
        for name, times in multiples.items():
            each = self._all[name]
            before = str(each)
            each.stretch = times
            log.warning(
                "diagnostics.%s: measured %s from here on, not %s: it took more than its part of "
                "trainer.diagnostics_budget=%g of the time",
                name, each, before, self._budget,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each diagnostic by name."""
        return {name: each.diagnostic.state_dict() for name, each in self._all.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; a diagnostic that is new begins afresh."""
        for name, each in self._all.items():
            if name not in state:
                continue
            try:
                each.diagnostic.load_state_dict(state[name])
            except Exception as error:  # noqa: BLE001 - somebody's own, changed since then say: it is not worth a run
                log.warning("diagnostics.%s begins anew: it does not take its own state (%s)", name, describe_at(error))

    def multiples(self) -> dict[str, dict[str, Any]]:
        """Return what has been lengthened: name -> the configured `interval`, and how many `times` it takes that."""
        return {
            name: {"interval": each.diagnostic.interval, "times": each.stretch}
            for name, each in self._all.items()
            if each.stretch > 1
        }

    def load_multiples(self, multiples: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back what `multiples` returned, where the same is configured now, and there is a budget."""
        for name in multiples.keys() & self._all.keys() if self._budget is not None else ():
            if multiples[name]["interval"] == self._all[name].diagnostic.interval:
                self._all[name].stretch = multiples[name]["times"]

    def _trained(self) -> float:
        """Return the seconds since `start` that were not the diagnostics'."""
        pending = sum(each.pending for each in self._all.values())
        return time.perf_counter() - self._began - self.spent - pending

    def _ask(self, each: Scheduled, model: nn.Module, call: Callable[[], _T]) -> _T | None:
        """Return what `call` returns, or None if it raises, which is said once."""
        import torch

        from expkit.diagnostics._evaluation import untouched

        # One of somebody's own may draw numbers, or call model.eval(), without thinking of what trains on.
        own = not type(each.diagnostic).__module__.startswith("expkit.")
        try:
            with each.timed(_device(model)), untouched(model) if own else contextlib.nullcontext(), torch.no_grad():
                return call()
        except Exception as error:  # noqa: BLE001 - it only watches: whatever it raises is not worth a run
            self._say_failed(each, error)
            return None

    def _say_failed(self, each: Scheduled, error: Exception) -> None:
        if each.name not in self._failed:
            log.warning("diagnostics.%s failed (%s): training goes on", each.name, describe_at(error))
        self._failed.add(each.name)


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None else parameter.device


def _numbers(name: str, diagnostic: Diagnostic, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the numbers and the rest of what the diagnostic `name` measures, under their full names."""
    found: object = diagnostic.measure(model)
    if not isinstance(found, Mapping):
        what = "None" if found is None else f"a {type(found).__name__}"
        raise TypeError(f"measure() returned {what}, but it must return a dict of numbers")
    numbers: dict[str, float] = {}
    others: dict[str, Any] = {}
    for key, value in found.items():
        full = key if key == name else f"{name}/{key}"
        try:
            numbers[full] = to_number(key, value)
        except TypeError:
            others[full] = to_plain(value)
    return numbers, others
