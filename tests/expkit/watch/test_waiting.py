"""Waiting ends when something changes, when the time is over, or at once when it is told to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from expkit.watch.waiting import waits


@pytest.mark.parametrize("folders", [(), ("nowhere",)], ids=["nobody can tell", "no such folder"])
def test_without_notification_it_is_the_clock(tmp_path: Path, folders: tuple[str, ...]) -> None:
    stop = threading.Event()
    rounds = waits([tmp_path / folder for folder in folders], 0.01, stop)
    for _ in range(3):
        next(rounds)
    stop.set()
    assert list(rounds) == []


def test_a_change_is_told_and_the_watchers_own_files_are_not(tmp_path: Path) -> None:
    stop = threading.Event()
    told: list[float] = []

    def wait() -> None:
        told.extend(time.monotonic() for _ in waits([tmp_path], 60.0, stop))

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 50  # without notification it would take a minute
    while not told and time.monotonic() < deadline:
        (tmp_path / "metrics.jsonl").write_text(str(time.monotonic()))
        time.sleep(0.05)
    assert told
    time.sleep(0.5)  # what was gathered meanwhile
    before = len(told)
    (tmp_path / "watch_state.json").write_text("x")
    time.sleep(0.5)
    stop.set()
    thread.join()
    assert len(told) == before
