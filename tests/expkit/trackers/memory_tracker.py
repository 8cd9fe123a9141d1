"""A tracker that remembers, and what the tests of its delivery do with it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo, Tracker

ALERT = Alert("loss_spike", "loss rose", "WARNING", 3)


class Memory(Tracker):
    """Keeps what it gets; one of its calls may raise, block or answer."""

    def __init__(self, wrong: str | None = None, action: Any = None, held: int | None = None) -> None:
        self.got: list[tuple[Any, ...]] = []
        self.wrong, self.action, self.held = wrong, action, held

    def _take(self, call: str, *args: Any) -> None:
        self.got.append((call, *args))
        if call == self.wrong:
            self.action()

    def start(self, run: RunInfo) -> int | None:
        self._take("start", run.id)
        return self.held

    def log(self, record: Record) -> None:
        self._take("log", record.step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._take("image", name, step)

    def alert(self, alert: Alert) -> None:
        self._take("alert", alert.title)

    def finish(self, summary: Any, failed: bool = False) -> None:
        self._take("finish", dict(summary), failed)

    @property
    def steps(self) -> list[int]:
        return [args[0] for call, *args in self.got if call == "log"]


def explode() -> None:
    try:
        raise OSError("disk is full")
    except OSError as error:
        raise RuntimeError("cannot\nsend") from error


def deliver(delivery: Delivery, run: RunInfo, records: list[Record]) -> float:
    """Do everything once; return the seconds that it took without waiting for start and finish."""
    delivery.start(run)
    began = time.perf_counter()
    for record in records:
        delivery.log(record)
    delivery.image("samples", Path("samples.png"), records[-1].step)
    delivery.alert(ALERT)
    return time.perf_counter() - began


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
