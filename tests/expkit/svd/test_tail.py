"""Following a file that grows, is truncated, and is replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

from expkit.svd.tail import FileTail


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    tail = FileTail(path)
    assert list(tail) == [], "it is not there yet"
    path.write_bytes(b"one\ntwo\nthr")
    assert list(tail) == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"ee\r\n 10%\r 20%\rf\xff\n")
    assert list(tail) == ["three", "", " 10%", " 20%", "f�"]
    assert list(tail) == [] and list(tail.rest()) == []
    with path.open("ab") as file:
        file.write(b"without an end")
    assert list(tail) == [] and list(tail.rest()) == ["without an end"]


def test_a_truncated_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("one\ntwo\nbegun")
    tail = FileTail(path)
    assert list(tail) == ["one", "two"]
    path.write_text("new\n")  # copytruncate keeps the file, and so does `> file`
    assert list(tail) == ["new"]
    path.write_text("")
    assert list(tail) == []
    path.write_text("x\n")
    assert list(tail) == ["x"]


def test_the_rest_of_a_rotated_file_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("one\n")
    tail = FileTail(path)
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
    tail = FileTail(path)
    assert list(tail) == ["one"]
    shutil.rmtree(path.parent)
    assert list(tail) == []
    path.parent.mkdir()
    path.write_text("two\n")
    assert list(tail) == ["two"]
    tail.close()
    assert list(tail) == ["two"], "a closed one begins at the start"
