"""Converting, and switching together with the optimizer: what is replaced, what stays, what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from expkit.errors import ConfigError, UserError
from expkit.lowrank import AdaptiveLinear, convert, restore_modes, switch
from train.models.gpt import GPT
from train.optim.sgld import SGLD

LAYER = "block0.attn.c_q"
ATTENTION = [f"block{block}.attn.{name}" for block in range(2) for name in ("c_q", "c_k", "c_v", "c_proj")]

#: name -> made of parameters.
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adam": lambda params: Adam(params, lr=0.01),
    "amsgrad": lambda params: Adam(params, lr=0.01, amsgrad=True),
    "adamw_foreach": lambda params: AdamW(params, lr=0.01, foreach=True),
    "adamw_fused": lambda params: AdamW(params, lr=0.01, fused=True),
    "sgd": lambda params: SGD(params, lr=0.01),
    "momentum": lambda params: SGD(params, lr=0.01, momentum=0.9),
    "momentum_foreach": lambda params: SGD(params, lr=0.01, momentum=0.9, foreach=True),
    "momentum_fused": lambda params: SGD(params, lr=0.01, momentum=0.9, fused=True),
    "sgld": lambda params: SGLD(params, lr=0.01, temperature=0.0),
}


def gpt(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(vocab_size=11, context_length=8, d_model=16, num_layers=2, num_heads=2)


def update(model: nn.Module, optimizer: Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    tokens = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(seed))
    model(tokens).square().mean().backward()
    optimizer.step()


def states(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Name of a parameter -> copy of its state."""
    return {
        name: {
            key: value.clone() if isinstance(value, Tensor) else value for key, value in optimizer.state[one].items()
        }
        for name, one in model.named_parameters()
        if one in optimizer.state
    }


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one
    )


