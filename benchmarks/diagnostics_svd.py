"""What following the principal subspaces of a 124M-parameter GPT costs and errs by, against `torch.linalg.svd`."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.harness import Comparison, Goal, compare
from expkit.diagnostics import _subspace as subspace
from expkit.diagnostics.svd import SVDDiagnostic

__all__ = ["TEXT", "THREADS", "measure"]

THREADS = "torch on 2 threads"

TEXT = """\
`diagnostics=svd` on the 48 matrices of a GPT with 124 million parameters (twelve times 768 x 2304, 768 x 768,
768 x 3072 and 3072 x 768, float32). Their singular values fall as i^-0.5; between two analyses they move as by 20 steps
of Adam at a learning rate of 3e-4, along a signal of rank 16 that turns from interval to interval, and by noise.
*Followed*, *followed as if turning fast* (what layers get whose subspaces turn by more than 0.05 rad) and *computed
anew* are whole analyses of all 48: subspaces, the gradients' alignments, angles, errors. *Subspaces alone* and
`torch.linalg.svd` (with `full_matrices=False`) are the decompositions, without what is done with them. Errors are
against the latter, in the same rounds. The steps are those of an interval of 20, without refreshes: for each the median
over several intervals."""

SHAPES = {"c_attn": (2304, 768), "attn_proj": (768, 768), "c_fc": (3072, 768), "mlp_proj": (768, 3072)}
BLOCKS, INTERVAL, LR, K = 12, 20, 3e-4, 10
FULL, ALONE, FOLLOWED = "`torch.linalg.svd`", "subspaces alone, followed", "followed"
FAST, ANEW = "followed as if turning fast", "computed anew (a refresh of all)"


class Matrices(nn.Module):
    """Linear layers that train, as far as their singular values can tell.

    Args:
        shapes: of the weights of a block.
        blocks: how many.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], blocks: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.signals: dict[str, tuple[Tensor, Tensor]] = {}
        for number in range(blocks):
            for name, (m, n) in shapes.items():
                layer = nn.Linear(n, m, bias=False)
                layer.weight.data = self._decaying(m, n)
                self.add_module(f"block{number}_{name}", layer)
                self.signals[f"block{number}_{name}"] = self._normal(m, 16), self._normal(16, n) / 4
        self.move()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _decaying(self, m: int, n: int) -> Tensor:
        """A matrix whose singular values fall as i^-0.5, of entries like those of a trained layer, 0.02."""
        g = min(m, n)
        left, right = (torch.linalg.qr(self._normal(side, g)).Q for side in (m, n))
        weight: Tensor = (left * torch.arange(1, g + 1) ** -0.5) @ right.T
        weight *= 0.02 * math.sqrt(m * n) / weight.norm()
        return weight

    @torch.no_grad()
    def move(self) -> None:
        """Train for an interval; leave the last gradient."""
        for name, layer in self.named_children():
            assert isinstance(layer, nn.Linear)
            left, right = self.signals[name]
            left += 0.3 * self._normal(*left.shape)
            left *= math.sqrt(left.numel()) / left.norm()
            signal, noise = left @ right, self._normal(*layer.weight.shape)
            # Adam's steps are bounded: what they agree on adds up, what they do not grows as the square root.
            layer.weight -= LR * (0.1 * INTERVAL * torch.tanh(signal) + math.sqrt(INTERVAL) * noise)
            layer.weight.grad = signal + noise


@dataclass
class Exact:
    """The reference: numbers of the last analysis, from `torch.linalg.svd` in float32."""

    bases: dict[str, Tensor]
    numbers: dict[str, dict[str, float]]

    def analyse(self, model: Matrices) -> float:
        """Return the seconds of the decompositions alone."""
        took = 0.0
        for name, layer in model.named_children():
            assert isinstance(layer, nn.Linear) and layer.weight.grad is not None
            matrix = subspace.on_short_side(layer.weight)
            began = time.perf_counter()
            u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
            took += time.perf_counter() - began
            squares, principal = s.double().square(), u[:, :K].clone()
            share = subspace.alignment(principal, subspace.on_short_side(layer.weight.grad))
            self.numbers[name] = {
                "principal_alignment": float(share.sqrt()),
                "reconstruction_error": float((squares[K:].sum() / squares.sum()).sqrt()),
            }
            if name in self.bases:
                self.numbers[name]["subspace_angle"] = float(subspace.angles(self.bases[name], principal)[0])
            self.bases[name] = principal
        return took


@dataclass
class Result:
    """What was measured."""

    comparison: Comparison
    errors: dict[str, list[float]]
    angles: list[float]
    steps: list[float]

    def markdown(self) -> str:
        """Return the table, and what it comes to."""
        full, alone, followed, fast, anew = (row.median for row in self.comparison.rows())
        layers = BLOCKS * len(SHAPES)
        mean, slowest = statistics.mean(self.steps), max(self.steps)
        again = (anew - followed) / layers
        refresh = SVDDiagnostic().refresh
        worst = {name: max(values) for name, values in self.errors.items()}
        angles = statistics.quantiles(self.angles, n=4)
        lines = [
            f"The subspaces alone take 1/{full / alone:.0f} of `torch.linalg.svd`, a whole analysis "
            f"1/{full / followed:.0f}, turning fast 1/{full / fast:.0f}. Largest errors of "
            f"{len(self.angles)} analyses of a layer: principal alignment {worst['principal_alignment']:.1e}, "
            f"reconstruction error {worst['reconstruction_error']:.1e}, angle {worst['subspace_angle']:.1e} rad "
            f"(median {statistics.median(self.errors['subspace_angle']):.1e}), where the subspaces turned by "
            f"{angles[0]:.2f} to {angles[2]:.2f} rad (quartiles; at most {max(self.angles):.2f}).",
            f"Over {INTERVAL} steps: {1000 * mean:.1f} ms a step, the slowest {1000 * slowest:.1f} ms, "
            f"{slowest / mean:.2f} times the mean. A refresh adds {1000 * again:.0f} ms to the step that it falls on, "
            f"once in {refresh} analyses of a layer: {1000 * again * layers / refresh / INTERVAL:.1f} ms a step.",
        ]
        return "\n\n".join([self.comparison.markdown(), *lines])


