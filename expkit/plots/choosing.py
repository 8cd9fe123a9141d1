"""Which metrics are worth a panel, where nobody has said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expkit.journal import is_volatile
from expkit.plots.curve import Curve
from expkit.plots.panels import LOSSES, group
from expkit.record import RESERVED
from expkit.telling import DULL

__all__ = ["telling_groups"]

_UNINTERESTING = ("samples", "learning_rate")


def telling_groups(curves: Mapping[str, Curve]) -> dict[str, Sequence[str]]:
    """Return title -> metrics of up to four panels: losses first, then what is most telling of what changes at all."""
    bounds = {name: found for name, curve in curves.items() if (found := curve.bounds()) is not None}
    losses = [name for name in LOSSES if name in bounds]
    others = [
        name
        for name, (low, high) in bounds.items()
        if not (name in losses or name in RESERVED or name.startswith("final/") or is_volatile(name))
        and low < high
        and not any(bounds[loss] == (low, high) and curves[loss].line() == curves[name].line() for loss in losses)
    ]
    groups = group(others)
    chosen: dict[str, Sequence[str]] = {"loss": losses} if losses else {}
    return chosen | {title: groups[title] for title in _most_telling(groups)}


def _most_telling(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return up to three titles worth a panel: what is validated before speeds, the learning rate in any case."""

    def rank(title: str) -> tuple[int, str]:
        order = ("val_", "blob/weight", "blob/", "gradient_norm", "train_")
        found = (place for place, prefix in enumerate(order) if any(name.startswith(prefix) for name in groups[title]))
        return next(found, len(order)), title

    wanted = sorted((title for title in groups if title not in _UNINTERESTING), key=rank)
    telling = [title for title in wanted if not title.endswith(DULL)]
    return [*telling[:2], "learning_rate"] if "learning_rate" in groups else telling[:3]
