"""One process at a time writes to a run directory."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from expkit.errors import ResumeError, UserError
from expkit.experiment import RunDir
from expkit.status import read_status

__all__ = ["file_lock", "is_free", "run_lock"]

log = logging.getLogger("expkit")

#: Seconds in which a living run writes its heartbeat (every 5 s) at least twice.
_HEARTBEATS = 12.0


@contextlib.contextmanager
def run_lock(files: RunDir) -> Iterator[None]:
    """Hold the lock of a run directory.

    The lock is a POSIX record lock on `.lock`: the system releases it when the process dies, however it does, and
    children do not inherit it. File systems that share locks between hosts badly, or not at all, are why a run that
    says it is running on another host is watched as well: it lives if its heartbeat moves. Clocks are not compared.

    Raises:
        ResumeError: another process is writing to the run, or nobody can.
    """
    try:
        descriptor = os.open(files.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ResumeError(
            f"{files.root} cannot be written ({error.strerror}): nothing was changed; try again once it can be"
        ) from None
    try:
        if not _lock(descriptor, files.root):
            raise _still_running(files)
        _watch_other_host(files)
        yield
    finally:
        os.close(descriptor)


def is_free(files: RunDir) -> bool:
    """Whether a run directory can be written to and no process is writing to it now. It is not locked afterwards."""
    if not os.access(files.root, os.W_OK | os.X_OK):
        return False
    try:
        with run_lock(files):
            return True
    except (ResumeError, OSError):
        return False


@contextlib.contextmanager
def file_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock of the same kind on any file, which then says which process has it.

    Raises:
        UserError: another process holds it, whose number the message has behind `what`; or nobody can.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): try again once it can be") from None
    try:
        if not _lock(descriptor, path):
            who = os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "another process"
            raise UserError(f"{what} ({who}): end that first")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, place: Path) -> bool:
    """Lock an open file. Return False if another process has; True too where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        log.info("%s is on a file system without locks (%s)", place, error.strerror)
    return True


def _watch_other_host(files: RunDir) -> None:
    status = read_status(files.status)
    if status.get("state") not in ("starting", "running") or status.get("host") == platform.node():
        return
    log.info("%s says that it is running on %s: waiting whether it does", files.root, status.get("host"))
    deadline = time.monotonic() + _HEARTBEATS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if read_status(files.status).get("heartbeat") != status.get("heartbeat"):
            raise _still_running(files)


def _still_running(files: RunDir) -> ResumeError:
    status = read_status(files.status)
    if status.get("state") not in ("starting", "running", None):
        # Its status is an earlier process's: a resume that has only begun, or a replay.
        return ResumeError(f"{files.root} is in use by another process (a resume or a replay): wait until it ends")
    who = f"process {status.get('pid', '?')} on {status.get('host', '?')}"
    return ResumeError(f"{files.root} is still running ({who}): stop it first, or wait until it ends")
