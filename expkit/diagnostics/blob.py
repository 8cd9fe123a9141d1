"""Blobs: clusters of the weight pairs (W1[i, j], W2[j, i]) of a two-layer network, and their statistics."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expkit.diagnostics._clusters import Clusters, cluster_grid, cluster_points, fit_mixtures, load_sklearn, no_clusters
from expkit.diagnostics._weights import find_weights, weight_pairs
from expkit.diagnostics.base import Diagnostic
from expkit.errors import ConfigError

__all__ = ["BlobDiagnostic", "analyse_pair", "compute_lightweight_blob_metrics", "full_blob_analysis", "jsonable"]

log = logging.getLogger("expkit")

#: Share of the pairs in each outer blob of `experiment=reference_3blob`.
EXPECTED_BLOB_SHARE = 0.009
#: sklearn's DBSCAN keeps all neighbours of all points: 20,000 points close together take 3.2 GB.
MAX_REFERENCE_SAMPLES = 20_000
#: Under this many pairs in a neighbourhood, the ragged tails of small matrices are taken for clusters.
MIN_EXACT_SAMPLES = 25
#: In standard deviations: the numbers of a finer grid's cells would leave the range of integers.
MIN_EXACT_EPS = 1e-4
MIXTURE_PAIRS = 50_000
MIXTURE_COMPONENTS = 3


class BlobDiagnostic(Diagnostic):
    """Correlation, spread and clusters of the pairs (W1[i, j], W2[j, i]); W1 is hidden x d, W2 is d x hidden.

    Args:
        method: `exact` standardises both axes, counts all pairs into a grid and clusters its cells;
            `reference`, the published one, clusters a sample of raw pairs and misses blobs of under 1 %.
        encoder, decoder: dotted names, inside the model, of W1 and W2 or of the modules whose `weight` they
            are. Without: the nn.Linear attributes `encoder` and `decoder`, else `fc1` and `fc2`, else the
            first and the last nn.Linear; the first of these whose shapes are each other's transpose.
        n_samples: pairs that `reference` draws. `exact` uses all.
        eps: DBSCAN's radius. `exact`: in standard deviations (0.5); `reference`: in weight units (0.1).
        min_samples: pairs within the radius that make a core point. `exact`: 0.1 % of the pairs, at least 25;
            `reference`: 50.
        seed: of the pairs that `reference` draws: the same ones at each call.
        interval: when it is due: every so many steps, "log" (with the training metrics) or "epoch".

    Raises:
        ConfigError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        *,
        method: str = "exact",
        encoder: str | None = None,
        decoder: str | None = None,
        n_samples: int = 5000,
        eps: float | None = None,
        min_samples: int | None = None,
        seed: int = 0,
        interval: int | str = "epoch",
    ) -> None:
        if method not in ("exact", "reference"):
            raise ConfigError(f"diagnostics.blob.method={method}: choose exact or reference")
        if (encoder is None) != (decoder is None):
            missing = "encoder" if encoder is None else "decoder"
            raise ConfigError(f"diagnostics.blob.{missing} is not set: set encoder and decoder both, or neither")
        if n_samples < 1:
            raise ConfigError(f"diagnostics.blob.n_samples={n_samples}: must be at least 1")
        if method == "reference" and n_samples > MAX_REFERENCE_SAMPLES:
            raise ConfigError(
                f"diagnostics.blob.n_samples={n_samples}: at most {MAX_REFERENCE_SAMPLES} with "
                "method=reference, which needs memory for their square; method=exact uses all pairs"
            )
        least = MIN_EXACT_EPS if method == "exact" else 0.0
        if eps is not None and not least < eps < math.inf:
            raise ConfigError(f"diagnostics.blob.eps={eps}: must be above {least:g} with method={method}")
        if min_samples is not None and min_samples < 1:
            raise ConfigError(f"diagnostics.blob.min_samples={min_samples}: must be at least 1")
        self.method = method
        self.encoder = encoder
        self.decoder = decoder
        self.n_samples = n_samples
        self.eps = eps
        self.min_samples = min_samples
        self.seed = seed
        self.interval = interval
        self._said: set[str] = set()

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError if `model` has no such pair of weights."""
        find_weights(model, self.encoder, self.decoder)
        load_sklearn()

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Measure the pairs of `model`, on the device where its weights are.

        Returns:
            weight_correlation: Pearson's r of the pairs; NaN where an axis is constant.
            encoder_std, decoder_std, encoder_mean, decoder_mean: of the population, in weight units.
            n_clusters_dbscan, n_noise_points, n_pairs_analyzed: counts.
            silhouette_score: mean over the clustered pairs, distances in standard deviations in `exact`, in
                weight units in `reference`; NaN unless there are two clusters or more and under 50 % noise.
            silhouette_macro: the mean of the clusters' own means.
            cluster_centers: mean [encoder, decoder] of the three largest clusters, in weight units.
            computation_time_ms: of this call.

            With a NaN or an infinity among the pairs, the statistics are not finite and every pair is noise.

        Raises:
            ConfigError: as in `check`.
        """
        return self.measure_pair(*find_weights(model, self.encoder, self.decoder))[0]

    def pairs(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return the pairs of W1 (hidden, d) and W2 (d, hidden) that are looked at, (2, n) in float64."""
        points = weight_pairs(encoder, decoder)
        return _sample(points, self.n_samples, self.seed) if self.method == "reference" else points

    def measure_pair(self, encoder: Tensor, decoder: Tensor) -> tuple[dict[str, Any], Clusters]:
        """Return what `measure` says of W1 (hidden, d) and W2 (d, hidden), and the clusters of their pairs."""
        started = time.perf_counter()
        points = self.pairs(encoder, decoder)
        mean, std, z = _standardise(points)
        n = points.shape[1]
        if not bool(torch.isfinite(std).all()):
            clusters = no_clusters(points)
        elif self.method == "reference":
            clusters = self._cluster_reference(points, std)
        else:
            min_samples = self.min_samples or max(MIN_EXACT_SAMPLES, round(0.001 * n))
            clusters = cluster_grid(z, self.eps or 0.5, min_samples)
        varies = bool((std > 0).all())
        metrics = {
            "weight_correlation": float((z[0] * z[1]).mean()) if varies else math.nan,
            "encoder_std": float(std[0]),
            "decoder_std": float(std[1]),
            "encoder_mean": float(mean[0]),
            "decoder_mean": float(mean[1]),
            "n_clusters_dbscan": len(clusters.sizes),
            "silhouette_score": clusters.silhouette,
            "silhouette_macro": clusters.silhouette_macro,
            "cluster_centers": [
                # A product with 0 and 1 is quicker than picking the points out.
                (points @ (clusters.labels == k).to(points.dtype) / size).tolist()
                for k, size in enumerate(clusters.sizes[:3])
            ],
            "n_noise_points": clusters.n_noise,
            "n_pairs_analyzed": n,
            "computation_time_ms": 1000 * (time.perf_counter() - started),
        }
        return metrics, clusters

    def _cluster_reference(self, points: Tensor, std: Tensor) -> Clusters:
        eps, min_samples = self.eps or 0.1, self.min_samples or 50
        for name, spread in zip(("encoder_std", "decoder_std"), std.tolist(), strict=True):
            if spread < eps:
                self._warn_once(
                    name,
                    f"blob: {name} {spread:.3g} is under eps={eps:g}: that axis hardly counts in the "
                    "clustering; diagnostics.blob.method=exact measures in standard deviations",
                )
        expected = EXPECTED_BLOB_SHARE * points.shape[1]
        if expected < min_samples:
            self._warn_once(
                "min_samples",
                f"blob: a blob of {EXPECTED_BLOB_SHARE:.1%} of the pairs is about {expected:.0f} of the "
                f"{points.shape[1]} sampled, under min_samples={min_samples}, and would be taken for noise; "
                "diagnostics.blob.method=exact uses all pairs",
            )
        return cluster_points(points, eps, min_samples)

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            log.warning(message)


def compute_lightweight_blob_metrics(
    model: nn.Module,
    n_samples: int = 5000,
    compute_full_stats: bool = False,
    eps: float = 0.1,
    min_samples: int = 50,
) -> dict[str, Any]:
    """Measure the blobs of `model` by the published method, for results.json.

    Args:
        model: holds W1 (hidden x d) and W2 (d x hidden), found as by `BlobDiagnostic`.
        n_samples: weight pairs drawn, always the same ones.
        compute_full_stats: use all pairs and the exact method, with its own radius: only `model` counts then.
        eps: DBSCAN's radius, in weight units.
        min_samples: pairs within the radius that make a core point.

    Returns:
        What `BlobDiagnostic.measure` returns, None in place of NaN and infinities, which JSON cannot hold.

    Raises:
        ConfigError: the weights were not found, or a value cannot work.
    """
    if compute_full_stats:
        return jsonable(BlobDiagnostic().measure(model))
    diagnostic = BlobDiagnostic(method="reference", n_samples=n_samples, eps=eps, min_samples=min_samples)
    return jsonable(diagnostic.measure(model))


def full_blob_analysis(model: nn.Module, *, encoder: str | None = None, decoder: str | None = None) -> dict[str, Any]:
    """Analyse all weight pairs of `model` at leisure: the exact metrics and a Gaussian mixture.

    Args:
        model: holds W1 (hidden x d) and W2 (d x hidden).
        encoder: the name of W1; without, both are found as by `BlobDiagnostic`.
        decoder: the name of W2, likewise.

    Returns:
        What `BlobDiagnostic.measure` returns (None in place of NaN and infinities), and

        cluster_sizes, silhouette_per_cluster: the largest cluster first; no silhouettes where undefined.
        gaussian_mixture: `weights` (3,), `means` (3, 2) and `covariances` (3, 2, 2) of 3 components, in
            weight units, heaviest first; `converged`; `bic` with 1, 2 and 3 components, lower is better;
            `n_pairs_fitted` and `sampled`, true where it was fitted to 50,000 random pairs instead of all.
            None where an axis is constant or not finite, or there are under 3 distinct pairs.

    Raises:
        ConfigError: the weights were not found.
    """
    BlobDiagnostic(encoder=encoder, decoder=decoder)  # refuses one name without the other
    return analyse_pair(*find_weights(model, encoder, decoder))


def analyse_pair(encoder: Tensor, decoder: Tensor) -> dict[str, Any]:
    """Return what `full_blob_analysis` says of W1 (hidden, d) and W2 (d, hidden)."""
    metrics, clusters = BlobDiagnostic().measure_pair(encoder, decoder)
    return {
        **jsonable(metrics),
        "cluster_sizes": clusters.sizes,
        "silhouette_per_cluster": clusters.silhouettes,
        "gaussian_mixture": _gaussian_mixture(weight_pairs(encoder, decoder)),
    }


def _standardise(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (2,), population standard deviation (2,) and z-scores (2, n): 0 on a constant axis."""
    mean = points.mean(dim=1)
    deviation = points - mean[:, None]
    std = deviation.square().mean(dim=1).sqrt()
    # Rounding alone makes a constant axis vary by 1e-16 of its value; NaN must stay.
    std = torch.where(std <= 1e-12 * mean.abs(), 0.0, std)
    return mean, std, deviation / torch.where(std == 0, math.inf, std)[:, None]


def _sample(points: Tensor, n_samples: int, seed: int) -> Tensor:
    n = points.shape[1]
    if n_samples >= n:
        return points
    chosen = np.random.default_rng(seed).choice(n, n_samples, replace=False, shuffle=False)
    return points[:, torch.from_numpy(chosen).to(points.device)]


def _gaussian_mixture(points: Tensor) -> dict[str, Any] | None:
    sample = _sample(points, MIXTURE_PAIRS, seed=0).T.cpu().numpy()
    if not np.isfinite(sample).all() or (np.ptp(sample, axis=0) == 0).any():
        return None
    if len(np.unique(sample, axis=0)) < MIXTURE_COMPONENTS:
        return None
    fits = fit_mixtures(sample, MIXTURE_COMPONENTS, seed=0)
    return {
        **fits[-1],
        "bic": {str(k): fit["bic"] for k, fit in enumerate(fits, start=1)},
        "n_pairs_fitted": len(sample),
        "sampled": len(sample) < points.shape[1],
    }


def jsonable(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return `metrics` with None in place of NaN and infinities, which JSON cannot hold."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
