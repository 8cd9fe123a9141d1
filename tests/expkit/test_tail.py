"""Following a file that grows, is truncated, written anew, and replaced."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from expkit.tail import FileTail


def text_tail(path: Path) -> FileTail[str]:
    return FileTail(path, lambda line: line.decode(errors="replace"))


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    tail = text_tail(path)
    assert list(tail) == [], "it is not there yet"
    path.write_bytes(b"one\ntwo\nthr")
    assert list(tail) == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"ee\r\n 10%\r 20%\rf\xff\n")
    assert list(tail) == ["three", " 10%", " 20%", "f�"]
    assert list(tail) == [] and tail.torn() is None
    with path.open("ab") as file:
        file.write(b"without an end")
    assert list(tail) == [] and tail.torn() == "without an end"


def test_a_truncated_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("one\ntwo\nbegun")
    tail = text_tail(path)
    assert list(tail) == ["one", "two"]
    path.write_text("new\n")  # copytruncate keeps the file, and so does `> file`
    assert list(tail) == ["new"] and tail.generation == 1
    path.write_text("")
    assert list(tail) == []
    path.write_text("x\n")
    assert list(tail) == ["x"]


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_a_file_that_was_written_anew_between_two_looks_is_noticed_however_long_it_is(
    tmp_path: Path, more: int
) -> None:
    path = tmp_path / "train.log"
    first = [f"step {at} loss 0.5" for at in range(100)]
    path.write_text("\n".join([*first, "begun"]))
    tail = text_tail(path)
    assert list(tail) == first
    again = [f"step {at} loss 0.7" for at in range(100 + more)]
    path.write_text("\n".join([*again, ""]))
    assert list(tail) == again and tail.generation == 1
    with path.open("a") as file:
        file.write("more\n")
    assert list(tail) == ["more"] and tail.generation == 1


def test_the_hole_that_a_writer_leaves_behind_in_a_truncated_file_costs_no_line(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    tail = text_tail(path)
    with path.open("wb", buffering=0) as file:  # not in append mode
        file.write(b"one\n" * 5000)
        assert len(list(tail)) == 5000
        os.truncate(path, 0)
        file.write(b"two\nthr")
        assert path.read_bytes().startswith(b"\0" * 20000)
        assert list(tail) == ["two"]
        place = tail.place()
        file.write(b"ee\n")
    other = text_tail(path)
    assert place is not None and other.go_on_from(place)
    assert list(other) == list(tail) == ["three"]


def test_the_rest_of_a_rotated_file_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("one\n")
    tail = text_tail(path)
    assert list(tail) == ["one"]
    with path.open("a") as file:
        file.write("two\nlast")
    path.rename(tmp_path / "train.log.1")
    assert list(tail) == ["two"], "there is no new one yet"
    path.write_text("three\n")
    assert list(tail) == ["last", "three"]


def test_a_file_that_was_deleted_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "train.log"
    path.parent.mkdir()
    path.write_text("one\n")
    tail = text_tail(path)
    assert list(tail) == ["one"]
    shutil.rmtree(path.parent)
    assert list(tail) == []
    path.parent.mkdir()
    path.write_text("two\n")
    assert list(tail) == ["two"]
    tail.close()
    assert list(tail) == ["two"], "a closed one begins at the start"


def test_parts_that_are_like_those_of_a_journal_are_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "train.0001.log").write_text("other\n")
    (tmp_path / "train.log").write_text("mine\n")
    assert list(text_tail(tmp_path / "train.log")) == ["mine"]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_to_a_file_its_lines_come_once_and_in_order(tmp_path: Path, seed: int) -> None:
    """Grown in pieces, truncated, written anew or rotated, in any order; the reader is closed and gone on with."""
    choice, path = random.Random(seed), tmp_path / "train.log"
    tail, number, rotated = text_tail(path), 0, 0
    current: list[str] = []
    seen: list[str] = []
    path.touch()
    for _ in range(300):
        event = choice.choice(["write"] * 6 + ["read"] * 3 + ["anew", "rotate", "killed"])
        if event == "write":
            number += 1
            line, middle = f"line {number} {'x' * choice.randrange(700)}", choice.randrange(5)
            for piece in (line[:middle], line[middle:], "\n"):
                with path.open("a") as file:
                    file.write(piece)
                seen += tail if choice.random() < 0.1 else ()
            current.append(line)
            continue
        seen += tail
        assert seen == current
        if event == "anew":
            current, seen = [f"line {number + at}" for at in range(1, choice.randrange(2, 60))], []
            number += len(current)
            path.write_text("\n".join([*current, ""]))
        elif event == "rotate":
            path.rename(tmp_path / f"train.log.{(rotated := rotated + 1)}")
            path.touch()
            list(tail)
            current, seen = [], []
        elif event == "killed" and (place := tail.place()) is not None:
            tail.close()
            tail = text_tail(path)
            assert tail.go_on_from(place)
