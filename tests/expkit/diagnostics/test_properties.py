"""Properties of the diagnostics' numbers, on shapes, scales and spectra that hypothesis chooses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor, nn

from expkit.diagnostics.blob import BlobDiagnostic
from expkit.diagnostics.gradients import GradientsDiagnostic
from expkit.diagnostics.svd import SVDDiagnostic
from tests.expkit.diagnostics.svd_driver import analyse, layer

quickly = settings(max_examples=25, deadline=None, derandomize=True, database=None)
sizes = st.integers(2, 48)
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
seeds = st.integers(0, 2**32 - 1)


def matrix(rows: int, columns: int, decay: float, seed: int) -> Tensor:
    """A matrix whose singular values fall geometrically, each to exp(-decay) of the one before."""
    generator = torch.Generator().manual_seed(seed)
    g = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(n, g, generator=generator, dtype=torch.float64)).Q for n in (rows, columns))
    values = torch.exp(-decay * torch.arange(g, dtype=torch.float64))
    return ((u * values) @ v.T).float()


@quickly
@given(sizes, sizes, st.floats(0.05, 0.5), st.sampled_from(["subspace", "full"]), seeds)
def test_the_two_alignments_are_complementary_and_the_error_is_that_of_the_truncation(
    rows: int, columns: int, decay: float, method: str, seed: int
) -> None:
    weight, gradient = matrix(rows, columns, decay, seed), matrix(rows, columns, 0.0, seed + 1)
    found = analyse(SVDDiagnostic(method=method), layer(weight, gradient))
    assert found["principal_alignment"] ** 2 + found["minor_alignment"] ** 2 == pytest.approx(1, abs=1e-9)
    u, s, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    k = len(s) - int(found["r"])
    truncated = (u[:, :k] * s[:k]) @ v[:k]
    expected = np.linalg.norm(weight.double().numpy() - truncated) / np.linalg.norm(s)
    assert found["reconstruction_error"] == pytest.approx(expected, abs=5e-4)


@quickly
@given(sizes, sizes, st.floats(0.1, 0.5), scales, st.booleans(), seeds)
def test_neither_scale_nor_the_order_of_units_matters_to_svd(
    rows: int, columns: int, decay: float, scale: float, transposed: bool, seed: int
) -> None:
    weight, gradient = matrix(rows, columns, decay, seed), matrix(rows, columns, 0.02, seed + 1)
    plain = analyse(SVDDiagnostic(method="full"), layer(weight, gradient))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    other, turned = scale * weight[order], gradient[order] / scale
    changed = analyse(
        SVDDiagnostic(method="full"),
        layer(other.T.contiguous(), turned.T.contiguous()) if transposed and rows != columns else layer(other, turned),
    )
    assert changed == pytest.approx(plain, abs=2e-3, rel=1e-3, nan_ok=True)


@quickly
@given(sizes, sizes, st.floats(0.2, 0.5), st.floats(1e-3, 0.3), seeds)
def test_the_angle_is_scipys(rows: int, columns: int, decay: float, size: float, seed: int) -> None:
    weight = matrix(rows, columns, decay, seed)
    moved = weight + size * matrix(rows, columns, decay, seed + 1)
    diagnostic = SVDDiagnostic(method="full")
    k = min(rows, columns) - int(analyse(diagnostic, layer(weight))["r"])
    found = analyse(diagnostic, layer(moved))["subspace_angle"]
    before, after = (
        np.linalg.svd((each.T if rows > columns else each).double().numpy(), full_matrices=False)[0][:, :k]
        for each in (weight, moved)
    )
    expected = subspace_angles(before, after)[0]
    assert math.sin(found) == pytest.approx(math.sin(expected), abs=2e-3)


class Pair(nn.Module):
    def __init__(self, encoder: Tensor, decoder: Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(*encoder.shape[::-1]), nn.Linear(*decoder.shape[::-1])
        self.encoder.weight, self.decoder.weight = nn.Parameter(encoder), nn.Parameter(decoder)


@quickly
@given(st.integers(4, 40), st.integers(4, 40), scales, scales, seeds)
def test_neither_scale_nor_the_order_of_units_matters_to_blobs(
    hidden: int, d: int, one: float, other: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(hidden, d, generator=generator, dtype=torch.float64)
    decoder = 0.5 * encoder.T + torch.randn(d, hidden, generator=generator, dtype=torch.float64)
    order = torch.randperm(hidden, generator=generator)
    plain = BlobDiagnostic(min_samples=3).measure(Pair(encoder, decoder))
    changed = BlobDiagnostic(min_samples=3).measure(Pair(one * encoder[order], other * decoder[:, order]))
    assert plain["n_clusters_dbscan"] == changed["n_clusters_dbscan"]
    assert plain["n_noise_points"] == changed["n_noise_points"]
    assert changed["weight_correlation"] == pytest.approx(plain["weight_correlation"], abs=1e-9)
    assert changed["encoder_std"] == pytest.approx(one * plain["encoder_std"], rel=1e-9)
    expected = pytest.approx(plain["silhouette_score"], abs=1e-9, nan_ok=True)
    assert changed["silhouette_score"] == expected


@quickly
@given(st.lists(sizes, min_size=2, max_size=4), scales, seeds)
def test_norms_of_layers_add_up_to_that_of_the_whole(widths: list[int], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(before, after) for before, after in itertools.pairwise(widths)))
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    diagnostic = GradientsDiagnostic()
    diagnostic.before_update(model)
    found = diagnostic.measure(model)
    layers = [found[f"{number}/norm"] for number in range(len(widths) - 1)]
    assert found["norm"] == pytest.approx(math.hypot(*layers), rel=1e-5)
    assert found["zero_share"] == found["nonfinite_share"] == 0
