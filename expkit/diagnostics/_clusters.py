"""Clusters of points in the plane: DBSCAN on a grid or on the points, silhouettes, Gaussian mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Clusters", "cluster_grid", "cluster_points", "fit_mixtures", "load_sklearn", "no_clusters"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Grid cells along one DBSCAN radius.
CELLS_PER_EPS = 4
#: Above this many grid cells, the occupied ones are found by sorting instead of counting into a dense grid.
MAX_DENSE_CELLS = 1 << 22
#: The silhouette's distance matrix has at most this many rows: 32 MB.
MAX_SILHOUETTE_CELLS = 2048
#: Mean distance of two uniform points in the unit square, (2 + sqrt(2) + 5 asinh(1)) / 15.
UNIT_SQUARE_DISTANCE = (2 + math.sqrt(2) + 5 * math.asinh(1)) / 15
#: More noise than this share of the points leaves too little to score.
MAX_NOISE = 0.5


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of n points, the largest first.

    Attributes:
        labels: (n,) int64 on the points' device: the cluster of each point, counted from 0; -1 is noise.
        sizes: points in each cluster.
        n_noise: points in none.
        silhouettes: mean silhouette of each cluster, noise left out; empty where it is undefined: under two
            clusters, thousands of them, one for each point, or half of the points or more are noise.
    """

    labels: Tensor
    sizes: list[int]
    n_noise: int
    silhouettes: list[float]

    @property
    def silhouette(self) -> float:
        """Mean over all clustered points, NaN where undefined."""
        if not self.silhouettes:
            return math.nan
        return float(np.average(self.silhouettes, weights=self.sizes))

    @property
    def silhouette_macro(self) -> float:
        """Mean over the clusters, whatever their sizes; NaN where undefined."""
        return float(np.mean(self.silhouettes)) if self.silhouettes else math.nan


def load_sklearn() -> None:
    """Import what the functions below need, so that the first measurement does not take the second that this takes."""
    import sklearn.cluster
    import sklearn.metrics  # noqa: F401


def no_clusters(points: Tensor) -> Clusters:
    """Return the answer for `points` (2, n) that cannot be compared: everything is noise."""
    n = points.shape[1]
    labels = torch.full((n,), -1, dtype=torch.int64, device=points.device)
    return Clusters(labels, sizes=[], n_noise=n, silhouettes=[])


