"""Cutting a journal back to a checkpoint's step: the journal is then that of a run which was never ahead."""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expkit.journal import Journal, JournalReader, cut_journal, read_journal
from tests.faults.injector import FaultInjector, every_fault_point, operations_of


def line(step: int) -> bytes:
    return json.dumps({"step": step, "loss": 1.0}).encode() + b"\n"


def lines(steps) -> bytes:
    return b"".join(map(line, steps))


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in read_journal(path)]


def lines_in(folder: Path) -> set[bytes]:
    """Every line of every file of the journal, cut off or not."""
    return {line for file in folder.glob("metrics*.jsonl") for line in file.read_bytes().splitlines(keepends=True)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("step", range(-1, 12))
def test_the_journal_ends_at_the_step_and_the_rest_is_kept_beside_it(path: Path, step: int) -> None:
    path.write_bytes(lines(range(10)))
    before = lines_in(path.parent)
    cut = cut_journal(path, step)
    kept = [each for each in range(10) if each <= step]
    assert path.read_bytes() == lines(kept)
    assert cut == 10 - len(kept)
    aside = path.with_name("metrics.cut-1.jsonl")
    assert aside.exists() == (cut > 0)
    assert lines_in(path.parent) == before


def test_nothing_to_cut_touches_nothing(path: Path) -> None:
    path.write_bytes(lines(range(3)))
    inode = path.stat().st_ino
    assert cut_journal(path, 2) == 0
    assert path.stat().st_ino == inode
    assert list(path.parent.iterdir()) == [path]


def test_a_journal_that_is_not_there_has_nothing_to_cut(path: Path) -> None:
    assert cut_journal(path, 5) == 0
    path.touch()
    assert cut_journal(path, 5) == 0


def test_each_cut_has_a_file_of_its_own(path: Path) -> None:
    path.write_bytes(lines(range(4)))
    cut_journal(path, 2)
    cut_journal(path, 0)
    assert path.with_name("metrics.cut-1.jsonl").read_bytes() == lines([3])
    assert path.with_name("metrics.cut-2.jsonl").read_bytes() == lines([1, 2])


def test_a_torn_tail_is_cut_off_and_kept(path: Path) -> None:
    path.write_bytes(lines([1, 2]) + b'{"step": 3, "lo')
    assert cut_journal(path, 5) == 1
    assert path.read_bytes() == lines([1, 2])
    assert path.with_name("metrics.cut-1.jsonl").read_bytes() == b'{"step": 3, "lo'


def test_a_last_line_that_only_lacks_its_newline_is_a_line(path: Path) -> None:
    path.write_bytes(lines([1, 2]).rstrip())
    assert cut_journal(path, 2) == 0
    assert steps(path) == [1, 2]
    assert cut_journal(path, 1) == 1
    assert steps(path) == [1]


def test_broken_lines_stay_where_they_are(path: Path) -> None:
    path.write_bytes(b"rubbish\n" + line(1) + b"[]\n" + line(2) + b"more\n" + line(3))
    assert cut_journal(path, 1) == 3
    assert path.read_bytes() == b"rubbish\n" + line(1) + b"[]\n"


def test_what_comes_after_the_first_later_step_is_cut_off_whatever_its_step(path: Path) -> None:
    path.write_bytes(lines([1, 2, 5, 2, 3]))
    assert cut_journal(path, 3) == 3
    assert steps(path) == [1, 2]


@pytest.fixture
def rotated(tmp_path: Path) -> Callable[[], Path]:
    """Makes folders with a journal of steps 0 to 8 in two parts and a current file."""
    numbers = itertools.count()

    def new_folder() -> Path:
        folder = tmp_path / f"run_{next(numbers)}"
        folder.mkdir()
        for name, part in {"metrics.0001": range(3), "metrics.0002": range(3, 6), "metrics": range(6, 9)}.items():
            (folder / f"{name}.jsonl").write_bytes(lines(part))
        return folder

    return new_folder


@pytest.mark.parametrize("step", range(-1, 10))
def test_rotated_parts_are_cut_as_one_journal(rotated: Callable[[], Path], step: int) -> None:
    path = rotated() / "metrics.jsonl"
    before = lines_in(path.parent)
    kept = list(range(step + 1))[:9]
    assert cut_journal(path, step) == 9 - len(kept)
    assert steps(path) == kept
    assert lines_in(path.parent) == before
    with Journal(path) as journal:  # and the run goes on
        journal.write_line(line(100))
    assert steps(path) == [*kept, 100]


@pytest.mark.parametrize("step", [0, 2, 4, 7])
def test_a_follower_hears_of_a_cut_wherever_it_begins(rotated: Callable[[], Path], step: int) -> None:
    path = rotated() / "metrics.jsonl"
    with JournalReader(path) as follower:
        list(follower)
        cut_journal(path, step)
        assert [entry["step"] for entry in follower] == list(range(step + 1))
        assert follower.generation == 1


@pytest.mark.parametrize("step", [-1, 2, 4, 7])
def test_a_cut_that_was_killed_anywhere_is_completed_by_cutting_again(rotated: Callable[[], Path], step: int) -> None:
    def cut(folder: Path) -> None:
        cut_journal(folder / "metrics.jsonl", step)

    for operation, folder in every_fault_point(cut, rotated):
        path = folder / "metrics.jsonl"
        assert lines_in(folder) >= {line(each) for each in range(9)}, operation
        assert steps(path) == list(range(len(steps(path)))), f"a hole in the journal after {operation}"
        cut_journal(path, step)
        assert steps(path) == list(range(step + 1)), operation
        assert lines_in(folder) >= {line(each) for each in range(9)}, operation


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_anywhere_loses_no_line(rotated: Callable[[], Path], code: int) -> None:
    def cut(folder: Path) -> None:
        cut_journal(folder / "metrics.jsonl", 4)

    for at, operation in enumerate(operations_of(cut, rotated())):
        folder = rotated()
        with FaultInjector(folder, at, code):
            failed = _fails(lambda folder=folder: cut(folder))
        assert lines_in(folder) >= {line(each) for each in range(9)}, operation
        assert failed or steps(folder / "metrics.jsonl") == list(range(5)), operation
        cut(folder)
        assert steps(folder / "metrics.jsonl") == list(range(5)), operation
        assert not list(folder.glob(".*")), operation


def _fails(work: Callable[[], None]) -> bool:
    try:
        work()
    except OSError:
        return True
    return False


def test_the_events_of_a_run_are_cut_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines([3, 7]))
    assert cut_journal(path, 5) == 1
    assert (tmp_path / "events.cut-1.jsonl").read_bytes() == line(7)
