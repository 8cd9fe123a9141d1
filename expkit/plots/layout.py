"""Room for texts around panels, measured only when they have other sizes than before.

matplotlib's constrained layout measures every text twice at every drawing, which takes longer than drawing them: too
long for a figure that is drawn again every few seconds with the same labels.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["H_PAD", "W_PAD", "lay_out_when_changed"]

W_PAD, H_PAD = 0.12, 0.1  # inches


def lay_out_when_changed(figure: Figure) -> None:
    """Have `figure` laid out as by constrained layout, anew only when something has another size than at its last."""
    if type(figure.get_layout_engine()) is not _engine():
        figure.set_layout_engine(_engine()(w_pad=W_PAD, h_pad=H_PAD))


@cache
def _engine() -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class LayoutWhenChanged(ConstrainedLayoutEngine):
        """Constrained layout that remembers where it has put the axes; nothing else may be outside of them."""

        _sizes: Any = None
        _places: Any = ()

        def execute(self, fig: Figure) -> None:
            sizes = (*fig.get_size_inches(), fig.dpi, fig.get_suptitle().count("\n"), *map(_labels, fig.axes))
            if sizes != self._sizes:
                super().execute(fig)
                self._sizes, self._places = sizes, [axes.get_position(original=True) for axes in fig.axes]
            for axes, place in zip(fig.axes, self._places, strict=True):
                axes.set_position(place)
                axes.set_in_layout(True)  # set_position takes it out

    return LayoutWhenChanged


def _labels(axes: Axes) -> tuple[object, ...]:
    """Return what the room around an axes depends on: how long its labels are, and which there are."""
    axis = axes.yaxis
    places: Any = axis.get_majorticklocs()
    ticks = axis.get_major_formatter().format_ticks(places)
    spec = axes.get_subplotspec()
    place = spec.get_geometry() if spec is not None else ()
    return max(map(len, ticks), default=0), place, bool(axes.get_xlabel()), bool(axes.get_title("left"))
