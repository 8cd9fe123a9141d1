"""The activations diagnostic and the model that it is given: what it needs of it, and that it leaves it as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

from expkit.diagnostics import Diagnostic
from expkit.diagnostics.activations import ActivationsDiagnostic
from expkit.diagnostics.sparsity import SparsityDiagnostic
from expkit.errors import ConfigError
from tests.expkit.diagnostics.test_activations import Apply, Twice, measured


class Fragile(nn.Module):
    """Frozen in part, counts its calls in a buffer, catches what one module raises, and raises itself if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.fails = Apply(self.fail)
        self.register_buffer("calls", torch.zeros(()))
        self.raises = False

    def fail(self, x: Tensor) -> Tensor:
        raise ValueError("no")

    def train(self, mode: bool = True) -> Fragile:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        try:
            self.fails(x)
        except ValueError:
            x = torch.tanh(x)
        if self.raises:
            raise RuntimeError("out of memory")
        return F.dropout(self.drop(self.norm(x)), 0.5, training=True)


def snapshot(model: nn.Module) -> list[object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_backward_hooks")
    return [(module.training, *(dict(getattr(module, name)) for name in hooks)) for module in model.modules()]


@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_left_as_it_was_also_when_it_raises(raises: bool) -> None:
    model = Fragile()
    model.train()
    model.drop.register_forward_hook(lambda *_: None)
    model.raises = raises
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    if raises:
        with pytest.raises(RuntimeError, match="out of memory"):
            measured(model, torch.randn(4, 3, generator=torch.Generator()))
    else:
        found = measured(model, torch.randn(4, 3, generator=torch.Generator()))
        assert "tanh/dead_share" in found, "of the module that caught, not of the one that raised"
    assert snapshot(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.is_grad_enabled()
    assert not torch.overrides._get_current_function_mode_stack()


class Merging(nn.Linear):
    """Merges weights for evaluation, as LoRA layers do."""

    def train(self, mode: bool = True) -> Merging:
        if mode != self.training:
            self.weight.data += -1 if mode else 1
        return super().train(mode)


def test_a_layer_that_merges_weights_for_evaluation_is_left_alone() -> None:
    model = nn.Sequential(Merging(3, 3))
    before = model[0].weight.clone()
    measured(model, torch.ones(2, 3))
    assert torch.equal(model[0].weight, before)


def test_random_numbers_in_evaluation_mode_are_the_same_each_time() -> None:
    model, x = Fragile(), torch.randn(40, 3)
    assert measured(model, x) == measured(model, x)


def test_a_compiled_model_is_measured_uncompiled_and_not_compiled_anew() -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    model, x = Twice(), torch.randn(6, 4)
    expected = measured(model, x)
    model.compile(backend=backend)
    model(x)
    assert measured(model, x) == expected
    model(x)
    assert len(graphs) == 1
    graphs.clear()
    whole = torch.compile(copy.deepcopy(model), backend=backend)
    assert measured(whole, x) == expected
    assert not graphs


def test_a_parametrized_layer_is_a_layer_and_its_parametrization_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh())
    parametrizations.weight_norm(model[0])
    assert measured(model, torch.randn(6, 3)).keys() >= {"0/rms", "1.tanh/rms"}
    assert not any("parametrizations" in name for name in measured(model, torch.randn(6, 3)))


def test_no_activation_is_kept() -> None:
    """When a layer's output comes, of those before only its input is alive."""
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, sum(ref() is not None for ref in alive))

    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)))
    for layer in model:
        layer.register_forward_hook(note)
    measured(model, torch.randn(100, 64))
    assert most <= 2


class HostCopies(TorchFunctionMode):
    """Counts what waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "nonzero"):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("diagnostic", [ActivationsDiagnostic(), SparsityDiagnostic(threshold=0.1)])
def test_there_is_one_copy_to_the_host(diagnostic: Diagnostic) -> None:
    diagnostic.use_probe(lambda model: model(torch.ones(4, 3)))
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    with HostCopies() as copies:
        assert diagnostic.measure(model)
    assert copies.names == ["tolist"]


def test_without_a_probe_it_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^diagnostics\.activations: no probe .* call use_probe\(forward\) first$"):
        ActivationsDiagnostic().measure(nn.Linear(2, 2))


def test_a_model_without_layers_has_nothing_to_say() -> None:
    assert measured(nn.Identity(), torch.ones(2, 2)) == {}
