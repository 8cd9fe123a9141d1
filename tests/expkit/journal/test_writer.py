"""Writing a journal: what was written is there, whatever happens to the process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import struct
import threading
import time
from pathlib import Path

import pytest

from expkit.journal import Journal, JournalReader, read_journal
from expkit.record import make_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in read_journal(path)]


def test_a_line_is_with_the_operating_system_when_write_returns(path: Path) -> None:
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write(make_record(step, {"loss": 0.5}))
        assert steps(path) == list(range(1, step + 1))


def test_without_flush_lines_wait_for_the_next_flush(path: Path) -> None:
    journal = Journal(path)
    journal.write(make_record(1, {}), flush=False)
    assert steps(path) == []
    journal.write(make_record(2, {}))
    assert steps(path) == [1, 2]


def test_waiting_lines_cost_time_in_proportion_to_their_number(path: Path) -> None:
    journal = Journal(path)

    def seconds(lines: int) -> float:
        began = time.process_time()
        for _ in range(lines):
            journal.write_line(b"x" * 999 + b"\n", flush=False)
        return time.process_time() - began

    seconds(1000)
    assert seconds(64_000) < 2  # 64 MB; copying all of it for each line would take minutes


def test_closing_writes_what_waits(path: Path) -> None:
    with Journal(path) as journal:
        journal.write(make_record(1, {}), flush=False)
    assert steps(path) == [1]
    journal.close()  # twice is no error


def test_an_existing_journal_is_continued(path: Path) -> None:
    for step in (1, 2):
        with Journal(path) as journal:
            journal.write(make_record(step, {}))
    assert steps(path) == [1, 2]


def test_a_torn_last_line_spoils_itself_only(path: Path) -> None:
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    with Journal(path) as journal:
        journal.write(make_record(3, {}))
    with JournalReader(path) as reader:
        assert [entry["step"] for entry in reader] == [1, 3]
        assert reader.broken == 1


def test_sync_reaches_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sizes = [], []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    journal = Journal(path)
    for step in (1, 2):
        journal.write(make_record(step, {}), flush=False)
        journal.sync()
        sizes.append(path.stat().st_size)
    assert [each.st_size for each in synced if stat.S_ISREG(each.st_mode)] == sizes
    assert [stat.S_ISDIR(each.st_mode) for each in synced] == [False, True, False], "its name once, too"


def test_threads_may_write_and_sync_at_once(path: Path) -> None:
    journal = Journal(path)
    stop = threading.Event()

    def sync() -> None:
        while not stop.is_set():
            journal.sync()

    syncing = threading.Thread(target=sync)
    syncing.start()
    writing = [
        threading.Thread(target=lambda first=first: [journal.write(make_record(first + n, {})) for n in range(200)])
        for first in (0, 1000)
    ]
    for thread in writing:
        thread.start()
    for thread in writing:
        thread.join()
    stop.set()
    syncing.join()
    assert sorted(steps(path)) == [*range(200), *range(1000, 1200)]


def _write_until_killed(path: Path, first: int, acknowledge: int) -> None:
    journal = Journal(path)
    step = first
    while True:
        journal.write(make_record(step, {"loss": 1.0 / step}, series={"loss": [0.5] * (step % 100)}))
        os.write(acknowledge, struct.pack("=q", step))
        step += 1


def test_a_killed_writer_loses_no_line_that_it_wrote(path: Path) -> None:
    """Twenty processes, one after the other, each killed by SIGKILL at a random moment."""
    moment = random.Random(0)
    written: list[int] = []
    for _ in range(20):
        ours, theirs = os.pipe()
        first = written[-1] + 2 if written else 1  # the step after the last may or may not be there
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                _write_until_killed(path, first, theirs)
            os._exit(1)
        os.close(theirs)
        time.sleep(0.005 + 0.02 * moment.random())
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with os.fdopen(ours, "rb") as pipe:
            data = pipe.read()
        written += [step for (step,) in struct.iter_unpack("=q", data[: len(data) // 8 * 8])]
    assert len(written) > 100
    found = steps(path)
    assert len(found) == len(set(found))
    assert set(written) <= set(found)
    assert len(found) - len(written) <= 20  # lines that were whole before they were acknowledged


def test_a_hundred_thousand_records(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 100_000
    metrics = {"train_loss": 0.25, "val_loss": 0.5, "learning_rate": 1e-3, "gradient_norm": 1.5}
    began = time.perf_counter()
    with Journal(path) as journal:
        for step in range(count):
            journal.write(make_record(step, metrics))
    middle = time.perf_counter()
    assert sum(1 for _ in read_journal(path)) == count
    end = time.perf_counter()
    with capsys.disabled():
        print(f"\njournal: {count / (middle - began):,.0f} records/s written, {count / (end - middle):,.0f} read")


def test_a_forked_process_finds_the_lock_free_and_does_not_write_the_lines_of_its_parent(path: Path) -> None:
    """A loading process that is forked while another thread writes slowly."""
    with Journal(path) as journal:
        journal.write(make_record(1, {"loss": 1.0}), flush=False)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with journal._lock:
                held.set()
                release.wait(30)

        threading.Thread(target=hold).start()
        assert held.wait(30)
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)  # ends it if it waits for the lock
            journal.write(make_record(2, {"loss": 2.0}))
            os._exit(0)
        release.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(entry["step"] for entry in read_journal(path)) == [1, 2]
