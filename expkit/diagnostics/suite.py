"""All diagnostics of a run, measured together. One that fails is said once; training goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from expkit.diagnostics.base import Diagnostic
from expkit.errors import describe
from expkit.record import to_number, to_plain

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DiagnosticSuite"]

log = logging.getLogger("expkit")


class DiagnosticSuite:
    """Measures every diagnostic and puts its name before what it says.

    Args:
        diagnostics: name -> diagnostic.
    """

    def __init__(self, diagnostics: Mapping[str, Diagnostic] | None = None) -> None:
        self._diagnostics = dict(diagnostics or {})
        self._failed: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._diagnostics)

    def measure(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        """Return (metrics, details), names prefixed (`blob/...`); `computation_time_ms` is added where missing."""
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        for name, diagnostic in self._diagnostics.items():
            began = time.perf_counter()
            try:
                found = diagnostic.measure(model)
                took = 1000 * (time.perf_counter() - began)
                numbers, others = _split(name, found)
            except Exception as error:  # noqa: BLE001 - it only watches: whatever it raises is not worth a run
                if name not in self._failed:
                    log.warning("diagnostics.%s failed (%s): training goes on", name, describe(error))
                self._failed.add(name)
                continue
            metrics |= {f"{name}/computation_time_ms": took} | numbers
            details |= others
        return metrics, details

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each diagnostic by name."""
        return {name: diagnostic.state_dict() for name, diagnostic in self._diagnostics.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; a diagnostic that is new begins afresh."""
        for name, diagnostic in self._diagnostics.items():
            if name in state:
                diagnostic.load_state_dict(state[name])


def _split(name: str, found: object) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the numbers and the rest of what the diagnostic `name` has measured, under their full names."""
    if not isinstance(found, Mapping):
        what = "None" if found is None else f"a {type(found).__name__}"
        raise TypeError(f"measure() returned {what}, but it must return a dict of numbers")
    numbers: dict[str, float] = {}
    others: dict[str, Any] = {}
    for key, value in found.items():
        try:
            numbers[f"{name}/{key}"] = to_number(key, value)
        except TypeError:
            others[f"{name}/{key}"] = to_plain(value)
    return numbers, others
