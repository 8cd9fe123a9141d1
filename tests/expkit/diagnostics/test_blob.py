"""The blob diagnostic: planted blobs are found, figures are numpy's, the published method misses blobs and says so."""

from __future__ import annotations

import json
import logging
import math
import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from expkit.diagnostics._clusters import cluster_grid
from expkit.diagnostics._weights import weight_pairs
from expkit.diagnostics.blob import (
    BlobDiagnostic,
    compute_lightweight_blob_metrics,
    full_blob_analysis,
)

Array = npt.NDArray[np.float64]

CONTRACT_KEYS = {
    "weight_correlation",
    "encoder_std",
    "decoder_std",
    "encoder_mean",
    "decoder_mean",
    "n_clusters_dbscan",
    "silhouette_score",
    "cluster_centers",
    "n_noise_points",
    "n_pairs_analyzed",
    "computation_time_ms",
}
HIDDEN, D = 512, 1024


class TwoLayer(nn.Module):
    """fc1 holds W1 (hidden, d), fc2 its partner W2 (d, hidden)."""

    def __init__(self, encoder: Array, decoder: Array) -> None:
        super().__init__()
        hidden, d = encoder.shape
        self.fc1 = nn.Linear(d, hidden)
        self.fc2 = nn.Linear(hidden, d)
        self.fc1.weight.data = torch.from_numpy(encoder).float()
        self.fc2.weight.data = torch.from_numpy(decoder).float()


def planted(shape: tuple[int, int] = (HIDDEN, D), share: float = 0.009, seed: int = 0) -> TwoLayer:
    """Three blobs as in the reference experiment: two small ones at +-(1.40, 0.105)."""
    rng = np.random.default_rng(seed)
    blob = rng.choice(3, size=shape, p=[1 - 2 * share, share, share])
    encoder = np.array([0, -1.40, 1.40])[blob] + 0.05 * rng.normal(size=shape)
    decoder = np.array([0, -0.105, 0.105])[blob] + 0.008 * rng.normal(size=shape)
    return TwoLayer(encoder, decoder.T)


@pytest.fixture(scope="module")
def planted_model() -> TwoLayer:
    return planted()


def standardised(model: TwoLayer) -> Array:
    encoder = model.fc1.weight.detach().double().numpy().ravel()
    decoder = model.fc2.weight.detach().double().numpy().T.ravel()
    pairs = np.column_stack([encoder, decoder])
    z: Array = (pairs - pairs.mean(axis=0)) / pairs.std(axis=0)
    return z


def test_planted_blobs_are_found(planted_model: TwoLayer) -> None:
    metrics = BlobDiagnostic().measure(planted_model)
    assert set(metrics) == CONTRACT_KEYS | {"silhouette_macro"}
    assert metrics["n_clusters_dbscan"] == 3
    assert metrics["n_pairs_analyzed"] == HIDDEN * D
    assert metrics["n_noise_points"] < 0.001 * HIDDEN * D
    centre, *outer = metrics["cluster_centers"]
    assert centre == pytest.approx([0, 0], abs=1e-3)
    assert sorted(outer) == [pytest.approx([-1.4, -0.105], abs=5e-3), pytest.approx([1.4, 0.105], abs=5e-3)]
    json.dumps(metrics)


def test_silhouettes_agree_with_brute_force(planted_model: TwoLayer) -> None:
    from sklearn.metrics import silhouette_samples

    z = standardised(planted_model)
    clusters = cluster_grid(torch.from_numpy(z.T), eps=0.5, min_samples=524)
    labels = clusters.labels.numpy()
    sample = np.random.default_rng(1).choice(len(labels), 5000, replace=False)
    sample = sample[labels[sample] >= 0]
    scores = silhouette_samples(z[sample], labels[sample])
    assert clusters.silhouette == pytest.approx(scores.mean(), abs=0.005)
    for k, silhouette in enumerate(clusters.silhouettes):
        assert silhouette == pytest.approx(scores[labels[sample] == k].mean(), abs=0.02)


def test_labels_agree_with_dbscan_on_all_points() -> None:
    from sklearn.cluster import DBSCAN
    from sklearn.metrics import adjusted_rand_score

    z = standardised(planted(shape=(48, 80), share=0.03))
    expected = DBSCAN(eps=0.5, min_samples=30).fit(z).labels_
    clusters = cluster_grid(torch.from_numpy(z.T), eps=0.5, min_samples=30)
    assert len(clusters.sizes) == 3
    assert adjusted_rand_score(expected, clusters.labels.numpy()) > 0.99


def test_sorted_and_counted_cells_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.from_numpy(standardised(planted(shape=(48, 80), share=0.03)).T)
    counted = cluster_grid(z, eps=0.5, min_samples=30)
    monkeypatch.setattr("expkit.diagnostics._clusters.MAX_DENSE_CELLS", 0)
    assert torch.equal(cluster_grid(z, eps=0.5, min_samples=30).labels, counted.labels)


