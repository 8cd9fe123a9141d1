"""Which GPUs this process may use, by UUID: what CUDA_VISIBLE_DEVICES says, read as CUDA reads it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

__all__ = ["choose", "parse_visible", "torch_uuids", "visible_entries"]

_NUMBER = re.compile(r"\s*([+-]?[0-9]+)")


def visible_entries() -> list[int] | list[str] | None:
    """Return what CUDA_VISIBLE_DEVICES names now; see `parse_visible`."""
    return parse_visible(os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_visible(text: str | None) -> list[int] | list[str] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES that count.

    The first entry decides whether the list is one of numbers, of `GPU-` UUIDs or of `MIG-` UUIDs; the first that is
    of another kind, negative or no number ends it. A number counts as far as it is one (`1gpu` is 1), and what
    stands twice makes the whole list empty.

    Args:
        text: the variable's value, or None if it is not set.

    Returns:
        numbers, UUIDs (which may be abbreviated), or None for all GPUs.
    """
    if text is None:
        return None
    for prefix in ("GPU-", "MIG-"):
        if text.startswith(prefix):
            names: list[str] = []
            for entry in text.split(","):
                if entry in names:
                    return []
                if not entry.startswith(prefix):
                    break
                names.append(entry)
            return names
    numbers: list[int] = []
    for entry in text.split(","):
        found = _NUMBER.match(entry)
        number = int(found[1]) if found else -1
        if number in numbers:
            return []
        if number < 0:
            break
        numbers.append(number)
    return numbers


def choose(entries: Sequence[int] | Sequence[str] | None, uuids: Sequence[str]) -> list[str]:
    """Return the UUIDs of the devices that stay visible, in the order in which CUDA numbers them.

    The first entry that fits no device, or more than one, ends the list; a device that is named twice makes it empty.

    Args:
        entries: what `parse_visible` returned.
        uuids: those of all devices, in the order in which CUDA would number them without the variable.
    """
    if entries is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in entries:
        if isinstance(entry, int):
            fitting = [uuids[entry]] if entry < len(uuids) else []
        else:
            fitting = [uuid for uuid in uuids if uuid.startswith(entry)]
        if len(fitting) != 1:
            break
        if fitting[0] in chosen:
            return []
        chosen += fitting
    return chosen


def torch_uuids() -> list[str] | None:
    """Return the UUIDs of this process's GPUs as torch numbers them, or None before torch has initialised CUDA.

    They are written as NVML and nvidia-smi write them: `GPU-...`, or the `MIG-...` of CUDA_VISIBLE_DEVICES.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not hasattr(cuda, "is_initialized") or not cuda.is_initialized():
        return None
    uuids = [f"GPU-{cuda.get_device_properties(index).uuid}" for index in range(cuda.device_count())]
    named = [str(entry) for entry in visible_entries() or () if str(entry).startswith("MIG-")]
    return named[: len(uuids)] if len(named) >= len(uuids) else uuids
