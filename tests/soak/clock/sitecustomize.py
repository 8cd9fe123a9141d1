"""The wall clock of a Python process that the soak has started: the system's, moved by what a file says at that moment.

Python imports this by its name from PYTHONPATH. The monotonic clock never jumps, and stays as it is.
"""

import mmap
import os
import struct
import time


def _move(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would slow down each of hundreds of processes
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    read, now, now_ns = struct.Struct("d").unpack_from, time.time, time.time_ns
    time.time = lambda: now() + read(shared)[0]
    time.time_ns = lambda: now_ns() + int(read(shared)[0] * 1e9)


if "EXPKIT_SOAK_CLOCK" in os.environ:
    _move(os.environ["EXPKIT_SOAK_CLOCK"])
