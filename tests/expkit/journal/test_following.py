"""Following a journal while it grows, is rotated, cut, moved and made anew."""

from __future__ import annotations

import random
import shutil
import threading
import tracemalloc
from pathlib import Path

import pytest

from expkit.journal import Journal, JournalReader, cut_journal, read_journal, reader
from expkit.record import make_record
from tests.expkit.journal.test_reader import append, lines, path, steps

__all__ = ["path"]  # a fixture


def test_a_journal_that_is_not_there_yet_is_empty_and_appears_later(path: Path) -> None:
    with JournalReader(path) as follower:
        assert steps(follower) == []
        append(path, lines(1))
        assert steps(follower) == [1]


def test_each_iteration_yields_what_is_new(path: Path) -> None:
    append(path, lines(1, 2))
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 2]
        assert steps(follower) == []
        append(path, lines(3))
        assert steps(follower) == [3]


def test_a_torn_line_waits_for_its_end(path: Path) -> None:
    append(path, lines(1) + b'{"step": 2, "lo')
    with JournalReader(path) as follower:
        assert steps(follower) == [1]
        append(path, b'ss": 0.5}')
        assert steps(follower) == []
        append(path, b"\n" + lines(3))
        assert steps(follower) == [2, 3]
        assert follower.broken == 0


def test_who_stops_in_the_middle_goes_on_there(path: Path) -> None:
    append(path, lines(*range(10)))
    with JournalReader(path) as follower:
        for entry in follower:
            if entry["step"] == 3:
                break
        assert steps(follower) == [4, 5, 6, 7, 8, 9]


def test_closing_inside_the_loop_ends_it(path: Path) -> None:
    append(path, lines(1, 2))
    follower = JournalReader(path)
    for entry in follower:
        assert entry["step"] == 1
        follower.close()


def test_rotation_while_following_loses_and_repeats_nothing(path: Path) -> None:
    with Journal(path) as journal, JournalReader(path) as follower:
        journal.write(make_record(1, {}))
        assert steps(follower) == [1]
        journal.write(make_record(2, {}))
        journal.rotate()
        journal.write(make_record(3, {}))
        journal.rotate()
        assert steps(follower) == [2, 3]
        journal.write(make_record(4, {}))
        assert steps(follower) == [4]
        assert follower.generation == 0


@pytest.mark.parametrize("listed", ["before the rotation", "after the rotation"])
@pytest.mark.parametrize("reading", ["nothing yet", "the current file", "a part"])
def test_a_rotation_while_the_reader_looks_for_the_next_file_hides_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, reading: str, listed: str
) -> None:
    parts_of = reader.parts_of
    with Journal(path) as journal, JournalReader(path) as follower:
        journal.write(make_record(1, {}))
        assert reading == "nothing yet" or steps(follower) == [1]
        if reading == "a part":
            journal.rotate()

        def meanwhile(path: Path) -> list[Path]:
            monkeypatch.setattr(reader, "parts_of", parts_of)
            before = parts_of(path)
            journal.write(make_record(2, {}))
            journal.rotate()
            journal.write(make_record(3, {}))
            return before if listed == "before the rotation" else parts_of(path)

        monkeypatch.setattr(reader, "parts_of", meanwhile)
        seen = steps(follower) + steps(follower)
        assert seen == ([1, 2, 3] if reading == "nothing yet" else [2, 3])
        assert (follower.generation, follower.broken) == (0, 0)


def test_a_rotated_part_with_a_torn_end_does_not_spoil_the_next(path: Path) -> None:
    path.with_name("metrics.0001.jsonl").write_bytes(lines(1) + b'{"step": 2, "lo')
    path.with_name("metrics.0002.jsonl").write_bytes(lines(3, 4).rstrip())
    append(path, lines(5))
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 3, 4, 5]
        assert follower.broken == 1


def test_a_cut_while_following_begins_a_new_generation(path: Path) -> None:
    append(path, lines(1, 2, 3))
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 2, 3]
        cut_journal(path, 1)
        append(path, lines(2))
        assert steps(follower) == [1, 2]
        assert follower.generation == 1


def test_a_cut_that_only_concerns_rotated_parts_is_noticed_too(path: Path) -> None:
    with Journal(path) as journal:
        for step in (1, 2, 3):
            journal.write(make_record(step, {}))
        journal.rotate()
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 2, 3]
        cut_journal(path, 1)
        append(path, lines(2))
        assert steps(follower) == [1, 2]
        assert follower.generation == 1


