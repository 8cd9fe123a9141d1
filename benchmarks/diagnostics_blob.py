"""What the blob diagnostic costs, beside scikit-learn on a sample of the same weights: time, and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Comparison, Goal, compare
from expkit.diagnostics._weights import weight_pairs
from expkit.diagnostics.blob import BlobDiagnostic
from train.models.two_layer_net import TwoLayerNet

__all__ = ["TEXT", "THREADS", "measure", "train_network"]

THREADS = "torch on 1 thread"

TEXT = """\
The weights of a network with as many weight pairs as that of `experiment=reference_3blob`, 524,288 (512 inputs, 1,024
hidden units, which takes less training), after some training on that experiment's loss, and at its initialisation.
`exact` is `BlobDiagnostic().measure` on all pairs. scikit-learn gets 5,000 of them: `DBSCAN(eps=0.5, min_samples=5)` on
standardised pairs, which is the rule of `exact`, or the published `DBSCAN(eps=0.1, min_samples=50)` on raw ones; then
`silhouette_score`, of two arbitrary halves where there are no two clusters: it takes the same time.

Memory is the highest resident size of a fresh process over that before the call, everything imported and called once on
a small network, on the trained weights or a part of them (`VmHWM` after a reset, Linux). scikit-learn's grows with the
square of the pairs; it was not run on 50,000, for which this says over 10 GB."""

_RULE = "scikit-learn, DBSCAN of this rule and silhouette, 5,000 pairs"
_PUBLISHED = "scikit-learn, DBSCAN as published and silhouette, 5,000 pairs"
_EXACT = "`exact`, 524,288 pairs"
_SAMPLE = 5000

_MEMORY = """
import re, sys, torch
import numpy as np
from benchmarks.diagnostics_blob import cluster_sample
from expkit.diagnostics.blob import BlobDiagnostic
torch.set_num_threads(1)

def memory(name):
    with open("/proc/self/status") as file:
        return int(re.search(rf"{name}:\\s+(\\d+) kB", file.read())[1]) / 1024

weights = torch.load(sys.argv[1], weights_only=True)
method, hidden, d = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
encoder, decoder = weights["encoder"][:hidden, :d].clone(), weights["decoder"][:d, :hidden].clone()
run = BlobDiagnostic().measure_pair if method == "exact" else cluster_sample
run(encoder[:8, :8].clone(), decoder[:8, :8].clone())
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = memory("VmRSS")
run(encoder, decoder)
print(memory("VmHWM") - before)
"""


@dataclass(frozen=True)
class _Report:
    """Times on two sets of weights, and memory: what, pairs, MB."""

    untrained: Comparison
    trained: Comparison
    memory: list[tuple[str, int, float]]
    remark: str

    def markdown(self) -> str:
        rows = [f"| {what} | {pairs:,} | {mb:.1f} |" for what, pairs, mb in self.memory]
        table = [
            "| memory over that before, MB of 1024^2 bytes, one process | pairs | peak |",
            "|---|---:|---:|",
            *rows,
        ]
        parts = (
            ("After training", self.trained.markdown()),
            ("At initialisation", self.untrained.markdown()),
            ("Memory", "\n".join(table)),
        )
        return "\n\n".join([*(f"{title}:\n\n{each}" for title, each in parts), self.remark])


def train_network(d: int, hidden: int, steps: int, batch: int, lambda_on: float = 16.0, seed: int = 0) -> TwoLayerNet:
    """Return a network trained on the loss of `experiment=reference_3blob`, with data from one generator."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = TwoLayerNet(d, hidden, encoder_init_scale=0.03, decoder_init_scale=0.03)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    for _ in range(steps):
        one = torch.randint(d, (batch, 1), generator=generator)
        other = (one + torch.randint(1, d, (batch, 1), generator=generator)) % d
        clean = torch.zeros(batch, d).scatter_(1, torch.cat([one, other], dim=1), 1.0)
        squared = (model(clean + 0.005**0.5 * torch.randn(batch, d, generator=generator)) - clean).square()
        scaled = (squared.sum() + (lambda_on - 1) * (squared * clean).sum()) / batch
        loss = scaled + 0.03 * model.decoder.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def cluster_sample(encoder: torch.Tensor, decoder: torch.Tensor, published: bool = False) -> None:
    """Do with scikit-learn what `exact` does, on all pairs of W1 (hidden, d) and W2 (d, hidden)."""
    _cluster(weight_pairs(encoder, decoder).T.numpy(), published)


