"""How each linear layer's gradient lies to its principal singular directions, and how these move as it trains."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expkit.diagnostics import _subspace as subspace
from expkit.diagnostics._evaluation import weight_of
from expkit.diagnostics._layers import choose_layers, take_turns
from expkit.diagnostics.base import Diagnostic
from expkit.errors import ConfigError

__all__ = ["SVDDiagnostic"]

log = logging.getLogger("expkit")

#: A basis of more than 1/4 of the rows is followed no cheaper than all of them are computed.
SMALL = 4
#: A subspace that turned by more radians than this at its last analysis is followed with more products.
CALM = 0.05
#: The published start: r = g - 10, at least 8.
PRINCIPAL, MIN_R = 10, 8
#: The published adaptation of r: these factors, for the smallest quarter of the singular values and 10 %.
GROWTH, SHRINKAGE, SMALLEST, MOVED = 1.2, 0.8, 0.25, 0.1

#: What an analysis leaves on the device, in this order.
MEASURED = (
    "principal_alignment",
    "minor_alignment",
    "alignment_excess",
    "subspace_angle",
    "subspace_angle_rms",
    "reconstruction_error",
    "stable_rank",
)
OF_GRADIENT = MEASURED[:3]


@dataclasses.dataclass(slots=True, eq=False)
class _Layer:
    """What is kept of a layer.

    Attributes:
        k: principal components.
        age: analyses since the basis was computed anew.
        turned: the last subspace angle that was measured.
        basis: (g, k or more), orthonormal, its first k columns the principal subspace of the last analysis.
        spectrum: singular values (g,) at the last refresh, where the rank adapts.
        values: (7,) float64 on the layer's device, until `measure` takes them: `MEASURED` at the last analysis.
        numbers: the other metrics, which the host knows.
        gradient: whether there was one.
    """

    k: int
    age: int = 0
    turned: float = math.nan
    basis: Tensor | None = None
    spectrum: Tensor | None = None
    values: Tensor | None = None
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    gradient: bool = False


class SVDDiagnostic(Diagnostic):
    """Principal subspaces of linear layers, W = U S V^T: the gradient's share in them, and their rotation.

    A weight W (m x n) is looked at from its shorter side, g = min(m, n): k principal directions and r = g - k minor
    ones. Layers take turns in an interval, a step each, so that no step is much slower than others; what `measure`
    returns of a layer is from its turn. Between exact decompositions its subspace is followed from analysis to analysis
    (docs/svd.md says how well).

    Args:
        interval: steps between two analyses of a layer; or `log`, `epoch`.
        layers: patterns of dotted names, as in a shell, in a list or separated by commas.
        method: `subspace` follows the subspace; `full` computes `torch.linalg.svd` each time, for reference.
        rank: k, at most g - 1; None: 10, or fewer where that leaves less than 8 minor ones.
        oversampling: directions followed besides the k, for accuracy.
        refresh: analyses after which a layer's subspace is computed anew from all of its matrix.
        adapt_rank: at a refresh, the published rule: r grows by 20 % if the smallest quarter of the singular values has
            moved by more than 10 % since the last one, and shrinks by 20 % if not, within 8 and g - 1.

    Raises:
        ConfigError: a value that cannot work; the message names its key.
    """

    spread = True

    def __init__(
        self,
        *,
        interval: int | str = 20,
        layers: str | list[str] = "*",
        method: str = "subspace",
        rank: int | None = None,
        oversampling: int = 8,
        refresh: int = 50,
        adapt_rank: bool = False,
    ) -> None:
        if method not in ("subspace", "full"):
            raise ConfigError(f"diagnostics.svd.method={method}: choose subspace or full")
        for key, value, least in (("rank", rank, 1), ("oversampling", oversampling, 0), ("refresh", refresh, 1)):
            if value is not None and value < least:
                raise ConfigError(f"diagnostics.svd.{key}={value}: must be at least {least}")
        given = layers.split(",") if isinstance(layers, str) else layers
        self.patterns = [pattern.strip() for pattern in given if pattern.strip()]
        if not self.patterns:
            raise ConfigError(f"diagnostics.svd.layers={layers}: names no layer; * stands for all of them")
        self.interval = interval
        self.method = method
        self.rank = rank
        self.oversampling = oversampling
        self.refresh = refresh
        self.adapt_rank = adapt_rank
        self._layers: dict[str, _Layer] = {}
        self._turns: dict[str, int] = {}
        self._parts = 0

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError if a pattern matches no linear layer, or all that match have one singular value."""
        chosen = choose_layers(model, self.patterns, "diagnostics.svd.layers")
        single = [name or "model" for name, layer in chosen.items() if _shorter(layer) == 1]
        if len(single) == len(chosen):
            raise ConfigError(
                f"diagnostics.svd.layers={','.join(self.patterns)}: {', '.join(single)} has one singular value only: "
                "choose layers with 2 inputs and 2 outputs or more"
            )
        if single:
            log.warning("svd: without %s: a single row or column has no minor directions", ", ".join(single))

    @torch.no_grad()
    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        """Analyse the layers whose turn it is: one `part` of the `parts` of an interval."""
        if part == 0 or parts != self._parts:
            self._plan(model, parts)
        now = [name for name, turn in self._turns.items() if turn == part]
        fresh = self._to_refresh(now)
        for name in now:
            self._analyse(model.get_submodule(name), self._layers[name], name in fresh)

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return what has been analysed since the last call; of all layers now, if `before_update` is never called.

        Returns:
            For each layer (its dotted name; `model` for a model that is one), after `{layer}/`:

            principal_alignment, minor_alignment: the shares p = ||U_k^T G||_F / ||G||_F and sqrt(1 - p^2) of the
                gradient; left out where there is no gradient, NaN where it is zero.
            alignment_excess: p^2 / (k / g), 1 for a gradient without a preferred direction.
            subspace_angle, subspace_angle_rms: largest and root mean square principal angle between the principal
                subspaces of this analysis and the one before, in radians; NaN in the first.
            reconstruction_error: ||W - W_k||_F / ||W||_F.
            stable_rank: ||W||_F^2 / s_1^2.
            mode: 0.0, the layer trains as a whole (FULL); 1.0, the minor part of it (`expkit.lowrank`).
            r, trainable_ratio: minor directions, and r (m + n) / (m n), the parameters of a factorised minor part.

            All but the last three are NaN where the weights are zero, or hold what is not finite.
        """
        if not self._parts:  # nobody calls `before_update`
            self.before_update(model)
            self._parts = 0
        ready = {name: layer for name, layer in self._layers.items() if layer.values is not None}
        if not ready:
            return {}
        values = [layer.values for layer in ready.values() if layer.values is not None]
        metrics: dict[str, Any] = {}
        table = torch.stack([value.to(values[0].device) for value in values]).tolist()  # the only copy to the host
        for (name, layer), row in zip(ready.items(), table, strict=True):
            numbers = dict(zip(MEASURED, row, strict=True)) | layer.numbers
            layer.turned = numbers["subspace_angle"]
            if math.isnan(numbers["reconstruction_error"]):
                layer.basis = layer.spectrum = None
            if not layer.gradient:
                for absent in OF_GRADIENT:
                    del numbers[absent]
            metrics |= {f"{name or 'model'}/{key}": value for key, value in numbers.items()}
            layer.values = None
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return each layer's subspace and what waits for `measure`, and whose turn it is when."""
        fields = [field.name for field in dataclasses.fields(_Layer)]
        return {
            "layers": {name: {key: getattr(layer, key) for key in fields} for name, layer in self._layers.items()},
            "turns": dict(self._turns),
            "parts": self._parts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._layers = {name: _Layer(**fields) for name, fields in state["layers"].items()}
        self._turns, self._parts = dict(state["turns"]), state["parts"]

    def _plan(self, model: nn.Module, parts: int) -> None:
        """Find the layers, and give each a turn: parts are to cost the same."""
        layers, costs = {}, {}
        for name, module in choose_layers(model, self.patterns, "diagnostics.svd.layers").items():
            g = _shorter(module)
            if g >= 2:
                new, known = _Layer(self._first_k(g)), self._layers.get(name)
                # A resume may have been given another rank.
                layers[name] = known if known is not None and (known.k == new.k or self.adapt_rank) else new
                costs[name] = module.out_features * module.in_features * (layers[name].k + self.oversampling)
        self._layers, self._turns, self._parts = layers, take_turns(costs, parts), parts

    def _first_k(self, g: int) -> int:
        if self.rank is not None:
            return min(self.rank, g - 1)
        return g - min(max(g - PRINCIPAL, MIN_R), g - 1)

    def _to_refresh(self, names: list[str]) -> set[str]:
        """Return who of `names` is computed anew: who has nothing, and of those who are due as few as keep up."""
        due = [name for name in names if self._layers[name].age >= self.refresh]
        due.sort(key=lambda name: -self._layers[name].age)
        few = math.ceil(len(names) / self.refresh)
        return {name for name in names if self._layers[name].basis is None} | set(due[:few])

    def _analyse(self, module: nn.Module, layer: _Layer, fresh: bool) -> None:
        weight = weight_of(module)
        matrix = subspace.on_short_side(weight)
        total = subspace.squared_norm(matrix)  # next to the products with it, while it is in the cache
        squares, basis = self._decompose(matrix, layer, fresh)
        g, k = matrix.shape[0], layer.k
        r, principal = g - k, basis[:, :k]
        nan = total.new_full((), math.nan)

        # In LOW-RANK, an adaptive layer's weight is no parameter, but it has kept the gradient.
        gradient = getattr(module, "weight_gradient", weight.grad if weight.is_leaf else None)
        share = nan if gradient is None else subspace.alignment(principal, subspace.on_short_side(gradient))
        turned = nan.expand(k)
        if layer.basis is not None:
            turned = subspace.angles(layer.basis[:, :k].to(matrix.device), principal)
        error = (1 - squares[:k].sum() / total).clamp(min=0).sqrt()
        values = [
            *(share.sqrt(), (1 - share).sqrt(), share * (g / k)),
            *(turned[0], turned.square().mean().sqrt()),
            *(error, total / squares[0]),
        ]
        layer.values = torch.where(torch.isnan(error), nan, torch.stack(values))
        layer.numbers = {
            "mode": float(getattr(module, "svd_mode", 0.0)),
            "r": r,
            "trainable_ratio": r * sum(matrix.shape) / matrix.numel(),
        }
        layer.gradient = gradient is not None
        if fresh:
            # The first time, all are computed at once: different ages from then on, so that they do not meet again.
            first = list(self._layers.values()).index(layer) * self.refresh // len(self._layers)
            layer.age = first if layer.basis is None else 0
            if self.adapt_rank:
                _adapt(layer, squares.sqrt())
        layer.age += 1
        layer.basis = basis[:, : layer.k + self.oversampling].contiguous()

    def _decompose(self, matrix: Tensor, layer: _Layer, fresh: bool) -> tuple[Tensor, Tensor]:
        """Return squared singular values and vectors, the leading or all of them."""
        g, size = matrix.shape[0], layer.k + self.oversampling
        if self.method == "full":
            return subspace.full_svd(matrix)
        if SMALL * size > g or (fresh and self.adapt_rank):
            return subspace.gram_eigh(matrix)
        if fresh or layer.basis is None:
            # In half the time of float64; the step that follows restores the digits.
            return subspace.iterate(matrix, subspace.gram_eigh(matrix, torch.float32)[1][:, :size], iterations=1)
        basis = layer.basis.to(matrix.device)
        return subspace.follow(matrix, basis) if layer.turned < CALM else subspace.iterate(matrix, basis, iterations=2)


def _adapt(layer: _Layer, spectrum: Tensor) -> None:
    """Change the layer's rank by the published rule, from its singular values (g,) now and at the last refresh."""
    before, layer.spectrum = layer.spectrum, spectrum
    if before is None:
        return
    g = len(spectrum)
    smallest = max(1, int(g * SMALLEST))
    then, now = before.to(spectrum.device)[-smallest:], spectrum[-smallest:]
    moved = float((now - then).norm() / then.norm())  # the host must know the size of the next basis
    if math.isfinite(moved):
        factor = GROWTH if moved > MOVED else SHRINKAGE
        r = g - layer.k
        layer.k = g - min(max(int(r * factor), min(MIN_R, g - 1)), g - 1)


def _shorter(layer: nn.Linear) -> int:
    return min(layer.out_features, layer.in_features)
