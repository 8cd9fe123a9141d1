"""A copy of a state at one moment, so that it can be written while training changes the original.

The copies go into buffers that are kept from one checkpoint to the next: memory that the system has handed out already
takes a fifth of the time of fresh memory. Of tensors on CUDA the buffers are pinned, and the copy is only enqueued:
work that the loop enqueues later cannot overtake it.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expkit.checkpoints.shards import holds_tensors

__all__ = ["Staging", "fits_in_memory", "state_bytes"]

_CONTAINERS = (list, tuple, set)
_SPARE = 256 * 1024**2


class Staging:
    """Copies states. Each call of `copy` overwrites what the call before has returned."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, bool], list[torch.Tensor]] = {}
        self._free: dict[tuple[int, bool], list[torch.Tensor]] = {}
        self._storages: dict[int, torch.Tensor] = {}
        self._devices: set[torch.device] = set()

    def copy(self, state: Any) -> tuple[Any, Callable[[], None]]:
        """Return a copy of `state` on the CPU, and what to call before it is read: it waits for the device.

        Tensors that share memory share it in the copy, too.
        """
        self._free = {key: list(buffers) for key, buffers in self._buffers.items()}
        self._storages, self._devices = {}, set()
        copied = self._copy(state)
        events = []
        for device in self._devices:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            events.append(event)

        def wait() -> None:
            for event in events:
                event.synchronize()

        self._storages = {}
        self._drop_unused()
        return copied, wait

    def _drop_unused(self) -> None:
        """Forget buffers of sizes that this state does not have: batches of ever other lengths would pile up."""
        for key, unused in self._free.items():
            kept = [buffer for buffer in self._buffers[key] if all(buffer is not other for other in unused)]
            self._buffers[key] = kept
        self._buffers = {key: buffers for key, buffers in self._buffers.items() if buffers}
        self._free = {}

    @property
    def size(self) -> int:
        """The bytes of the buffers."""
        return sum(size * len(buffers) for (size, _), buffers in self._buffers.items())

    def _copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in (torch.Tensor, nn.Parameter) and _is_plain(value):
            return self._copy_tensor(value)
        if isinstance(value, torch.Tensor) and value.is_meta:
            return value  # stands for one that is elsewhere
        if isinstance(value, torch.Tensor):
            return copy.deepcopy(value.detach()).cpu()
        if kind in (dict, OrderedDict, Counter):
            copied = kind((key, self._copy(item)) for key, item in value.items())
            if hasattr(value, "_metadata"):  # of a module's state: versions of the formats
                copied._metadata = copy.copy(value._metadata)  # type: ignore[union-attr]
            return copied
        if kind in _CONTAINERS:
            return kind(map(self._copy, value)) if kind is not list or holds_tensors(value) else list(value)
        return copy.copy(value) if kind is bytearray else value

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = self._copy_storage(storage, tensor.device)
        target = self._storages[key].untyped_storage()
        copied = torch.empty(0, dtype=tensor.dtype)
        copied.set_(target, tensor.storage_offset(), tensor.size(), tensor.stride())
        if type(tensor) is nn.Parameter:
            return nn.Parameter(copied, requires_grad=tensor.requires_grad)
        return copied.requires_grad_(tensor.requires_grad)

    def _copy_storage(self, storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
        size, cuda = storage.nbytes(), device.type == "cuda"
        free = self._free.get((size, cuda))
        if free:
            buffer = free.pop()
        else:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
            self._buffers.setdefault((size, cuda), []).append(buffer)
        source = torch.empty(0, dtype=torch.uint8, device=device).set_(storage, 0, (size,), (1,))
        buffer.copy_(source, non_blocking=cuda)
        if cuda:
            self._devices.add(device)
        return buffer


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a copy of its memory is all there is to copy."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    return plain and tensor.device.type in ("cpu", "cuda") and not tensor.is_conj() and not tensor.is_neg()


def state_bytes(value: Any) -> int:
    """Return the bytes of all tensors in `value`, those that share memory counted once."""
    storages: dict[int, int] = {}

    def collect(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            if item.layout is torch.strided:
                storage = item.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
        elif isinstance(item, dict):
            for each in item.values():
                collect(each)
        elif isinstance(item, list | tuple) and holds_tensors(item):
            for each in item:
                collect(each)

    collect(value)
    return sum(storages.values())


def fits_in_memory(size: int) -> bool:
    """Whether another `size` bytes fit into the memory of this machine, and of this process's control group."""
    free = [free for read in (_free_of_machine, _free_of_group) if (free := read()) is not None]
    return not free or size + _SPARE < min(free)


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _free_of_group() -> int | None:
    """What a container or a SLURM job may still take (control groups, version 2); None without a limit."""
    try:
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        folder = Path("/sys/fs/cgroup", group)
        limits = []
        for place in (folder, *folder.parents):
            if not place.is_relative_to("/sys/fs/cgroup"):
                break
            limit = place / "memory.max"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                used = int((place / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
                limits.append(int(text) - used)
        return min(limits, default=None)
    except (OSError, ValueError):
        return None
