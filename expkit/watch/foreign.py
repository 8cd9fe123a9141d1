"""The checkpoints of other trainers: the newest that is complete, copied, and never one that is being written."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from expkit.files import is_there
from expkit.lenient_json import parse_json
from expkit.opening import open_file, read_whole
from expkit.snapshots.files import copy_from

__all__ = ["ForeignCheckpoints", "problem_of"]

log = logging.getLogger("expkit")

_MODELS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
_ZIPPED = (".pt", ".pth", ".ckpt", ".npz", ".bin")
_FOLDER = re.compile(r".*(?:checkpoint|ckpt|step|epoch|iter)[-_]?\d+", re.IGNORECASE)
_STEP = re.compile(r"(\d+)(?=\.\w+$|$)")

_Signature = tuple[tuple[str, int, int, int], ...]


class ForeignCheckpoints:
    """Called with a folder, it copies there the newest complete folder and the newest complete file that match.

    They are copied, not linked: other trainers may write in place. Complete is what has not changed over `settle`
    seconds and while it was copied, and whose formats say so: the lengths in a safetensors header, every checksum of a
    zip archive (torch.save), the files that an index names.

    Args:
        pattern: of files (`adapter_model.safetensors`), folders (`checkpoint-*`), or a folder with such in it.
        settle: seconds.
    """

    def __init__(self, pattern: str, settle: float = 5.0) -> None:
        self._pattern, self._settle = pattern, settle

    def __call__(self, folder: Path) -> int | None:
        """Copy, and return the step in the name of what was copied, if there is one.

        Raises:
            OSError: the disk refuses.
        """
        found = sorted(self._candidates(), key=_newest, reverse=True)
        if found and not any(self._settled(path) for path in found):
            time.sleep(min(self._settle, 10.0))  # the only one is just being written, or was a moment ago
        kept = [
            path
            for kind in (Path.is_dir, Path.is_file)
            if (path := next((each for each in found if kind(each) and self._keep(each, folder / each.name)), None))
        ]
        steps = [int(match[1]) for path in kept if (match := _STEP.search(path.name))]
        return max(steps, default=None)

    def _candidates(self) -> Iterator[Path]:
        for match in map(Path, glob.glob(self._pattern, recursive=True)):  # noqa: PTH207 - an absolute one, too
            inside = [each for each in match.iterdir() if _is_checkpoint(each)] if match.is_dir() else []
            holds = any(each.is_dir() or _STEP.search(each.name) for each in inside)
            if match.is_file() or _FOLDER.fullmatch(match.name) or not holds:
                yield match
            else:
                yield from inside

    def _settled(self, path: Path) -> bool:
        return time.time() - _newest(path) >= self._settle

    def _keep(self, path: Path, target: Path) -> bool:
        """Copy one, if it is complete."""
        try:
            before = _signature(path)
            if not before or not self._settled(path):
                return False
            _copy(path, target)
            problem = problem_of(target)
            if problem is None and _signature(path) != before:
                problem = "it was changed while it was copied"
        except FileNotFoundError:
            problem = "it was removed while it was copied"
        if problem is not None:
            log.warning("%s is passed over for a snapshot: %s", path, problem)
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):
                target.unlink()
        return problem is None


def problem_of(path: Path) -> str | None:
    """Return what is wrong with a model file, or with one in a folder, as far as the format tells; None if nothing."""
    if path.is_dir():
        for index in path.rglob("*.index.json"):
            try:
                named = {str(name) for name in orjson.loads(read_whole(index))["weight_map"].values()}
            except (ValueError, KeyError, AttributeError, TypeError):
                return f"{index.name} is damaged or incomplete"
            if missing := sorted(name for name in named if not is_there(index.parent / name)):
                return f"{missing[0]}, which {index.name} names, is missing"
        problems = (problem_of(each) for each in sorted(path.rglob("*")) if each.is_file())
        return next((problem for problem in problems if problem is not None), None)
    if path.suffix == ".safetensors":
        return _safetensors_problem(path)
    if path.suffix in _ZIPPED:
        return _zip_problem(path)
    if path.suffix == ".json":
        try:
            parse_json(read_whole(path))
        except ValueError:
            return f"{path.name} is no JSON, or not all of it"
    return None


def _safetensors_problem(path: Path) -> str | None:
    size = path.stat().st_size
    try:
        with open_file(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                return f"{path.name} ends before its header does"
            header = orjson.loads(file.read(length))
        end = max((each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{path.name} has no header of a safetensors file"
    wanted = 8 + length + end
    return None if size == wanted else f"{path.name} has {size} bytes instead of {wanted}"


def _zip_problem(path: Path) -> str | None:
    with open_file(path) as file:
        if file.read(2) != b"PK":  # of an older torch.save: nothing to tell by
            return None if path.stat().st_size else f"{path.name} is empty"
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except OSError:  # it cannot be read now, which says nothing of what is in it
        raise
    except Exception as error:  # noqa: BLE001 - a damaged archive makes zipfile raise almost anything
        return f"{path.name} is incomplete or damaged ({error})"
    return f"{path.name}: the checksum of {broken} does not match" if broken is not None else None


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return _FOLDER.fullmatch(path.name) is not None
    return path.suffix in _MODELS and not path.name.startswith(".")


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _signature(path: Path) -> _Signature:
    stats = [(str(each), each.stat()) for each in _files(path)]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _newest(path: Path) -> float:
    """Return when something in it was written last."""
    try:
        return max((each.stat().st_mtime for each in _files(path)), default=0.0)
    except FileNotFoundError:
        return 0.0


def _copy(path: Path, target: Path) -> None:
    if path.is_file():
        copy_file(path, target)
        return
    for folder, _, names in os.walk(path):
        place = target / Path(folder).relative_to(path)
        place.mkdir()
        for name in names:
            copy_file(Path(folder) / name, place / name)


def copy_file(source: Path, target: Path) -> None:
    """Copy, and do not link: another trainer may write its files in place."""
    with open_file(source) as original:
        copy_from(original, target)