def test_a_file_truncated_in_place_begins_a_new_generation(path: Path) -> None:
    append(path, lines(1, 2, 3) + b'{"step": 4')
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 2, 3]
        path.write_bytes(lines(7))
        assert steps(follower) == [7]
        assert (follower.generation, follower.broken) == (1, 0)


def test_a_file_moved_away_and_made_anew_begins_a_new_generation(path: Path, tmp_path: Path) -> None:
    append(path, lines(1, 2))
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 2]
        shutil.move(path, tmp_path / "metrics_archive.jsonl")
        assert steps(follower) == []
        assert follower.generation == 0
        append(path, lines(3))
        assert steps(follower) == [3]
        assert follower.generation == 1


def test_a_whole_folder_moved_away_is_no_error(path: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    append(tmp_path / "logs" / "metrics.jsonl", lines(1))
    with JournalReader(tmp_path / "logs" / "metrics.jsonl") as follower:
        assert steps(follower) == [1]
        (tmp_path / "logs").rename(tmp_path / "old")
        assert steps(follower) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_follower_sees_every_line_of_a_writer_that_writes_in_pieces(path: Path, seed: int) -> None:
    """Partial writes, rotations, and a reader that polls all the time: each step comes once, in order."""
    last = 3000

    def write() -> None:
        pieces = random.Random(seed)
        with Journal(path) as journal:
            for step in range(1, last + 1):
                journal.write(make_record(step, {"loss": 1.0}), flush=pieces.random() < 0.7)
                if pieces.random() < 0.02:
                    journal.rotate()
                elif pieces.random() < 0.2:
                    line, middle = lines(-step), pieces.randrange(len(lines(-step)))
                    append(path, line[:middle])
                    append(path, line[middle:])

    writer = threading.Thread(target=write)
    seen: list[int] = []
    with JournalReader(path) as follower:
        writer.start()
        while writer.is_alive():
            seen += steps(follower)
        seen += steps(follower)
        assert (follower.generation, follower.broken) == (0, 0)
    assert [step for step in seen if step > 0] == list(range(1, last + 1))


@pytest.mark.parametrize("seed", range(20))
def test_a_follower_ends_with_what_a_fresh_reader_sees(path: Path, seed: int) -> None:
    """Whatever happens to a journal, in whatever order, somebody who clears at each new generation is right."""
    choice = random.Random(seed)
    journal, step = Journal(path), 0
    followed: list[int] = []
    generation = 0
    with JournalReader(path) as follower:
        for _ in range(150):
            event = choice.choice(["write"] * 6 + ["read", "peek", "rotate", "cut", "crash", "rewrite"])
            if event == "write":
                step += 1
                journal.write(make_record(step, {"loss": 0.5}), flush=choice.random() < 0.8)
            elif event == "rotate":
                journal.rotate()
            elif event == "crash":  # in the middle of a line; the next process goes on
                journal.close()
                append(path, b'{"step": 999, "lo')
                journal = Journal(path)
            elif event == "cut":
                journal.close()
                step = choice.randint(max(0, step - 10), step)
                cut_journal(path, step)
                journal = Journal(path)
            elif event == "rewrite":
                journal.close()
                data = path.read_bytes()
                path.unlink()
                path.write_bytes(data)
                journal = Journal(path)
            else:
                for entry in follower:
                    if follower.generation != generation:
                        generation, followed = follower.generation, []
                    followed.append(entry["step"])
                    if event == "peek" and choice.random() < 0.3:
                        break
        journal.close()
        for entry in follower:
            if follower.generation != generation:
                generation, followed = follower.generation, []
            followed.append(entry["step"])
    if follower.generation != generation:
        followed = []
    assert followed == steps(read_journal(path)) == list(range(1, step + 1))


@pytest.fixture(scope="module")
def long_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    with path.open("wb") as file:
        for step in range(200_000):
            file.write(b'{"step": %d, "epoch": 1, "time": 1.5, "train_loss": 0.25, "learning_rate": 0.001}\n' % step)
    return path


def test_following_takes_bounded_memory(long_journal: Path) -> None:
    tracemalloc.start()
    try:
        with JournalReader(long_journal) as follower:
            assert sum(1 for _ in follower) == 200_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert long_journal.stat().st_size > 16 << 20
    assert peak < 6 << 20
