"""One linear layer with two modes: FULL, a plain weight, and LOW-RANK, the MiLoRA split of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expkit.errors import UserError
from expkit.svd import FULL, LOW_RANK

__all__ = ["AdaptiveLinear"]

log = logging.getLogger("expkit")


class AdaptiveLinear(nn.Linear):
    """nn.Linear whose weight W (m x n) is a parameter in mode FULL, and W = P + B A in mode LOW-RANK.

    The split is MiLoRA's (Wang et al., NAACL 2025, 2025.naacl-long.248). Of W = U S V^T, the k = g - r largest of the
    g = min(m, n) components are frozen in the buffer `principal`, P (m x n); the r smallest are trained as
    `lora_B` = U_m sqrt(S_m), (m x r), and `lora_A` = sqrt(S_m) V_m^T, (r x n). A switch leaves the forward pass as it
    was but for rounding, and the bias untouched. `weight` is there in both modes: in LOW-RANK it is computed.

    Switching replaces parameters: an optimizer must be told, which `expkit.lowrank.switch` does. Loading a state dict
    switches to the mode that the state dict is of.

    Attributes:
        name: of the layer in its model, for messages; set by `convert`.
        keep_gradient: whether a LOW-RANK layer keeps the gradient of W for `weight_gradient`: as much memory as W.
    """

    lora_A: Tensor  # noqa: N815 - LoRA's own names
    lora_B: Tensor  # noqa: N815
    principal: Tensor
    name: str = ""
    keep_gradient: bool = True
    _gradient: Tensor | None = None
    _backward: int = -1
    _told: bool = False

    @property
    def mode(self) -> str:
        """FULL or LOW-RANK."""
        return LOW_RANK if "lora_A" in self.__dict__.get("_parameters", ()) else FULL

    @property
    def svd_mode(self) -> float:
        """0.0 in FULL, 1.0 in LOW-RANK: as the `svd` diagnostic reports it."""
        return float(self.mode == LOW_RANK)

    @property
    def r(self) -> int | None:
        """How many minor components are trained; None in FULL."""
        return self.lora_A.shape[0] if self.mode == LOW_RANK else None

    @property
    def weight_gradient(self) -> Tensor | None:
        """The gradient of W (m, n), in both modes; None where there is none.

        In LOW-RANK it is the sum over backward passes since `zero_grad(set_to_none=True)`, not clipped, and in each of
        several processes its own.
        """
        return self._gradient if self.mode == LOW_RANK else self.weight.grad

    def switch_to_low_rank(self, r: int) -> None:
        """Train the r smallest components of the weight from now on.

        Raises:
            UserError: r is none of 1 to min(m, n) - 1, the weight is not finite, or the layer is LOW-RANK already.
        """
        m, n = self.out_features, self.in_features
        if self.mode == LOW_RANK:
            raise UserError(f"{self._called}: it is {LOW_RANK} already, with r={self.r}: switch it to {FULL} first")
        if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r < min(m, n):
            raise UserError(f"{self._called}: r={r}: a whole number from 1 to {min(m, n) - 1}, of a {m} x {n} weight")
        with torch.no_grad():
            weight = self.weight.double() if self.weight.device.type != "mps" else self.weight.cpu().double()
            if not bool(torch.isfinite(weight).all()):
                raise UserError(f"{self._called}: its weight is not finite, so it has no singular values")
            u, s, vt = torch.linalg.svd(weight, full_matrices=False)
            root = s[-r:].sqrt()
            b, a = ((u[:, -r:] * root).to(self.weight), (root[:, None] * vt[-r:]).to(self.weight))
            # Not U_k S_k V_k^T: this way the rounding of B and A is made up for.
            principal = (weight - b.to(weight) @ a.to(weight)).to(self.weight)
        self._become({"lora_B": b, "lora_A": a}, principal)
        if r * (m + n) > m * n and not self._told:
            self._told = True
            log.warning(
                "%s: %s with r=%d trains %d numbers, %s only %d: it trains fewer for r below %d",
                *(self._called, LOW_RANK, r, r * (m + n), FULL, m * n, -(-m * n // (m + n))),
            )

    def switch_to_full(self) -> None:
        """Train all of the weight, P + B A, from now on; nothing happens in FULL."""
        if self.mode == LOW_RANK:
            with torch.no_grad():
                self._become({"weight": self.weight}, None)

    def take_mode(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Switch to the mode, and the r, that a state dict is of, with no values yet: it must be loaded afterwards.

        Args:
            state_dict: of this layer, or of a model that has it.
            prefix: of the layer's own keys in it. A state dict without them, or of other sizes, changes nothing.
        """
        m, n = self.out_features, self.in_features
        names = ("weight", "lora_B", "lora_A")
        shapes = {name: getattr(state_dict.get(prefix + name), "shape", None) for name in names}
        r = shapes["lora_A"][0] if shapes["lora_A"] else None
        like = self.lora_A if self.mode == LOW_RANK else self.weight
        if r is not None and r != self.r and shapes["lora_B"] == (m, r) and shapes["lora_A"] == (r, n):
            self._become({"lora_B": like.new_zeros(m, r), "lora_A": like.new_zeros(r, n)}, like.new_zeros(m, n))
        elif r is None and self.mode == LOW_RANK and shapes["weight"] == (m, n):
            self._become({"weight": like.new_zeros(m, n)}, None)

    def extra_repr(self) -> str:
        """Add the mode to what nn.Linear says."""
        rank = f", r={self.r}" if self.mode == LOW_RANK else ""
        return f"{super().extra_repr()}, mode={self.mode}{rank}"

    def __getattr__(self, name: str) -> Any:
        # nn.Linear's own forward, and whoever else looks at a layer's weight, need know nothing of modes.
        if name == "weight" and self.mode == LOW_RANK:
            return self._product()
        return super().__getattr__(name)

    def _product(self) -> Tensor:
        """Return W = P + B A; its gradient is kept when it comes.

        It is multiplied out, not applied as two thin layers: that is cheaper from m n / (m + n) rows of inputs on, has
        the rounding of FULL in mixed precision too, and gives the gradient of W.
        """
        with torch.autocast(self.principal.device.type, enabled=False):
            weight = torch.addmm(self.principal, self.lora_B, self.lora_A)
        if weight.requires_grad and self.keep_gradient:
            weight.register_hook(self._take_gradient)  # type: ignore[no-untyped-call]
        return weight

    def _take_gradient(self, gradient: Tensor) -> None:
        # Summed as autograd does for a parameter: over uses of the layer in one backward pass, and over passes until
        # the optimizer's zero_grad. Parameters get theirs at the end of a pass.
        backward = torch._C._current_graph_task_id()
        if backward != self._backward and self.lora_A.grad is None:
            self._gradient = None
        self._backward = backward
        self._gradient = gradient.detach() if self._gradient is None else self._gradient + gradient.detach()

    def _become(self, parameters: Mapping[str, Tensor], principal: Tensor | None) -> None:
        """Make these the layer's parameters, before its bias, so that their order depends on the mode alone."""
        old = self.lora_A if self.mode == LOW_RANK else self.weight
        bias = self.bias
        for name in [*self._parameters, *self._buffers]:
            delattr(self, name)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=old.requires_grad))
        self.register_parameter("bias", bias)
        if principal is not None:
            self.register_buffer("principal", principal.contiguous())
        self._gradient = None

    @property
    def _called(self) -> str:
        return self.name or f"a linear layer of {self.in_features} inputs and {self.out_features} outputs"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        self.take_mode(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
