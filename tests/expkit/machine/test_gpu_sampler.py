"""The thread that samples the machine."""

from __future__ import annotations

import math
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import expkit
from expkit.errors import UserError
from expkit.machine import GPUSampler
from expkit.machine.machine import Machine
from tests.expkit.machine.conftest import FakePsutil
from tests.expkit.machine.fake_nvml import FakeGpu, FakeNvml

Samples = SimpleQueue[Mapping[str, float]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expkit.machine.gpu_sampler._FIRST", 0.01)


def machine(nvml: FakeNvml) -> Machine:
    return Machine(nvml, FakePsutil())


def test_every_sample_is_handed_out_by_a_thread_until_the_context_ends() -> None:
    nvml, samples, threads = FakeNvml(FakeGpu("GPU-aaaa")), Samples(), set()

    def take(sample: Mapping[str, float]) -> None:
        threads.add(threading.current_thread())
        samples.put(sample)

    with GPUSampler(take, interval=1, machine=machine(nvml)) as sampler:
        began = time.monotonic()
        first, second = samples.get(timeout=5), samples.get(timeout=5)
        assert 0.9 < time.monotonic() - began < 3
        assert first["gpu/0/temp_c"] == second["gpu/0/temp_c"] == 61
        assert first["cpu/percent"] == 12.5, "not the 0 of the first call"
        assert sampler.take() == second
        assert sampler.take() == {}, "once"
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert not thread.is_alive()
    assert nvml.users == 0, "NVML was let go"


@pytest.mark.parametrize("interval", [0.99, 0, -1, math.nan, math.inf, True, None, "10"])
def test_an_interval_of_less_than_a_second_is_refused_in_one_line(interval: Any) -> None:
    with pytest.raises(UserError, match=r"^interval=.*: it must be a number of seconds, at least 1$"):
        expkit.GPUSampler(interval=interval)


def test_a_function_that_raises_is_said_once_and_is_called_again(caplog: pytest.LogCaptureFixture) -> None:
    nvml, calls = FakeNvml(FakeGpu("GPU-aaaa")), Samples()

    def take(sample: Mapping[str, float]) -> None:
        calls.put(sample)
        raise ValueError("no room")

    with GPUSampler(take, interval=1, machine=machine(nvml)):
        calls.get(timeout=5)
        calls.get(timeout=5)
    assert caplog.messages == ["a sample of the machine was not taken: ValueError: no room"]


@pytest.mark.parametrize("when", ["at the start", "in a sample"])
def test_a_driver_that_hangs_holds_up_the_end_for_a_bounded_time_and_delivers_nothing_later(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    nvml, samples, release = FakeNvml(FakeGpu("GPU-aaaa")), Samples(), threading.Event()
    if when == "at the start":
        nvml.hang = release
    sampler = GPUSampler(samples.put, interval=1, machine=machine(nvml))
    began = time.monotonic()
    sampler.start()
    assert time.monotonic() - began < 0.5, "the start does not wait for the driver"
    if when == "in a sample":
        samples.get(timeout=5)
        nvml.hang = release
        time.sleep(1.1)
    thread = next(each for each in threading.enumerate() if each.name == "expkit-gpu")
    threading.Timer(3, release.set).start()  # who waits for the driver is found out
    began = time.monotonic()
    sampler.close(timeout=0.2)
    assert time.monotonic() - began < 1
    assert "the GPU driver has not answered for 0.2 s: its last sample is given up" in caplog.messages
    release.set()
    thread.join(5)
    assert not thread.is_alive()
    assert samples.empty()


def test_a_process_ends_though_the_driver_hangs_and_nobody_has_closed_the_sampler() -> None:
    code = """
import sys, time, types
hangs = lambda: time.sleep(60)
sys.modules["pynvml"] = types.SimpleNamespace(nvmlInit=hangs)
from expkit import GPUSampler
GPUSampler().start()
time.sleep(0.2)
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert time.monotonic() - began < 20


def test_a_forked_process_has_no_sampler_and_closes_it_at_once() -> None:
    nvml, samples = FakeNvml(FakeGpu("GPU-aaaa")), Samples()
    sampler = GPUSampler(samples.put, interval=1, machine=machine(nvml))

    def child() -> None:
        names = [each.name for each in threading.enumerate()]
        began = time.monotonic()
        sampler.close(timeout=5)
        sys.exit("expkit-gpu" in names or time.monotonic() - began > 1)

    with sampler:
        samples.get(timeout=5)
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        assert samples.get(timeout=5), "the parent's goes on"


def test_a_closed_sampler_can_be_started_again() -> None:
    samples = Samples()
    sampler = GPUSampler(samples.put, machine=machine(FakeNvml(FakeGpu("GPU-aaaa"))))
    for _ in range(2):
        with sampler:
            assert "gpu/0/temp_c" in samples.get(timeout=5)
    sampler.close()


def test_the_page_shows_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text()
    blocks = dict(re.findall(r"<!-- gpu: (\w+) -->\n```python\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expkit.machine.machine._installed", lambda *_: None)
    monkeypatch.setattr("time.sleep", lambda _: None)
    names: dict[str, Any] = {}
    for block in blocks.values():
        exec(block, names)
    assert [entry["loss"] for entry in names["metrics_logger"].load_metrics()][:2] == [1 / 10, 1 / 20]
    assert len(blocks) == page.count("```python") == 2
