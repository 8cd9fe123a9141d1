"""What no mutation makes: files that are huge, nested without end, no files at all, or that change under the reader."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.harness import Figures, Place, check
from tests.fuzz.targets import Target

__all__ = ["EXTREMES", "NO_FILES", "Extreme", "changing", "try_extreme"]


@dataclass(frozen=True)
class Extreme:
    """A file that is extreme.

    Attributes:
        name: in what.
        make: puts it at a path, given what was there, and how many MB it is to have.
    """

    name: str
    make: Callable[[Path, bytes, float], object]


def _filled(*pieces: bytes) -> Callable[[Path, bytes, float], object]:
    """Return what writes the first piece, the second as often as there is room, and the third."""
    first, often, last = pieces
    return lambda path, _, size: path.write_bytes(first + often * int(size * 2**20 / len(often)) + last)


def _sparse(path: Path, data: bytes, size: float) -> None:
    path.write_bytes(data)
    os.truncate(path, int(size * 2**20 * 20))


def _in_place(make: Callable[[Path], object]) -> Callable[[Path, bytes, float], object]:
    def made(path: Path, data: bytes, size: float) -> None:
        path.unlink()
        make(path)

    return made


def _laughs(path: Path, data: bytes, size: float) -> None:
    """YAML of which each line has the one before nine times."""
    lines = ["a: &a0 [x, x]", *(f"b{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))]
    path.write_text("_target_: expkit.detectors.loss_spike.LossSpike\n" + "\n".join(lines) + "\nthreshold: *a19\n")


#: What is no file.
NO_FILES = (
    Extreme("a folder", _in_place(Path.mkdir)),
    Extreme("a pipe", _in_place(os.mkfifo)),
    Extreme("a link to itself", _in_place(lambda path: path.symlink_to(path.name))),
    Extreme("a link to nowhere", _in_place(lambda path: path.symlink_to("nowhere"))),
    Extreme("a link to a device", _in_place(lambda path: path.symlink_to("/dev/zero"))),
    Extreme("no file", _in_place(lambda path: None)),
)

EXTREMES = (
    *NO_FILES,
    Extreme("nothing", lambda path, data, size: path.write_bytes(b"")),
    Extreme("a list in a list in a list", _filled(b"", b"[", b"")),
    Extreme("an object in an object", _filled(b"", b'{"a":', b"")),
    Extreme("an entry with lists in lists", _filled(b'{"step": 1, "loss": ', b"[", b"\n")),
    Extreme("a number with many digits", _filled(b'{"step": 1, "loss": ', b"7", b"}\n")),
    Extreme("a step with many digits", _filled(b'{"step": ', b"7", b"}\n")),
    Extreme("digits", _filled(b"loss=", b"1", b"x")),
    Extreme("one long line", _filled(b'{"step": 1, "text": "', b"a", b'"}\n')),
    Extreme("one long line without an end", _filled(b'{"step": 1, "text": "', b"a", b"")),
    Extreme("one long word", _filled(b"", b"a", b"")),
    Extreme("names and no values", _filled(b"step 1 ", b"a_b ", b"")),
    Extreme("signs", _filled(b"", b"=[:,(", b"")),
    Extreme("empty lines", lambda path, data, size: path.write_bytes(b"\n" * int(size * 2**14))),
    Extreme("zeros", _filled(b"", b"\0", b"")),
    Extreme("no UTF-8", _filled(b"", b"\xff\xfe", b"\n")),
    Extreme("a hole", _sparse),
    Extreme("an alias of aliases", _laughs),
)


def try_extreme(target: Target, place: Place, extreme: Extreme, size: float, figures: Figures) -> None:
    """Read a file that is extreme, of about `size` MB where it has a size.

    Raises:
        Exception: what the reader raises.
    """
    path = place.path(target)
    data = path.read_bytes()
    before = set(path.parent.iterdir())
    try:
        extreme.make(path, data, size)
        check(target, path, path.stat().st_size if path.is_file() else 0, figures, cannot_be_read=True)
    finally:
        for each in set(path.parent.iterdir()) - (before - {path}):
            each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
        path.write_bytes(data)


@contextlib.contextmanager
def changing(path: Path, data: bytes) -> Iterator[None]:
    """Within the block a thread makes the file longer, shorter, another, again and again."""
    stop = threading.Event()

    def change() -> None:
        other = path.with_name(f"{path.name}.other")
        while not stop.is_set():
            for part in (data[: len(data) // 2], data + data, b"", data):
                path.write_bytes(part)
                other.write_bytes(part)
                other.replace(path)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
