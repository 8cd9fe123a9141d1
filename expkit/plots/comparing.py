"""Which pictures compare several experiments, from whatever people have of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from expkit.errors import UserError
from expkit.journal import is_volatile
from expkit.plots.curve import Curve
from expkit.plots.panel_pictures import PanelPicture
from expkit.plots.panels import LOSSES, Line, Panel, evenly, numbers

__all__ = ["MOST_PANELS", "compare", "name_experiments", "read_metrics"]

MOST_PANELS = 9

_MOST_PICTURES = 40
_FILE = "experiment_comparison"
_FORMS = (
    "dicts with name, loss_history and metrics, or what ResultsParser(path).parse() returns, in a list or as "
    "{name: dict}"
)


def name_experiments(experiments: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Return name and experiment of each, from a list of experiments, a dict of them by name, or a single one.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(experiments, Mapping):
        one = not experiments or not all(isinstance(each, Mapping) and _known(each) for each in experiments.values())
        if one and experiments and not _known(experiments):
            raise UserError(f"experiments hold {', '.join(map(repr, [*experiments][:5]))}: give {_FORMS}")
        named = [(None, experiments)] if one else list(experiments.items())
    elif isinstance(experiments, Iterable) and not isinstance(experiments, str | bytes):
        named = [(None, each) for each in experiments]
    else:
        raise UserError(f"experiments are of type {type(experiments).__name__}: give {_FORMS}")
    names = []
    for number, (name, each) in enumerate(named, 1):
        if not isinstance(each, Mapping):
            raise UserError(f"experiment {number} is of type {type(each).__name__}: give {_FORMS}")
        if not isinstance(each.get("metrics") or {}, Mapping):
            kind = type(each["metrics"]).__name__
            raise UserError(f"metrics of experiment {number} are of type {kind}: give a dict, name -> values")
        names.append(str(name or each.get("name") or f"experiment {number}"))
    return list(zip(_told_apart(names), (each for _, each in named), strict=True))


def compare(
    named: Sequence[tuple[str, Mapping[str, Any]]], say: Callable[[str], None]
) -> tuple[list[PanelPicture], int]:
    """Return the pictures that compare experiments, and the last step in them.

    Args:
        named: what `name_experiments` returns.
        say: told what is left out.
    """
    shared: dict[str, list[Line]] = {}
    by_step = False
    for place, (label, experiment) in enumerate(named):
        history = read_metrics({"loss_history": experiment.get("loss_history")}, say).get("loss_history", [])
        losses = history if isinstance(history, list) else [history]
        found = {"loss": Curve(evenly(len(losses), len(losses)), losses)}
        metrics = dict(experiment.get("metrics") or {})
        pairs = {name: curve for name, values in metrics.items() if (curve := _of_pairs(str(name), values, say))}
        by_step = by_step or bool(pairs)
        for name, values in read_metrics({k: v for k, v in metrics.items() if k not in pairs}, say).items():
            values = values if isinstance(values, list) else [values]
            if name != "loss" or not losses:
                found[name] = Curve(evenly(len(values), len(losses) or len(values)), values)
        for name, curve in (found | pairs).items():
            if curve.bounds() is not None:
                shared.setdefault(name, []).append(Line(label, curve, place))
    heading = f"Comparison of {len(named)} experiment{'s' if len(named) > 1 else ''}"
    make = _one_for_each if by_step else _one_for_all
    pictures = make(heading, shared, min(2, len(named)), say)
    ends = [line.curve.ends() or (0, 0) for lines in shared.values() for line in lines]
    return pictures, int(max((last for _, last in ends), default=0))


def _one_for_all(
    heading: str, shared: Mapping[str, Sequence[Line]], _: int, say: Callable[[str], None]
) -> list[PanelPicture]:
    losses = [Panel("loss", shared["loss"])] if "loss" in shared else []
    others = [Panel(name, lines) for name, lines in shared.items() if len(lines) > 1 and name != "loss"]
    if left := [panel.title for panel in others[MOST_PANELS:]]:
        say(f"not drawn, as there are {MOST_PANELS} panels already: {', '.join(left)}")
    panels = [*losses, *others[:MOST_PANELS]]
    return [PanelPicture(f"{_FILE}.png", heading, panels, shared_legend=True)] if panels else []


def _one_for_each(
    heading: str, shared: Mapping[str, Sequence[Line]], least: int, say: Callable[[str], None]
) -> list[PanelPicture]:
    """Return a picture for each metric that enough have, the most telling first."""
    names = [name for name, lines in shared.items() if len(lines) >= least]
    names.sort(key=lambda name: (name not in LOSSES, not name.startswith("val_"), is_volatile(name)))
    if left := names[_MOST_PICTURES:]:
        say(f"not drawn, as there are {_MOST_PICTURES} pictures already: {', '.join(left)}")
    kept = names[:_MOST_PICTURES]
    files = _told_apart([re.sub(r"[^\w.=-]+", "_", name) for name in kept])
    return [
        PanelPicture(f"{_FILE}_{file}.png", f"{heading}: {name}", [Panel(name, shared[name])], shared_legend=True)
        for name, file in zip(kept, files, strict=True)
    ]


def read_metrics(metrics: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, list[float] | float]:
    """Return the metrics that are numbers; what is not is said."""
    found: dict[str, list[float] | float] = {}
    for name, values in metrics.items():
        try:
            made = numbers(str(name), values)
        except TypeError as error:
            say(f"left out of the plots: {error}")
            continue
        if made is not None:
            found[str(name)] = made
    return found


def _of_pairs(name: str, values: Any, say: Callable[[str], None]) -> Curve | None:
    """Return the curve of a list of (step, value), or None if it is something else."""
    if not isinstance(values, list | tuple) or not values:
        return None
    if not all(isinstance(each, list | tuple) and len(each) == 2 for each in values):
        return None
    try:
        pairs = np.array([(step, math.nan if value is None else value) for step, value in values], float)
    except (TypeError, ValueError):
        say(f"left out of the plots: {name!r} holds what is no pair of a step and a number")
        return Curve()
    steps, numbers_ = pairs[np.argsort(pairs[:, 0], kind="stable")].T
    return Curve(np.ascontiguousarray(steps), np.ascontiguousarray(numbers_))  # type: ignore[arg-type]


def _known(experiment: Mapping[str, Any]) -> bool:
    return "metrics" in experiment or "loss_history" in experiment


def _told_apart(names: list[str]) -> list[str]:
    """Number the names that occur more than once."""
    count, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(f"{name} ({seen[name]})" if count[name] > 1 else name)
    return made
