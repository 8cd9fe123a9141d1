"""Tries inputs on readers: what they raise, how long they take, how much memory."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings

from expkit.errors import UserError
from tests.fuzz.mutations import inputs
from tests.fuzz.targets import Target

__all__ = ["SETTINGS", "Figures", "Hang", "Place", "TooMuchMemory", "check", "in_memory", "limits", "try_many"]

#: Seconds that an input may take, for each 16 MB of it, by the process's own clock; and by the wall's, for a file that
#: blocks.
_SECONDS, _PER, _BLOCKED = 10.0, 16 << 20, 60.0
#: Bytes that an input may take: libraries that are loaded, and so many times its size.
_BYTES, _TIMES = 96 << 20, 24
_PER_EXAMPLE = 20


SETTINGS = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


class Hang(BaseException):
    """An input takes too long. No `except Exception` in a reader may hide it."""


class TooMuchMemory(Exception):  # noqa: N818
    """An input takes too much memory."""


@dataclass
class Figures:
    """What inputs came to.

    Attributes:
        inputs: how many.
        seconds: the longest time of one, of the processor.
        peak_mb: the most memory that one took, beyond what the process had before.
    """

    inputs: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0

    def add(self, other: Figures) -> None:
        """Add others to these."""
        self.inputs += other.inputs
        self.seconds, self.peak_mb = max(self.seconds, other.seconds), max(self.peak_mb, other.peak_mb)


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """Yield a temporary folder, in memory where the system has such: a disk takes longer than most readers."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


class Place:
    """A copy of the corpus, in which one file after the other is replaced by inputs.

    Args:
        corpus: what `make_corpus` has made.
        folder: for the copy; made anew.
    """

    def __init__(self, corpus: Path, folder: Path) -> None:
        self.corpus, self.folder = corpus, folder
        shutil.copytree(corpus, folder, symlinks=True)

    def seeds(self, target: Target) -> list[bytes]:
        """Return the content of the files that its reader reads."""
        return [path.read_bytes() for path in sorted(self.corpus.glob(target.file))]

    def path(self, target: Target) -> Path:
        """Return where its file is."""
        return self.folder / sorted(self.corpus.glob(target.file))[0].relative_to(self.corpus)

    @contextlib.contextmanager
    def holding(self, target: Target, data: bytes) -> Iterator[Path]:
        """Put `data` into the place of its file; what reading it leaves behind is removed."""
        path = self.path(target)
        before = set(path.parent.iterdir())
        path.write_bytes(data)
        yield path
        for each in set(path.parent.iterdir()) - before:
            each.unlink()

    def restore(self, target: Target) -> None:
        """Put its file back."""
        path = self.path(target)
        shutil.copy(self.corpus / path.relative_to(self.folder), path)


def check(target: Target, path: Path, size: int, figures: Figures, cannot_be_read: bool = False) -> None:
    """Read one input.

    Args:
        target: its reader.
        path: where it is.
        size: how many bytes it has.
        figures: in which it is counted.
        cannot_be_read: so that an OSError is an answer, too.

    Raises:
        Hang, TooMuchMemory, AssertionError: what must not be.
        Exception: whatever the reader raises and does not document.
    """
    figures.inputs += 1
    before, began = _reset_peak(), time.process_time()
    try:
        with limits(size):
            target.read(path)
    except target.refuses as error:
        assert not isinstance(error, UserError) or _is_one_line(str(error)), f"not one line: {error}"
    except OSError:
        if not cannot_be_read:
            raise
    figures.seconds = max(figures.seconds, time.process_time() - began)
    taken = _peak() - before
    figures.peak_mb = max(figures.peak_mb, taken / 2**20)
    if taken > _BYTES + _TIMES * size:
        raise TooMuchMemory(f"{taken >> 20} MB for an input of {size} bytes")


def _is_one_line(text: str) -> bool:
    return bool(text) and "\n" not in text


@contextlib.contextmanager
def limits(size: int) -> Iterator[None]:
    """End what takes too long.

    Raises:
        Hang: it does.
    """

    def too_long(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        raise Hang(f"more than {_SECONDS * (1 + size // _PER):.0f} s")

    before = [signal.signal(number, too_long) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, _SECONDS * (1 + size // _PER))
    alarm = signal.setitimer(signal.ITIMER_REAL, _BLOCKED * (1 + size // _PER))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, *alarm)  # pytest-timeout has one of its own
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def try_many(target: Target, place: Place, count: int, number: int, figures: Figures) -> None:
    """Read the file as it is, then try `count` inputs; the seed is `number`.

    Raises:
        Exception: what the smallest input raises that one was found for. It is still in its place.
    """

    @seed(number)
    @settings(SETTINGS, max_examples=-(-count // _PER_EXAMPLE))
    @given(inputs(place.seeds(target), target.container, _PER_EXAMPLE))
    def tried(some: Iterator[bytes]) -> None:
        for data in some:
            with place.holding(target, data) as path:
                check(target, path, len(data), figures)

    logging.getLogger("expkit").disabled = True
    try:
        for data in place.seeds(target):  # which loads libraries, too
            with place.holding(target, data) as path:
                target.read(path)
        tried()
        place.restore(target)
    finally:
        logging.getLogger("expkit").disabled = False


def _reset_peak() -> int:
    """Return the memory of this process, and begin to watch for its peak."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - thousands of times a second
        file.write("5")
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _peak() -> int:
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        text = file.read()
    start = text.index(b"VmHWM:") + 6
    return int(text[start : text.index(b"kB", start)]) * 1024
