"""How ranks share a machine, and what they say of it."""

from __future__ import annotations

import os

import pytest
import torch

from expkit.dist import Dist
from train.following import _named
from train.threads import compute_threads


def test_a_node_says_how_it_is_doing_under_its_number() -> None:
    sample = {"cpu/percent": 1.0, "gpu/0/memory/used_gb": 2.0}
    assert _named(sample, 3) == {"cpu/node3/percent": 1.0, "gpu/node3/0/memory/used_gb": 2.0}


@pytest.mark.parametrize(
    ("asked", "local", "environment", "threads"),
    [
        pytest.param(3, 2, None, 3, id="asked for"),
        pytest.param(None, 2, None, 4, id="a share of the machine"),
        pytest.param(None, 16, None, 1, id="one at least"),
        pytest.param(None, 2, "5", 2, id="as the environment says"),
        pytest.param(None, 1, None, 2, id="alone on its node"),
    ],
)
def test_processes_of_a_machine_share_its_cores(
    asked: int | None, local: int, environment: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with compute_threads(asked, Dist(0, 32, local_size=local)):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2, "as before"
    finally:
        torch.set_num_threads(before)
