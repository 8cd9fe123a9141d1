"""The files of a snapshot: put there without a copy where the disk can, and digested."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import orjson

from expkit.checkpoint_folder import is_sharded

__all__ = ["METADATA", "RUN_CONFIG", "STATUS", "copy_from", "digest_of_metadata", "link_file"]
__all__ += ["link_or_open", "sync", "with_own_digest"]

METADATA = "metadata.json"
STATUS = "training_status.json"
#: A copy of the run's config.json: called otherwise, or the snapshot would be taken for a run.
RUN_CONFIG = "run_config.json"

#: What stands in metadata.json in place of its own digest while that is computed.
_BLANK = "0" * 64

#: `FICLONE` of <linux/fs.h>: the copy shares the blocks of the original until one of them is written.
_FICLONE = 0x40049409


def link_file(source: Path, target: Path) -> None:
    """Give `source` the second name `target`: a hard link, a reflink, or a copy where the disk has neither.

    A file that is never written in place, as no checkpoint is, can be shared so: deleting one name leaves the other. Of
    a folder of shards each file gets its second name.

    Raises:
        FileNotFoundError: there is no `source` (any more).
        OSError: it cannot be copied either: a full disk, say.
    """
    for original, name in link_or_open(source, target):
        with original:
            copy_from(original, name)


def link_or_open(source: Path, target: Path) -> list[tuple[BinaryIO, Path]]:
    """Do of `link_file` what takes no time. Return the open files that are left to copy, and where to; mostly none.

    Raises:
        FileNotFoundError: there is no `source` (any more).
        OSError: it cannot be read.
    """
    source = source.resolve(strict=True)  # the file itself: a hard link to a symbolic link would be worth nothing
    if is_sharded(source):
        target.mkdir()
        return [left for file in sorted(source.iterdir()) for left in link_or_open(file, target / file.name)]
    if not source.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(source))
    try:
        os.link(source, target)
        return []
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file system without links, somebody else's file, too many links
        return [(source.open("rb"), target)]


def copy_from(original: BinaryIO, target: Path) -> None:
    """Write what is left of `original` to `target`, durably: as a reflink where the disk can.

    Raises:
        OSError: the disk refuses.
    """
    with target.open("wb") as copy:
        if not _share_blocks(original.fileno(), copy.fileno()):
            shutil.copyfileobj(original, copy, 1 << 24)
        copy.flush()
        os.fsync(copy.fileno())


def _share_blocks(original: int, copy: int) -> bool:
    try:
        import fcntl

        fcntl.ioctl(copy, _FICLONE, original)
    except (ImportError, OSError):
        return False
    return True


def sync(path: Path) -> None:
    """Have what was written to a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_own_digest(metadata: dict[str, object]) -> bytes:
    """Return `metadata` as JSON text with a last field `sha256`, the digest of that text with zeros in its place."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    blank = orjson.dumps({**metadata, "sha256": _BLANK}, option=options)
    return _replace_last(blank, _BLANK, hashlib.sha256(blank).hexdigest())


def digest_of_metadata(text: bytes, said: str) -> str:
    """Return what the own digest of `text` should be, where it says that it is `said`."""
    return hashlib.sha256(_replace_last(text, said, _BLANK)).hexdigest()


def _replace_last(text: bytes, old: str, new: str) -> bytes:
    before, found, after = text.rpartition(old.encode())
    return before + new.encode() + after if found else text
