"""Which pictures compare several experiments, from whatever people have of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from expkit.errors import UserError
from expkit.journal import is_volatile
from expkit.plots.curve import Curve
from expkit.plots.panel_pictures import PanelPicture
from expkit.plots.panels import LOSSES, Line, Panel, evenly, numbers

__all__ = ["MOST_PANELS", "compare", "name_experiments", "read_metrics"]

MOST_PANELS = 9

_FILE = "experiment_comparison.png"
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
    """Return the picture that compares experiments, if there is anything to draw, and the last step in it.

    Args:
        named: what `name_experiments` returns.
        say: told what is left out.
    """
    losses: list[Line] = []
    others: dict[str, list[Line]] = {}
    for place, (label, experiment) in enumerate(named):
        steps = experiment.get("steps") or {}
        history = read_metrics({"loss_history": experiment.get("loss_history")}, say).get("loss_history", [])
        history = history if isinstance(history, list) else [history]
        curve = _curve(history, steps.get("loss_history"), len(history))
        if curve.bounds() is not None:
            losses.append(Line(label, curve, place))
        for name, found in read_metrics(experiment.get("metrics") or {}, say).items():
            values = found if isinstance(found, list) else [found]
            curve = _curve(values, steps.get(name), len(history))
            repeated = name in LOSSES and values == history
            if curve.bounds() is not None and not repeated:
                others.setdefault(name, []).append(Line(label, curve, place))
    telling = sorted(others, key=lambda name: (not name.startswith("val_"), is_volatile(name)))
    shared = [Panel(name, others[name]) for name in telling if len(others[name]) > 1]
    if left := [panel.title for panel in shared[MOST_PANELS:]]:
        say(f"not drawn, as there are {MOST_PANELS} panels already: {', '.join(left)}")
    panels = [*([Panel("loss", losses)] if losses else []), *shared[:MOST_PANELS]]
    heading = f"Comparison of {len(named)} experiment{'s' if len(named) > 1 else ''}"
    ends = [line.curve.ends() or (0, 0) for panel in panels for line in panel.lines]
    pictures = [PanelPicture(_FILE, heading, panels, shared_legend=True)] if panels else []
    return pictures, int(max((last for _, last in ends), default=0))


def _curve(values: list[float], steps: Any, span: int) -> Curve:
    """Return values at their steps; without as many of these evenly over `span`."""
    known = isinstance(steps, Sequence) and len(steps) == len(values)
    return Curve(steps if known else evenly(len(values), span or len(values)), values)


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
