"""The one implementation of durable file writes: temporary name, fsync, rename, fsync of the folder.

Every file that a run must not lose goes through here, which is also what the fault injector of the
tests takes hold of. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from expkit.errors import UserError
from expkit.opening import read_whole

__all__ = [
    "atomic_folder",
    "atomic_writer",
    "check_disk_space",
    "check_writable",
    "digest",
    "free_gb",
    "fsync_folder",
    "is_there",
    "process_alive",
    "read_json",
    "remove_folder",
    "remove_stale_temporaries",
    "write_bytes",
    "write_json",
    "write_link",
]

log = logging.getLogger("expkit")

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
_counter = itertools.count()
_started = time.time()
_NOTHING = bytes(1 << 20)

#: How a file system says that it has no fsync for folders (some network ones). EIO is not among them:
#: whoever deletes older files next must hear that the rename may not have reached the disk.
_NO_FOLDER_FSYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}


def _temporary(path: Path) -> Path:
    # One name per write, not per process: a heartbeat thread may write the same file as the main one.
    return path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d{1,9})\.\d+\.tmp")


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut. File systems that cannot are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise


@contextlib.contextmanager
def atomic_writer(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on leaving without an error it becomes `path`.

    Readers see the old content or the new, never a part. With an error (a full disk, say) the old file
    stays and the temporary one is removed; only an error of the last step, the fsync of the folder, leaves
    the new file in place. `durable=False` leaves out the fsyncs: for files that are rewritten every few
    seconds, where atomic is enough.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # whatever ends the write, Ctrl-C too, leaves no temporary file behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`; on leaving without an error it becomes `path`, durably.

    Readers see all of it or nothing, and of several that make the same one the first gets the name. What is put into it
    is fsynced by whoever does so. With an error the temporary folder is removed.

    Raises:
        FileExistsError: there is such a folder by now.
    """
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, _ in os.walk(temporary):
            fsync_folder(Path(folder))
        try:
            os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except BaseException:  # whatever ends it, Ctrl-C too, leaves no temporary folder behind
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace the content of `path` atomically."""
    with atomic_writer(path, durable) as file:
        file.write(data)


def write_json(path: Path, value: Any, durable: bool = True, default: Callable[[Any], Any] | None = None) -> None:
    """Replace `path` atomically by indented JSON. NaN and infinities become null."""
    write_bytes(path, orjson.dumps(value, option=_JSON, default=default), durable)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds something else.
    """
    try:
        content = orjson.loads(read_whole(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not there: is {path.parent} a run directory?") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or remove it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def is_there(path: Path | str) -> bool:
    """Whether there is such a file or folder. Nobody's name, or one that may not be looked at, is not there."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def write_link(path: Path, target: str) -> None:
    """Point the symbolic link `path` at `target` atomically. A hint for people: nothing may trust it."""
    temporary = _temporary(path)
    temporary.symlink_to(target)
    try:
        os.replace(temporary, path)
    except BaseException:  # whatever ends the write, Ctrl-C too, leaves no temporary file behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def check_writable(folder: Path, size: int) -> None:
    """Try whether `size` bytes more fit into `folder`, by writing them: the free space of a disk knows no quota.

    Raises:
        OSError: they do not.
    """
    temporary = _temporary(folder / "space")
    try:
        with temporary.open("wb") as file:
            for start in range(0, size, len(_NOTHING)):
                file.write(_NOTHING[: size - start])
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it, or a link to one: nothing is ever seen half removed under its name.

    Raises:
        OSError: it cannot be removed.
    """
    temporary = _temporary(path)
    path.rename(temporary)
    if temporary.is_symlink():
        temporary.unlink()
    else:
        shutil.rmtree(temporary)


def remove_stale_temporaries(folder: Path, prefix: str = "") -> None:
    """Remove what processes that died in the middle of a write left in `folder`.

    Only temporary files and folders of this module are touched, only those for names that start with `prefix`,
    and none of a process that is alive on this machine. What cannot be removed stays.
    """
    for file in Path(folder).iterdir():
        match = _TEMPORARY.fullmatch(file.name)
        if match and match["name"].startswith(prefix):
            with contextlib.suppress(OSError):
                if not _is_written_now(file, int(match["pid"])):
                    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()


def _is_written_now(file: Path, pid: int) -> bool:
    if pid == os.getpid():
        # In a container every run may have the same pid: then only the age tells whose file it is.
        return file.lstat().st_mtime > _started - 2
    return process_alive(pid)


def process_alive(pid: int) -> bool:
    """Whether there is a process `pid` on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no number of a process
        return False
    except PermissionError:
        return True
    return True


def free_gb(path: Path | str) -> float:
    """Free space in GB (1024^3 bytes) where `path` is or, if it is not there yet, where it would be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / 1024**3


def check_disk_space(path: Path | str, min_gb: float = 10) -> bool:
    """Whether at least `min_gb` GB (1024^3 bytes) are free at `path`, which need not be there yet; warns if not."""
    free = free_gb(path)
    if free < min_gb:
        log.warning(
            "only %.1f GB free at %s, less than %g GB: free some space or choose another folder", free, path, min_gb
        )
    return free >= min_gb
