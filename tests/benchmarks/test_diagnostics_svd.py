"""The benchmark of the svd diagnostic, on small matrices."""

from __future__ import annotations

import pytest
import torch

from benchmarks import diagnostics_svd


def test_it_measures_the_followed_subspace_against_the_full_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics_svd, "SHAPES", {"wide": (90, 120), "tall": (130, 90)})
    monkeypatch.setattr(diagnostics_svd, "BLOCKS", 2)
    threads = torch.get_num_threads()
    result = diagnostics_svd.measure(rounds=2, intervals=1, threads=1)
    assert torch.get_num_threads() == threads
    # Four matrices, three analyses beside the full one; the first has no angle.
    assert len(result.angles) == 4 * 2 and min(result.angles) > 0
    assert max(result.errors["principal_alignment"]) < 1e-2
    assert max(result.errors["reconstruction_error"]) < 1e-3
    assert "a whole analysis 1/" in result.markdown()
