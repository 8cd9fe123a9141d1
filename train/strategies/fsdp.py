"""FSDP2: every rank has a part of each parameter, of its gradient and of its optimizer state."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from expkit.dist import Dist
from expkit.errors import ConfigError
from expkit.rng import rng_state, set_rng_state
from train.strategies.base import Strategy, past_model

__all__ = ["Sharded"]

log = logging.getLogger("expkit")

#: What torch says of a parameter of which only this rank's part is there.
_PAST = "got mixed torch.Tensor and DTensor"


class Sharded(Strategy):
    """`torch.distributed.fsdp.fully_shard` of each block of a model, and of the rest.

    Args:
        dist: the ranks.
        device_type: "cpu" or "cuda".
        build: returns a model of the same shape, on the CPU: filled, on rank 0, for who looks at the whole.
        blocks: class names of the modules whose parameters are gathered together; empty: the modules in every
            `nn.ModuleList`, which is how models hold their layers.
    """

    name = "fsdp"
    is_sharded = True

    def __init__(
        self, dist: Dist, device_type: str, build: Callable[[], nn.Module], blocks: Sequence[str] = ()
    ) -> None:
        super().__init__(dist)
        self._device_type, self._build, self._blocks = device_type, build, tuple(blocks)
        self._copy: nn.Module | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """See `Strategy.prepare`."""
        # On CUDA, DTensor sees to it that parts draw other numbers; here each rank has its own generators.
        warnings.filterwarnings("ignore", "DTensor random operators may not have complete support")
        mesh = init_device_mesh(self._device_type, (self.dist.world_size,))
        blocks = self._found(model)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def adapt(self, optimizer: Optimizer) -> None:
        """See `Strategy.adapt`. torch has kernels that update parts of parameters in one go for Adam and AdamW only."""
        if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            return
        if any(group.get("fused") for group in optimizer.param_groups):
            log.info("optimizer.fused=true: fsdp has no fused %s; it does without", type(optimizer).__name__)
        for group in optimizer.param_groups:
            if "fused" in group:
                group["fused"] = False
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # else a scaler leaves it to kernels

    def trained(self, model: nn.Module) -> nn.Module:
        """See `Strategy.trained`. Buffers are those of rank 0 before each update, as with DDP."""
        self.share_buffers(model)
        return model

    @contextlib.contextmanager
    def piece(self, model: nn.Module, last: bool) -> Iterator[None]:
        """See `Strategy.piece`."""
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(last)
        try:
            yield
        except RuntimeError as error:
            if _PAST not in str(error):
                raise
            raise past_model("a part of the model was called that is not gathered") from error

    @contextlib.contextmanager
    @torch.no_grad()
    def whole(self, model: nn.Module, gradients: bool = False) -> Iterator[nn.Module]:
        """See `Strategy.whole`. One tensor after the other is gathered; rank 0 keeps a copy of the model."""
        copy = self._whole_copy(model) if self.dist.is_main else None
        own = copy.state_dict(keep_vars=True) if copy is not None else {}
        for name, tensor in model.state_dict().items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if copy is not None and isinstance(full, torch.Tensor):
                own[name].data.copy_(full)
        for name, parameter in model.named_parameters() if gradients else ():
            gradient = parameter.grad
            full = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            if copy is not None:
                own[name].grad = full
        yield copy if copy is not None else model
        for parameter in copy.parameters() if copy is not None and gradients else ():
            parameter.grad = None

    def _whole_copy(self, model: nn.Module) -> nn.Module:
        if self._copy is None:
            before = rng_state()
            self._copy = self._build().to(next(model.parameters()).device)
            set_rng_state(before)
        return self._copy.train(model.training)

    def _found(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules that are gathered one at a time, inner ones before those that hold them."""
        modules = [*model.modules()]
        if not self._blocks:
            lists = [each for each in modules if isinstance(each, nn.ModuleList)]
            found = [block for each in lists for block in each]
        else:
            found = [each for each in modules if type(each).__name__ in self._blocks]
            missing = set(self._blocks) - {type(each).__name__ for each in found}
            if missing:
                there = ", ".join(
                    sorted({type(each).__name__ for each in modules if next(each.parameters(), None) is not None})
                )
                raise ConfigError(
                    f"trainer.fsdp_blocks: no part of the model is a {sorted(missing)[0]}; its parts: {there}"
                )
        return [each for each in reversed(found) if next(each.parameters(), None) is not None and each is not model]
