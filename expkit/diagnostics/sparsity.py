"""The share of a model's weights that are zero."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expkit.diagnostics._evaluation import weight_of
from expkit.diagnostics.base import Diagnostic
from expkit.errors import ConfigError

__all__ = ["SparsityDiagnostic"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class SparsityDiagnostic(Diagnostic):
    """The share of zeros among the weights: parameters of two dimensions or more, without biases and norms.

    A weight that is pruned (`torch.nn.utils.prune`) or parametrized (`torch.nn.utils.parametrize`) counts as the model
    uses it, under the name that it has for the model: `fc.weight`, not `fc.weight_orig`. A parameter that several
    modules share counts once, under its first name.

    Args:
        interval: steps between measurements, or "log" or "epoch".
        threshold: the largest |w| that counts as zero, in weight units.
        per_layer: measure each weight tensor too, not only all together.

    Raises:
        ConfigError: a threshold that cannot be.
    """

    def __init__(self, *, interval: int | str = "epoch", threshold: float = 0.0, per_layer: bool = True) -> None:
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not number or not 0 <= threshold < math.inf:
            raise ConfigError(f"diagnostics.sparsity.threshold={threshold}: a number, 0 or more")
        self.interval = interval
        self.threshold = threshold
        self.per_layer = per_layer

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError if `model` has no weights of two dimensions."""
        if next(_owners(model), None) is None:
            raise ConfigError(
                f"diagnostics.sparsity: {type(model).__name__} has no weights of two dimensions or more to count zeros "
                "in: leave it out"
            )

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Count zeros, on the device where the weights are; one copy brings the counts to the host.

        Returns:
            sparsity: zeros of all weights / number of all weights, from 0 to 1.
            {parameter}: the same of one weight tensor, with `per_layer`; `name` is the parameter's.

            NaN and infinities are not zero. Without any weights, nothing.
        """
        sizes: dict[str, int] = {}
        counts: list[Tensor] = []
        for name, weight in _weights(model):
            sizes[name] = weight.numel()
            counts.append(self._zeros(weight))
        if not counts:
            return {}
        zeros = torch.stack([count.to(counts[0].device) for count in counts]).tolist()
        found = {"sparsity": sum(zeros) / sum(sizes.values())}
        if self.per_layer:
            found |= {name: count / size for (name, size), count in zip(sizes.items(), zeros, strict=True)}
        return found

    def _zeros(self, weight: Tensor) -> Tensor:
        kept = F.hardshrink(weight, self.threshold) if self.threshold else weight
        return weight.numel() - torch.count_nonzero(kept)


def _owners(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (path, module, attribute) of each weight; a parametrized one is its module's, not the parametrization's."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, _NORMS) or "parametrizations" in path.split("."):
            continue
        own = [(name, parameter) for name, parameter in module._parameters.items() if parameter is not None]
        for name, parameter in [*own, *_originals(module)]:
            lazy = isinstance(parameter, nn.UninitializedParameter)
            if "bias" in name or id(parameter) in seen or not (lazy or (parameter.ndim >= 2 and parameter.numel())):
                continue
            seen.add(id(parameter))
            yield path, module, name


def _originals(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the name of each parametrized tensor of `module`, and the largest parameter that it is computed from."""
    if parametrize.is_parametrized(module):
        chains = module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        for name, chain in chains.items():
            parameters = list(chain.parameters(recurse=False))
            if parameters:
                yield name, max(parameters, key=torch.numel)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module, attribute in _owners(model):
        name, weight = _used(module, attribute)
        if isinstance(weight, nn.UninitializedParameter):
            continue
        yield f"{path}.{name}" if path else name, weight


def _used(module: nn.Module, attribute: str) -> tuple[str, Tensor]:
    """Return the name and the value of a weight as the module's forward pass uses it."""
    if attribute in module._parameters:
        weight = module._parameters[attribute]
        assert weight is not None
        name = attribute.removesuffix("_orig")
        mask = module._buffers.get(f"{name}_mask")
        if name == attribute or mask is None:
            return attribute, weight
        # The module's own `weight` is of the last forward pass, before the optimizer's last step.
        return name, weight * mask
    return attribute, weight_of(module, attribute)
