"""What a process notes of the machine while it lives, so that its death can be explained afterwards. Linux only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["Vitals", "boot_id", "boot_time", "oom_kills"]

_GB = 1024**3
_ROOT = Path("/")

#: File system of the memory controller -> its limit, its use, what of that the kernel can take back at once, and where
#: out-of-memory kills are counted (kernel documentation: cgroup-v2.rst, "memory.events"; cgroup-v1/memory.rst).
_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file", "memory.events"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control"),
}


class Vitals:
    """Reads the boot id, the memory in use against its limit, and the out-of-memory kills of this process's cgroup.

    The memory is that of the cgroup with the lowest limit above this process (page cache that can be given back at once
    does not count), or of the whole machine where there is no such limit.

    Args:
        root: where /proc and /sys are, for tests.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._boot_id = boot_id(root)
        self._group = _memory_group(root)
        self._limited = self._lowest_limit()
        self._kills_before = self._kills()

    def read(self) -> dict[str, Any]:
        """Return boot_id, memory_used_gb and memory_limit_gb (1024^3 bytes), and of the cgroup its folder, the number
        that tells it from a later one of the same name, its out-of-memory kills, and those before this process began.

        What cannot be read is not among them.
        """
        used, limit = self._memory()
        found = {"boot_id": self._boot_id, "memory_used_gb": used, "memory_limit_gb": limit}
        if self._group is not None:
            with contextlib.suppress(OSError):
                found["cgroup_id"] = self._group[1].stat().st_ino
                found["cgroup"] = f"/{self._group[1].relative_to(self._root)}"
            found |= {"oom_kills": self._kills(), "oom_kills_before": self._kills_before}
        return {name: value for name, value in found.items() if value is not None}

    def _kills(self) -> int | None:
        return _field(self._group[1] / _FILES[self._group[0]][3], "oom_kill") if self._group is not None else None

    def _memory(self) -> tuple[float | None, float | None]:
        """Return what is used, and the limit, in GB."""
        if self._limited is not None and self._group is not None:
            limit_file, used_file, inactive, _ = _FILES[self._group[0]]
            limit, used = (_number(self._limited / file) for file in (limit_file, used_file))
            if limit is not None and used is not None:
                back = _field(self._limited / "memory.stat", inactive) or 0
                return round((used - back) / _GB, 3), round(limit / _GB, 3)
        return self._machine_memory()

    def _machine_memory(self) -> tuple[float | None, float | None]:
        total, available = _fields(self._root / "proc/meminfo", "MemTotal:", "MemAvailable:")
        if total is None or available is None:
            return None, None
        return round((total - available) * 1024 / _GB, 3), round(total * 1024 / _GB, 3)

    def _lowest_limit(self) -> Path | None:
        """Return the cgroup, of those that this process is in, with the lowest limit below the machine's memory."""
        if self._group is None:
            return None
        limit_file = _FILES[self._group[0]][0]
        lowest = (_field(self._root / "proc/meminfo", "MemTotal:") or 1 << 50) * 1024
        found = None
        for folder in (self._group[1], *self._group[1].parents):
            limit = _number(folder / limit_file)
            if limit is not None and limit < lowest:
                found, lowest = folder, limit
        return found


@lru_cache(maxsize=8)
def boot_id(root: Path = _ROOT) -> str | None:
    """Return what tells this start of the machine from every other, or None: read once, no process outlives it."""
    return _text(root / "proc/sys/kernel/random/boot_id").strip() or None


def boot_time(root: Path = _ROOT) -> float | None:
    """Return when the machine was started, in seconds since 1970, or None."""
    return _field(root / "proc/stat", "btime")


def oom_kills(group: Path) -> int | None:
    """Return how many processes of a cgroup have been killed for want of memory, whoever lacked it, or None."""
    for *_, events in _FILES.values():
        kills = _field(group / events, "oom_kill")
        if kills is not None:
            return kills
    return None


def _memory_group(root: Path) -> tuple[str, Path] | None:
    """Return the file system and the folder of the cgroup that counts this process's memory."""
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" or "memory" in controllers.split(","):
            groups["cgroup2" if number == "0" else "cgroup"] = path
    for kind, top, point in _mounts(root):
        if kind not in groups:
            continue
        inside = groups[kind].removeprefix(top.rstrip("/")) if groups[kind].startswith(top) else ""
        for folder in (point / inside.lstrip("/"), point):  # in a container only the own cgroup may be mounted
            if oom_kills(folder) is not None:
                return kind, folder
    return None


def _mounts(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield kind, root and place of each mounted hierarchy that may count memory."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, described = before.split(), after.split()
        if len(fields) < 5 or not described or described[0] not in _FILES:
            continue
        if described[0] == "cgroup2" or "memory" in described[-1].split(","):
            yield described[0], fields[3], root / fields[4].lstrip("/")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max"


def _field(path: Path, name: str) -> int | None:
    return _fields(path, name)[0]


def _fields(path: Path, *names: str) -> list[int | None]:
    """Return the numbers behind `names` in a file of names and numbers."""
    found: dict[str, int] = {}
    for line in _text(path).splitlines():
        key, *values = line.split()[:2] or [""]
        if key in names and values and values[0].isdecimal():
            found[key] = int(values[0])
            if len(found) == len(names):
                break
    return [found.get(name) for name in names]
