"""A fault injector for file operations: count them, and let the n-th one fail, fall short, or kill the process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest

KILL = "kill"  # SIGKILL before the operation; before a write, half of its data reaches the file
SHORT = "short"  # a write takes half of its data and says so; other operations are done as usual
LOSE = "lose"  # a write takes half of its data and claims to have taken all of it

_WRITING = set("wax+")

#: Flags of `os.open` that may change something.
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

#: Functions of os that are counted, each with the position of the argument that says which file.
_COUNTED = {
    **{"fsync": 0, "replace": 1, "rename": 1, "symlink": 1, "unlink": 0, "open": 0},
    **{"mkdir": 0, "rmdir": 0, "truncate": 0, "ftruncate": 0},
}


class Operation(NamedTuple):
    """One operation on a file.

    Attributes:
        kind: create (`open` for writing), write (to what was opened so), append (`os.write`), or a function of os.
        path: the file; of a rename the new name.
        source: of a rename the old name.
        data: what is appended.
    """

    kind: str
    path: Path
    source: Path | None = None
    data: bytes = b""

    def __str__(self) -> str:
        # Process ids and counters in temporary names differ from run to run.
        return f"{self.kind} {self.path.name.partition('.pt.')[0]}"


class FaultInjector:
    """Counts writing operations on files below `root`, by whatever thread, and injects a fault at one of them.

    Args:
        root: other files are left alone.
        at: number of the operation, from 0; without it operations are counted only.
        fault: an errno, `KILL`, `SHORT` or `LOSE`.
        lasting: all operations after it fail too, until `lift` is called.

    Attributes:
        seen: the operations so far.
    """

    def __init__(self, root: Path, at: int | None = None, fault: int | str = errno.EIO, lasting: bool = False) -> None:
        self.seen: list[Operation] = []
        self._root = root.resolve()
        self._at = at
        self.fault = fault
        self._lasting = lasting
        self._lock = threading.Lock()
        self._patch = pytest.MonkeyPatch()

    @property
    def operations(self) -> list[str]:
        """What was seen, such as "write .checkpoint_step_2"."""
        return [str(operation) for operation in self.seen]

    def lift(self) -> None:
        """Let the disk be well again."""
        self._at = None

    def __enter__(self) -> FaultInjector:
        self._patch.setattr(builtins, "open", opening := self._opening(builtins.open))
        self._patch.setattr(io, "open", opening)
        for name, position in _COUNTED.items():
            self._patch.setattr(os, name, self._counting(name, getattr(os, name), position))
        for name in ("write", "pwrite"):
            self._patch.setattr(os, name, self._writing(getattr(os, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()

    def due(self, name: str, file: Any, source: Path | None = None, data: bytes = b"") -> bool:
        """Count an operation on `file`; return whether the fault is due now."""
        place = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else Path(os.fsdecode(file))
        if isinstance(file, int) and not place.is_absolute():  # a pipe, say
            return False
        if name == "mkdir" and place.exists():  # a system finds that out first, and writes nothing
            return False
        folder = place if place.is_dir() and name != "mkdir" else place.parent.resolve()
        if not folder.is_relative_to(self._root):
            return False
        with self._lock:
            number = len(self.seen)
            self.seen.append(Operation(name, folder if folder == place else folder / place.name, source, data))
            return self._at is not None and (number == self._at or (self._lasting and number > self._at))

    def strike(self, file: Any) -> None:
        """Do what was asked for; what concerns writes only is left to them."""
        if self.fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault), str(file))

    def _counting(self, name: str, real: Callable[..., Any], position: int) -> Callable[..., Any]:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & _CHANGING and not Path(os.fsdecode(arguments[0])).is_dir():
                return real(*arguments, **keywords)  # a file that is read
            source = Path(os.fsdecode(arguments[0])).absolute() if position else None
            if "dir_fd" not in keywords and self.due(name, arguments[position], source):
                self.strike(arguments[position])
            return real(*arguments, **keywords)

        return operation

    def _writing(self, real: Callable[..., int]) -> Callable[..., int]:
        def writing(descriptor: int, data: Any, *offset: int) -> int:
            if not self.due("append", descriptor, data=bytes(data)):
                return real(descriptor, data, *offset)
            if not isinstance(self.fault, int):
                written = real(descriptor, bytes(data)[: max(1, len(data) // 2)], *offset)
            self.strike(descriptor)
            return len(data) if self.fault == LOSE else written

        return writing

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


def run_in_child(work: Callable[[], object], said: Path | None = None, kill_after: float | None = None) -> int:
    """Run `work` in a forked process; return its exit code, negative when a signal ended it.

    Args:
        work: what it returns, if it is a number, is the exit code; an exception is 70.
        said: a file for its standard error.
        kill_after: seconds until it gets a SIGKILL, if it still runs.
    """
    pid = os.fork()
    if pid == 0:
        try:
            if said is not None:
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 - as long as the process
            code = work()
            os._exit(code if isinstance(code, int) else 0)
        except BaseException:  # noqa: BLE001 - pytest must never go on in the child
            traceback.print_exc()
        finally:
            os._exit(70)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)  # one that has ended is there until it is waited for
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
