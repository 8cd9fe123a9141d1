"""What leaves the blob metrics as they are, and how the others follow: for blobs and for noise, of several shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from expkit.diagnostics._clusters import cluster_grid
from expkit.diagnostics.blob import BlobDiagnostic
from tests.expkit.diagnostics.test_blob import planted

Pair = tuple[torch.Tensor, torch.Tensor]

SHAPES = [(24, 40), (64, 64), (96, 32)]
SEEDS = range(4)


def pair(shape: tuple[int, int], seed: int, share: float) -> Pair:
    """W1 and W2 off the origin, correlated; with `share` of the pairs in each outer blob."""
    model = planted(shape, share, seed)
    return model.fc1.weight.detach().double() + 0.1, model.fc2.weight.detach().double() - 0.02


@pytest.fixture(params=[(shape, seed, share) for shape in SHAPES for seed in SEEDS for share in (0.0, 0.05)], ids=str)
def weights(request: pytest.FixtureRequest) -> Pair:
    return pair(*request.param)


def measured(encoder: torch.Tensor, decoder: torch.Tensor) -> dict[str, Any]:
    metrics = BlobDiagnostic().measure_pair(encoder, decoder)[0]
    del metrics["computation_time_ms"]
    return metrics


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Whole numbers exactly, the rest up to the rounding of sums that are taken in another order."""
    for name, value in expected.items():
        if name == "cluster_centers":
            assert np.array(found[name]) == pytest.approx(np.array(value), rel=1e-6, abs=1e-9)
        else:
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), name


def permuted(weights: Pair, seed: int) -> Pair:
    encoder, decoder = weights
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randperm(encoder.shape[0], generator=generator)
    inputs = torch.randperm(encoder.shape[1], generator=generator)
    return encoder[hidden][:, inputs], decoder[inputs][:, hidden]


def test_the_order_of_hidden_units_and_of_inputs_does_not_count(weights: Pair) -> None:
    assert_same(measured(*permuted(weights, seed=5)), measured(*weights))


@pytest.mark.parametrize("scales", [(1e-3, 1e3), (7.0, 0.3), (2.0**40, 2.0**-40)])
def test_each_axis_has_its_own_scale(weights: Pair, scales: tuple[float, float]) -> None:
    (a, b), (encoder, decoder) = scales, weights
    found, expected = measured(a * encoder, b * decoder), measured(encoder, decoder)
    follow: dict[str, Callable[[Any], Any]] = {
        "encoder_mean": lambda value: a * value,
        "encoder_std": lambda value: a * value,
        "decoder_mean": lambda value: b * value,
        "decoder_std": lambda value: b * value,
        "cluster_centers": lambda value: [[a * one, b * other] for one, other in value],
    }
    for name, value in expected.items():
        wanted = follow.get(name, lambda same: same)(value)
        shown, wanted = np.array(found[name], dtype=float), np.array(wanted, dtype=float)
        assert shown == pytest.approx(wanted, rel=1e-6, abs=1e-12, nan_ok=True), name


def test_signs_mirror(weights: Pair) -> None:
    encoder, decoder = weights
    expected = measured(encoder, decoder)
    for a, b in ((-1, -1), (1, -1), (-1, 1)):
        found = measured(a * encoder, b * decoder)
        assert found["weight_correlation"] == pytest.approx(a * b * expected["weight_correlation"], rel=1e-9)
        assert (found["encoder_mean"], found["decoder_mean"]) == pytest.approx(
            (a * expected["encoder_mean"], b * expected["decoder_mean"]), rel=1e-9
        )
        for name in ("n_clusters_dbscan", "n_noise_points"):
            assert found[name] == expected[name]
        assert found["silhouette_score"] == pytest.approx(expected["silhouette_score"], rel=1e-6, nan_ok=True)


def test_a_shift_does_not_count(weights: Pair) -> None:
    encoder, decoder = weights
    found, expected = measured(encoder + 3.0, decoder - 5.0), measured(encoder, decoder)
    for name in ("weight_correlation", "encoder_std", "decoder_std", "n_clusters_dbscan", "silhouette_score"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name


def test_correlation_is_between_its_bounds_and_reaches_them() -> None:
    encoder, decoder = pair((24, 40), 0, 0.05)
    assert abs(measured(encoder, decoder)["weight_correlation"]) < 1
    assert measured(encoder, 0.5 * encoder.T + 1)["weight_correlation"] == pytest.approx(1, abs=1e-12)
    assert measured(encoder, -2.0 * encoder.T)["weight_correlation"] == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_point_is_in_one_cluster_or_noise(seed: int) -> None:
    points = torch.randn(2, 4000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points[:, :400] += 5
    points = (points - points.mean(dim=1, keepdim=True)) / points.std(dim=1, correction=0, keepdim=True)
    for min_samples in (1, 5, 25, 5000):
        clusters = cluster_grid(points, eps=0.3, min_samples=min_samples)
        counts = torch.bincount(clusters.labels + 1, minlength=len(clusters.sizes) + 1).tolist()
        assert counts == [clusters.n_noise, *clusters.sizes]
        assert clusters.sizes == sorted(clusters.sizes, reverse=True)
        assert all(-1 <= silhouette <= 1 for silhouette in clusters.silhouettes)
