"""The face that is a window: matplotlib, live."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from typing import Any

from expkit.errors import UserError
from expkit.monitor.runs import Runs
from expkit.monitor.text import heading_line
from expkit.plots.drawing import LiveGrid, columns_of
from expkit.plots.themes import ThemeName, find_theme
from expkit.reading.axis import ALONG, axis_of

__all__ = ["can_open", "show_window"]

_SIZE = (13.0, 8.4)  # inches
_TICK = 0.25  # seconds
_OTHERS = "--terminal, --web or --static; in Python generate_static_plot(FILE)"
_HELP = "l: logarithmic, linear, either   x: steps, time or epochs   o: zoom   r: whole   s: save   q: close"

#: In the order in which matplotlib itself tries them.
_BACKENDS = ("macosx", "qtagg", "gtk4agg", "gtk3agg", "tkagg", "wxagg")

#: Keys that are ours here.
_KEYMAP = {"keymap.yscale": [], "keymap.xscale": [], "keymap.grid": [], "keymap.grid_minor": [], "keymap.quit": ["q"]}

_Limits = tuple[tuple[float, float], tuple[float, float]]


def can_open() -> bool:
    """Whether there is something that opens windows."""
    return _load_backend() is not None


def show_window(monitor: Runs, interval: float, theme: ThemeName = "dark") -> None:
    """Show a window that follows the runs, until it is closed, or Ctrl-C.

    Raises:
        UserError: there is no display, or nothing that could open a window on it.
    """
    plt = _load_backend()
    if plt is None:
        lacks = "toolkit for windows (Python's tkinter, or pip install PySide6)" if _has_display() else "display"
        raise UserError(f"--window: there is no {lacks} here; choose {_OTHERS}")
    with plt.rc_context(_KEYMAP):
        try:
            names = ", ".join(feed.name for feed in monitor.feeds)
            figure = plt.figure(figsize=_SIZE, num=f"expkit monitor: {names[:80]}")
        except Exception as error:  # noqa: BLE001 - every toolkit has exceptions of its own for a display that is none
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"--window: no window can be opened ({reason}); choose {_OTHERS}") from None
        window = _Window(monitor, figure, interval, theme)
        before = signal.signal(signal.SIGINT, lambda *_: plt.close(figure))
        try:
            window.start()
            plt.show(block=True)
        finally:
            signal.signal(signal.SIGINT, before)
            plt.close(figure)


class _Window:
    """Draws what is new, and keeps what somebody has zoomed into."""

    def __init__(self, monitor: Runs, figure: Any, interval: float, theme: ThemeName) -> None:
        self._monitor, self._figure, self._theme = monitor, figure, find_theme(theme)
        self._grid = LiveGrid(figure, self._theme)
        self._view = monitor.view
        self._every = max(1, round(interval / _TICK))
        self._ticks = 0
        self._unit = 1.0
        self._said = ""
        self._held = False
        self._whole: list[_Limits] = []
        self._zoom: list[_Limits | None] = []
        self._timer = figure.canvas.new_timer(interval=round(1000 * _TICK))
        self._timer.add_callback(self._tick)
        for event, react in (
            ("key_press_event", self._on_key),
            ("button_press_event", lambda _: self._hold(True)),
            ("button_release_event", lambda _: self._hold(False)),
            ("close_event", lambda _: self._timer.stop()),
        ):
            figure.canvas.mpl_connect(event, react)

    def start(self) -> None:
        """Draw for the first time, and go on by a timer."""
        self._look(always=True)
        self._timer.start()

    def _tick(self) -> bool:
        self._ticks += 1
        reading = any(not feed.caught_up for feed in self._monitor.feeds)
        if not self._held and (reading or self._ticks % self._every == 0):
            self._look()
        return True

    def _look(self, always: bool = False) -> None:
        """Read what is new, a little at a time so that the window answers, and draw if there is anything."""
        changed, trouble = False, ""
        try:
            changed = self._monitor.refresh(within=0.3)
        except OSError as error:  # it may be there again at the next look
            trouble = f"cannot be read now: {error}   "
        pixels = round(self._figure.bbox.width / columns_of(len(self._whole)))
        unit = axis_of(self._monitor.feeds, self._view.along, self._unit if self._is_zoomed() else None).unit
        if unit != self._unit:
            self._unit, self._whole = unit, []
        screen = self._monitor.screen(replace(self._view, bins=self._view.bins or pixels, unit=unit))
        said = trouble + heading_line(screen)
        if changed or always or said != self._said:
            self._said = said
            self._draw(screen)

    def _draw(self, screen: Any) -> None:
        self._note_zoom()
        if not screen.panels:
            self._grid.clear()
            self._figure.text(0.5, 0.5, f"{screen.heading}\n{self._said}", ha="center", color=self._theme.text)
        else:
            self._grid.draw(screen.heading, screen.panels, self._said)
        self._figure.supxlabel(_HELP, x=0.01, ha="left", fontsize=8, color=self._theme.muted)
        self._restore_zoom()
        self._figure.canvas.draw_idle()

    def _is_zoomed(self) -> bool:
        """Whether somebody looks at a part: the unit of time stays what it is then."""
        seen = [_limits(axes) for axes in self._figure.axes]
        return len(seen) == len(self._whole) and seen != self._whole

    def _note_zoom(self) -> None:
        """Remember which panels show another part than they were drawn with."""
        seen = [_limits(axes) for axes in self._figure.axes]
        if len(seen) == len(self._whole):
            self._zoom = [now if now != whole else None for now, whole in zip(seen, self._whole, strict=True)]
        else:
            self._zoom = []

    def _restore_zoom(self) -> None:
        """Show again what was zoomed into; the toolbar's way home leads to the whole."""
        toolbar = getattr(self._figure.canvas.manager, "toolbar", None)
        self._whole = [_limits(axes) for axes in self._figure.axes]
        if toolbar is not None:
            toolbar.update()
            toolbar.push_current()
        if len(self._zoom) == len(self._whole) and any(self._zoom):
            for axes, limits in zip(self._figure.axes, self._zoom, strict=True):
                if limits is not None:
                    axes.set(xlim=limits[0], ylim=limits[1])
            if toolbar is not None:
                toolbar.push_current()

    def _on_key(self, event: Any) -> None:
        if event.key == "l":
            self._view = replace(self._view, logarithmic={None: True, True: False, False: None}[self._view.logarithmic])
        elif event.key == "x":
            following = ALONG[(ALONG.index(self._view.along) + 1) % len(ALONG)]
            self._view = replace(self._view, along=following)
        else:
            return
        self._whole = []  # another scale: what was zoomed into is no more
        self._look(always=True)

    def _hold(self, held: bool) -> None:
        """Draw nothing while a mouse button is down: somebody is zooming."""
        self._held = held


def _limits(axes: Any) -> _Limits:
    return tuple(axes.get_xlim()), tuple(axes.get_ylim())


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _load_backend() -> Any:
    """Return pyplot with a backend that opens windows, or None if there is no such."""
    if not _has_display():
        return None
    import matplotlib.pyplot as plt

    asked = os.environ.get("MPLBACKEND")
    for name in (asked,) if asked else _BACKENDS:
        try:
            plt.switch_backend(name)
        except (ImportError, ValueError):
            continue
        return plt if plt.get_backend().lower() not in ("agg", "svg", "pdf", "ps", "cairo", "template") else None
    return None
