"""`expkit monitor RUN`: looking at a run while it runs, in a window, a terminal, a browser, or a picture."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from expkit.cli.finding import find_runs
from expkit.cli.parser import Parser
from expkit.errors import UserError

if TYPE_CHECKING:
    from expkit.monitor import TrainingMonitor
    from expkit.plots.themes import ThemeName

__all__ = ["MonitorCommand"]

_EXAMPLES = """examples:
  expkit monitor                                  the newest run in outputs
  expkit monitor outputs/denoise_*                several runs, overlaid
  expkit monitor RUN --metrics train_loss+val_loss,'gpu/*/compute_util'
  expkit monitor RUN --web                        a page on 127.0.0.1
  expkit monitor RUN --static --output plot.png   a picture (.png, .svg or .pdf)
  expkit monitor RUN --once                       one look in the terminal
  expkit monitor RUN --json                       the same for programs"""


class MonitorCommand:
    """Shows runs while they run. It reads only."""

    summary = "look at runs while they run: window, terminal, browser (--web) or picture (--static)"

    def run(self, arguments: Sequence[str]) -> int:
        """Show what was asked for, until it is closed."""
        options = self.parser().parse_args(arguments)
        _check(options)
        runs = find_runs(options.run, Path("outputs"))
        from expkit.monitor import TrainingMonitor, View
        from expkit.reading.screen import check_names

        metrics = [each.strip() for each in options.metrics.split(",")] if options.metrics is not None else None
        logarithmic = True if options.log_y else None
        check_names(metrics or [])
        view = View(metrics=metrics, along=options.x, logarithmic=logarithmic)
        with TrainingMonitor([run.root for run in runs], view) as monitor:
            try:
                return _show(monitor, options)
            except OSError as error:
                if error.filename is None:  # nobody looks at what we write any more, say
                    raise
                raise UserError(f"{error.filename}: it cannot be read: {error.strerror}") from None

    def parser(self) -> Parser:
        """Return the command's parser."""
        return _parser(self.summary)


def _parser(summary: str) -> Parser:
    parser = Parser(
        prog="expkit monitor",
        description=summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="*", help="run directories, ids or patterns (default: the newest run)")
    faces = parser.add_mutually_exclusive_group()
    faces.add_argument("--window", action="store_true", help="in a window (the default where there is a display)")
    faces.add_argument("--terminal", action="store_true", help="in this terminal (the default without a display)")
    faces.add_argument("--web", action="store_true", help="as a page for a browser")
    faces.add_argument("--static", action="store_true", help="as a picture, and end")
    faces.add_argument("--once", action="store_true", help="one look in this terminal, and end")
    faces.add_argument("--json", action="store_true", help="how the runs stand and last values as JSON, and end")
    parser.add_argument("--interval", type=float, default=5.0, metavar="SECONDS", help="between two looks (5)")
    parser.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="a panel each, or several joined by +; patterns: loss+val_loss,gpu/*",
    )
    parser.add_argument("--x", choices=("step", "time", "epoch"), default="step", help="the horizontal axis (step)")
    parser.add_argument("--log-y", action="store_true", help="logarithmic vertical axes (default: where it is telling)")
    parser.add_argument(
        "--theme", help="of window, picture and terminal: dark (default) or light; of window and picture: print"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the picture (.png, .svg, .pdf); means --static"
    )
    parser.add_argument("--port", type=int, metavar="N", help="of --web (8765, or the next one that is free)")
    parser.add_argument("--host", default="127.0.0.1", help="of --web: the address to listen on (127.0.0.1)")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        UserError: it does not.
    """
    from expkit.plots.themes import find_theme

    if not options.interval > 0 or options.interval == float("inf"):
        raise UserError(f"--interval {options.interval:g}: give a number of seconds above 0")
    other = next((name for name in ("web", "window", "terminal", "once", "json") if getattr(options, name)), None)
    if options.output is not None and other is not None:
        raise UserError(f"--output {options.output} is the file of a picture: leave --{other} out")
    if not options.web and (options.port is not None or options.host != "127.0.0.1"):
        raise UserError("--port and --host belong to --web")
    if options.port is not None and not 0 <= options.port < 65536:
        raise UserError(f"--port {options.port}: give a number from 0 (any that is free) to 65535")
    if options.theme is not None:
        find_theme(options.theme)
        if options.web or options.json:
            has = "the page has a button for it" if options.web else "JSON has none"
            raise UserError(f"--theme {options.theme}: leave it out, {has}")


def _show(monitor: TrainingMonitor, options: argparse.Namespace) -> int:
    theme: ThemeName = options.theme or "dark"
    if options.json:
        _read_once(monitor)
        sys.stdout.buffer.write(orjson.dumps(monitor.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    elif options.static or options.output is not None:
        _read_once(monitor)
        print(monitor.generate_static_plot(options.output or _default_output(monitor), theme))
    elif options.web:
        from expkit.monitor.web import serve

        serve(monitor, options.interval, options.host, options.port)
    elif options.window or _has_window(options):
        monitor.start_live_plot(options.interval, theme)
    else:
        _show_in_terminal(monitor, options)
    return 0


def _show_in_terminal(monitor: TrainingMonitor, options: argparse.Namespace) -> None:
    from expkit.monitor.terminal import show_live, show_once

    if options.theme == "print":
        raise UserError("--theme print: a terminal has dark or light; print is for --static and --window")
    light = None if options.theme is None else options.theme == "light"
    if options.once or not sys.stdout.isatty():
        _read_once(monitor)
        show_once(monitor, light)
    else:
        show_live(monitor, options.interval, light)


def _read_once(monitor: TrainingMonitor) -> None:
    """Read the runs, for a face that does not wait for what may come; say which metrics there are not.

    Raises:
        UserError: none of those that are wanted is there.
    """
    monitor.refresh()
    notes, none = monitor.missing()
    if none:
        raise UserError(f"--metrics: {'; '.join(notes)}")
    for note in notes:
        print(f"Warning: --metrics: {note}", file=sys.stderr)


def _default_output(monitor: TrainingMonitor) -> Path:
    """Return where a picture goes that nobody has named a file for."""
    runs = [feed.run for feed in monitor.feeds]
    return runs[0].visualizations / "monitor.png" if len(runs) == 1 else Path("monitor.png")


def _has_window(options: argparse.Namespace) -> bool:
    """Whether a window is what somebody expects who has not said."""
    if options.terminal or options.once or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    from expkit.monitor.window import can_open

    return can_open()