def test_coarser_silhouettes_stay_close(planted_model: TwoLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = BlobDiagnostic().measure(planted_model)["silhouette_score"]
    monkeypatch.setattr("expkit.diagnostics._clusters.MAX_SILHOUETTE_CELLS", 30)
    assert BlobDiagnostic().measure(planted_model)["silhouette_score"] == pytest.approx(fine, abs=0.045)


def test_statistics_are_numpys() -> None:
    rng = np.random.default_rng(3)
    model = TwoLayer(rng.normal(0.2, 0.5, (30, 70)), rng.normal(-0.1, 0.03, (70, 30)))
    encoder = model.fc1.weight.detach().double().numpy()
    decoder = model.fc2.weight.detach().double().numpy()
    metrics = BlobDiagnostic().measure(model)
    assert metrics["weight_correlation"] == pytest.approx(np.corrcoef(encoder.ravel(), decoder.T.ravel())[0, 1])
    assert metrics["encoder_mean"] == pytest.approx(encoder.mean())
    assert metrics["decoder_mean"] == pytest.approx(decoder.mean())
    assert metrics["encoder_std"] == pytest.approx(encoder.std())
    assert metrics["decoder_std"] == pytest.approx(decoder.std())


def test_reference_misses_blobs_and_says_why_once(planted_model: TwoLayer, caplog: pytest.LogCaptureFixture) -> None:
    diagnostic = BlobDiagnostic(method="reference")
    with caplog.at_level(logging.WARNING, logger="expkit"):
        metrics = diagnostic.measure(planted_model)
        again = diagnostic.measure(planted_model)
    assert metrics["n_clusters_dbscan"] < 3
    assert metrics["n_pairs_analyzed"] == 5000
    assert set(metrics) == CONTRACT_KEYS | {"silhouette_macro"}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "decoder_std" in messages[0]
    assert "under eps=0.1" in messages[0]
    assert "about 45 of the 5000 sampled, under min_samples=50" in messages[1]
    assert again["encoder_std"] == metrics["encoder_std"], "the same pairs at each call"


def test_reference_with_fitting_parameters_finds_the_blobs(
    planted_model: TwoLayer, caplog: pytest.LogCaptureFixture
) -> None:
    diagnostic = BlobDiagnostic(method="reference", n_samples=4000, eps=0.04, min_samples=20)
    with caplog.at_level(logging.WARNING, logger="expkit"):
        metrics = diagnostic.measure(planted(shape=(64, 64), share=0.1))
    assert metrics["n_clusters_dbscan"] == 3
    assert metrics["silhouette_score"] > 0.8
    assert not caplog.records


def test_global_generators_are_left_alone(planted_model: TwoLayer) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    BlobDiagnostic().measure(planted_model)
    BlobDiagnostic(method="reference", n_samples=1000).measure(planted_model)
    full_blob_analysis(planted_model)
    assert states() == before


def test_the_model_is_not_changed(planted_model: TwoLayer) -> None:
    before = {name: value.clone() for name, value in planted_model.state_dict().items()}
    BlobDiagnostic().measure(planted_model)
    assert all(torch.equal(before[name], value) for name, value in planted_model.state_dict().items())


def test_half_precision_weights(planted_model: TwoLayer) -> None:
    assert BlobDiagnostic().measure(planted(shape=(64, 128)).bfloat16())["n_clusters_dbscan"] == 3


def test_lightweight_metrics_are_json(planted_model: TwoLayer) -> None:
    gaussian = TwoLayer(*(np.random.default_rng(0).normal(size=(2, 64, 64))))
    metrics = compute_lightweight_blob_metrics(gaussian, n_samples=2000, eps=0.5)
    assert metrics["silhouette_score"] is None
    assert metrics["n_pairs_analyzed"] == 2000
    json.dumps(metrics, allow_nan=False)
    full = compute_lightweight_blob_metrics(planted_model, compute_full_stats=True)
    assert full["n_pairs_analyzed"] == HIDDEN * D
    assert full["n_clusters_dbscan"] == 3


def test_full_analysis_fits_the_planted_mixture(planted_model: TwoLayer) -> None:
    analysis = full_blob_analysis(planted_model)
    json.dumps(analysis, allow_nan=False)
    assert sum(analysis["cluster_sizes"]) + analysis["n_noise_points"] == HIDDEN * D
    assert len(analysis["silhouette_per_cluster"]) == 3
    mixture = analysis["gaussian_mixture"]
    assert mixture["sampled"]
    assert mixture["n_pairs_fitted"] == 50_000
    assert mixture["weights"] == pytest.approx([0.982, 0.009, 0.009], abs=2e-3)
    assert sorted(mixture["means"])[0] == pytest.approx([-1.4, -0.105], abs=0.02)
    assert np.sqrt(mixture["covariances"][0][0][0]) == pytest.approx(0.05, rel=0.05)
    assert np.sqrt(mixture["covariances"][0][1][1]) == pytest.approx(0.008, rel=0.05)
    assert mixture["bic"]["3"] < mixture["bic"]["2"] < mixture["bic"]["1"]


def test_bic_is_in_weight_units() -> None:
    """One Gaussian's BIC in closed form: 5 parameters, log-likelihood of the sample's own moments."""
    rng = np.random.default_rng(0)
    model = TwoLayer(0.3 * rng.normal(size=(40, 50)), 0.02 * rng.normal(size=(50, 40)))
    pairs = weight_pairs(model.fc1.weight, model.fc2.weight).numpy()
    n, covariance = pairs.shape[1], np.cov(pairs, bias=True)
    log_likelihood = -n / 2 * (2 * math.log(2 * math.pi) + np.log(np.linalg.det(covariance)) + 2)
    expected = 5 * math.log(n) - 2 * log_likelihood
    mixture = full_blob_analysis(model)["gaussian_mixture"]
    assert mixture["bic"]["1"] == pytest.approx(expected, rel=1e-4)
    assert not mixture["sampled"]