def accuracy_and_cost(model: Matrices, rounds: int) -> tuple[Comparison, dict[str, list[float]], list[float]]:
    """Return the seconds of an analysis in each way; errors of the followed one; the true angles."""
    diagnostic, hasty, anew, exact = SVDDiagnostic(), SVDDiagnostic(), SVDDiagnostic(refresh=1), Exact({}, {})
    errors: dict[str, list[float]] = {"principal_alignment": [], "reconstruction_error": [], "subspace_angle": []}
    angles: list[float] = []
    turns = itertools.count()

    def reference() -> float:
        model.move()
        # In the first round of the warm-up nothing is held against it, and it takes longest of all.
        return exact.analyse(model) if next(turns) else 0.0

    def one(which: SVDDiagnostic, check: bool) -> float:
        began = time.perf_counter()
        which.before_update(model)
        measured = which.measure(model)
        took = time.perf_counter() - began
        for layer, numbers in exact.numbers.items() if check else ():
            if "subspace_angle" in numbers:
                angles.append(numbers["subspace_angle"])
                for name, value in numbers.items():
                    errors[name].append(abs(measured[f"{layer}/{name}"] - value))
        return took

    @torch.no_grad()
    def alone() -> float:
        # Of the subspaces before this round's, which is what `followed` does next.
        layers = diagnostic.state_dict()["layers"]
        began = time.perf_counter()
        for name, layer in model.named_children():
            assert isinstance(layer, nn.Linear)
            matrix, basis = subspace.on_short_side(layer.weight), layers[name]["basis"] if name in layers else None
            if basis is not None and basis.shape[1] < matrix.shape[0]:
                subspace.follow(matrix, basis)
        return time.perf_counter() - began

    def fast() -> float:
        state = hasty.state_dict()
        for layer in state["layers"].values():
            layer["turned"] = math.inf
        hasty.load_state_dict(state)
        return one(hasty, False)

    competitors: dict[str, Callable[[], float]] = {
        FULL: reference,
        ALONE: alone,
        FOLLOWED: lambda: one(diagnostic, True),
        FAST: fast,
        ANEW: lambda: one(anew, False),
    }
    # The first analysis is computed anew, the second followed as if it turned fast: there is no angle yet.
    return compare(competitors, FULL, "seconds", rounds=rounds, warmup=2), errors, angles


def step_costs(model: Matrices, intervals: int) -> list[float]:
    """Return the median seconds of each step of an interval, without refreshes."""
    diagnostic = SVDDiagnostic(refresh=1000 * BLOCKS * len(SHAPES))
    samples: list[list[float]] = [[] for _ in range(INTERVAL)]
    for number in range(-2, intervals):  # as above
        model.move()
        for part in range(INTERVAL):
            began = time.perf_counter()
            diagnostic.before_update(model, part, INTERVAL)
            if part == INTERVAL - 1:
                diagnostic.measure(model)
            if number >= 0:
                samples[part].append(time.perf_counter() - began)
    return [statistics.median(each) for each in samples]


def measure(rounds: int = 2, intervals: int = 5, threads: int = 2) -> Result:
    """Return what an analysis costs and errs by, and each step of an interval."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = Matrices(SHAPES, BLOCKS)
        return Result(*accuracy_and_cost(model, rounds), step_costs(model, intervals))
    finally:
        torch.set_num_threads(before)


def goals(result: Result) -> list[Goal]:
    """Return the goals: a fiftieth of the full decomposition, as exact as can be told, spread evenly."""
    full, alone, followed, *_ = (row.median for row in result.comparison.rows())
    worst = {name: max(values) for name, values in result.errors.items()}
    shares = max(worst["principal_alignment"], worst["reconstruction_error"])
    mean, slowest = statistics.mean(result.steps), max(result.steps)
    return [
        Goal(
            "48 matrices in at most 1/50 of `torch.linalg.svd`",
            f"subspaces alone 1/{full / alone:.0f}, a whole analysis 1/{full / followed:.0f}",
            followed <= full / 50,
            "" if alone > full / 50 else "an analysis also has norms, alignments with gradients, angles and errors",
        ),
        Goal(
            "errors at most 1e-3, of an angle 0.02 rad",
            f"{shares:.1e}, {worst['subspace_angle']:.1e} rad",
            shares <= 1e-3 and worst["subspace_angle"] <= 0.02,
        ),
        Goal("the slowest step at most 3 times the mean", f"{slowest / mean:.2f} times", slowest <= 3 * mean),
    ]
