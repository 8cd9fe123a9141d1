"""A model in evaluation mode for a moment, and afterwards as if nobody had looked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expkit.rng import fixed_seed, rng_state, set_rng_state

__all__ = ["evaluating", "untouched", "weight_of"]


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Give every module its mode back, and the global generators their state, whatever happens inside."""
    modes = [(module, module.training) for module in model.modules()]
    before = rng_state()
    try:
        yield
    finally:
        set_rng_state(before)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run what is inside in evaluation mode, without gradients, uncompiled and with generators of its own.

    Afterwards every module has the mode that it had itself, buffers their values and the global generators their
    state, also if something was raised.
    """
    modes = [(module, module.training) for module in model.modules()]
    owned = [(module, dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.no_grad(), fixed_seed(0), _eager():
            # Not eval() and train(), which people override: to keep a part frozen, or to merge weights (LoRA).
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, names in owned:  # `self.mean = 0.9 * self.mean + ...` puts another one in its place
            module._buffers.update(names)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def weight_of(module: nn.Module, attribute: str = "weight") -> Tensor:
    """Return a weight as `module` uses it. One that is computed from others is computed without changing anything."""
    if not parametrize.is_parametrized(module, attribute):
        plain: Tensor = getattr(module, attribute)
        return plain
    with evaluating(module):  # some change with every use while they train: spectral_norm does
        value: Tensor = getattr(module, attribute)
    return value


def _eager() -> contextlib.AbstractContextManager[object]:
    """Let compiled code run uncompiled, for hooks see nothing of it."""
    # Nothing is compiled before torch._dynamo is imported, which takes seconds.
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
