"""The numbers of the svd diagnostic: what they are defined as, and what they do not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from expkit.diagnostics.svd import SVDDiagnostic
from tests.expkit.diagnostics.svd_driver import Training, analyse, digits_network, layer, of_layer

SHAPES = [(24, 40), (40, 24), (32, 32), (2, 2), (2, 7), (9, 3), (96, 130), (130, 96)]
CASES = [(shape, seed) for shape in SHAPES for seed in range(3)]
METHODS = ["subspace", "full"]


def random_matrix(shape: tuple[int, int], seed: int) -> Tensor:
    """Entries of different sizes, so that singular values have gaps."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(1, 0.2, shape[0])[:, None]
    return rows * torch.randn(shape, generator=generator) * torch.linspace(2, 0.5, shape[1])


def pair(shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """A weight and a gradient."""
    return random_matrix(shape, seed), random_matrix(shape, seed + 100)


def definition(weight: Tensor, gradient: Tensor, r: int) -> dict[str, float]:
    """DEFINITIONS in float64, from the SVD of the shorter side."""
    w, grad = (each.double().numpy() for each in (weight, gradient))
    if w.shape[0] > w.shape[1]:
        w, grad = w.T, grad.T
    u, s, v = np.linalg.svd(w, full_matrices=False)
    g, k = len(s), len(s) - r
    p = np.linalg.norm(u[:, :k] @ u[:, :k].T @ grad) / np.linalg.norm(grad)
    truncated = (u[:, :k] * s[:k]) @ v[:k]
    return {
        "principal_alignment": p,
        "minor_alignment": np.linalg.norm(u[:, k:] @ u[:, k:].T @ grad) / np.linalg.norm(grad),
        "alignment_excess": p**2 / (k / g),
        "reconstruction_error": np.linalg.norm(w - truncated) / np.linalg.norm(w),
        "stable_rank": np.sum(s**2) / s[0] ** 2,
        "r": r,
        "trainable_ratio": r * sum(w.shape) / w.size,
        "mode": 0.0,
    }


def principal(weight: Tensor, k: int) -> np.ndarray:
    """The exact principal subspace, on the shorter side."""
    w = weight.double().numpy()
    return np.linalg.svd(w.T if w.shape[0] > w.shape[1] else w, full_matrices=False)[0][:, :k]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "seed"), CASES)
def test_every_number_is_what_its_definition_says(shape: tuple[int, int], seed: int, method: str) -> None:
    weight, gradient = pair(shape, seed)
    found = analyse(SVDDiagnostic(method=method), layer(weight, gradient))
    assert math.isnan(found.pop("subspace_angle")) and math.isnan(found.pop("subspace_angle_rms"))
    g = min(shape)
    assert found["r"] == min(max(g - 10, 8), g - 1)
    # float32 leaves 1e-7 of p^2, so 3e-4 of an alignment near 0.
    assert found == pytest.approx(definition(weight, gradient, int(found["r"])), abs=5e-4, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "seed"), CASES)
def test_alignments_are_complementary(shape: tuple[int, int], seed: int, method: str) -> None:
    found = analyse(SVDDiagnostic(method=method), layer(*pair(shape, seed)))
    p, m = found["principal_alignment"], found["minor_alignment"]
    assert 0 <= p <= 1 and 0 <= m <= 1
    assert p**2 + m**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "seed"), CASES)
