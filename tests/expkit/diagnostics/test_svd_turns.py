"""When the svd diagnostic looks at which layer, when anew, and what it keeps for a resume."""

from __future__ import annotations

import io
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from expkit.checkpoints.state import check_loadable
from expkit.diagnostics import _subspace as subspace
from expkit.diagnostics._layers import take_turns
from expkit.diagnostics.svd import SVDDiagnostic
from tests.expkit.diagnostics.svd_driver import (
    KNOWN,
    OF_GRADIENT,
    OF_WEIGHT,
    Training,
    analyse,
    digits_network,
    gpt,
    layer,
    layers_of,
    of_layer,
    randomised,
)


def saved(state: dict[str, Any]) -> Any:
    """Return what a checkpoint gives back."""
    check_loadable(state, "state")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Watched(SVDDiagnostic):
    """Remembers what it did at each step: layer -> whether it was computed anew."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.steps: list[list[tuple[int, bool]]] = []

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        self.steps.append([])
        super().before_update(model, part, parts)

    def _analyse(self, module: nn.Module, layer: Any, fresh: bool) -> None:
        self.steps[-1].append((id(module), fresh))
        super()._analyse(module, layer, fresh)


def test_the_layers_of_a_gpt_have_the_names_of_the_contract() -> None:
    diagnostic = SVDDiagnostic()
    diagnostic.before_update(gpt())
    measured = diagnostic.measure(gpt())
    parts = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert layers_of(measured) == {f"block{number}.{part}" for number in range(2) for part in parts}
    assert of_layer(measured, "block1.mlp.c_fc").keys() == OF_GRADIENT | OF_WEIGHT | KNOWN


@pytest.mark.parametrize("parts", [1, 2, 5, 12, 40])
def test_each_layer_has_one_turn_in_an_interval(parts: int) -> None:
    diagnostic, model = Watched(), gpt()
    for interval in range(2):
        for part in range(parts):
            diagnostic.before_update(model, part, parts)
        seen = Counter(module for step in diagnostic.steps[interval * parts :] for module, _ in step)
        assert set(seen.values()) == {1} and len(seen) == 12
        assert len(layers_of(diagnostic.measure(model))) == 12
    assert diagnostic.measure(model) == {}


def test_turns_cost_about_the_same() -> None:
    sizes = {"c_attn": 768 * 2304, "attn.c_proj": 768 * 768, "c_fc": 768 * 3072, "mlp.c_proj": 768 * 3072}
    costs = {f"block{number}.{name}": float(size) for number in range(12) for name, size in sizes.items()}
    turns = take_turns(costs, 20)
    loads = [sum(costs[name] for name, part in turns.items() if part == each) for each in range(20)]
    assert max(loads) < 1.25 * sum(loads) / 20


def test_an_interval_may_grow() -> None:
    diagnostic, model = SVDDiagnostic(), gpt()
    for part in range(4):
        diagnostic.before_update(model, part, 4)
    diagnostic.measure(model)
    for part in range(4, 8):  # the runner goes on in the middle of the longer one
        diagnostic.before_update(model, part, 8)
    assert 0 < len(layers_of(diagnostic.measure(model))) < 12
    for part in range(8):
        diagnostic.before_update(model, part, 8)
    assert len(layers_of(diagnostic.measure(model))) == 12


def test_measured_alone_it_looks_at_all_layers() -> None:
    diagnostic, model = SVDDiagnostic(), gpt()
    assert diagnostic.measure(model).keys() == SVDDiagnostic(method="full").measure(model).keys()
    assert diagnostic.measure(model)["block0.attn.c_q/subspace_angle"] < 1e-4


# Refreshes


def test_refreshes_do_not_meet_and_leave_no_layer_out() -> None:
    model = randomised(nn.Sequential(*(nn.Linear(80, 80) for _ in range(12))))
    diagnostic = Watched(refresh=8)
    for _ in range(25):
        for part in range(5):
            diagnostic.before_update(model, part, 5)
        diagnostic.measure(model)
    first, later = diagnostic.steps[:5], diagnostic.steps[5:]
    assert all(fresh for step in first for _, fresh in step)
    assert max(sum(fresh for _, fresh in step) for step in later) == 1
    of_each = Counter(module for step in later for module, fresh in step if fresh)
    assert len(of_each) == 12 and set(of_each.values()) <= {2, 3, 4}
    # Nor do they come all in a row: 24 analyses of 12 layers have about 1.5 refreshes an interval.
    assert max(sum(fresh for step in later[n : n + 5] for _, fresh in step) for n in range(0, len(later), 5)) <= 4


def test_more_refreshes_are_due_than_one_a_step_when_one_cannot_keep_up() -> None:
    model = randomised(nn.Sequential(*(nn.Linear(80, 80) for _ in range(6))))
    diagnostic = Watched(refresh=2)
    for _ in range(9):
        diagnostic.before_update(model)
    assert {sum(fresh for _, fresh in step) for step in diagnostic.steps[2:]} == {3}


def test_a_refresh_finds_what_the_followed_subspace_has_lost() -> None:
    """A direction that grows outside of the basis, orthogonal to it, is invisible to products with it."""
    weight = torch.diag(torch.linspace(10, 1, 100))
    grown = weight.clone()
    grown[99, 99] = 50.0
    missed, found = SVDDiagnostic(refresh=50), SVDDiagnostic(refresh=1)
    for diagnostic in (missed, found):
        analyse(diagnostic, layer(weight))
    assert analyse(found, layer(grown))["subspace_angle"] == pytest.approx(math.pi / 2, abs=1e-3)
    assert analyse(missed, layer(grown))["subspace_angle"] < 0.1


def test_the_rank_adapts_at_refreshes_only_and_by_the_published_rule() -> None:
    diagnostic = SVDDiagnostic(adapt_rank=True, refresh=2)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 130, generator=generator)
    ranks = [analyse(diagnostic, layer(weight))["r"] for _ in range(7)]
    assert ranks == [86, 86, 86, 68, 68, 54, 54]  # nothing moves: 0.8 r
    ranks = [analyse(diagnostic, layer(weight * 1.5**n))["r"] for n in range(1, 7)]
    assert ranks[-1] > 54  # 1.2 r
    assert all(8 <= r <= 95 for r in ranks)


# A resume


@pytest.mark.parametrize("arguments", [{}, {"refresh": 2}, {"adapt_rank": True, "refresh": 2}, {"method": "full"}])
@pytest.mark.parametrize("cut", [1, 3, 4, 6, 9, 10])
def test_a_resume_within_an_interval_measures_the_same_bits(cut: int, arguments: dict[str, Any]) -> None:
    """Exactly: followed subspaces, counts, what waits for the end of the interval."""
    parts, whole, resumed = 4, Training(digits_network(96)), Training(digits_network(96))
    (expected,) = whole.run(12, [SVDDiagnostic(**arguments)], parts)
    before, after = SVDDiagnostic(**arguments), SVDDiagnostic(**arguments)
    (first,) = resumed.run(cut, [before], parts)
    after.load_state_dict(saved(before.state_dict()))
    (second,) = resumed.run(12 - cut, [after], parts)
    assert repr(first + second) == repr(expected)


def test_a_checkpoint_keeps_no_more_than_the_bases() -> None:
    diagnostic, model = SVDDiagnostic(), randomised(nn.Linear(400, 200))
    diagnostic.before_update(model)
    diagnostic.measure(model)
    file = io.BytesIO()
    torch.save(diagnostic.state_dict(), file)
    assert file.tell() < 1.2 * 200 * 18 * 4 + 4096


def test_a_resume_may_be_given_another_rank() -> None:
    before, after = SVDDiagnostic(), SVDDiagnostic(rank=5)
    model = randomised(nn.Linear(100, 100))
    before.before_update(model)
    after.load_state_dict(saved(before.state_dict()))
    after.before_update(model)
    assert after.measure(model)["model/r"] == 95


def test_the_rank_may_be_chosen() -> None:
    model = randomised(nn.Linear(20, 30))
    assert analyse(SVDDiagnostic(rank=3), model)["r"] == 17
    assert analyse(SVDDiagnostic(rank=300), model)["r"] == 1


def test_followed_bases_stay_orthonormal() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(100, 130, generator=generator)
    basis = subspace.gram_eigh(matrix)[1][:, :18]
    for _ in range(200):
        matrix = matrix + 0.01 * torch.randn(100, 130, generator=generator)
        _, basis = subspace.iterate(matrix, basis, iterations=1)
    assert torch.dist(basis.T @ basis, torch.eye(18)) < 1e-4
