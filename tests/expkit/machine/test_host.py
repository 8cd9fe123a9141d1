"""CPU and memory of the machine, and the memory of the process."""

from __future__ import annotations

import sys

import pytest

from expkit.machine.machine import Machine
from tests.expkit.machine.conftest import FakePsutil
from tests.expkit.machine.fake_nvml import FakeNvml


def test_the_machine_says_how_it_is_without_any_gpu() -> None:
    machine = Machine(FakeNvml(init_error=12), FakePsutil())
    machine.open()
    assert machine.sample() == {"cpu/percent": 12.5, "memory/percent": 40.0, "process/rss_gb": 3.0}


def test_what_the_real_psutil_says_is_of_this_process() -> None:
    psutil = pytest.importorskip("psutil")
    machine = Machine(FakeNvml(init_error=12), psutil)
    machine.open()
    before = machine.sample()
    ballast = bytearray(b"x" * 300 * 1024**2)
    after = machine.sample()
    assert 0.25 < after["process/rss_gb"] - before["process/rss_gb"] < 0.4, len(ballast)
    assert 0 < after["memory/percent"] < 100
    assert 0 <= after["cpu/percent"] <= 100


def test_a_metric_that_psutil_refuses_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    psutil = FakePsutil()
    psutil.virtual_memory = lambda: [].pop()  # type: ignore[method-assign]
    machine = Machine(FakeNvml(init_error=12), psutil)
    machine.open()
    assert machine.sample().keys() == {"cpu/percent", "process/rss_gb"}
    assert "no memory/percent: pop from empty list" in caplog.messages


def test_a_package_that_is_missing_is_said_and_costs_its_metrics_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    machine = Machine()
    machine.open()
    assert machine.sample() == {}
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "no gpu/... metrics",
        "no cpu/percent, memory/percent, process/rss_gb metrics",
    ]
