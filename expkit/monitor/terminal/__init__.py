"""The face for terminals: curves in braille, bars, alerts; without a keyboard, colours or a cursor too."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor
    from expkit.monitor.terminal.controls import Controls
    from expkit.monitor.terminal.look import Look

__all__ = ["show_live", "show_once"]

_SLICE = 0.4  # seconds of reading at a time: keys are answered in between


def show_once(monitor: TrainingMonitor, light: bool | None = None) -> None:
    """Print one look: without any escape code, unless it is a terminal that it goes to.

    Args:
        monitor: the runs.
        light: whether the background is; None: as the terminal says.
    """
    from expkit.monitor.terminal.controls import Controls
    from expkit.monitor.terminal.dashboard import draw_frame

    monitor.refresh()
    look = _look(light)
    columns, rows = shutil.get_terminal_size()
    controls = Controls.of(monitor.view)
    lines = draw_frame(monitor, controls, look, (columns, max(rows - 1, 1)), keys=False)
    print("\n".join(look.render(lines, columns)))


def show_live(monitor: TrainingMonitor, interval: float, light: bool | None = None) -> None:
    """Follow the runs until q or Ctrl-C.

    Args:
        monitor: the runs.
        interval: seconds between two looks.
        light: whether the background is; None: as the terminal says.

    Raises:
        SystemExit: SIGTERM or SIGHUP has come; the terminal is as it was.
    """
    from expkit.monitor.terminal.controls import Controls

    look = _look(light)
    with contextlib.suppress(KeyboardInterrupt):
        if look.movable and _has_termios():
            controls = Controls.of(monitor.view)
            _live(monitor, interval, look, controls)
        else:
            _line_by_line(monitor, interval, look)


def _look(light: bool | None) -> Look:
    """Return what the terminal can show."""
    from expkit.monitor.terminal.look import detect_look

    look = detect_look(sys.stdout)
    return look if light is None else replace(look, light=light)


def _live(monitor: TrainingMonitor, interval: float, look: Look, controls: Controls) -> None:
    from expkit.monitor.terminal.dashboard import draw_frame
    from expkit.monitor.terminal.terminal import Terminal

    due, said = 0.0, ""
    with Terminal() as terminal:
        while not controls.ended and terminal.ended is None:
            if not controls.paused and time.monotonic() >= due:
                said = _refresh(monitor)
                behind = not all(feed.caught_up for feed in monitor.feeds) and not said
                due = time.monotonic() + (0.0 if behind else interval)
            columns, rows = terminal.size()
            now = replace(look, unicode=look.unicode != controls.flipped, light=look.light != controls.light)
            lines = draw_frame(monitor, controls, now, (columns, rows), said, terminal.has_keys)
            terminal.show(now.render(lines, columns))
            for key in terminal.wait(interval if controls.paused else due - time.monotonic()):
                if key == "redraw":
                    terminal.forget()
                else:
                    controls.press(key, len(monitor.feeds))
    if terminal.ended is not None:
        raise SystemExit(128 + terminal.ended)


def _line_by_line(monitor: TrainingMonitor, interval: float, look: Look) -> None:
    """Follow runs where the cursor cannot be moved: a line where something is new, and each alert."""
    from expkit.monitor.terminal.look import plain
    from expkit.monitor.text import state_line

    alerts_said = [0.0] * len(monitor.feeds)
    said: dict[int, str] = {}
    trouble = ""
    while True:
        before, trouble = trouble, _refresh(monitor)
        if trouble not in ("", before):
            print(look.written(plain(trouble)), flush=True)
        for number, state in enumerate(monitor.states()):
            for alert in state.alerts:
                if alert.time > alerts_said[number]:
                    alerts_said[number] = alert.time
                    line = f"{state.name}: {alert.severity} at step {alert.step:,}: {alert.rule}: {alert.message}"
                    print(look.written(plain(line)), flush=True)
            line = f"{state.name}: {state_line(state)}"
            if said.get(number) != line:
                said[number] = line
                print(look.written(plain(line)), flush=True)
        time.sleep(interval if trouble or all(feed.caught_up for feed in monitor.feeds) else 0.0)


def _refresh(monitor: TrainingMonitor) -> str:
    """Read what is new for a while; return what went wrong."""
    try:
        monitor.refresh(_SLICE)
    except OSError as error:
        return f"cannot be read now ({error.strerror or error}), tried again: {error.filename or ''}"
    return ""


def _has_termios() -> bool:
    try:
        import termios  # noqa: F401
    except ImportError:
        return False
    return True
