"""A sharded checkpoint as far as it can be judged without torch: a folder with a manifest of the files in it.

The folder is made under another name, its manifest last, and nothing in it is changed once it has its own name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import orjson

from expkit.files import digest, write_json
from expkit.opening import read_whole

__all__ = ["MANIFEST", "METADATA", "STATE", "FileNote", "folder_error", "folder_size", "is_sharded", "write_manifest"]

#: Sizes and digests of all other files.
MANIFEST = "manifest.json"
#: What torch.distributed.checkpoint says of the tensors in its files, which are called `*.distcp`.
METADATA = ".metadata"
#: All else, as a checkpoint of one file, with a meta tensor in the place of each tensor that is in those.
STATE = "state.pt"

_FORMAT = 1
#: Digests are computed at about 1.3 GiB/s per core, without Python's lock.
_THREADS = 8


class FileNote(TypedDict):
    """What the manifest says of a file."""

    bytes: int
    sha256: str


def is_sharded(path: Path) -> bool:
    """Whether `path` is the folder of a sharded checkpoint, or a link to one, whatever its state."""
    return path.is_dir() and path.resolve().suffix != ".pt"


def write_manifest(folder: Path, step: int, world_size: int, files: Mapping[str, FileNote]) -> None:
    """Say in `folder` what is in it: `files`, by name, of the checkpoint of `step`, by `world_size` processes.

    Raises:
        OSError: the disk is full or broken.
    """
    content = {"format": _FORMAT, "step": step, "world_size": world_size, "files": dict(sorted(files.items()))}
    write_json(folder / MANIFEST, content)
    with contextlib.suppress(orjson.JSONDecodeError):
        if orjson.loads((folder / MANIFEST).read_bytes()) == content:
            return
    raise OSError(errno.EIO, f"what was written reads back wrong: {MANIFEST}")


def folder_size(folder: Path) -> int:
    """Return the bytes of the files in `folder`."""
    return sum(path.lstat().st_size for path in folder.iterdir())


def folder_error(folder: Path) -> str | None:
    """Return what is wrong with the files of the sharded checkpoint in `folder`, or None if they are as written.

    Raises:
        OSError: a file cannot be read, which says nothing about what is in it.
    """
    names = {path.name for path in folder.iterdir()}
    if MANIFEST not in names:
        return f"it has no {MANIFEST}, which is written last: it is not whole"
    try:
        manifest = orjson.loads(read_whole(folder / MANIFEST))
        files = {str(name): (int(note["bytes"]), str(note["sha256"])) for name, note in manifest["files"].items()}
        written_as = manifest["format"]
    except (AttributeError, LookupError, TypeError, ValueError):
        return f"its {MANIFEST} is damaged"
    if written_as != _FORMAT:
        return f"it is of format {written_as}, and this version of expkit reads {_FORMAT}"
    missing, other = sorted({STATE, METADATA, *files} - names), sorted(names - files.keys() - {MANIFEST})
    if missing or other:
        return f"{missing[0]} is missing" if missing else f"{other[0]} is in it, but not in its manifest"
    if missing := sorted({STATE, METADATA} - files.keys()):
        return f"{missing[0]} is not in its manifest"
    for name, (size, _) in files.items():
        if (found := (folder / name).stat().st_size) != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1, len(files))) as pool:
        found_digests = pool.map(lambda name: digest(folder / name), files)
        for (name, (_, expected)), found_digest in zip(files.items(), found_digests, strict=True):
            if found_digest != expected:
                return f"the digest of {name} does not match: it was changed after it was written"
    return None
