"""AdaptiveLinear: what a switch leaves as it was, what it trains, and what its state dict brings back."""

from __future__ import annotations

import copy
import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expkit.diagnostics.svd import SVDDiagnostic
from expkit.errors import UserError
from expkit.lowrank import AdaptiveLinear, convert

#: (outputs, inputs, r): wide, tall, square; from one minor component to all but one.
SPLITS = [(24, 40, 1), (24, 40, 23), (40, 24, 5), (32, 32, 16), (2, 2, 1), (2, 7, 1), (96, 130, 86), (130, 96, 86)]
#: Of the largest output. The layer's own rounding, against float64, is of this size too.
TOLERANCE = 2e-6


def made(out_features: int, in_features: int, bias: bool = True, seed: int = 0) -> AdaptiveLinear:
    torch.manual_seed(seed)
    layer = nn.Linear(in_features, out_features, bias=bias)
    convert(layer)
    assert isinstance(layer, AdaptiveLinear)
    return layer


def inputs(layer: nn.Linear, rows: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(seed))


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max() / other.detach().abs().max())


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("m", "n", "r"), SPLITS)
def test_a_switch_changes_neither_the_forward_pass_nor_the_gradient_of_the_input(
    m: int, n: int, r: int, bias: bool
) -> None:
    layer = made(m, n, bias)

    def seen() -> tuple[Tensor, Tensor]:
        x = inputs(layer).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        assert x.grad is not None
        return out, x.grad

    before, gradient = seen()
    layer.switch_to_low_rank(r)
    for mode in (1.0, 0.0):
        assert layer.svd_mode == mode
        after, now = seen()
        assert difference(after, before) < TOLERANCE and difference(now, gradient) < TOLERANCE
        layer.switch_to_full()


@pytest.mark.parametrize(("m", "n", "r"), SPLITS)
def test_the_split_is_milora(m: int, n: int, r: int) -> None:
    layer = made(m, n)
    u, s, vt = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    layer.switch_to_low_rank(r)
    assert layer.lora_B.shape == (m, r) and layer.lora_A.shape == (r, n)
    k = min(m, n) - r
    principal, minor = (u[:, :k] * s[:k]) @ vt[:k], (u[:, k:] * s[k:]) @ vt[k:]
    assert torch.allclose(layer.principal.double(), principal, atol=1e-6)
    assert torch.allclose((layer.lora_B @ layer.lora_A).detach().double(), minor, atol=1e-6)
    # The square root of S is on both sides.
    assert torch.allclose((layer.lora_B.T @ layer.lora_B).detach().diagonal().double(), s[k:], atol=1e-6)
    assert torch.allclose((layer.lora_A @ layer.lora_A.T).detach().diagonal().double(), s[k:], atol=1e-6)


def test_in_low_rank_the_principal_part_stays_and_the_minor_one_is_trained() -> None:
    layer = made(24, 40)
    layer.switch_to_low_rank(6)
    assert [name for name, _ in layer.named_parameters()] == ["lora_B", "lora_A", "bias"]
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        layer(inputs(layer)).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lora_B", "lora_A", "bias"}
    weight = layer.weight.detach().clone()
    layer.switch_to_full()
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert torch.equal(layer.weight, weight) and isinstance(layer.weight, nn.Parameter)


def test_who_looks_at_the_weight_sees_it_in_both_modes() -> None:
    layer = made(24, 40)
    weight = layer.weight.detach().clone()
    layer.switch_to_low_rank(6)
    assert torch.allclose(layer.weight, weight, atol=1e-6)
    (layer.weight**2).sum().backward()  # a penalty, say
    assert layer.lora_A.grad is not None
    assert "mode=LOW-RANK, r=6" in repr(layer)
    layer.switch_to_full()
    assert "mode=FULL" in repr(layer)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_gradient_of_the_whole_weight_is_there_in_both_modes(pieces: int, late: bool) -> None:
    layer = made(24, 40)

    def gradient() -> Tensor:
        for seed in (1, 2):  # what the update before left does not count
            if not late:
                layer.zero_grad()
            for number, piece in enumerate(inputs(layer, 12, seed).chunk(pieces)):
                loss = layer(layer(piece)[:, [0] * 40]).square().sum()  # the layer twice in a pass
                if late and number == 0:  # between forward and backward, as many loops have it
                    layer.zero_grad()
                loss.backward()
        assert layer.weight_gradient is not None
        return layer.weight_gradient.clone()

    expected = gradient()
    layer.switch_to_low_rank(6)
    assert layer.weight_gradient is None
    assert difference(gradient(), expected) < 1e-5
    with torch.no_grad():
        layer(inputs(layer))  # an evaluation in between
    assert layer.weight_gradient is not None and difference(layer.weight_gradient, expected) < 1e-5


def test_the_gradient_of_the_whole_weight_is_not_kept_where_nobody_wants_it() -> None:
    layer = made(24, 40)
    layer.keep_gradient = False
    layer.switch_to_low_rank(6)
    layer(inputs(layer)).sum().backward()
    assert layer.weight_gradient is None and layer.lora_A.grad is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("now", [None, 3, 6])
