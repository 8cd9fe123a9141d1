"""What a model computes on a fixed batch: how large layers' outputs are, and which units are dead or saturated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expkit.diagnostics._evaluation import evaluating
from expkit.diagnostics._tracing import Activation, Tracer
from expkit.diagnostics.base import Diagnostic
from expkit.errors import ConfigError

__all__ = ["ActivationsDiagnostic"]

#: A unit is dead whose outputs differ by no more than this share of its layer's RMS.
DEAD = 1e-3
#: Outputs below the first or above the second are saturated.
SOFT = {"tanh": (-0.99, 0.99), "softsign": (-0.99, 0.99), "sigmoid": (0.01, 0.99)}
#: Outputs that are equal to one of these are saturated; those of hardtanh are its arguments.
HARD = {"hardsigmoid": (0.0, 1.0), "relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}


class ActivationsDiagnostic(Diagnostic):
    """RMS, dead units and saturation on a probe: a batch that is always the same.

    A layer is a module that owns weights. An activation is a place where the model applies an activation function,
    as a module or as a function (`torch.tanh(x)`); it is called `{module path}.{function}`: `block0.mlp.gelu`, and
    `block0.mlp.gelu2` where the module applies it once more. What is of the model itself has no path.

    Units lie along the last axis of an output, and along axis 1 of images and all else of four dimensions or more. All
    other axes are positions, and so are further calls of the same layer.

    Args:
        interval: steps between measurements, or "log" or "epoch".
        per_layer: measure each layer and activation too, not only all together.
    """

    def __init__(self, *, interval: int | str = "epoch", per_layer: bool = True) -> None:
        self.interval = interval
        self.per_layer = per_layer
        self._forward: Callable[[nn.Module], object] | None = None

    def use_probe(self, forward: Callable[[nn.Module], object]) -> None:
        """Take what runs a model on the probe: `diagnostic.use_probe(lambda model: model(x))`.

        Evaluation mode, no_grad and fixed random numbers are this diagnostic's business; autocast is `forward`'s.
        """
        self._forward = forward

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Run `model` on the probe; one copy brings what was reduced on the device to the host.

        Returns:
            {layer}/rms, {activation}/rms: root of the mean square of the output.
            {activation}/dead_share: units whose outputs differ by at most 0.001 rms over all positions / units. Left
                out where there is one position only.
            {activation}/saturated_share: outputs beyond 0.99 of tanh and softsign, below 0.01 or above 0.99 of sigmoid,
                on a bound of hardtanh, hardsigmoid and relu6, except a bound at 0 of hardtanh and relu6.
            {activation}/zero_share: outputs that are 0, of relu, and of relu6 and hardtanh with a bound at 0.
            dead_share, saturated_share: of all activations together: of all units, of all outputs of bounded functions.

            Shares are from 0 to 1. Where an output is not finite, they are NaN.

        Raises:
            ConfigError: `use_probe` was not called.
        """
        if self._forward is None:
            raise ConfigError("diagnostics.activations: no probe to run the model on: call use_probe(forward) first")
        found = _Found()
        with evaluating(model), Tracer(model, found.layer, found.activation):
            self._forward(model)
        with torch.no_grad():
            return found.numbers(self.per_layer)