def cluster_grid(z: Tensor, eps: float, min_samples: int) -> Clusters:
    """Cluster standardised points with DBSCAN (Ester et al. 1996) on the cells of a grid.

    Points are moved to the centre of their cell, `eps` / 4 wide, and a cell weighs as many points as it
    holds. They are counted on the device of `z`; all else depends on the number of occupied cells only.

    Args:
        z: (2, n) finite float points; each axis has mean 0 and variance at most 1.
        eps: radius of a neighbourhood, in standard deviations.
        min_samples: points in a neighbourhood (itself included) that make a point a core point.
    """
    n = z.shape[1]
    cell = eps / CELLS_PER_EPS
    # Chebyshev: fewer than min_samples points lie beyond sqrt(n / min_samples) standard deviations. So core
    # points lie at most a radius beyond that, their border points two, and all points further out are noise:
    # however heavy the tails, the grid need go no further.
    half = math.ceil((math.sqrt(n / min_samples) + 2 * eps) / cell)
    side = 2 * half
    column, row = torch.floor(z / cell).long() + half
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    outside = side * side
    keys, place, counts = _occupied(torch.where(inside, column * side + row, outside), outside + 1)

    # The points outside share one cell beyond a corner, far from core points: without weight, it is noise.
    cells = torch.stack([keys // side, keys % side], dim=1).cpu().numpy()
    weights = torch.where(keys == outside, 0, counts).cpu().numpy()
    if not weights.any():
        return no_clusters(z)
    labels, sizes = _largest_first(_dbscan(cells, CELLS_PER_EPS, min_samples, weights), weights)
    n_noise = n - sum(sizes)
    silhouettes: list[float] = []
    if _scorable(sizes, n_noise):
        clustered = labels >= 0
        silhouettes = _cell_silhouettes(cells[clustered], weights[clustered], labels[clustered])
    return Clusters(torch.from_numpy(labels).to(z.device)[place], sizes, n_noise, silhouettes)


def cluster_points(points: Tensor, eps: float, min_samples: int) -> Clusters:
    """Cluster the points themselves: DBSCAN (Ester et al. 1996) and silhouettes (Rousseeuw 1987), of sklearn.

    Time and memory grow with the square of the number of points where `eps` is above their spread.

    Args:
        points: (2, n) finite float points.
        eps: radius of a neighbourhood, in the units of `points`.
        min_samples: points in a neighbourhood (itself included) that make a point a core point.
    """
    from sklearn.metrics import silhouette_samples

    array = points.T.cpu().numpy()
    weights = np.ones(len(array), dtype=np.int64)
    labels, sizes = _largest_first(_dbscan(array, eps, min_samples, weights), weights)
    n_noise = len(array) - sum(sizes)
    silhouettes: list[float] = []
    if _scorable(sizes, n_noise):
        clustered = labels >= 0
        scores = silhouette_samples(array[clustered], labels[clustered])
        silhouettes = [float(scores[labels[clustered] == k].mean()) for k in range(len(sizes))]
    return Clusters(torch.from_numpy(labels).to(points.device), sizes, n_noise, silhouettes)


def fit_mixtures(points: Floats, n_components: int, seed: int) -> list[dict[str, Any]]:
    """Fit Gaussian mixtures of 1 .. `n_components` components with full covariances to `points` (n, 2).

    Returns:
        One mapping per mixture, in the units of `points`: `weights` (k,), `means` (k, 2) and `covariances`
        (k, 2, 2), heaviest component first, `bic` (Schwarz 1978; lower is better) and `converged`.
    """
    from sklearn.mixture import GaussianMixture

    # Standardised: sklearn's floor for covariances is absolute, and its start, k-means, wants axes alike.
    mean, std = points.mean(axis=0), points.std(axis=0)
    z = (points - mean) / std
    fits = []
    for k in range(1, n_components + 1):
        mixture = GaussianMixture(k, n_init=3, random_state=seed).fit(z)
        order = np.argsort(-mixture.weights_)
        fits.append(
            {
                "weights": mixture.weights_[order].tolist(),
                "means": (mixture.means_[order] * std + mean).tolist(),
                "covariances": (mixture.covariances_[order] * np.outer(std, std)).tolist(),
                # The change of variables turns each point's density p(z) into p(z) / (std_0 std_1).
                "bic": float(mixture.bic(z) + 2 * len(z) * np.log(std).sum()),
                "converged": bool(mixture.converged_),
            }
        )
    return fits


def _occupied(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct keys (m,), the place of each of `keys` among them (n,), and their counts (m,)."""
    if n_keys > MAX_DENSE_CELLS:
        distinct, place, counts = torch.unique(keys, return_inverse=True, return_counts=True)
        return distinct, place, counts
    counts = torch.bincount(keys, minlength=n_keys)
    distinct = counts.nonzero().squeeze(1)
    place = torch.empty_like(counts)
    place[distinct] = torch.arange(len(distinct), device=keys.device)
    return distinct, place[keys], counts[distinct]


def _dbscan(points: npt.NDArray[Any], eps: float, min_samples: int, weights: Ints) -> Ints:
    from sklearn.cluster import DBSCAN

    labels: Ints = DBSCAN(eps=eps, min_samples=min_samples).fit(points, sample_weight=weights).labels_
    return labels.astype(np.int64)


def _largest_first(labels: Ints, weights: Ints) -> tuple[Ints, list[int]]:
    """Renumber the clusters by falling size; return labels and sizes."""
    clustered = labels >= 0
    sizes = np.bincount(labels[clustered], weights=weights[clustered]).astype(np.int64)
    order = np.argsort(-sizes, kind="stable")
    # One place more, so that -1 (noise) finds itself at the end.
    renumbered = np.full(len(sizes) + 1, -1, dtype=np.int64)
    renumbered[order] = np.arange(len(sizes))
    return renumbered[labels], sizes[order].tolist()


def _scorable(sizes: list[int], n_noise: int) -> bool:
    clustered = sum(sizes)
    few = 2 <= len(sizes) <= MAX_SILHOUETTE_CELLS and len(sizes) < clustered
    return few and n_noise < MAX_NOISE * (n_noise + clustered)


def _cell_silhouettes(cells: Ints, weights: Ints, labels: Ints) -> list[float]:
    """Return each cluster's mean silhouette (Rousseeuw 1987); a cell (m, 2) stands for `weights` (m,) points.

    With a the mean distance to the other points of its cluster, and b that to the points of the nearest other
    cluster, a point's silhouette is (b - a) / max(a, b), and 0 where it is alone in its cluster.
    """
    points, counts, labels, width = _coarsen(cells, weights, labels)
    sizes = np.bincount(labels, weights=counts)
    member = labels[:, None] == np.arange(len(sizes))
    grid = torch.from_numpy(points)
    distances = torch.cdist(grid, grid, compute_mode="donot_use_mm_for_euclid_dist")
    totals = (distances @ torch.from_numpy(member * counts[:, None])).numpy()  # (cells, clusters)
    # Points that share a cell are apart too.
    inner = totals[member] + (counts - 1) * width * UNIT_SQUARE_DISTANCE
    a = inner / np.maximum(sizes[labels] - 1, 1)
    b = np.where(member, np.inf, totals / sizes).min(axis=1)
    scores = np.where(sizes[labels] > 1, (b - a) / np.maximum(a, b), 0.0)
    means: list[float] = (np.bincount(labels, weights=scores * counts) / sizes).tolist()
    return means


def _coarsen(cells: Ints, weights: Ints, labels: Ints) -> tuple[Floats, Floats, Ints, float]:
    """Join neighbouring cells of a cluster until there are few enough.

    Returns:
        Their centroids (m, 2), counts (m,), labels (m,) and width, in cells.
    """
    width = 1
    groups = np.column_stack([labels, cells])
    while True:
        distinct, place = np.unique(groups, axis=0, return_inverse=True)
        if len(distinct) <= MAX_SILHOUETTE_CELLS:
            break
        groups[:, 1:] //= 2
        width *= 2
    place = place.reshape(-1)
    counts: Floats = np.bincount(place, weights=weights).astype(np.float64)
    centroids = np.column_stack([np.bincount(place, weights=weights * axis) / counts for axis in cells.T])
    return centroids, counts, distinct[:, 0], float(width)
