"""The blob diagnostic's inputs: where the weights are, what is refused, and what odd weights give."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from expkit.diagnostics._weights import weight_pairs
from expkit.diagnostics.blob import BlobDiagnostic, full_blob_analysis
from expkit.errors import ConfigError, UserError

Array = npt.NDArray[np.float64]


def network(encoder: Array, decoder: Array) -> nn.Sequential:
    """A network with W1 = `encoder` (hidden, d) and W2 = `decoder` (d, hidden)."""
    hidden, d = encoder.shape
    model = nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, d))
    for layer, weight in ((model[0], encoder), (model[2], decoder)):
        layer.weight.data = torch.from_numpy(weight).float()
    return model


class Nested(nn.Module):
    """The pair sits inside, as a module and as a bare parameter, among other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"up": nn.Sequential(nn.Linear(6, 4))})
        self.down = nn.Parameter(torch.zeros(6, 4))
        self.head = nn.Linear(4, 3)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(9, 9)
        self.encoder = nn.Linear(6, 4)
        self.decoder = nn.Linear(4, 6)


def test_where_the_weights_are_found() -> None:
    pairs = BlobDiagnostic(encoder="body.up.0", decoder="down").measure(Nested())
    assert pairs["n_pairs_analyzed"] == 24
    BlobDiagnostic(encoder="body.up.0.weight", decoder="down").check(Nested())
    assert BlobDiagnostic().measure(EncoderDecoder())["n_pairs_analyzed"] == 24
    sequential = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 6))
    assert BlobDiagnostic().measure(sequential)["n_pairs_analyzed"] == 24


def test_pairs_are_transposed_partners() -> None:
    encoder, decoder = torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(3, 2)
    pairs = weight_pairs(encoder, decoder)
    assert pairs[0].tolist() == [encoder[i, j] for i in range(2) for j in range(3)]
    assert pairs[1].tolist() == [decoder[j, i] for i in range(2) for j in range(3)]


