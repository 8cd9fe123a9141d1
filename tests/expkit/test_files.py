"""The one implementation of atomic writes."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from expkit.errors import UserError
from expkit.files import (
    atomic_writer,
    check_writable,
    fsync_folder,
    read_json,
    write_bytes,
    write_json,
    write_link,
)
from tests.faults.injector import FaultInjector, every_fault_point, operations_of


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 1000)
    with atomic_writer(path) as file:
        file.write(b"new" * 500)
        file.flush()
        assert path.read_bytes() == b"old" * 1000
        file.write(b"new" * 500)
    assert path.read_bytes() == b"new" * 1000


def test_readers_beside_a_writer_see_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"0" * 1000)
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        write_bytes(path, b"%d" % (number % 10) * (1000 + number % 10), durable=False)
    stop.set()
    reader.join()
    assert seen <= {b"%d" % digit * (1000 + digit) for digit in range(10)}
    assert len(seen) > 1


def test_an_error_inside_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_writer(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_leaves_the_old_file_or_the_new_one(tmp_path: Path, code: int, durable: bool) -> None:
    path = tmp_path / "file"

    def write(_: Path) -> None:
        write_bytes(path, b"new", durable)

    for at, operation in enumerate(operations_of(write, tmp_path)):
        path.write_bytes(b"old")
        with pytest.raises(OSError) as caught, FaultInjector(tmp_path, at, code):
            write(tmp_path)
        assert caught.value.errno == code
        assert path.read_bytes() in (b"old", b"new"), operation
        assert list(tmp_path.iterdir()) == [path], operation


def test_a_kill_anywhere_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in range(100))

    def new_folder() -> Path:
        folder = next(folders)
        folder.mkdir()
        (folder / "file").write_bytes(b"old")
        return folder

    for operation, folder in every_fault_point(lambda folder: write_bytes(folder / "file", b"new"), new_folder):
        assert (folder / "file").read_bytes() in (b"old", b"new"), operation


def test_durable_means_that_the_file_and_its_folder_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    write_bytes(tmp_path / "a", b"")
    write_bytes(tmp_path / "b", b"", durable=False)
    assert order == ["file", "rename", "folder", "rename"]


def test_file_systems_without_fsync_of_folders_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(code: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", lambda _: fsync(errno.EINVAL))
    fsync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: fsync(errno.EIO))
    with pytest.raises(OSError):
        fsync_folder(tmp_path)


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, float("nan")], 3: None})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1,\n    null\n  ],\n  "3": null\n}\n'


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["nothing.json", "file.txt/config.json"])
def test_a_file_that_is_not_there_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=r"is not there: is .* a run directory\?"):
        read_json(tmp_path / name)


def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_json(tmp_path / "config.json")


def test_a_link_is_replaced_atomically(tmp_path: Path) -> None:
    for target in ("one", "two"):
        write_link(tmp_path / "latest", target)
        assert (tmp_path / "latest").readlink() == Path(target)
    assert list(tmp_path.iterdir()) == [tmp_path / "latest"]


def test_whether_there_is_room_is_tried_by_writing(tmp_path: Path) -> None:
    size = 3 * (1 << 20) + 5
    with FaultInjector(tmp_path) as injector:
        check_writable(tmp_path, size)
    assert [each.kind for each in injector.seen] == ["create", *["write"] * 4, "fsync", "unlink"]
    for at in range(len(injector.seen) - 1):
        with pytest.raises(OSError) as caught, FaultInjector(tmp_path, at, errno.EDQUOT):
            check_writable(tmp_path, size)
        assert caught.value.errno == errno.EDQUOT
        assert list(tmp_path.iterdir()) == []
