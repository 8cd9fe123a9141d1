"""Opening files that anybody may have put there: nothing is waited for, and no size fills the memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["LARGEST_WHOLE", "lines_of", "open_file", "read_whole"]

#: Bytes of a file that is read as a whole: a larger one would fill the memory.
LARGEST_WHOLE = 1 << 28


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it. What is none, a pipe that nobody writes to say, is refused with an OSError at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENXIO, "it is no ordinary file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; one longer than 64 MiB, which nobody has written, in pieces."""
    return iter(lambda: file.readline(1 << 26), b"")


def read_whole(path: Path) -> bytes:
    """Return the content of a file that is read as a whole, of at most 256 MiB.

    Raises:
        OSError: it cannot be read, or is larger.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size <= LARGEST_WHOLE:
            return file.read(LARGEST_WHOLE)
    raise OSError(errno.EFBIG, f"it is larger than {LARGEST_WHOLE >> 20} MiB", str(path))
