"""The gpu section: what a run records of the machine, and what it does not change."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expkit.dist import Dist
from expkit.journal import read_journal, stable
from expkit.machine import GPUSampler
from tests.conftest import Train
from tests.expkit.machine.conftest import FakePsutil
from tests.expkit.machine.fake_nvml import FakeGpu, FakeNvml
from tests.train.helpers import Run

SMALL = ("task.model.hidden=8", "tracker=[]", "plots=[]", "trainer.deterministic=true", "trainer.log_interval=1")
NAMES = {"gpu/compute_util_avg", "gpu/memory_total_gb", "gpu/1/power_w", "cpu/percent", "process/rss_gb"}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A machine with two GPUs that samples itself all the time."""
    nvml = FakeNvml(FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb"))
    modules: dict[str, Any] = {"pynvml": nvml, "psutil": FakePsutil()}
    monkeypatch.setattr("expkit.machine.machine._installed", lambda module, *_: modules[module])
    monkeypatch.setattr("expkit.machine.nvml.torch_uuids", lambda: None)
    monkeypatch.setattr("expkit.machine.gpu_sampler._FIRST", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    often = property(lambda self: 0.002, lambda self, interval: None)
    monkeypatch.setattr(GPUSampler, "interval", often, raising=False)
    return nvml


def entries(run: Path) -> list[dict[str, Any]]:
    return list(read_journal(run / "logs" / "metrics.jsonl"))


def test_samples_ride_on_the_records_of_a_run_and_ask_for_none_of_their_own(
    train: Train, outputs: Path, two_gpus: FakeNvml
) -> None:
    train(*SMALL, "trainer.max_steps=60", "trainer.log_interval=20", "run.id=on")
    on = entries(outputs / "on")
    assert [entry["step"] for entry in on] == [20, 23, 40, 46, 60]
    assert on[-1].keys() >= NAMES
    assert (on[-1]["gpu/compute_util_avg"], on[-1]["gpu/1/power_w"], on[-1]["cpu/percent"]) == (50, 350.5, 12.5)
    assert two_gpus.users == 0, "the sampler has ended with the run"


def test_a_run_that_is_sampled_and_resumed_is_bit_for_bit_one_that_is_neither(
    train: Train, outputs: Path, two_gpus: FakeNvml
) -> None:
    train(*SMALL, "trainer.max_steps=69", "gpu.enabled=false", "run.id=whole")
    assert not [name for entry in entries(outputs / "whole") for name in entry if name.startswith(("gpu/", "cpu/"))]
    assert not two_gpus.calls, "it was switched off"
    train(*SMALL, "trainer.max_steps=40", "run.id=stopped")
    train("resume=stopped", "trainer.max_steps=69")
    whole, stopped = outputs / "whole", outputs / "stopped"
    assert any("gpu/0/temp_c" in entry for entry in entries(stopped))
    kept = [[repr(stable(entry)) for entry in entries(run) if entry["step"] != 40] for run in (whole, stopped)]
    assert kept[0] == kept[1]
    one, two = (torch.load(run / "checkpoints/checkpoint_step_69.pt", weights_only=True) for run in (whole, stopped))
    assert all(
        torch.equal(one["model_state_dict"][key], two["model_state_dict"][key]) for key in one["model_state_dict"]
    )
    assert torch.equal(one["rng_state"]["torch"], two["rng_state"]["torch"])


def test_without_a_driver_a_run_says_one_line_and_goes_on(train: Train, outputs: Path, two_gpus: FakeNvml) -> None:
    two_gpus.init_error = 12
    said = train(*SMALL, "trainer.max_steps=60", "run.id=cpu", "checkpoint.monitor=nothing").stderr
    assert said.count("GPU") == 1
    assert "no NVIDIA driver here (NVML Shared Library Not Found): there are no GPU metrics" in said.splitlines()
    assert "; there are train_loss, " in said
    assert "cpu/percent" not in said, "nobody means these"
    last = entries(outputs / "cpu")[-1]
    assert last["memory/percent"] == 40
    assert not [name for name in last if name.startswith("gpu/")]
    assert json.loads((outputs / "cpu" / "status.json").read_text())["state"] == "finished"


def test_the_peak_of_memory_is_recorded_once_an_epoch() -> None:
    peaks, started = iter((3.0, 1.0, 2.0)), []
    run = Run(max_epochs=3)
    run.runner.peak = SimpleNamespace(  # type: ignore[assignment]
        start=lambda: started.append(run.runner.progress.step), take=lambda: {"gpu/peak_memory_gb": next(peaks)}
    )
    run.fit()
    assert run.values("gpu/peak_memory_gb") == [3, 1, 2]
    assert started == [0]
    found = [record.epoch for record in run.records if "gpu/peak_memory_gb" in record.metrics]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(
    ("rank", "world", "environment", "first"),
    [
        (0, 1, {}, True),
        (0, 1, {"SLURM_LOCALID": "3"}, True),
        (0, 4, {}, True),
        (1, 4, {}, False),
        (2, 4, {"LOCAL_RANK": "0"}, True),
        (1, 4, {"LOCAL_RANK": "1"}, False),
        (2, 4, {"SLURM_LOCALID": "0"}, True),
        (3, 4, {"SLURM_LOCALID": "1", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_of_each_node_samples(
    rank: int, world: int, environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Dist(rank, world).is_first_of_node is first
