"""The most memory that tensors took on a GPU."""

from __future__ import annotations

import pytest
import torch

from expkit.machine import PeakMemory


def test_without_cuda_there_is_none() -> None:
    peak = PeakMemory(torch.device("cpu"))
    peak.start()
    assert peak.take() == {}


def test_each_peak_is_that_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {torch.device("cuda:1"): 9 * 1024**3}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", most.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: most.update({device: 1024**3}))
    peak = PeakMemory(torch.device("cuda:1"))
    assert peak.take() == {"gpu/peak_memory_gb": 9}
    assert peak.take() == {"gpu/peak_memory_gb": 1}
    most[torch.device("cuda:1")] = 5 * 1024**3
    peak.start()
    assert peak.take() == {"gpu/peak_memory_gb": 1}, "what came before the start does not count"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_real_peak_is_that_of_the_tensors_and_is_forgotten() -> None:
    peak = PeakMemory(torch.device("cuda"))
    peak.start()
    ballast = torch.empty(256 * 1024**2, device="cuda")
    del ballast
    assert peak.take()["gpu/peak_memory_gb"] >= 1
    assert peak.take()["gpu/peak_memory_gb"] < 1
