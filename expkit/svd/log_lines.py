"""Reads analyses of layers out of lines of text: a training's log, JSON, the recording of a console."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from expkit.lenient_json import parse_json
from expkit.svd.metrics import MEASURED, KeyPattern, SVDMetrics, made, metric_named, to_value

__all__ = ["LogParser"]

#: Colours and cursor movements of terminals, and what else prints nothing.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_STEP = re.compile(
    r"(?<![\w/])(?:global[_ ]|train[_ ]|_)?(?:step|iteration|iter)\b[\"']?[\s:=#]*(\d{1,15})(?!\w|\.\d)", re.I
)
_STEP_KEYS = ("step", "_step", "global_step", "iteration", "iter")
#: A progress bar's: 20/200 [00:10<01:30
_BAR = re.compile(r"(?<![\w/.])(\d{1,15})/\d+ \[")
_HEADER = re.compile(r"Step (\d{1,15}) \| (\S+)")
_VALUE = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:e[-+]?\d++)?|[-+]?nan|[-+]?inf(?:inity)?|FULL|LOW[-_]RANK"
_PAIR = re.compile(
    rf"(?<![\w./-])([\"']?)(?P<key>[A-Za-z_][\w./\[\]-]{{0,300}})\1\s{{0,30}}[:=]\s{{0,30}}(?P<value>{_VALUE})(?!\w|\.\d)",
    re.I,
)
_LAYER = re.compile(r"(?<![\w./-])[\"']?layer(?:_name)?[\"']?\s{0,30}[:=]\s{0,30}[\"']?([\w./\[\]-]+)", re.I)
#: A dotted name right before a bare metric: block0.attn.c_q: principal_alignment=0.3
_BEFORE = re.compile(
    rf"(?<!\S)\[?([A-Za-z_][\w-]*(?:\.[\w-]+)+)\]?[:,]?\s{{1,30}}(?:\|\s{{1,30}})?(?=(?:{'|'.join(MEASURED)})\s{{0,30}}[:=])"
)
#: What `svd_switch` says, and what is said when it was followed.
_WANTED = re.compile(
    r"(?<!\S)(?P<layer>[^\s;]+) (?P<mode>FULL|LOW-RANK) -> (?:FULL|LOW-RANK)(?: r=(?P<r>\d{1,15}))? "
    r"\(\w+: (?P<why>[^;)]*)"
)
_SWITCHED = re.compile(r"(?<!\S)(?P<layer>\S+) is (?P<mode>FULL|LOW-RANK) from here on")
_SEEN = re.compile(r"\[(?P<layer>\S{1,120})\] SWITCHED TO (?P<mode>FULL|LOW-RANK)(?: \(r=(?P<r>\d{1,15})\))?")
_WORD = re.compile(rf"\b([a-z_]{{1,40}}) ({_VALUE})(?!\w|\.\d)", re.I)

#: Of a longer line that is no JSON only the beginning is looked at.
_LONGEST = 1 << 16
_RULE = re.compile(r"[-=_*#~+ \t]+")


class LogParser:
    """Takes lines one by one. It raises for none of them.

    It knows: lines of JSON, nested too; `name: value` and `name=value`, several in a line; bare names of metrics behind
    a dotted name of a layer, or below a line `Step N | layer`, which is what the monitor itself prints; what detector
    `svd_switch` says. A value belongs to the step that was named last.

    Args:
        pattern: finds layer and metric in a name.

    Attributes:
        lines: that were taken, without empty ones and rulers.
        unknown: those of them with nothing in them that it knows.
        without_step: those that had values, but there was no step before them.
    """

    def __init__(self, pattern: KeyPattern | None = None) -> None:
        self.lines = self.unknown = self.without_step = 0
        self._pattern = pattern or KeyPattern()
        self._step: int | None = None
        self._steps_are_named = False
        self._layer: str | None = None
        self._found: dict[str, dict[str, float]] = {}
        self._ready: list[SVDMetrics] = []

    def take(self, line: str) -> list[SVDMetrics]:
        """Take a line, and return the analyses that are complete by it."""
        text = _ESCAPES.sub("", line).strip()
        if not text or _RULE.fullmatch(text):
            if text.startswith("===="):
                self._layer = None
            return []
        self.lines += 1
        known = self._take_json(text) if "{" in text else None
        if known is None:
            known = self._take_text(text[:_LONGEST])
        self.unknown += not known
        ready, self._ready = self._ready, []
        return ready

    def flush(self) -> list[SVDMetrics]:
        """Return what is known of the last step; what else comes of it completes it."""
        self._complete()
        ready, self._ready = self._ready, []
        return ready

    def _take_json(self, text: str) -> bool | None:
        """Take a line that ends in a JSON object; return whether it had anything in it, None if it is no such line."""
        try:
            entry = _parsed(text[text.index("{") :])
        except ValueError:
            return None
        values = dict(_flat(entry))
        step = next((step for key in _STEP_KEYS if (step := _whole(values.get(key))) is not None), None)
        if step is not None:
            self._begin(step)
        layer = values.get("layer_name", values.get("layer"))
        return self._add(values.items(), layer if isinstance(layer, str) and layer else None) or step is not None

    def _take_text(self, text: str) -> bool:
        header = _HEADER.fullmatch(text)
        if header is not None:
            self._begin(int(header[1]))
            self._layer = header[2]
            return True
        known = self._take_step(text)
        if self._take_mode(text):
            return True
        pairs = [(match["key"], match["value"]) for match in _PAIR.finditer(text)]
        named = _LAYER.search(text) or _BEFORE.search(text)
        if self._add(pairs, named[1] if named is not None else self._layer):
            return True
        words = text.split()
        return self._add(pairwise(words), None) or known  # `name value`, as in the summary that W&B prints at the end

    def _take_step(self, text: str) -> bool:
        match = _STEP.search(text)
        if match is not None:
            self._steps_are_named = True
        elif not self._steps_are_named:
            match = _BAR.search(text)
        if match is None:
            return False
        self._begin(int(match[1]))
        return True

    def _take_mode(self, text: str) -> bool:
        """Take what a line says of the modes of layers, in words."""
        known = False
        for match in _WANTED.finditer(text):
            values = [("mode", match["mode"]), *((word[1], word[2]) for word in _WORD.finditer(match["why"]))]
            known |= self._add([*values, ("r", match["r"])], match["layer"])
        for match in (*_SWITCHED.finditer(text), *_SEEN.finditer(text)):
            r = match.groupdict().get("r")
            known |= self._add([("mode", match["mode"]), ("r", r)], match["layer"])
        return known

    def _begin(self, step: int) -> None:
        if step != self._step:
            self._complete()
            self._step, self._layer = step, None

    def _add(self, values: Any, layer: str | None) -> bool:
        """Add those of (name, value) that are metrics, bare names being those of `layer`; return whether any is."""
        found: dict[str, dict[str, float]] = {}
        for name, value in values:
            split = self._pattern.split(name)
            if split is None and layer is not None:
                metric = metric_named(name)
                split = (layer, metric) if metric is not None else None
            number = to_value(split[1], value) if split is not None else None
            if split is not None and number is not None:
                found.setdefault(split[0], {})[split[1]] = number
        if found and self._step is None:
            self.without_step += 1
        elif found:
            for name, numbers in found.items():
                self._found.setdefault(name, {}).update(numbers)
        return bool(found)

    def _complete(self) -> None:
        if self._step is not None:
            self._ready += [made(self._step, layer, numbers) for layer, numbers in self._found.items()]
        self._found = {}


def _parsed(text: str) -> Mapping[str, Any]:
    entry = parse_json(text)
    if not isinstance(entry, dict):
        raise ValueError("no object")
    return entry


def _flat(entry: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in entry.items():
        if isinstance(value, dict) and depth < 20:
            yield from _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value and 0 <= value < 1e15 and value == int(value) else None
