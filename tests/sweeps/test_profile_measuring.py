"""What is measured of one size, in this process: that it is training itself, its time, memory and gradient noise."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.errors import ConfigError
from sweeps.profile import memory as memories
from sweeps.profile.measure import _failure, measure
from sweeps.profile.memory import GB, Memory, is_out_of_memory, limit_memory
from sweeps.profile.noise import NoiseScale
from sweeps.profile.settings import compose_setup
from sweeps.profile.timing import StepTimer, waiter
from sweeps.profile.training import SizeError
from tests.conftest import Train
from train.api import load_results

SMALL = ("task=denoise", "task.model.hidden=16", "trainer.threads=1", "detectors=[]")


TRAINER = {"grad_accumulation": 2, "clip_grad_norm": 1.0}


@functools.cache
def composed() -> Mapping[str, Any]:
    return compose_setup(None, SMALL, None, 30).config


def measured(size: int, epochs: float, **trainer: Any) -> dict[str, Any]:
    """What is told of one size."""
    said: dict[str, Any] = {}
    config = {**composed(), "trainer": {**composed()["trainer"], **trainer}}
    order = {"config": config, "batch_size": size, "epochs": epochs, "memory_limit_gb": None, "folders": ()}
    measure(order, said.update)
    return said


def test_what_is_measured_is_training_itself(train: Train, outputs: Path) -> None:
    own = ("trainer.batch_size=100", "trainer.max_epochs=2", "tracker=[]", "plots=[]", "checkpoint=none")
    train(*SMALL, *own, *(f"trainer.{key}={value}" for key, value in TRAINER.items()))
    (run,) = outputs.iterdir()
    said = measured(100, 2, **TRAINER)
    assert said["final_test_loss"] == load_results(run)["final_metrics"]["val_loss"], "to the last bit"
    assert (said["samples"], said["steps_per_epoch"], said["updates"]) == (1437, 15, 30)
    assert said["samples_per_second"] == pytest.approx(100 / said["step_time"])
    assert said["time_per_epoch"] == pytest.approx(1437 / said["samples_per_second"])
    assert said["timed_steps"] >= 10 and said["step_time_iqr"] >= 0 and said["rss_gb"] > 0.01
    samples, train_losses, test_losses = zip(*said["curve"], strict=True)
    assert samples[-1] == 2 * 1437 and len(samples) >= 10
    assert (said["final_train_loss"], said["final_test_loss"]) == (train_losses[-1], test_losses[-1])
    assert test_losses[-1] < test_losses[0]
    assert said["noise_scale"] > 0


def test_a_part_of_an_epoch_will_do() -> None:
    said = measured(100, 0.5)
    assert (said["updates"], said["curve"][-1][0]) == (8, 800), "of 15"


def test_a_size_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(SizeError, match="batch size 2,000 is more than the 1,437 training samples"):
        measured(2000, 1)
    with pytest.raises(SizeError, match=r"batch size 7 is not divisible by trainer.grad_accumulation=2"):
        measured(7, 1, grad_accumulation=2)


class Clock:
    """A device on which an update takes a second, of which the host sees nothing until it waits."""

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0

    def update(self) -> None:
        self.queued += 1
        self.now += 0.02  # to launch it

    def wait(self) -> None:
        self.now = max(self.now, self.now - 0.02 * self.queued + self.queued)
        self.queued = 0


def test_updates_are_timed_after_the_warm_up_between_moments_when_the_device_is_idle() -> None:
    clock = Clock()
    timer = StepTimer(clock.wait, warm_up=3, block=0.05, clock=lambda: clock.now)
    for step in range(12):
        clock.update()
        if step < 3:
            clock.now += 100  # to compile it
        timer.step()
    timer.stop()
    assert timer.blocks == pytest.approx([1.0, 1.0, 1.0]) and timer.timed == 9
    assert timer.median == pytest.approx(1.0) and timer.iqr == pytest.approx(0.0)
    assert timer.seconds == pytest.approx(9.0)


def test_what_is_no_update_is_not_timed() -> None:
    clock = Clock()
    timer = StepTimer(clock.wait, warm_up=0, block=10, clock=lambda: clock.now)
    timer.go_on()
    clock.update()
    timer.step()
    timer.stop()
    clock.now += 1000  # an evaluation
    timer.go_on()
    clock.update()
    timer.step()
    timer.stop()
    assert timer.blocks == pytest.approx([1.0, 1.0])


def test_the_noise_scale_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    true, size = torch.ones(400), 50
    found = NoiseScale(size)
    for _ in range(64):
        noise = 3.0 * torch.randn(400, generator=generator) / size**0.5
        found.add([(true + noise)[:100], (true + noise)[100:].reshape(30, 10)])
    assert found.value == pytest.approx(9.0, rel=0.1), "the trace of the covariance, 400 x 9, by |G|^2 = 400"


def test_no_noise_scale_of_one_batch_or_of_noise_alone() -> None:
    found = NoiseScale(8)
    found.add([torch.ones(3)])
    assert found.value is None
    found.add([-torch.ones(3)])
    assert found.value is None, "nothing is left of the gradient"


def test_out_of_memory_is_known_by_any_librarys_words() -> None:
    wrapped = ConfigError("task: train_data failed")
    wrapped.__cause__ = MemoryError()
    errors = [
        wrapped,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    ]
    assert all(map(is_out_of_memory, errors))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    text = "can't allocate memory: you tried to allocate 8 bytes."
    told = _failure(RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: {text}"), 0.5)
    want = "RuntimeError: can't allocate memory: you tried to allocate 8 bytes. (memory_limit_gb=0.5)"
    assert told == {"kind": "OOM", "message": want}
    assert _failure(SizeError("x"), None)["about_size"] and not _failure(ConfigError("x"), None)["about_size"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU of 80 GB of which others have 2 GB, this process's tensors 30, torch 32, CUDA half a GB."""
    seen: dict[str, Any] = {"in_use": iter([2.0, 2.0 + 0.5 + 31.0])}
    fakes = {
        "get_device_properties": lambda device: types.SimpleNamespace(total_memory=80 * GB),
        "max_memory_allocated": lambda device: 30 * GB,
        "max_memory_reserved": lambda device: 32 * GB,
        "memory_reserved": lambda device: 31 * GB,
        "memory_stats": lambda device: {"num_alloc_retries": 3},
        "set_per_process_memory_fraction": lambda part, device: seen.update(part=part, index=device + 0),
        "current_device": lambda: 3,
        "synchronize": lambda device: seen.update(waited=device),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    class Machine:
        def sample(self) -> dict[str, float]:
            return {"gpu/1/memory_used_gb": value} if (value := next(seen["in_use"], None)) is not None else {}

        def close(self) -> None:
            pass

    monkeypatch.setattr("expkit.machine.machine.Machine", Machine)
    return seen


def test_gpu_memory_is_what_nvidia_smi_shows_of_the_process(gpu: dict[str, Any]) -> None:
    found = Memory(torch.device("cuda:1")).read()
    assert found["gpu_memory_gb"] == pytest.approx(32.5), "CUDA's own half GB, not the others' two"
    assert (found["allocated_gb"], found["reserved_gb"], found["alloc_retries"]) == (30, 32, 3)
    assert found["memory_total_gb"] == 80


def test_the_device_that_trains_is_waited_for(gpu: dict[str, Any]) -> None:
    waiter(torch.device("cuda:1"))()
    assert gpu["waited"] == torch.device("cuda:1")


def test_without_nvml_gpu_memory_is_what_torch_holds(gpu: dict[str, Any]) -> None:
    gpu["in_use"] = iter([])
    assert Memory(torch.device("cuda:1"), 40.0).read()["gpu_memory_gb"] == 32
    gpu["in_use"] = iter([2.0, 70.0])
    assert Memory(torch.device("cuda:1")).read()["gpu_memory_gb"] == 32, "somebody else has come meanwhile"


def test_a_memory_limit_on_a_gpu_is_torchs(gpu: dict[str, Any]) -> None:
    limit_memory(20, torch.device("cuda:1"))
    assert (gpu["part"], gpu["index"]) == (0.25, 1)
    limit_memory(100, torch.device("cuda"))
    assert (gpu["part"], gpu["index"]) == (1.0, 3), "trainer.device=auto: the current one"
    assert Memory(torch.device("cuda:1"), 20).read()["memory_total_gb"] == 20


def test_the_resident_set_is_this_processs() -> None:
    assert 0.01 < (memories.peak_rss_gb() or 0) < 1000
    assert memories.peak_rss_gb(2**30) is None
