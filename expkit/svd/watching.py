"""The loop of the monitor: what is new is read, taken, and said; a server that does not answer is asked again later."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

import orjson

from expkit.errors import UserError
from expkit.svd.monitor import SVDMonitor
from expkit.svd.notes import rule_notes
from expkit.svd.report import analysis_report, summary_report
from expkit.svd.sources import Selected, Source
from expkit.svd.text import NOTHING, block_lines, overview_lines, summary_lines
from expkit.wandb_data.source import NoAnswerError

__all__ = ["Output", "watch"]

_STYLES = {"CRITICAL": "bold red", "WARNING": "yellow", "INFO": "cyan"}


class Output:
    """Prints lines, in colour on a terminal that has some; or JSON.

    Args:
        as_json: one object a line instead of text.
        file: where to; None: standard output.
    """

    def __init__(self, as_json: bool = False, file: TextIO | None = None) -> None:
        from rich.console import Console

        self.as_json = as_json
        self._console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
        plain = self._console.no_color or not self._console.is_terminal  # rich would print bold without colour
        self._styles = {} if plain else _STYLES

    def lines(self, lines: Iterable[str]) -> None:
        """Print text."""
        for line in lines:
            style = next((style for word, style in self._styles.items() if f" {word}:" in line[:14]), None)
            if style is None:
                self._console.file.write(f"{line}\n")
            else:
                self._console.print(line, style=style)
        self._console.file.flush()

    def object(self, value: object) -> None:
        """Print a line of JSON."""
        self._console.file.write(orjson.dumps(value).decode() + "\n")
        self._console.file.flush()


def watch(
    source: Source,
    monitor: SVDMonitor,
    layers: Selected,
    output: Output,
    interval: float,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Follow `source` until it ends, Ctrl-C, or all that is there was read (`once`); then print the summary.

    What was there at the start is not told step by step: only how it stands.

    Returns:
        1 if there is nothing to say and nothing will come, else 0.
    """
    watching = _Watching(source, monitor, layers, output)
    try:
        while True:
            watching.poll(once)
            if source.ended is not None or once:
                break
            sleep(interval)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # behind the terminal's ^C
    watching.finish()
    return int(not monitor.layers and (source.ended is not None or once))


class _Watching:
    def __init__(self, source: Source, monitor: SVDMonitor, layers: Selected, output: Output) -> None:
        self._source, self._monitor, self._layers, self._output = source, monitor, layers, output
        self._generation = -1
        self._lost = False
        self._said: set[str] = set()

    def poll(self, once: bool) -> None:
        """Read and say what is new, or once that it cannot be read."""
        anew = self._generation != self._source.generation or not self._monitor.layers
        count = 0
        try:
            for metrics in self._layers.among(self._source.poll()):
                anew = anew or self._generation != self._source.generation
                self._monitor.add_metrics(metrics)
                count += 1
                if not anew and not once:
                    self._say(metrics.layer_name)
        except BrokenPipeError:  # who reads what is printed has gone
            raise
        except (NoAnswerError, OSError) as error:
            trouble = _trouble(error, self._source.name)
            if once:
                raise UserError(trouble) from None
            if not self._lost:
                _tell(f"{trouble}; trying again until it can be read")
            self._lost = True
            return
        if self._lost:
            _tell("it can be read again")
            self._lost = False
        once = once or (self._generation < 0 and self._source.ended is not None)  # the summary says all
        if not once and anew and count:
            self._begin(count)
        elif not once and not self._monitor.layers:
            left_out = self._layers.left_out
            why = f"--layers matches none of {_some(left_out)}" if left_out else "waiting for the first analysis"
            self._tell_once(why[:8], f"{NOTHING} of {self._source.name}: {why}")
        self._generation = self._source.generation
        if self._monitor.layers and not once:
            self._say_notes()

    def finish(self) -> None:
        """Print the summary."""
        rules = [note for rule, note in rule_notes(self._monitor) if rule not in self._said or self._output.as_json]
        notes = [*self._source.notes, *rules]
        if self._layers.left_out and not self._monitor.layers:
            notes.append(f"--layers: no layer matches; there are {_some(self._layers.left_out)}")
        if self._output.as_json:
            self._output.object(summary_report(self._monitor, self._source.name, notes))
            return
        if self._source.ended is not None:
            _tell(f"{self._source.name}: {self._source.ended}")
        self._output.lines(summary_lines(self._monitor))
        self._output.lines(overview_lines(self._monitor))
        for note in notes:
            _tell(f"note: {note}")
        if not self._monitor.layers and not self._layers.left_out:
            _tell("note: analyses come from diagnostics=svd, the first at step 20; --key-pattern reads other names")

    def _begin(self, count: int) -> None:
        """Say how all layers stand after what was there already."""
        layers = self._monitor.layers
        step = max(history.latest.step for history in layers.values())
        again = "began anew: " if self._generation >= 0 and self._generation != self._source.generation else ""
        _tell(
            f"{self._source.name}: {again}{count} analyses of {len(layers)} layer(s) up to step {step}; Ctrl-C for the "
            "summary"
        )
        for name in layers:
            self._say(name)

    def _say(self, name: str) -> None:
        """Say of a layer what was not said yet."""
        monitor, history = self._monitor, self._monitor.layers[name]
        alerts = monitor.fresh_alerts(name)
        if not alerts:
            return
        if self._output.as_json:
            self._output.object(analysis_report(history.latest, history.mode, alerts))
            return
        chance = history.chance if monitor.calibrated else None
        limits = monitor.thresholds_of(name)
        self._output.lines(block_lines(history.latest, history.mode, limits, alerts, chance))

    def _say_notes(self) -> None:
        for rule, note in rule_notes(self._monitor):
            self._tell_once(rule, f"note: {note}")

    def _tell_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            _tell(text)


def _trouble(error: Exception, name: str) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or name} cannot be read: {error.strerror or error}"
    return f"W&B connection error: {error}"


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr, flush=True)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