@pytest.mark.parametrize("size", [1e-3, 0.05, 1.0])
def test_the_angle_is_scipys(shape: tuple[int, int], seed: int, size: float, method: str) -> None:
    weight = random_matrix(shape, seed)
    moved = weight + size * random_matrix(shape, seed + 1)
    diagnostic = SVDDiagnostic(method=method, refresh=1)
    k = min(shape) - int(analyse(diagnostic, layer(weight))["r"])
    found = analyse(diagnostic, layer(moved))
    expected = subspace_angles(principal(weight, k), principal(moved, k))
    # Near a right angle, the sine says no more than this in float32.
    assert found["subspace_angle"] == pytest.approx(expected[0], abs=2e-3 if expected[0] > 1.2 else 2e-4)
    assert found["subspace_angle_rms"] == pytest.approx(math.sqrt((expected**2).mean()), abs=2e-3)
    assert found["subspace_angle_rms"] <= found["subspace_angle"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_that_stay_turn_by_nothing(shape: tuple[int, int], method: str) -> None:
    diagnostic, linear = SVDDiagnostic(method=method), layer(random_matrix(shape, 0))
    analyse(diagnostic, linear)
    assert analyse(diagnostic, linear)["subspace_angle"] < 1e-4


def orthogonal(n: int, seed: int, permutation: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if permutation:
        return torch.eye(n)[torch.randperm(n, generator=generator)]
    return torch.linalg.qr(torch.randn(n, n, generator=generator)).Q


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("permutation", [True, False], ids=["permuted", "rotated"])
@pytest.mark.parametrize(("shape", "seed"), [case for case in CASES if case[1] < 2])
def test_hidden_units_in_another_order_or_basis_change_nothing(
    shape: tuple[int, int], seed: int, permutation: bool, side: str
) -> None:
    def measured(mapped: bool) -> dict[str, float]:
        diagnostic = SVDDiagnostic()
        weights = [random_matrix(shape, seed), random_matrix(shape, seed) + 0.05 * random_matrix(shape, seed + 1)]
        for weight in weights:
            gradient = random_matrix(shape, seed + 100)
            if mapped and side == "inputs":
                turn = orthogonal(shape[1], seed, permutation)
                weight, gradient = weight @ turn, gradient @ turn
            elif mapped:
                turn = orthogonal(shape[0], seed, permutation)
                weight, gradient = turn @ weight, turn @ gradient
            found = analyse(diagnostic, layer(weight, gradient))
        return found

    assert measured(mapped=True) == pytest.approx(measured(mapped=False), abs=5e-4)


@pytest.mark.parametrize("of_weight", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("of_gradient", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shape", [(24, 40), (130, 96)])
def test_the_scale_of_weight_and_gradient_changes_nothing(
    shape: tuple[int, int], of_weight: float, of_gradient: float
) -> None:
    weight, gradient = pair(shape, 0)
    plain, scaled = SVDDiagnostic(), SVDDiagnostic()
    for move in (0.0, 0.05):
        moved = weight + move * gradient
        expected = analyse(plain, layer(moved, gradient))
        found = analyse(scaled, layer(of_weight * moved, of_gradient * gradient))
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("g", [100, 200])
def test_a_gradient_without_direction_has_no_excess(g: int) -> None:
    """p is sqrt(k/g) by chance alone: what DEFINITIONS holds against a fixed threshold for p."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(g, 50 * g, generator=generator)
    found = analyse(SVDDiagnostic(), layer(random_matrix((g, 50 * g), 0), gradient))
    assert found["principal_alignment"] == pytest.approx(math.sqrt(10 / g), rel=0.03)
    assert found["alignment_excess"] == pytest.approx(1, abs=0.06)


def test_a_gradient_inside_the_principal_subspace() -> None:
    weight = torch.diag(torch.arange(40.0, 0.0, -1.0))
    inside, outside = torch.zeros(40, 40), torch.zeros(40, 40)
    inside[3, 20] = 2.0
    outside[20, 3] = 2.0
    found = analyse(SVDDiagnostic(), layer(weight, inside))
    assert (found["principal_alignment"], found["minor_alignment"]) == pytest.approx((1, 0), abs=1e-3)
    assert found["alignment_excess"] == pytest.approx(4)
    found = analyse(SVDDiagnostic(), layer(weight, outside))
    assert (found["principal_alignment"], found["minor_alignment"]) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    weight, gradient = (each.to(dtype) for each in pair((96, 130), 0))
    found = analyse(SVDDiagnostic(), layer(weight, gradient))
    expected = definition(weight, gradient, 86)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=5e-4, rel=1e-4)


def test_following_agrees_with_the_full_svd_along_a_training() -> None:
    training = Training(digits_network())
    followed, full = training.run(60, [SVDDiagnostic(), SVDDiagnostic(method="full")], parts=5)
    assert len(followed) == 12
    for ours, reference in zip(followed, full, strict=True):
        for name in "024":
            one, other = of_layer(ours, name), of_layer(reference, name)
            assert one["principal_alignment"] == pytest.approx(other["principal_alignment"], abs=1e-3)
            assert one["reconstruction_error"] == pytest.approx(other["reconstruction_error"], abs=1e-3)
            if ours is not followed[0]:
                assert one["subspace_angle"] == pytest.approx(other["subspace_angle"], abs=0.02)
                assert one["subspace_angle_rms"] == pytest.approx(other["subspace_angle_rms"], abs=0.02)
    assert of_layer(full[-1], "2")["subspace_angle"] > 0.01, "nothing moved: this compared nothing"
