"""Copies of data on a fast disk of the node, made before a run reads them: `cluster.stage` and `cluster.scratch`."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError
from expkit.files import atomic_folder

__all__ = ["staged", "unstaged"]

log = logging.getLogger("expkit")

_FOLDER = "expkit-data"
_GB = 1024**3


def staged(config: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return a configuration whose `cluster.stage` settings name copies on `cluster.scratch`, and copy -> original.

    A copy is made once per node, whoever comes first, and again once the original has changed (its size, or the time of
    its last change). If it cannot be made, for want of room say, that is said, and the original is read.

    Raises:
        ConfigError: there is no such file or folder.
    """
    keys = list(OmegaConf.select(config, "cluster.stage") or ())
    if not keys:
        return config, {}
    changed = copy.deepcopy(config)
    copies: dict[str, str] = {}
    scratch = Path(str(config.cluster.scratch)).expanduser()
    for key in map(str, keys):
        value = OmegaConf.select(config, key)
        if value is None:  # one file serves all tasks of a cluster
            log.info("cluster.stage: %s is not set here: there is nothing to copy", key)
            continue
        original = Path(str(value)).expanduser()
        if not original.exists():
            raise ConfigError(f"{key}={value}: there is no such file or folder to copy to cluster.scratch")
        try:
            place = _copy(original.resolve(), scratch)
        except OSError as error:
            log.warning("%s=%s is read where it is: no copy in %s (%s)", key, value, scratch, error.strerror or error)
            continue
        OmegaConf.update(changed, key, str(place))
        copies[str(place)] = str(value)
    return changed, copies


def unstaged(value: Any, copies: Mapping[str, str]) -> Any:
    """Return a plain value with the paths of copies replaced by those of the originals."""
    if isinstance(value, Mapping):
        return {key: unstaged(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unstaged(item, copies) for item in value]
    return copies.get(value, value) if isinstance(value, str) else value


def _copy(original: Path, scratch: Path) -> Path:
    """Return the copy of a file or folder, made unless it is there."""
    files = list(_files(original))
    seen = hashlib.sha256(repr([str(original), *files]).encode()).hexdigest()[:16]
    folder = scratch / _FOLDER / seen
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{seen}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other jobs of this node wait for the first one's copy
        if not folder.is_dir():
            size, free = sum(size for _, size, _ in files), shutil.disk_usage(folder.parent).free
            if size > free:
                raise OSError(f"{size / _GB:.1f} GB do not fit into {free / _GB:.1f} GB")
            began = time.monotonic()
            with atomic_folder(folder) as making:
                if original.is_dir():
                    shutil.copytree(original, making / original.name)
                else:
                    shutil.copy2(original, making / original.name)
            took = time.monotonic() - began
            log.info("copied %s (%.2f GB) to %s in %.1f s", original, size / _GB, folder, took)
    return folder / original.name


def _files(original: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the path below `original`, bytes and time of change of each of its files."""
    if not original.is_dir():
        stat = original.stat()
        yield "", stat.st_size, stat.st_mtime_ns
        return
    for folder, folders, names in os.walk(original, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            stat = path.stat()
            yield str(path.relative_to(original)), stat.st_size, stat.st_mtime_ns
