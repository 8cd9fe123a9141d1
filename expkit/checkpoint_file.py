"""A checkpoint file as far as it can be judged without torch: its name, and whether its bytes are as written.

The format is what `torch.save` writes, a zip archive. `torch.load` ignores the checksums in it: of 2,000
single bit flips 1,990 load silently wrong. So every file is checked before it is trusted.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
import zipfile
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO

from expkit.checkpoint_folder import folder_error, is_sharded
from expkit.opening import open_file

__all__ = ["archive_error", "damage", "step_of"]

#: Of a zip archive: what stands before each part (signature, version, flags, method, time, date, checksum, two sizes,
#: lengths of name and extra field), and what stands behind it if a flag says so (signature, checksum, size).
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_DATA_DESCRIPTOR = struct.Struct("<4sII")
_REPEATED_BEHIND = 1 << 3

#: Bytes that are read at a time, which stay in a core's cache; threads at most, and from how many bytes on.
_CHUNK, _THREADS, _WORTH_THREADS = 1 << 18, 4, 1 << 26

#: `.pt` is one file, no suffix a folder of shards, and `.old` such a folder in whose place a new one is being put.
_NAME = re.compile(r"checkpoint_step_(0|[1-9]\d*)(?:\.pt|\.old)?")


def step_of(path: Path) -> int | None:
    """Return the step in the name `checkpoint_step_{step}.pt` or `checkpoint_step_{step}`, or None for any other."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def archive_error(path: Path) -> str | None:
    """Return what is wrong with the bytes of the checkpoint at `path`, or None if they are as they were written.

    Raises:
        OSError: the file cannot be read, which says nothing about what is in it.
    """
    if is_sharded(path):
        return folder_error(path)
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            broken = _broken_entry(file, archive)
    except Exception as error:  # noqa: BLE001 - damaged bytes make zipfile raise nearly anything
        return damage(error)
    if broken is not None:
        return f"the checksum of {broken} does not match: it was changed after it was written"
    return None


def damage(error: Exception) -> str:
    """Return what an error says of the file that was being read.

    Raises:
        OSError: nothing; the file cannot be read.
    """
    if isinstance(error, OSError):
        if error.errno != errno.EINVAL:  # which is what seeking to a damaged offset gives
            raise error
        return "it is damaged or incomplete (an offset points nowhere)"
    first_line = str(error).partition("\n")[0]
    return f"it is damaged or incomplete ({type(error).__name__}: {first_line})"


def _broken_entry(file: BinaryIO, archive: zipfile.ZipFile) -> str | None:
    """Return the name of an entry in the table of contents that does not match what it stands for, if any.

    The table has no checksum, and torch reads it in its own way: one bit makes it take a tensor for a folder, and
    leave the memory as it was. But checksum and size are repeated: behind a part's data, or (of empty ones) before.
    """
    parts = []
    for member in archive.infolist():
        archive.open(member).close()  # zipfile's own look at what stands before the data
        file.seek(member.header_offset)
        _, _, flags, _, _, _, *repeated, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if flags & _REPEATED_BEHIND:
            file.seek(start + member.file_size)
            signature, *repeated = _DATA_DESCRIPTOR.unpack(file.read(_DATA_DESCRIPTOR.size))
            if signature != b"PK\x07\x08":
                return member.filename
        as_written = member.compress_type == zipfile.ZIP_STORED and member.external_attr == 0
        if not as_written or repeated[:2] != [member.CRC, member.compress_size & 0xFFFFFFFF]:
            return member.filename
        parts.append((start, member))
    return _broken_part(file.fileno(), parts)


def _broken_part(descriptor: int, parts: list[tuple[int, zipfile.ZipInfo]]) -> str | None:
    """Return the name of a part whose bytes have another checksum than its entry says, if any.

    Some threads share the parts: reading and adding up take turns on a core, and neither holds Python's lock.

    Args:
        descriptor: of the open file.
        parts: where each begins, and its entry.
    """
    waiting, broken, errors = deque(parts), list[str](), list[Exception]()

    def work() -> None:
        try:
            while waiting:
                start, member = waiting.popleft()
                if _checksum(descriptor, start, member.file_size) != member.CRC:
                    broken.append(member.filename)
                    waiting.clear()
        except IndexError:  # another thread has taken the last one
            pass
        except Exception as error:  # noqa: BLE001 - raised below, for the caller
            errors.append(error)
            waiting.clear()

    helpers = []
    try:
        if sum(member.file_size for _, member in parts) >= _WORTH_THREADS:
            for _ in range(min(_THREADS, os.cpu_count() or 1, len(parts)) - 1):
                helper = threading.Thread(target=work, name="expkit-checksums", daemon=True)
                try:
                    helper.start()
                except RuntimeError:  # the limit of threads, or the interpreter is on its way out
                    break
                helpers.append(helper)
        work()
    finally:
        waiting.clear()
        for helper in helpers:
            helper.join()  # they read from a descriptor that is closed after this
    if errors:
        raise errors[0]
    return broken[0] if broken else None


def _checksum(descriptor: int, start: int, size: int) -> int:
    checksum, end = 0, start + size
    while start < end:
        read = os.pread(descriptor, min(_CHUNK, end - start), start)
        if not read:
            raise EOFError("it ends too early")
        checksum = zlib.crc32(read, checksum)
        start += len(read)
    return checksum