@pytest.mark.parametrize(
    ("arguments", "model", "words"),
    [
        ({}, nn.Linear(3, 3), "diagnostics.blob.encoder=NAME"),
        ({}, Nested(), "diagnostics.blob.encoder=NAME"),
        ({"encoder": "body.nowhere", "decoder": "down"}, Nested(), "diagnostics.blob.encoder=body.nowhere"),
        ({"encoder": "head.bias", "decoder": "down"}, Nested(), "diagnostics.blob.encoder=head.bias"),
        ({"encoder": "head", "decoder": "down"}, Nested(), "diagnostics.blob.decoder=down"),
    ],
)
def test_missing_weights_are_one_clear_line(arguments: dict[str, str], model: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BlobDiagnostic(**arguments).check(model)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "best"},
        {"encoder": "fc1"},
        {"n_samples": 0},
        {"method": "reference", "n_samples": 1_000_000},
        {"eps": 0.0},
        {"eps": math.nan},
        {"eps": 1e-9},
        {"min_samples": 0},
    ],
)
def test_impossible_arguments_name_their_key(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"diagnostics\.blob\."):
        BlobDiagnostic(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["exact", "reference"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_weights_are_all_noise(method: str, bad: float) -> None:
    rng = np.random.default_rng(0)
    encoder, decoder = rng.normal(size=(32, 64)), rng.normal(size=(64, 32))
    encoder[3, 5] = bad
    model = network(encoder, decoder)
    metrics = BlobDiagnostic(method=method).measure(model)
    assert math.isnan(metrics["encoder_std"])
    assert math.isnan(metrics["weight_correlation"])
    assert math.isfinite(metrics["decoder_std"])
    assert metrics["n_clusters_dbscan"] == 0
    assert metrics["n_noise_points"] == metrics["n_pairs_analyzed"] == 32 * 64
    assert metrics["cluster_centers"] == []
    assert math.isnan(metrics["silhouette_score"])


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_a_constant_axis_has_no_correlation(method: str) -> None:
    rng = np.random.default_rng(0)
    model = network(rng.choice([-1.0, 1.0], size=(32, 64)), np.full((64, 32), 0.1))
    metrics = BlobDiagnostic(method=method).measure(model)
    assert math.isnan(metrics["weight_correlation"])
    assert metrics["decoder_std"] == 0
    assert metrics["n_clusters_dbscan"] == 2
    assert metrics["silhouette_score"] > 0.9


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_tiny_and_zero_matrices(method: str) -> None:
    zeros = BlobDiagnostic(method=method).measure(network(np.zeros((8, 16)), np.zeros((16, 8))))
    assert zeros["n_clusters_dbscan"] == 1
    assert zeros["cluster_centers"] == [[0, 0]]
    single = BlobDiagnostic(method=method).measure(network(np.ones((1, 1)), np.ones((1, 1))))
    assert single["n_clusters_dbscan"] == 0
    assert single["n_noise_points"] == single["n_pairs_analyzed"] == 1
    assert full_blob_analysis(network(np.ones((1, 1)), np.ones((1, 1))))["gaussian_mixture"] is None


@pytest.mark.parametrize("method", ["exact", "reference"])
def test_a_cluster_per_pair_has_no_silhouette(method: str) -> None:
    rng = np.random.default_rng(0)
    model = network(rng.normal(size=(64, 128)), rng.normal(size=(128, 64)))
    metrics = BlobDiagnostic(method=method, eps=2e-4, min_samples=1, n_samples=4000).measure(model)
    assert metrics["n_clusters_dbscan"] > 0.99 * metrics["n_pairs_analyzed"]
    assert math.isnan(metrics["silhouette_score"])


def test_more_samples_asked_for_than_there_are() -> None:
    """Two-valued axes and a fine grid: all points lie outside it."""
    rng = np.random.default_rng(0)
    model = network(rng.choice([-1.0, 1.0], size=(8, 16)), rng.choice([-1.0, 1.0], size=(16, 8)))
    metrics = BlobDiagnostic(eps=0.01, min_samples=10_000).measure(model)
    assert metrics["n_clusters_dbscan"] == 0
    assert metrics["n_noise_points"] == 128


@pytest.mark.parametrize("outlier", [1e6, 1e30])
def test_one_huge_outlier_is_one_noise_point(outlier: float) -> None:
    encoder = np.random.default_rng(0).normal(size=(512, 1024))
    encoder[0, 0] = outlier
    metrics = BlobDiagnostic().measure(network(encoder, np.random.default_rng(1).normal(size=(1024, 512))))
    assert metrics["n_clusters_dbscan"] == 1
    assert metrics["encoder_std"] == pytest.approx(outlier / math.sqrt(512 * 1024), rel=1e-3)


@pytest.mark.parametrize("shape", [(16, 32), (32, 32), (64, 64), (128, 128)])
def test_small_gaussian_matrices_have_one_cluster(shape: tuple[int, int]) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        model = network(rng.normal(size=shape), rng.normal(size=shape).T)
        assert BlobDiagnostic().measure(model)["n_clusters_dbscan"] == 1


@pytest.mark.parametrize("given", [nn.Linear(2, 2).state_dict(), "checkpoint_step_100.pt", None])
def test_what_is_no_model_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(UserError, match=r"^model is of type \w+: give the nn\.Module itself$"):
        full_blob_analysis(given)  # type: ignore[arg-type]


def test_configuration_states_the_defaults() -> None:
    text = (Path(__file__).parents[3] / "conf/diagnostics/blob.yaml").read_text()
    assert text.startswith("# @package diagnostics.blob\n")
    config = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(config, dict)
    assert config.pop("_target_") == "expkit.diagnostics.blob.BlobDiagnostic"
    parameters = inspect.signature(BlobDiagnostic).parameters
    assert config == {name: parameter.default for name, parameter in parameters.items()}


def test_imports_are_light() -> None:
    script = "import sys, expkit.diagnostics; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    script = "import sys, expkit.diagnostics.blob; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
