"""What a run ran on."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch

from expkit.environment import hardware, packages, slurm_ids
from expkit.machine.machine import Machine
from tests.expkit.machine.conftest import FakePsutil
from tests.expkit.machine.fake_nvml import FakeGpu, FakeNvml


def test_hardware_is_plain_json_with_the_units_that_it_says() -> None:
    found = json.loads(json.dumps(hardware()))
    assert found["cpu"]
    assert 1 <= found["cpu_count"] <= (os.cpu_count() or 1)
    assert found["memory_gb"] > 0.1
    assert len(found["gpu_uuids"]) == found["gpu_count"]
    assert (found["gpu_model"] is None) == (found["gpu_count"] == 0)


def test_the_uuids_of_gpus_are_those_that_are_sampled_in_the_order_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> SimpleNamespace:
        return SimpleNamespace(name="NVIDIA H200", uuid=("bbbb", "aaaa")[index])

    for name, value in (("is_available", True), ("is_initialized", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = hardware()
    assert (found["gpu_model"], found["gpu_count"]) == ("NVIDIA H200", 2)
    assert found["gpu_uuids"] == ["GPU-bbbb", "GPU-aaaa"]
    machine = Machine(FakeNvml(FakeGpu("GPU-aaaa", celsius=40), FakeGpu("GPU-bbbb", celsius=50)), FakePsutil())
    machine.open()
    assert machine.sample()["gpu/0/temp_c"] == 50


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expkit.environment._PACKAGES", ("torch", "no-such-package"))
    assert packages().keys() == {"python", "torch"}


def test_slurm_ids_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_ids() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_ids() == {"job_id": "17", "array_task_id": "3"}
