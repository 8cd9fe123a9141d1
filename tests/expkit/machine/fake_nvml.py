"""A stand-in for the module pynvml: handles, errors, MIG and permissions behave as those of the real one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

__all__ = ["FakeGpu", "FakeNvml"]

GB = 1024**3


@dataclass
class FakeGpu:
    """A GPU, or a part of one.

    Attributes:
        errors: function, or "all" -> NVML's error code.
        parts: its MIG instances; None for a GPU without MIG.
    """

    uuid: str
    name: str = "NVIDIA H200"
    util: tuple[int, int] = (50, 25)
    used: int = 20 * GB
    reserved: int = 1 * GB
    total: int = 80 * GB
    milliwatts: int = 350_500
    celsius: int = 61
    errors: dict[str, int] = field(default_factory=dict)
    parts: list[FakeGpu] | None = None
    is_part: bool = False


class FakeNvml:
    """NVML with these GPUs, in the order of the PCI bus. What it leaves out (constants, errors) is the real module's.

    Args:
        gpus: what there is.
        init_error: the code that nvmlInit fails with, if any.
        has_v2: whether the driver knows the second version of the memory query.
    """

    def __init__(self, *gpus: FakeGpu, init_error: int | None = None, has_v2: bool = True) -> None:
        self.gpus = list(gpus)
        self.init_error, self.has_v2 = init_error, has_v2
        self.users = 0
        self.calls: list[str] = []
        self.hang: threading.Event | None = None

    def __getattr__(self, name: str) -> Any:
        value = getattr(pynvml, name)
        assert not callable(value) or isinstance(value, type), f"{name} would ask the real NVML"
        return value

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.users += 1

    def nvmlShutdown(self) -> None:
        self._ask("nvmlShutdown")
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._ask("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._ask("nvmlDeviceGetHandleByIndex", self.gpus[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        for gpu in self.gpus:
            for each in (gpu, *(gpu.parts or ())):
                if each.uuid == uuid:
                    return self._ask("nvmlDeviceGetHandleByUUID", each)
        self._ask("nvmlDeviceGetHandleByUUID")
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._ask("nvmlDeviceGetUUID", gpu).uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return self._ask("nvmlDeviceGetName", gpu).name

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if self._ask("nvmlDeviceGetMigMode", gpu).parts is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7 if self._ask("nvmlDeviceGetMaxMigDeviceCount", gpu).parts is not None else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        parts = self._ask("nvmlDeviceGetMigDeviceHandleByIndex", gpu).parts
        if parts is None or index >= len(parts):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return parts[index]

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        self._not_for_parts(gpu)
        compute, memory = self._ask("nvmlDeviceGetUtilizationRates", gpu).util
        return SimpleNamespace(gpu=compute, memory=memory)

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> Any:
        if version is not None and not self.has_v2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        self._ask("nvmlDeviceGetMemoryInfo", gpu)
        used = gpu.used if version == pynvml.nvmlMemory_v2 else gpu.used + gpu.reserved
        return SimpleNamespace(used=used, total=gpu.total)

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        self._not_for_parts(gpu)
        return self._ask("nvmlDeviceGetPowerUsage", gpu).milliwatts

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        self._not_for_parts(gpu)
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._ask("nvmlDeviceGetTemperature", gpu).celsius

    def _ask(self, function: str, gpu: Any = None) -> Any:
        self.calls.append(function)
        if self.hang is not None:
            self.hang.wait()
        if not self.users:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        errors = {} if gpu is None else gpu.errors
        code = errors.get("all", errors.get(function))
        if code is not None:
            raise pynvml.NVMLError(code)
        return gpu

    def _not_for_parts(self, gpu: FakeGpu) -> None:
        if gpu.is_part:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
