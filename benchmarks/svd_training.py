"""How well the principal subspaces of a network that trains are followed, against `torch.linalg.svd` each time."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from expkit.diagnostics.svd import SVDDiagnostic

__all__ = ["TEXT", "THREADS", "measure"]

THREADS = "torch on 1 thread"

TEXT = """\
`diagnostics=svd` along trainings of an MLP (64-w-w-10, w 128 or 192) on scikit-learn's digits in full batches, by Adam
at 3e-4 and 1e-3, an analysis every 5, 10 or 20 steps, from random initialisation on, when nothing has settled: the
differences between `method=subspace` and `method=full` in the middle layer (the others are small, and computed
exactly)."""

METRICS = ("principal_alignment", "reconstruction_error", "subspace_angle", "subspace_angle_rms")
LAYER = "2"


@dataclass
class Result:
    """Differences by metric, and the true angles."""

    differences: dict[str, list[float]]
    angles: list[float]

    def markdown(self) -> str:
        """Return the table."""
        lines = [
            f"{len(self.angles)} analyses; from one to the next the subspace turned by "
            f"{statistics.median(self.angles):.2f} rad in the median, {max(self.angles):.2f} at most.",
            "",
            "| difference to the full SVD | median | 95 % | worst |",
            "|---|---:|---:|---:|",
        ]
        for metric, values in self.differences.items():
            high = statistics.quantiles(values, n=20)[-1]
            lines.append(f"| `{metric}` | {statistics.median(values):.1e} | {high:.1e} | {max(values):.1e} |")
        return "\n".join(lines)


def along_training(width: int, lr: float, interval: int, analyses: int) -> list[tuple[dict[str, float], ...]]:
    """Return what the followed and the full SVD measured, for each analysis but the first."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, classes = torch.from_numpy(digits.data).float()[:512] / 16, torch.from_numpy(digits.target)[:512]
    torch.manual_seed(width)
    model = nn.Sequential(*(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    both = [SVDDiagnostic(layers=LAYER, method=method) for method in ("subspace", "full")]
    found = []
    for step in range(interval * analyses):
        F.cross_entropy(model(inputs), classes).backward()
        for diagnostic in both if step % interval == interval - 1 else ():
            diagnostic.before_update(model)
        optimizer.step()
        optimizer.zero_grad()
        if step % interval == interval - 1:
            found.append(tuple(diagnostic.measure(model) for diagnostic in both))
    return found[1:]


def measure(analyses: int = 12) -> Result:
    """Return the differences in twelve trainings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    differences: dict[str, list[float]] = {metric: [] for metric in METRICS}
    angles = []
    try:
        for width, lr, interval in itertools.product((128, 192), (3e-4, 1e-3), (5, 10, 20)):
            for followed, full in along_training(width, lr, interval, analyses):
                angles.append(full[f"{LAYER}/subspace_angle"])
                for metric, values in differences.items():
                    values.append(abs(followed[f"{LAYER}/{metric}"] - full[f"{LAYER}/{metric}"]))
    finally:
        torch.set_num_threads(before)
    return Result(differences, angles)