@pytest.mark.parametrize("then", [None, 6])
def test_a_state_dict_brings_its_mode_along(then: int | None, now: int | None, bias: bool) -> None:
    saved, fresh = made(24, 40, bias), made(24, 40, bias, seed=1)
    for layer, r in ((saved, then), (fresh, now)):
        if r is not None:
            layer.switch_to_low_rank(r)
    fresh.load_state_dict(through_a_file(saved.state_dict()))
    assert fresh.r == saved.r == then
    assert list(fresh.state_dict()) == list(saved.state_dict())
    assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in saved.named_parameters()]
    assert torch.equal(fresh(inputs(fresh)), saved(inputs(saved)))
    assert {name: p.requires_grad for name, p in fresh.named_parameters()} == {
        name: p.requires_grad for name, p in saved.named_parameters()
    }


def test_the_svd_diagnostic_measures_the_same_in_both_modes() -> None:
    layer = made(24, 40)

    def measured() -> dict[str, Any]:
        layer.zero_grad()
        layer(inputs(layer)).square().sum().backward()
        diagnostic = SVDDiagnostic()
        diagnostic.before_update(layer)
        return diagnostic.measure(layer)

    full = measured()
    layer.switch_to_low_rank(14)
    low = measured()
    assert (full.pop("model/mode"), low.pop("model/mode")) == (0.0, 1.0)
    assert "model/principal_alignment" in full
    assert low == pytest.approx(full, rel=1e-4, nan_ok=True)


def test_a_state_dict_of_another_size_is_refused_and_changes_no_mode() -> None:
    saved, fresh = made(24, 41), made(24, 40)
    saved.switch_to_low_rank(6)
    weight = fresh.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        fresh.load_state_dict(saved.state_dict())
    assert fresh.svd_mode == 0.0 and torch.equal(fresh.weight, weight)


def test_a_low_rank_checkpoint_is_never_taken_for_a_plain_layers() -> None:
    saved = made(24, 40)
    saved.switch_to_low_rank(6)
    with pytest.raises(RuntimeError, match="Missing key"):
        nn.Linear(40, 24).load_state_dict(saved.state_dict())


def test_frozen_stays_frozen_and_types_stay() -> None:
    layer = made(24, 40).to(torch.bfloat16)
    layer.weight.requires_grad_(False)
    layer.switch_to_low_rank(6)
    assert not layer.lora_A.requires_grad and not layer.lora_B.requires_grad
    assert {value.dtype for value in layer.state_dict().values()} == {torch.bfloat16}
    layer.switch_to_full()
    assert not layer.weight.requires_grad and layer.weight.dtype == torch.bfloat16


def test_in_mixed_precision_a_switch_changes_no_more_than_rounding() -> None:
    layer = made(96, 130)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(inputs(layer))
        layer.switch_to_low_rank(86)
        after = layer(inputs(layer))
    assert after.dtype == torch.bfloat16
    # The product is in float32: few entries of the weight fall on the other side of a rounding to bfloat16.
    assert float((before != after).float().mean()) < 0.05


def test_a_copy_and_a_compiled_layer_switch_too() -> None:
    layer = made(24, 40)
    layer.switch_to_low_rank(6)
    copied = copy.deepcopy(layer)
    copied.switch_to_full()
    assert layer.r == 6 and copied.r is None
    assert difference(copied(inputs(layer)), layer(inputs(layer))) < TOLERANCE
    before = layer(inputs(layer))
    layer.compile(backend="eager")
    assert torch.equal(layer(inputs(layer)), before)
    layer.switch_to_full()
    assert difference(layer(inputs(layer)), before) < TOLERANCE


@pytest.mark.parametrize("r", [0, -1, 24, 1.5, True, None])
def test_an_r_that_cannot_be_is_one_line(r: Any) -> None:
    layer = made(24, 40)
    with pytest.raises(UserError, match=rf"r={r}: a whole number from 1 to 23, of a 24 x 40 weight$"):
        layer.switch_to_low_rank(r)
    assert layer.svd_mode == 0.0


def test_what_cannot_be_split_is_one_line() -> None:
    layer = made(24, 40)
    layer.switch_to_low_rank(6)
    with pytest.raises(UserError, match=r"it is LOW-RANK already, with r=6: switch it to FULL first$"):
        layer.switch_to_low_rank(6)
    layer.switch_to_full()
    nn.init.constant_(layer.weight, float("nan"))
    with pytest.raises(UserError, match="its weight is not finite"):
        layer.switch_to_low_rank(6)
    assert layer.svd_mode == 0.0


@pytest.mark.parametrize(("m", "n", "r", "more"), [(32, 32, 17, True), (32, 32, 16, False), (24, 40, 15, False)])
def test_more_parameters_than_full_is_said_once(
    m: int, n: int, r: int, more: bool, caplog: pytest.LogCaptureFixture
) -> None:
    layer = made(m, n)
    layer.name = "block0.attn.c_q"
    with caplog.at_level(logging.WARNING, logger="expkit"):
        for _ in range(2):
            layer.switch_to_low_rank(r)
            trained = layer.lora_A.numel() + layer.lora_B.numel()
            layer.switch_to_full()
    assert (trained > m * n) == more
    said = "block0.attn.c_q: LOW-RANK with r=17 trains 1088 numbers, FULL only 1024: it trains fewer for r below 16"
    assert caplog.messages == ([said] if more else [])


def test_the_page_runs_as_it_stands() -> None:
    page = (Path(__file__).parents[3] / "docs" / "adaptive-svd.md").read_text()
    block = re.search(r"<!-- lowrank: loop -->\n```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(compile(block[1], "docs/adaptive-svd.md", "exec"), names)
    assert names["model"][0].svd_mode == 0.0 and "0.lora_A" in names["checkpoint"]["model"]
