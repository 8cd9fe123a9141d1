"""A watcher that goes on until it is told to end: what it says, its log file by day, its signals."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType

from expkit.record import Record
from expkit.status import read_status
from expkit.watch.waiting import waits
from expkit.watch.watcher import Watcher

__all__ = ["logging_to", "stopping", "summary", "watch"]

log = logging.getLogger("expkit")

#: So many records should have what detectors watch.
_ENOUGH = 20
_OVER = ("finished", "failed", "preempted", "interrupted")


class DayLog(logging.Handler):
    """Appends to `smart_monitor_YYYYMMDD.log`, the file of today. A disk that refuses costs lines, not the watch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        moment = datetime.fromtimestamp(record.created)
        line = f"[{moment:%Y-%m-%d %H:%M:%S}] {record.getMessage()}\n"
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with (self._folder / f"smart_monitor_{moment:%Y%m%d}.log").open("a", encoding="utf-8") as file:
                file.write(line)


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]  # it has none at run time
    """A terminal that is closed, or a reader that has seen enough, does not end the watch: the log file goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in the base class
        pass


class _Monitoring(logging.Filter):
    """Keeps the regular lines off the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "regular", False)


@contextlib.contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Send what is logged to the file of the day, and all but the regular lines to the terminal."""
    terminal = _Terminal(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    terminal.addFilter(_Monitoring())
    handlers: list[logging.Handler] = [DayLog(folder), terminal]
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        log.level, log.propagate = before


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[list[str]]:
    """Set `stop` at SIGTERM, SIGINT (Ctrl-C) or SIGHUP instead of ending; yields a list that gets the signal's name."""
    names: list[str] = []

    def handle(number: int, _: FrameType | None) -> None:
        names.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        stop.set()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # nohup has SIGHUP ignored, and it stays so.
    taken = {number: signal.signal(number, handle) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield names
    finally:
        for number, previous in taken.items():
            signal.signal(number, previous)


def watch(watcher: Watcher, status: Path, poll_interval: float, stop: threading.Event, once: bool = False) -> None:
    """Watch until `stop` is set; with `once`, read what is there.

    Args:
        watcher: not opened yet.
        status: status.json of the run, if it has one.
        poll_interval: seconds between two looks where nothing tells of changes, and between two regular lines.
        stop: ends it.
        once: end when all is read.

    Raises:
        UserError: what is there cannot be watched.
        OSError: with `once`: it cannot be read, or the disk refuses.
    """
    state, failing, said = str(read_status(status).get("state", "")), False, -poll_interval
    reported: int | None = None
    told = False  # which detectors had nothing to look at
    for _ in _rounds(watcher, poll_interval, stop, once):
        try:
            watcher.catch_up(last=once)
        except OSError as error:
            if once:
                raise
            if not failing:
                log.warning("the watch is held up (%s): trying again", error)
            failing = True
            continue
        if failing:
            log.info("the watch goes on")
        failing = False
        before, state = state, str(read_status(status).get("state", state))
        if state != before:
            log.info("the run is %s now, at step %s", state, watcher.step)
        if not once and state not in _OVER:
            watcher.look(time.time())
        if time.monotonic() - said >= poll_interval and watcher.record is not None and watcher.step != reported:
            log.info("%s", regular_line(watcher.record), extra={"regular": True})
            said, reported = time.monotonic(), watcher.step
        if not once and not told and watcher.records >= _ENOUGH:
            told = True
            if text := watcher.unseen():
                log.info("%s", text)
        watcher.save()
    if not told and (text := watcher.unseen(so_far=False)):
        log.info("%s", text)


def regular_line(record: Record) -> str:
    """Return the line that says how a run stands: `Monitoring: Step 17500 | loss 0.7234 | accuracy 75.3`."""
    shown = ""
    for name, keys in (("loss", ("train_loss", "loss")), ("accuracy", ("val_accuracy", "accuracy"))):
        value = next((record.metrics[key] for key in keys if key in record.metrics), None)
        shown += "" if value is None else f" | {name} {value:.5g}"
    return f"Monitoring: Step {record.step}{shown}"


def summary(watcher: Watcher, why: str) -> str:
    """Return the line that a watcher ends with."""
    where = "before the first record" if watcher.step is None else f"at step {watcher.step}"
    old = f", {watcher.old} of them too old for alerts and snapshots" if watcher.old else ""
    found = f"{watcher.events} new event(s) in {watcher.written.path}"
    return f"{why} {where}: {watcher.records} record(s) read, {found}{old}"


def _rounds(watcher: Watcher, seconds: float, stop: threading.Event, once: bool) -> Iterator[None]:
    yield
    if once or stop.is_set():
        return
    yield from waits(watcher.source.folders, seconds, stop)