class _Sums:
    """What is kept of the outputs of one place: a few 0-dimensional tensors, and two numbers of each unit."""

    def __init__(self) -> None:
        self.values = 0
        self.positions = 0
        self.sums: dict[str, Tensor] = {}
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, name: str, value: Tensor) -> None:
        """Add to the sum called `name`."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add_squares(self, output: Tensor) -> None:
        """Take in the size of an output."""
        # By rows: the norm of a long float32 tensor at once is off by percents on a CPU.
        rows = torch.linalg.vector_norm(output, dim=-1, dtype=torch.promote_types(output.dtype, torch.float32))
        self.add("squares", rows.square().sum())
        self.values += output.numel()

    def add_units(self, output: Tensor, axis: int) -> None:
        """Take in between which values each unit varies."""
        others = [other for other in range(output.ndim) if other != axis]
        low, high = (output.amin(others), output.amax(others)) if others else (output, output)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.positions += output.numel() // len(low)

    def add_limits(self, output: Tensor, function: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Count outputs that are saturated or zero, of a function that has such."""
        if function in SOFT:
            low, high = SOFT[function]
            self.add("saturated", ((output < low) | (output > high)).sum())
            return
        low, high = HARD.get(function, (0.0, math.inf))
        if function == "hardtanh":
            low, high = (
                options.get(name, arguments[place] if len(arguments) > place else default)
                for place, name, default in ((1, "min_val", low), (2, "max_val", high))
            )
        rectifies = function == "relu" or (function in ("relu6", "hardtanh") and low == 0)
        if rectifies:
            self.add("zero", (output == 0).sum())
        if function in HARD:
            at_bound = output == high
            self.add("saturated", (at_bound if rectifies else at_bound | (output == low)).sum())

    @property
    def rms(self) -> Tensor:
        """The root of the mean square, 0-dimensional."""
        return (self.sums["squares"] / self.values).sqrt()

    @property
    def dead(self) -> Tensor | None:
        """How many units are dead, 0-dimensional, NaN where that cannot be said; None of a single position."""
        if self.low is None or self.high is None or self.positions < 2:
            return None
        rms = self.rms
        count = (self.high.to(rms.dtype) - self.low.to(rms.dtype) <= DEAD * rms).sum()
        return _unless_broken(count, rms)


class _Found:
    """All places of a model, in the order in which it comes to them."""

    def __init__(self) -> None:
        self._layers: dict[str, _Sums] = {}
        self._activations: dict[tuple[Activation, int], _Sums] = {}

    def layer(self, path: str, output: Tensor) -> None:
        """Take in an output of a layer."""
        self._layers.setdefault(path, _Sums()).add_squares(output)

    def activation(
        self, place: Activation, arguments: Sequence[Any], options: Mapping[str, Any], output: Tensor
    ) -> None:
        """Take in an output of an activation function."""
        axis = 1 if output.ndim >= 4 else output.ndim - 1
        sums = self._activations.setdefault((place, output.shape[axis]), _Sums())
        sums.add_squares(output)
        sums.add_units(output, axis)
        sums.add_limits(output, place.function, arguments, options)

    def numbers(self, per_layer: bool) -> dict[str, float]:
        """Return metric name -> number. The only copy from the device."""
        found: dict[str, Tensor] = {}
        totals: dict[str, list[tuple[Tensor, int]]] = {"dead": [], "saturated": []}
        for name, sums in self._layers.items():
            found[f"{name}/rms"] = sums.rms
        for name, (_, units), sums in zip(self._names(), self._activations, self._activations.values(), strict=True):
            rms, dead = sums.rms, sums.dead
            found[f"{name}/rms"] = rms
            if dead is not None:
                totals["dead"].append((dead, units))
                found[f"{name}/dead_share"] = dead / units
            for kind in ("saturated", "zero"):
                if kind in sums.sums:
                    count = _unless_broken(sums.sums[kind], rms)
                    found[f"{name}/{kind}_share"] = count / sums.values
                    if kind in totals:
                        totals[kind].append((count, sums.values))
        if not per_layer:
            found.clear()
        for kind, counts in totals.items():
            if counts:
                device = counts[0][0].device
                whole = torch.stack([count.to(device) for count, _ in counts]).sum()
                found[f"{kind}_share"] = whole / sum(number for _, number in counts)
        if not found:
            return {}
        device = next(iter(found.values())).device
        values = torch.stack([value.to(device, torch.float32) for value in found.values()]).tolist()
        return dict(zip(found, values, strict=True))

    def _names(self) -> list[str]:
        """Return the name of each activation: with a number, from 2, where a module applies a function again."""
        times: dict[str, int] = {}
        names = []
        for place, _ in self._activations:
            name = f"{place.module}.{place.function}" if place.module else place.function
            times[name] = times.get(name, 0) + 1
            names.append(name if times[name] == 1 else f"{name}{times[name]}")
        return names


def _unless_broken(count: Tensor, rms: Tensor) -> Tensor:
    """Return `count`, or NaN where the outputs are not finite."""
    return torch.where(torch.isfinite(rms), count.to(rms.dtype), math.nan)