def test_converting_changes_neither_names_nor_numbers_nor_who_holds_what() -> None:
    model, tokens = gpt(), torch.arange(8)[None]
    before, state, layer = model(tokens), list(model.state_dict()), model.get_submodule(LAYER)
    parameters = list(model.parameters())
    optimizer = Adam(parameters)
    assert convert(model, "block*.attn.*") == ATTENTION
    assert torch.equal(model(tokens), before)
    assert list(model.state_dict()) == state and model.get_submodule(LAYER) is layer
    assert isinstance(layer, AdaptiveLinear) and not isinstance(model.get_submodule("block0.mlp.c_fc"), AdaptiveLinear)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    model.load_state_dict(gpt(1).state_dict())  # an old checkpoint
    switch(model, optimizer, LAYER, "LOW-RANK", 4)
    assert len(convert(model, ["*"])) == 12 and model.get_submodule(LAYER).svd_mode == 1.0  # once more


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_switch_replaces_a_layers_parameters_in_their_place_and_leaves_the_rest_alone(name: str) -> None:
    model = gpt()
    convert(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(3):
        update(model, optimizer, step)
    for mode, r in (("LOW-RANK", 6), ("FULL", None)):
        before = states(model, optimizer)
        assert switch(model, optimizer, LAYER, mode, r) and not switch(model, optimizer, LAYER, mode, r)
        after = states(model, optimizer)
        others = [each for each in before if not each.startswith(f"{LAYER}.") or each.endswith("bias")]
        assert others and all(equal(before[each], after[each]) for each in others) if before else True
        assert len(optimizer.state) == len(after), "nothing is kept of what is gone"
        for each in set(after) - set(others):  # fused SGD alone has something: zeros
            assert not torch.any(after[each]["momentum_buffer"])
        listed = optimizer.param_groups[0]["params"]
        assert all(one is other for one, other in zip(listed, model.parameters(), strict=True))
        trained = {each: value.detach().clone() for each, value in model.named_parameters()}
        update(model, optimizer, 9)
        same = [each for each, value in model.named_parameters() if torch.equal(value, trained[each])]
        assert not [each for each in same if not each.endswith("c_k.bias")]  # no gradient but rounding


@pytest.mark.parametrize("skipped", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adamw_fused", "momentum_fused"])
def test_a_guard_may_skip_the_first_update_after_a_switch(name: str, skipped: float) -> None:
    model = gpt()
    convert(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    update(model, optimizer)
    switch(model, optimizer, LAYER, "LOW-RANK", 6)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.found_inf = torch.tensor(skipped)  # type: ignore[attr-defined]
    update(model, optimizer, 1)
    same = [torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)]
    assert all(same) if skipped else not any(same[:4])
    assert all(bool(torch.isfinite(v).all()) for state in optimizer.state.values() for v in state.values())
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    update(model, optimizer, 2)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_before_the_first_update_fused_momentum_has_nothing_to_go_with() -> None:
    model = gpt()
    convert(model)
    optimizer = OPTIMIZERS["momentum_fused"](model.parameters())
    switch(model, optimizer, LAYER, "LOW-RANK", 6)
    assert not optimizer.state
    update(model, optimizer)


def test_groups_and_their_options_stay() -> None:
    model = gpt()
    convert(model)
    matrices = [(name, p) for name, p in model.named_parameters() if p.ndim == 2]
    rest = [(name, p) for name, p in model.named_parameters() if p.ndim != 2]
    optimizer = AdamW([{"params": rest, "weight_decay": 0.0}, {"params": matrices, "lr": 0.5}], lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    place = [name for name, _ in matrices].index(f"{LAYER}.weight")
    names = [list(group["param_names"]) for group in optimizer.param_groups]
    options = [{key: group[key] for key in ("lr", "initial_lr", "weight_decay")} for group in optimizer.param_groups]
    switch(model, optimizer, LAYER, "LOW-RANK", 6)
    group = optimizer.param_groups[1]
    layer = model.get_submodule(LAYER)
    assert group["params"][place] is layer.lora_B and group["params"][place + 1] is layer.lora_A
    assert group["param_names"][place : place + 2] == [f"{LAYER}.lora_B", f"{LAYER}.lora_A"]
    assert len(group["params"]) == len(group["param_names"]) == len(matrices) + 1
    assert [{key: group[key] for key in options[0]} for group in optimizer.param_groups] == options
    update(model, optimizer)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.25]
    switch(model, optimizer, LAYER, "FULL")
    assert [group["param_names"] for group in optimizer.param_groups] == names


def test_matrices_in_groups_of_their_own_become_one_weight_again() -> None:
    model = gpt()
    convert(model)
    switch(model, None, LAYER, "LOW-RANK", 6)
    layer = model.get_submodule(LAYER)
    rest = [p for p in model.parameters() if p is not layer.lora_A and p is not layer.lora_B]
    optimizer = Adam([{"params": [layer.lora_A], "lr": 0.1}, {"params": [layer.lora_B], "lr": 0.2}, {"params": rest}])
    update(model, optimizer)
    switch(model, optimizer, LAYER, "FULL")
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0, len(rest)]
    assert optimizer.param_groups[0]["params"][0] is layer.weight
    update(model, optimizer)


def test_a_frozen_layer_that_is_not_trained_switches_too() -> None:
    model = gpt()
    convert(model)
    model.get_submodule(LAYER).weight.requires_grad_(False)
    optimizer = Adam([p for p in model.parameters() if p.requires_grad])
    listed = list(optimizer.param_groups[0]["params"])
    switch(model, optimizer, LAYER, "LOW-RANK", 6)
    assert all(one is other for one, other in zip(optimizer.param_groups[0]["params"], listed, strict=True))


@pytest.mark.parametrize("wrap", ["state", "model", "both", "neither"])
@pytest.mark.parametrize("converted", [True, False])
def test_modes_come_back_to_a_new_model_before_its_values(wrap: str, converted: bool) -> None:
    saved = gpt()
    convert(saved)
    for name in (LAYER, "block1.mlp.c_fc"):
        switch(saved, None, name, "LOW-RANK", 5)
    state = (nn.DataParallel(saved) if wrap in ("state", "both") else saved).state_dict()
    fresh = gpt(1)
    if converted:
        convert(fresh)
        switch(fresh, None, "block0.attn.c_k", "LOW-RANK", 3)
    optimizer = Adam(fresh.parameters())
    changed = restore_modes(nn.DataParallel(fresh) if wrap in ("model", "both") else fresh, state, optimizer)
    assert changed == [LAYER, *(["block0.attn.c_k"] if converted else []), "block1.mlp.c_fc"]
    assert [n for n, _ in fresh.named_parameters()] == [n for n, _ in saved.named_parameters()]
    listed = optimizer.param_groups[0]["params"]
    assert all(one is other for one, other in zip(listed, fresh.parameters(), strict=True))
    fresh.load_state_dict(saved.state_dict())
    tokens = torch.arange(8)[None]
    assert torch.equal(fresh(tokens), saved(tokens))
    assert restore_modes(fresh, saved.state_dict(), optimizer) == []


def test_the_state_of_a_model_without_adaptive_layers_changes_nothing() -> None:
    model = gpt()
    assert restore_modes(model, gpt(1).state_dict()) == []
    assert not any(isinstance(module, AdaptiveLinear) for module in model.modules())


class Tied(nn.Module):
    """Its head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight


class Scaled(nn.Linear):
    """Somebody's own linear layer, which does something else with its weight."""


@pytest.mark.parametrize(
    ("model", "patterns", "message"),
    [
        (Tied(), "*", "embedding.weight and head.weight are one weight, which cannot be split: leave head out"),
        (Tied(), "nope", "trainer.low_rank=nope: matches none of the linear layers of the model: hidden, head"),
        (nn.Sequential(nn.Linear(5, 1)), "*", "0: only a plain nn.Linear with 2 rows and columns or more can be split"),
        (nn.Sequential(Scaled(5, 5)), "*", "0: only a plain nn.Linear with 2 rows and columns or more can be split"),
    ],
)
def test_layers_that_cannot_be_adaptive_are_one_line(model: nn.Module, patterns: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        convert(model, patterns, key="trainer.low_rank")
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not any(isinstance(module, AdaptiveLinear) for module in model.modules())


def test_layers_beside_them_are_made_adaptive_and_who_is_not_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert convert(Tied(), ["hidden"]) == ["hidden"]
    with caplog.at_level(logging.WARNING, logger="expkit"):
        assert convert(nn.Sequential(nn.Linear(5, 5), Scaled(5, 5), nn.Linear(5, 1))) == ["0"]
    assert caplog.messages == [
        "layers: 1, 2: only a plain nn.Linear with 2 rows and columns or more can be split: left out"
    ]


@pytest.mark.parametrize(
    ("name", "mode", "r", "message"),
    [
        ("block0.attn.c_x", "LOW-RANK", 4, "block0.attn.c_x: no adaptive layer of the model"),
        ("block0.mlp.c_fc", "LOW-RANK", 4, "block0.mlp.c_fc: no adaptive layer of the model"),
        (LAYER, "low", 4, f"{LAYER}: mode=low: choose FULL or LOW-RANK"),
        (LAYER, "LOW-RANK", None, f"{LAYER}: LOW-RANK needs r"),
        (LAYER, "LOW-RANK", 16, f"{LAYER}: r=16: a whole number from 1 to 15"),
    ],
)
def test_a_switch_that_cannot_be_is_one_line_and_changes_nothing(
    name: str, mode: str, r: int | None, message: str
) -> None:
    model = gpt()
    convert(model, "*attn*")
    optimizer = Adam(model.parameters())
    with pytest.raises(UserError) as raised:
        switch(model, optimizer, name, mode, r)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
    assert model.get_submodule(LAYER).svd_mode == 0.0


def test_an_optimizer_that_cannot_begin_anew_is_refused_before_anything_changes() -> None:
    model = gpt()
    convert(model)
    with pytest.raises(UserError, match=r"^Adagrad makes its state when it is made"):
        switch(model, Adagrad(model.parameters()), LAYER, "LOW-RANK", 4)
    assert model.get_submodule(LAYER).svd_mode == 0.0
