"""One analysis of one layer, and how it is found among metrics by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from expkit.errors import UserError
from expkit.switch_thresholds import FULL, LOW_RANK

__all__ = ["MEASURED", "KeyPattern", "SVDMetrics", "analyses", "metric_named", "to_value"]

#: The numbers that the rules look at.
MEASURED = ("principal_alignment", "minor_alignment", "subspace_angle", "reconstruction_error")

_NUMBERS = (*MEASURED, "alignment_excess", "mode", "r")

#: What other people call them.
_OTHER_NAMES = {
    "principal": "principal_alignment",
    "minor": "minor_alignment",
    "angle": "subspace_angle",
    "subspace": "subspace_angle",
    "recon_error": "reconstruction_error",
    "recon": "reconstruction_error",
    "error": "reconstruction_error",
    "excess": "alignment_excess",
    "rank": "r",
}

#: svd/{layer}/{metric}, and the same with dots, as W&B names nested values; something may come before it.
_OURS = r"(?:.*[/.])?svd[/.](?P<layer>.+)[/.](?P<metric>\w+)"


@dataclass(frozen=True, slots=True)
class SVDMetrics:
    """What one analysis says of one layer. Any values will do; NaN is what was not measured.

    Attributes:
        step: of the analysis.
        layer_name: dotted name.
        mode: 0.0 FULL, 1.0 LOW-RANK, NaN unknown: then it is as before.
        r: minor components; None unknown.
        principal_alignment, minor_alignment: shares of the gradient in the principal and the minor directions.
        subspace_angle: radians that the principal subspace has turned since the analysis before.
        reconstruction_error: relative error of the principal components alone.
        alignment_excess: p^2 / (k/g), 1 for a gradient without preference; it tells what chance would give.
    """

    step: int
    layer_name: str
    mode: float = math.nan
    r: int | None = None
    principal_alignment: float = math.nan
    minor_alignment: float = math.nan
    subspace_angle: float = math.nan
    reconstruction_error: float = math.nan
    alignment_excess: float = math.nan

    def filled(self, other: SVDMetrics) -> SVDMetrics:
        """Return this analysis with what it lacks taken from `other`, of the same step and layer."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        for name, value in numbers.items():
            if value is None or value != value:
                numbers[name] = getattr(other, name)
        return SVDMetrics(self.step, self.layer_name, **numbers)


class KeyPattern:
    """Finds layer and metric in the name of a value.

    Args:
        pattern: regular expression for a whole name, with groups `layer` and `metric`; None: `svd/{layer}/{metric}`.

    Raises:
        UserError: it is none, or lacks a group.
    """

    def __init__(self, pattern: str | None = None) -> None:
        try:
            self._pattern = re.compile(_OURS if pattern is None else pattern)
        except re.error as error:
            raise UserError(f"--key-pattern {pattern}: it is no regular expression ({error})") from None
        if not {"layer", "metric"} <= self._pattern.groupindex.keys():
            example = r"'adaptive/(?P<layer>.+)\.(?P<metric>\w+)'"
            raise UserError(f"--key-pattern {pattern}: it needs the groups layer and metric, as in {example}")

    def split(self, name: str) -> tuple[str, str] | None:
        """Return (layer, one of the known metrics), or None if `name` is of something else."""
        match = self._pattern.fullmatch(name)
        if match is None or not match["layer"] or not match["metric"]:
            return None
        metric = metric_named(match["metric"])
        return (match["layer"], metric) if metric is not None else None


def metric_named(name: str) -> str | None:
    """Return the metric that `name` is another name of, or None."""
    name = name.strip().lower()
    return name if name in _NUMBERS else _OTHER_NAMES.get(name)


def to_value(metric: str, value: Any) -> float | None:
    """Return a value as a number, a mode by its name too; None if it is nothing of the kind."""
    if metric == "mode" and isinstance(value, str):
        value = {FULL: 0.0, LOW_RANK: 1.0, "LOW_RANK": 1.0}.get(value.strip().upper(), value)
    if isinstance(value, str):
        try:
            value = float(value)  # W&B writes NaN as a word
        except ValueError:
            return None
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def analyses(step: int, values: Mapping[str, Any], pattern: KeyPattern) -> Iterator[SVDMetrics]:
    """Yield what the values of one step, a journal's entry say, tell of each layer."""
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        split = pattern.split(name)
        if split is not None:
            number = to_value(split[1], value)
            if number is not None:
                found.setdefault(split[0], {})[split[1]] = number
    for layer, numbers in found.items():
        yield made(step, layer, numbers)


def natural(name: str) -> list[tuple[int, str]]:
    """Return what to sort names of layers by: block2 comes before block10."""
    return [(int(part), "") if part.isdecimal() and len(part) < 19 else (-1, part) for part in re.split(r"(\d+)", name)]


def made(step: int, layer: str, numbers: Mapping[str, float]) -> SVDMetrics:
    """Return the analysis that has these numbers, by metric."""
    r = numbers.get("r")
    others = {name: value for name, value in numbers.items() if name != "r"}
    return SVDMetrics(step, layer, r=int(r) if r is not None and math.isfinite(r) else None, **others)
