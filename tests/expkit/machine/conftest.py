"""What the tests of the machine's metrics share."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Cuda = Callable[..., None]


class FakePsutil:
    """A stand-in for the module psutil: the first value of cpu_percent is 0, as that of the real one."""

    def __init__(self) -> None:
        self.percent = 0.0

    def cpu_percent(self, interval: float | None) -> float:
        assert interval is None, "anything else waits"
        self.percent, last = 12.5, self.percent
        return last

    def virtual_memory(self) -> Any:
        return SimpleNamespace(percent=40.0)

    def Process(self) -> Any:
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=3 * 1024**3))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing hides GPUs, and torch has not initialised CUDA, whatever other tests have done."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("expkit.machine.visible.sys", SimpleNamespace(modules={}))
    monkeypatch.setattr("expkit.machine.machine.log.propagate", True)
    caplog.set_level("INFO", logger="expkit")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Call as `cuda("aaaa", "bbbb")`: torch has initialised CUDA, which shows it these UUIDs in this order."""

    def initialised(*uuids: str) -> None:
        fake = SimpleNamespace(
            is_initialized=lambda: True,
            device_count=lambda: len(uuids),
            get_device_properties=lambda index: SimpleNamespace(uuid=uuids[index]),
        )
        modules = {"torch": SimpleNamespace(cuda=fake)}
        monkeypatch.setattr("expkit.machine.visible.sys", SimpleNamespace(modules=modules))

    return initialised


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
