"""A fault injector for file operations: count them, and let the n-th one fail, fall short, or kill the process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

KILL = "kill"  # SIGKILL before the operation; before a write, half of its data reaches the file
SHORT = "short"  # a write takes half of its data and says so; other operations are done as usual
LOSE = "lose"  # a write takes half of its data and claims to have taken all of it

_WRITING = set("wax+")


class FaultInjector:
    """Counts writing operations on files below `root`, and injects a fault at one of them.

    Operations are `open` for writing (the built-in one and pathlib's), `write` to what was opened, and `fsync`,
    `replace`, `rename`, `symlink`, `unlink` and `open` of `os`.

    Args:
        root: other files are left alone.
        at: number of the operation, from 0; without it operations are counted only.
        fault: an errno, `KILL`, `SHORT` or `LOSE`.

    Attributes:
        operations: what was seen, such as "write .checkpoint_step_2.pt".
    """

    def __init__(self, root: Path, at: int | None = None, fault: int | str = errno.EIO) -> None:
        self.operations: list[str] = []
        self._root = root.resolve()
        self._at = at
        self.fault = fault
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> FaultInjector:
        self._patch.setattr(builtins, "open", opening := self._opening(builtins.open))
        self._patch.setattr(io, "open", opening)
        for name, position in {
            "fsync": 0,
            "replace": 1,
            "rename": 1,
            "symlink": 1,
            "unlink": 0,
            "open": 0,
        }.items():
            self._patch.setattr(os, name, self._counting(name, getattr(os, name), position))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()

    def due(self, name: str, file: Any) -> bool:
        """Count an operation on `file`; return whether the fault is due now."""
        place = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else Path(os.fsdecode(file))
        folder = place if place.is_dir() else place.parent.resolve()
        if not folder.is_relative_to(self._root):
            return False
        # Process ids and counters in temporary names differ from run to run.
        self.operations.append(f"{name} {place.name.partition('.pt.')[0]}")
        return len(self.operations) - 1 == self._at

    def strike(self, file: Any) -> None:
        """Do what was asked for; what concerns writes only is left to them."""
        if self.fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault), str(file))

    def _counting(self, name: str, real: Callable[..., Any], position: int) -> Callable[..., Any]:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            if self.due(name, arguments[position]):
                self.strike(arguments[position])
            return real(*arguments, **keywords)

        return operation

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            if isinstance(file, int) or not _WRITING & set(mode):
                return real(file, mode, *arguments, **keywords)
            if self.due("create", file):
                self.strike(file)
            return _File(self, real(file, mode, *arguments, **keywords))

        return opening


class _File:
    """An open file whose writes are counted."""

    def __init__(self, injector: FaultInjector, file: Any) -> None:
        self._injector = injector
        self._file = file

    def write(self, data: Any) -> int:
        if not self._injector.due("write", self._file.name):
            return int(self._file.write(data))
        written = self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._injector.strike(self._file.name)
        return len(data) if self._injector.fault == LOSE else int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def run_in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; return its exit code, negative when a signal ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - pytest must never go on in the child
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def operations_of(scenario: Callable[[Path], None], folder: Path) -> list[str]:
    """Run `scenario(folder)` without faults and return its file operations."""
    with FaultInjector(folder) as injector:
        scenario(folder)
    return injector.operations


def every_fault_point(scenario: Callable[[Path], None], new_folder: Callable[[], Path]) -> Iterator[tuple[str, Path]]:
    """Run `scenario` in a child process once for each of its file operations, and kill it there.

    Args:
        scenario: gets a folder and writes below it.
        new_folder: makes one folder for each run, with whatever must have been there before.

    Yields:
        the operation at which the process died, and the folder as it was left.
    """
    for at, operation in enumerate(operations_of(scenario, new_folder())):
        folder = new_folder()

        def work(folder: Path = folder, at: int = at) -> None:
            with FaultInjector(folder, at, KILL):
                scenario(folder)

        assert run_in_child(work) == -signal.SIGKILL, f"not killed at {operation}"
        yield operation, folder
