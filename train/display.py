"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, training.log in any case."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from expkit.journal import Journal
from expkit.record import Record
from expkit.secrets import MaskingFormatter
from train.runner import Runner

__all__ = ["Display", "console_logging", "file_logging"]

log = logging.getLogger("expkit")

_SHOWN = ("train_loss", "val_loss")
_PLAIN_EVERY = 10.0


def console_logging() -> Console:
    """Send the log to the terminal (standard error), and return the console that a progress bar must share."""
    stream = cast(TextIO, _Patient(sys.stderr))
    console = Console(file=stream, soft_wrap=True, highlight=False)
    log.handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler | _FileHandler)]
    if console.is_terminal:
        handler: logging.Handler = _ConsoleHandler(console)
    else:
        handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("%(message)s"))
    log.addHandler(handler)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports building its font cache
    log.setLevel(logging.INFO)
    log.propagate = False
    return console


@contextlib.contextmanager
def file_logging(path: Path) -> Iterator[Journal]:
    """Send the log to `path` too. What cannot be written waits in memory, as for a journal, which it gives."""
    journal = Journal(path, must_open=False)
    handler = _FileHandler(journal)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield journal
    except Exception as error:  # whatever ended the run is to be in its log; it is raised again
        failure = log.makeRecord(log.name, logging.ERROR, "", 0, "%s", (error,), sys.exc_info())
        handler.handle(failure)  # the terminal shows it anyway; a job's output file may be far away
        raise
    finally:
        log.removeHandler(handler)
        journal.close()


class Display:
    """Shows a runner's progress. The bar reads the runner from its own thread: a step costs nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = 0.0
        self._runner: Runner | None = None

    @contextlib.contextmanager
    def showing(self, runner: Runner) -> Iterator[None]:
        """Show `runner` while the context lasts."""
        self._runner = runner
        if not self._console.is_terminal:
            yield
            return
        columns: list[ProgressColumn] = [
            TextColumn("[bold]step"),
            _StepColumn(runner),
            BarColumn(bar_width=None),
            _SpeedColumn(runner),
        ]
        with Progress(*columns, console=self._console, refresh_per_second=4, expand=True, transient=True) as bar:
            bar.add_task("training", total=None)
            yield

    def record(self, record: Record) -> None:
        """Say a line about `record`: at each evaluation, and now and then where there is no bar."""
        now = time.monotonic()
        quiet = self._console.is_terminal or now - self._said < _PLAIN_EVERY
        if "val_loss" not in record.metrics and (quiet or not any(name in record.metrics for name in _SHOWN)):
            return  # what diagnostics say between two records of training is in the journal
        self._said = now
        log.info("%s", _line(record, self._runner))


def _line(record: Record, runner: Runner | None) -> str:
    total = runner.known_steps if runner is not None else None
    epochs = runner.config.max_epochs if runner is not None else None
    step = f"step {record.step}/{total}" if total else f"step {record.step}"
    epoch = f"epoch {record.epoch}/{epochs}" if epochs else f"epoch {record.epoch}"
    shown = [name for name in _SHOWN if name in record.metrics]
    shown += [name for name in record.metrics if name.startswith("val_") and name not in shown][-1:]
    shown += [name for name in ("blob/n_clusters_dbscan", "blob/weight_correlation") if name in record.metrics]
    return f"{epoch}  {step}  " + "  ".join(f"{name} {record.metrics[name]:.5g}" for name in shown)


class _StepColumn(ProgressColumn):
    """Step, epoch and loss."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._runner = runner

    def render(self, task: Task) -> Text:
        runner, progress = self._runner, self._runner.progress
        task.total, task.completed = runner.known_steps, progress.step
        total = "" if runner.known_steps is None else f"/{runner.known_steps}"
        loss = runner.recorder.latest.get("train_loss")
        shown = "" if loss is None else f"  loss {loss:.4g}"
        return Text(f"{progress.step}{total}  epoch {progress.epoch + 1}{shown}")


class _SpeedColumn(ProgressColumn):
    """Updates per second, and the time that is left at this speed."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._runner = runner
        self._first: tuple[float, int] | None = None

    def render(self, task: Task) -> Text:  # noqa: ARG002 - the signature of a column
        step, now = self._runner.progress.step, time.monotonic()
        if self._first is None:
            self._first = now, step
        began, first = self._first
        speed = (step - first) / (now - began) if now > began else 0.0
        if not speed:
            return Text("- it/s")
        total = self._runner.known_steps
        eta = "" if total is None else f"  ETA {timedelta(seconds=round((total - step) / speed))}"
        return Text(f"{speed:.1f} it/s{eta}")


class _FileHandler(logging.Handler):
    """Writes to a journal, which waits for a disk; logging's own prints a traceback for each line that it refuses."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.write_line(f"{self.format(record)}\n".encode(errors="backslashreplace"))


class _Patient:
    """A stream that may be gone (a terminal that was closed, a file on a full disk): what it refuses is not shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _ConsoleHandler(logging.Handler):
    """Prints above a progress bar, and leaves long lines (commands to copy) in one piece."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _Formatter(MaskingFormatter):
    """Puts `Warning:` before warnings; information stands for itself."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: {text}"
