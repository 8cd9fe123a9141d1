"""DDP: every rank has the whole model, and gradients are averaged while they are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from expkit.dist import Dist
from expkit.errors import ConfigError
from expkit.rng import fixed_seed, rng_state
from expkit.sampler import mix
from train.strategies.base import Strategy, past_model

__all__ = ["Replicated"]

#: Tells the random numbers of an optimizer's step from others that are drawn by seed and step.
_OF_STEP = 3
#: By how much sums of the same gradients may differ, in parts of their size: processors add up in orders of their own.
_ROUNDING = 1e-9
#: What DDP says of parameters that got no gradient, at the step after.
_UNUSED = "Expected to have finished reduction in the prior iteration"


class Replicated(Strategy):
    """`torch.nn.parallel.DistributedDataParallel`.

    Args:
        dist: the ranks.
        seed: of what all ranks draw alike.
        find_unused: look at every step which parameters take no part in it; without, that is an error.
    """

    name = "ddp"

    def __init__(self, dist: Dist, seed: int = 0, find_unused: bool = False) -> None:
        super().__init__(dist)
        self._seed, self._draws = seed, True  # as long as it is not known that the optimizer draws none
        self._find_unused, self._is_first = find_unused, True
        self._wrapped: _Replica | None = None

    def trained(self, model: nn.Module) -> nn.Module:
        """See `Strategy.trained`. The wrapper is made when it is first asked for: once the model is restored."""
        if self._wrapped is None:
            parameter = next(model.parameters())
            self._wrapped = _Replica(
                model,
                device_ids=[parameter.device] if parameter.device.type == "cuda" else None,
                find_unused_parameters=self._find_unused,
            )
            self._lay_out(self._wrapped)
        return self._wrapped

    def _lay_out(self, wrapped: _Replica) -> None:
        """Let DDP lay out its buckets once and for all, before the first step, as if gradients came last layer first.

        It does so after the first step that it sees, and with three ranks and more the order of a sum depends on the
        layout: the first step of a resumed run would differ in the last digits from that of a run that goes on.
        """
        model = wrapped.module
        if self._find_unused or any(getattr(module, "sparse", False) for module in model.modules()):
            return  # it keeps its layout; or its gradients are not the ones made here
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wrapped.reducer.prepare_for_backward([])
        with torch.enable_grad():
            nothing = torch.stack([parameter.sum().float() for parameter in parameters]).sum() * 0
        nothing.backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            parameter.grad = None

    @contextlib.contextmanager
    def piece(self, model: nn.Module, last: bool) -> Iterator[None]:
        """See `Strategy.piece`."""
        assert isinstance(model, _Replica)
        try:
            with contextlib.nullcontext() if last else model.no_sync():
                yield
        except RuntimeError as error:
            if _UNUSED not in str(error):
                raise
            raise _unused(model.module) from error
        if last and self._is_first:
            self._check_first(model.module)
        self._is_first = self._is_first and not last

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """See `Strategy.stepping`. An optimizer that draws random numbers draws the same ones on every rank."""
        if not self._draws:
            yield
            return
        with fixed_seed(mix(self._seed, self.dist.position[0], _OF_STEP)):
            before = rng_state()
            yield
            self._draws = not _alike(before, rng_state())

    def renew(self) -> None:
        """See `Strategy.renew`."""
        self._wrapped = None

    def _check_first(self, model: nn.Module) -> None:
        """Check what came of the first step's gradients: later the ranks would wait in vain, or drift apart unseen.

        Gradients, not weights: a learning rate that warms up from 0 changes none, and Adam begins with steps that
        depend on their signs alone.
        """
        if not self._find_unused and _without_gradient(model):
            raise _unused(model)
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        sums = [torch.stack([each.sum(dtype=torch.double), each.abs().sum(dtype=torch.double)]) for each in gradients]
        total, size = torch.stack(sums).sum(dim=0).nan_to_num()
        most, least, size = self.dist.max(torch.stack([total, -total, size])).tolist()
        if most + least > _ROUNDING * size:
            raise past_model(f"the ranks have different gradients in step {self.dist.position[0]}")


class _Replica(DistributedDataParallel):
    """DDP that also has what the model has: a task may ask it for an attribute of its own."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no number was drawn between two states of the generators."""
    return repr(one["python"]) == repr(other["python"]) and all(
        torch.equal(*pair)
        for pair in (
            (one["torch"], other["torch"]),
            (one["numpy"][1], other["numpy"][1]),
            *zip(one["cuda"], other["cuda"], strict=True),
        )
    )


def _unused(model: nn.Module) -> ConfigError:
    names = ", ".join(_without_gradient(model)) or "some parameters"
    return ConfigError(
        f"task: {names} took no part in the loss of a step, and the other ranks wait for the gradients: leave them out "
        "of the model, freeze them (requires_grad=False), or set trainer.find_unused_parameters=true"
    )


def _without_gradient(model: nn.Module, most: int = 3) -> list[str]:
    names = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    return [*names[:most], *(["..."] if len(names) > most else [])]
