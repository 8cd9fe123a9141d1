"""From what other trainers write to records: where the step is, and what its numbers are called."""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from expkit.errors import UserError
from expkit.record import RESERVED, Record

__all__ = ["Fields", "parse_line"]

#: Where the step is looked for if nobody says.
_STEPS = ("step", "global_step", "current_step", "iteration", "iter", "_step", "steps")
#: What detectors look for by themselves.
_WATCHED = ("train_loss", "loss", "val_loss", "val_accuracy", "accuracy", "gradient_norm")
_SHOWN, _KEPT = 20, 1000
_TIMES = ("time", "timestamp", "_timestamp")
#: Nothing is tried twice (`++`, a name from its first letter on): a line may be one endless word, or number.
_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?(?:[eE][-+]?\d++)?|\.\d++(?:[eE][-+]?\d++)?|nan|inf(?:inity)?)\b"
_PAIR = re.compile(
    rf"(?<![A-Za-z_])(?P<name>[A-Za-z_][\w/.-]{{0,200}}+)['\"]?\s*(?:[:=]\s*|\s)(?P<value>{_NUMBER})", re.IGNORECASE
)
#: Of a longer line for people only the beginning is looked at.
_LONGEST = 1 << 16


class Fields:
    """Makes records of objects with numbers.

    Args:
        text: `step=global_step,loss=metrics.train.loss`: what a metric is to be called, and its path in the object. All
            numbers keep their own names besides. Without `step=` the usual names are looked for; where there is no step
            at all, records are counted.
        usual: what other trainers call a metric that detectors look for, the best first.

    Raises:
        UserError: it is of no such form.
    """

    def __init__(self, text: str | None = None, usual: Mapping[str, Sequence[str]] | None = None) -> None:
        self._paths: dict[str, str] = {}
        for each in (text or "").split(","):
            name, equals, path = each.strip().partition("=")
            if each.strip() and not (name and equals and path):
                raise UserError(f"--fields {text}: write NAME=PATH,...: step=global_step,loss=metrics.loss")
            if each.strip():
                self._paths[name] = path
        self._usual = usual or {}
        self._unseen = set(self._paths.values())
        self._seen: dict[str, None] = {}

    @property
    def paths(self) -> list[str]:
        """The paths that are named."""
        return list(self._paths.values())

    def record(self, entry: Mapping[str, Any], counted: int) -> Record | None:
        """Return the record of `entry`; None if there is no number in it.

        Args:
            entry: any JSON object.
            counted: the step where there is none.
        """
        numbers = dict(_numbers(entry))
        if self._unseen:
            self._unseen -= numbers.keys()
            self._seen |= dict.fromkeys(islice(numbers, _KEPT)) if len(self._seen) < _KEPT else {}
        named = {name: numbers[path] for name, path in self._paths.items() if path in numbers}
        step = named.pop("step", None)
        if step is None and "step" not in self._paths:
            step = next((value for key in _STEPS for name, value in numbers.items() if name.lower() == key), None)
        if "step" in self._paths and step is None:
            return None
        moment = next((numbers[name] for name in _TIMES if name in numbers), None)
        taken = RESERVED.union(_STEPS, _TIMES)
        left = {name: value for name, value in numbers.items() if name.lower() not in taken}
        metrics = {**left, **{name: value for name, value in named.items() if name not in RESERVED}}
        spelt = {
            **{name.lower().replace(".", "/"): name for name in metrics},
            **dict(zip(metrics, metrics, strict=True)),
        }
        for name, others in self._usual.items():
            said = next((other for other in others if other in self._paths), None)
            found = said or next((spelt[other] for other in others if other in spelt), None)
            if said is not None:  # what is named by hand is meant, whatever else there is
                metrics = {key: value for key, value in metrics.items() if key == said or key not in others}
            elif found is not None and found not in _WATCHED:
                metrics[name] = metrics[found]
        if not metrics or (step is not None and not math.isfinite(step)):
            return None
        epoch = numbers.get("epoch", 0)
        return Record(
            step=counted if step is None else int(step),
            epoch=int(epoch) if math.isfinite(epoch) else 0,
            time=moment if moment is not None and 1e9 < moment < 1e10 else time.time(),
            metrics=metrics,
        )

    def notes(self) -> list[str]:
        """Return which of the paths that are named were nowhere."""
        return [f"--fields: there is no {path}; {self._instead(path)}" for path in sorted(self._unseen)]

    def _instead(self, path: str) -> str:
        close = difflib.get_close_matches(path, self._seen, n=1)
        if close:
            return f"did you mean {close[0]}?"
        return f"there are {', '.join(sorted(self._seen)[:_SHOWN])}" if self._seen else "there are no numbers at all"


def parse_line(text: str) -> dict[str, float]:
    """Return the numbers in a line for people: `step 10 | loss 0.5`, `step=10 loss: 0.5`, `{'loss': 0.5}`."""
    return {match["name"]: float(match["value"]) for match in _PAIR.finditer(text[:_LONGEST])}


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers in nested objects, named by their path with dots."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _numbers(item, f"{name}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield name, item
        elif isinstance(item, str) and re.fullmatch(_NUMBER, item.strip().rstrip("%"), re.IGNORECASE):
            yield name, float(item.strip().rstrip("%"))
