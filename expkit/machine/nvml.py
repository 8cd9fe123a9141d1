"""NVIDIA's management library: which GPUs this process has, and what each of them says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from expkit.machine.latch import Latch
from expkit.machine.visible import choose, torch_uuids, visible_entries

__all__ = ["Nvml"]

_GB = 1024**3


class Nvml:
    """Asks NVML about the GPUs that this process may use. Nothing raises: what cannot be read is left out.

    CUDA and NVML number GPUs differently, so a GPU is known by its UUID, and numbered as CUDA does in this process.

    Args:
        pynvml: the module of that name.
        latch: makes the calls.
    """

    def __init__(self, pynvml: Any, latch: Latch) -> None:
        self._nvml = pynvml
        self._latch = latch
        self._open = False
        self._uuids: list[str] | None = None
        self._from_torch = False
        self._queries: dict[tuple[str, ...], Callable[[Any], dict[str, float]]] = {
            ("compute_util", "memory_util"): self._utilization,
            ("memory_used_gb", "memory_used_pct", "memory_total_gb"): self._memory,
            ("power_w",): lambda device: {"power_w": pynvml.nvmlDeviceGetPowerUsage(device) / 1000},
            ("temp_c",): self._temperature,
        }

    def uuids(self) -> list[str]:
        """Return the UUID of each GPU of this process, in CUDA's order; [] if there are none, or not known yet."""
        if not self._open:
            self._open = self._latch.attempt("nvml", self._init) or False
        if not self._open:
            return []
        if not self._from_torch:  # once CUDA is at work here, it is asked itself
            known = self._latch.attempt("torch", torch_uuids)
            if known is not None:
                self._uuids, self._from_torch = known, True
        if self._uuids is None:
            self._uuids = self._latch.attempt("gpus", self._find)
        return self._uuids or []

    def read(self) -> list[dict[str, float]]:
        """Return what each GPU says now, in CUDA's order: what is not available is not among it.

        The names and units: compute_util, memory_util, memory_used_pct (percent), memory_used_gb, memory_total_gb
        (1024^3 bytes), power_w (watts), temp_c (degrees Celsius).
        """
        return [self._read(index, uuid) for index, uuid in enumerate(self.uuids())]

    def close(self) -> None:
        """Let go of NVML."""
        if self._open:
            self._open = False
            self._latch.attempt("shutdown", self._nvml.nvmlShutdown)

    def _init(self) -> bool:
        self._nvml.nvmlInit()
        return True

    def _read(self, index: int, uuid: str) -> dict[str, float]:
        device = self._latch.attempt((index, uuid, ()), lambda: self._device(uuid))
        if device is None:
            return {}
        values: dict[str, float] = {}
        for names, query in self._queries.items():
            values |= self._latch.attempt((index, uuid, names), lambda query=query: query(device)) or {}  # type: ignore[misc]
        return values

    def _find(self) -> list[str]:
        """Return the UUIDs of the GPUs that CUDA would show this process, without asking CUDA.

        Raises:
            LookupError: only CUDA itself knows.
        """
        entries = visible_entries()
        devices = self._devices()
        uuids = [self._nvml.nvmlDeviceGetUUID(device) for device in devices]
        if entries and isinstance(entries[0], str):
            if not entries[0].startswith("MIG-"):
                return choose(entries, uuids)
            instances = [self._nvml.nvmlDeviceGetUUID(each) for device in devices for each in self._instances(device)]
            named = choose(entries, instances) or [entries[0]]  # an older way to write it, which NVML still knows
            return named[:1]  # a process has one instance
        in_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"  # which is NVML's
        alike = len({self._nvml.nvmlDeviceGetName(device) for device in devices}) < 2
        divided = len(devices) > 1 and any(map(self._is_divided, devices))
        if entries != [] and (divided or not (in_order or alike)):
            raise LookupError("which GPUs are this process's is known once it uses CUDA, or if UUIDs name them")
        return choose(entries, uuids)

    def _devices(self) -> list[Any]:
        """Return all GPUs that this process may open, in the order of the PCI bus."""
        found = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                found.append(self._nvml.nvmlDeviceGetHandleByIndex(index))
            except self._nvml.NVMLError as error:
                if error.value != self._nvml.NVML_ERROR_NO_PERMISSION:  # a scheduler's: CUDA does not count it either
                    raise
        return found

    def _device(self, uuid: str) -> Any:
        """Return NVML's handle of a GPU or of a part of one.

        Raises:
            LookupError: the GPU is divided, and which part is meant is not known.
        """
        try:
            device = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_UNINITIALIZED:  # somebody else has shut it down
                self._open = False
            if error.value != self._nvml.NVML_ERROR_NOT_FOUND or not uuid.startswith("GPU-"):
                raise
            # CUDA gives a part's UUID without saying that it is one.
            return self._nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid.removeprefix('GPU-')}")
        if uuid.startswith("MIG-") or not self._is_divided(device):
            return device
        instances = self._instances(device)
        if len(instances) != 1:
            raise LookupError(f"MIG with {len(instances)} instances: name this process's in CUDA_VISIBLE_DEVICES")
        return instances[0]

    def _is_divided(self, device: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(device)[0] == 1)
        except self._nvml.NVMLError:  # a GPU that cannot be divided
            return False

    def _instances(self, device: Any) -> list[Any]:
        """Return the MIG instances of a GPU."""
        found = []
        try:
            for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
                try:
                    found.append(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
                except self._nvml.NVMLError as error:
                    if error.value != self._nvml.NVML_ERROR_NOT_FOUND:  # a place that is not taken
                        raise
        except self._nvml.NVMLError as error:
            if error.value != self._nvml.NVML_ERROR_NOT_SUPPORTED:
                raise
        return found

    def _utilization(self, device: Any) -> dict[str, float]:
        rates = self._nvml.nvmlDeviceGetUtilizationRates(device)
        return {"compute_util": float(rates.gpu), "memory_util": float(rates.memory)}

    def _memory(self, device: Any) -> dict[str, float]:
        try:  # the second version leaves out what the driver has reserved for itself
            memory = self._nvml.nvmlDeviceGetMemoryInfo(device, version=self._nvml.nvmlMemory_v2)
        except self._nvml.NVMLError as error:
            old = (self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND, self._nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
            if error.value not in old:
                raise
            memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
        return {
            "memory_used_gb": memory.used / _GB,
            "memory_used_pct": 100 * memory.used / memory.total,
            "memory_total_gb": memory.total / _GB,
        }

    def _temperature(self, device: Any) -> dict[str, float]:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        return {"temp_c": float(self._nvml.nvmlDeviceGetTemperature(device, sensor))}