def _cluster(pairs: np.ndarray, published: bool) -> None:
    from sklearn.cluster import DBSCAN
    from sklearn.metrics import silhouette_score

    if published:
        labels = DBSCAN(eps=0.1, min_samples=50).fit(pairs).labels_
    else:
        pairs = (pairs - pairs.mean(axis=0)) / pairs.std(axis=0)
        labels = DBSCAN(eps=0.5, min_samples=max(5, len(pairs) // 1000)).fit(pairs).labels_
    clustered = labels >= 0
    if len(np.unique(labels[clustered])) < 2:
        labels, clustered = np.arange(len(pairs)) % 2, np.full(len(pairs), True)
    silhouette_score(pairs[clustered], labels[clustered])


def timing(model: TwoLayerNet, rounds: int) -> Comparison:
    """Return the milliseconds that each takes on the weights of `model`."""
    diagnostic = BlobDiagnostic()
    diagnostic.check(model)
    pairs = weight_pairs(model.encoder.weight, model.decoder.weight).T.numpy()
    sample = pairs[np.random.default_rng(0).choice(len(pairs), _SAMPLE, replace=False)]

    def milliseconds(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - began)

    competitors = {
        _RULE: lambda: milliseconds(lambda: _cluster(sample, published=False)),
        _PUBLISHED: lambda: milliseconds(lambda: _cluster(sample, published=True)),
        _EXACT: lambda: milliseconds(lambda: diagnostic.measure(model)),
    }
    return compare(competitors, _RULE, "ms", rounds)


def memory(model: TwoLayerNet) -> list[tuple[str, int, float]]:
    """Return what each method needs beside the weights, on how many pairs, in MB; each in a process of its own."""
    found = []
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        weights = {"encoder": model.encoder.weight.detach(), "decoder": model.decoder.weight.detach()}
        torch.save(weights, file.name)
        for method, name, hidden, d in (
            ("exact", "`exact`", 50, 100),
            ("exact", "`exact`", 200, 250),
            ("exact", "`exact`", model.encoder.out_features, model.encoder.in_features),
            ("sklearn", "scikit-learn, DBSCAN of this rule and silhouette", 50, 100),
            ("sklearn", "scikit-learn, DBSCAN of this rule and silhouette", 100, 100),
        ):
            command = [sys.executable, "-c", _MEMORY, file.name, method, str(hidden), str(d)]
            root = Path(__file__).resolve().parent.parent
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
            found.append((name, hidden * d, float(done.stdout)))
    return found


def measure(d: int = 512, hidden: int = 1024, steps: int = 600, batch: int = 500, rounds: int = 5) -> _Report:
    """Measure everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train_network(d, hidden, steps, batch)
        found = BlobDiagnostic().measure(model)
        remark = (
            f"The network was trained for {steps} updates on batches of {batch}: correlation "
            f"{found['weight_correlation']:.3f}, {found['n_clusters_dbscan']} clusters, silhouette "
            f"{found['silhouette_score']:.3f}."
        )
        untrained = train_network(d, hidden, 0, batch)
        return _Report(timing(untrained, rounds), timing(model, rounds), memory(model), remark)
    finally:
        torch.set_num_threads(threads)


def goals(report: _Report) -> list[Goal]:
    """Return the goals: quicker on all weights than scikit-learn on a sample, in little memory."""
    trained, untrained = (
        next(row.ratio for row in table.rows() if row.name == _EXACT) for table in (report.trained, report.untrained)
    )
    memory = next(mb for what, pairs, mb in report.memory if what == "`exact`" and pairs == 50_000)
    return [
        Goal(
            "524,288 pairs in at most a quarter of scikit-learn's time for 5,000",
            f"{trained:.2f} of it after training, {untrained:.2f} at initialisation",
            max(trained, untrained) <= 0.25,
        ),
        Goal("50,000 pairs in under 100 MB", f"{memory:.0f} MB", memory < 100),
    ]
