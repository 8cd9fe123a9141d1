"""What a run ran on."""

from __future__ import annotations

import json
import os

import pytest

from expkit.environment import hardware, packages, slurm_ids


def test_hardware_is_plain_json_with_the_units_that_it_says() -> None:
    found = json.loads(json.dumps(hardware()))
    assert found["cpu"]
    assert 1 <= found["cpu_count"] <= (os.cpu_count() or 1)
    assert found["memory_gb"] > 0.1
    assert len(found["gpu_uuids"]) == found["gpu_count"]
    assert (found["gpu_model"] is None) == (found["gpu_count"] == 0)


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expkit.environment._PACKAGES", ("torch", "no-such-package"))
    assert packages().keys() == {"python", "torch"}


def test_slurm_ids_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_ids() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_ids() == {"job_id": "17", "array_task_id": "3"}
