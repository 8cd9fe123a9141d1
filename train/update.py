"""One optimizer update: forward and backward of each piece, clipping, guards, the step itself."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from expkit.guards.base import Guard
from train.data import to_device
from train.strategies.base import Strategy
from train.tasks.base import StepOutput, Task
from train.tasks.checking import checked

__all__ = ["AVERAGED", "Update"]

#: Which of an update's values are means over its samples; the task's own are sums.
AVERAGED = ("loss", "gradient_norm", "skipped")

log = logging.getLogger("expkit")

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Update:
    """Callable that does one update and returns what it saw, without waiting for the device.

    Args:
        optimizer: of the model's parameters.
        scheduler: stepped after every update, or None.
        device: where the model is.
        precision: "32", "bf16" or "fp16" (with a gradient scaler).
        clip_grad_norm: largest total norm of the gradient, or None.
        guards: may skip the update. With a fused optimizer they cost no host synchronisation.
        watch_norm: report the gradient norm of every update.
        strategy: how the model is spread over the ranks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        device: torch.device,
        precision: str = "32",
        clip_grad_norm: float | None = None,
        guards: Sequence[Guard] = (),
        watch_norm: bool = False,
        strategy: Strategy | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.strategy = strategy or Strategy()
        self.scaler = GradScaler(device.type) if precision == "fp16" else None
        self._dtype = _AUTOCAST.get(precision)
        self._clip = clip_grad_norm
        self.guards = tuple(guards)
        self._norm = clip_grad_norm is not None or watch_norm or any(guard.needs_gradient_norm for guard in guards)
        # Fused kernels look at `found_inf` on the device and leave everything as it was when it is 1.
        self._on_device = self.scaler is None and all(group.get("fused") for group in optimizer.param_groups)
        self._move = device.type != "cpu"
        self._used_lr: float | None = None
        if self.guards and not self._on_device:
            log.warning("guards wait for the device at every step: only fused optimizers without fp16 avoid it")

    @property
    def learning_rate(self) -> float:
        """The learning rate that the last update used, of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"] if self._used_lr is None else self._used_lr)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate by `factor`, and with it what the schedule goes on from."""
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group.get("initial_lr", group["lr"]) * factor
            group["lr"] *= factor
        if self.scheduler is not None:
            self.scheduler.base_lrs = [rate * factor for rate in self.scheduler.base_lrs]
        if self._used_lr is not None:
            self._used_lr *= factor

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the forward pass runs."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def __call__(
        self,
        task: Task,
        model: nn.Module,
        pieces: Sequence[tuple[Any, float]],
        before_step: Callable[[], None] | None = None,
    ) -> tuple[list[torch.Tensor], list[str], int]:
        """Do one update with the gradient averaged over `pieces`.

        Args:
            task, model: what is trained.
            pieces: (batch, weight), the weights of all ranks' pieces averaging to 1.
            before_step: called between clipping and the optimizer's step, or None.

        Returns:
            0-dimensional tensors, their names (`loss`, the task's sums, then what was asked for: `gradient_norm`,
            `skipped`), and how many samples they stand for.
        """
        loss: torch.Tensor | None = None
        sums: dict[str, torch.Tensor] = {}
        count, weights = 0, 0.0
        trained = self.strategy.trained(model)
        for number, (batch, weight) in enumerate(pieces, start=1):
            if self._move:
                batch = to_device(batch, self.device)
            with self.strategy.piece(trained, last=number == len(pieces)):
                with self.autocast():
                    out = checked(task, task.step(trained, batch), training=True)
                piece = out.loss if weight == 1.0 else out.loss * weight
                scaled = piece if self.scaler is None else self.scaler.scale(piece)
                scaled.backward()  # type: ignore[no-untyped-call]
            if not weight:  # a stand-in, for a rank that has no sample left where others have one
                out = _nothing(out)
            count += out.count
            weights += weight
            if loss is None:
                loss, sums = piece.detach(), {name: value.detach() for name, value in out.sums.items()}
            else:
                loss = loss + piece.detach()
                sums = {name: value + out.sums[name].detach() for name, value in sums.items()}
        assert loss is not None
        judged = self._over_ranks(loss)
        if weights and abs(weights - 1) > 1e-6:  # this process has more or fewer samples than others: its own mean
            loss = loss / weights
        names, values = ["loss", *sums], [loss, *sums.values()]
        looked_at = before_step is not None and self.scaler is not None  # gradients without their scale, that is
        norm = self._clipped_norm() if self._norm or looked_at else None
        if before_step is not None:
            before_step()
        skipped = self._step(judged, norm)
        if norm is not None and self._norm:
            names.append("gradient_norm")
            values.append(norm)
        if skipped is not None:
            names.append("skipped")
            values.append(skipped)
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self._used_lr = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
        return values, names, count

    @property
    def _parameters(self) -> list[nn.Parameter]:
        # Asked each time: an adaptive layer's are others after a switch.
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _over_ranks(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what guards judge: the loss of all ranks, so that they decide alike, and as one process would."""
        dist = self.strategy.dist
        if not self.guards or dist.world_size == 1:
            return loss
        return dist.sum(loss.clone()) / dist.world_size

    def _clipped_norm(self) -> torch.Tensor:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.strategy.is_sharded:  # a DTensor, over the parts of all ranks
            norm = norm.full_tensor()  # type: ignore[attr-defined]
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        return norm

    def _step(self, loss: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor | None:
        """Step the optimizer unless a guard objects. Return 1.0 if one did, 0.0 if not, None without guards."""
        bad = None
        for guard in self.guards:
            one = guard.bad(loss, norm)
            bad = one if bad is None else bad | one
        skipped = None if bad is None else bad.float()
        if skipped is not None and self._on_device and not self._awaits_momentum():
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        elif skipped is not None and bool(skipped):
            if self.scaler is not None:  # an overflow must lower the scale, or every later step overflows too
                if norm is None:
                    self.scaler.unscale_(self.optimizer)
                self.scaler.update()
            return skipped
        with self.strategy.stepping():
            if self.scaler is None:
                self.optimizer.step()
            else:
                if not (self._awaits_momentum() and self._overflowed(norm)):
                    self.scaler.step(self.optimizer)
                self.scaler.update()
        return skipped

    def _overflowed(self, norm: torch.Tensor | None) -> bool:
        """Whether a gradient is not finite. Waits for the device."""
        assert self.scaler is not None
        if norm is None:
            self.scaler.unscale_(self.optimizer)
        return not all(bool(torch.isfinite(p.grad).all()) for p in self._parameters if p.grad is not None)

    def _awaits_momentum(self) -> bool:
        # Fused SGD allocates its momentum at the first step, and leaves it uninitialised if that one is skipped.
        momentum = any(group.get("momentum") for group in self.optimizer.param_groups)
        return momentum and isinstance(self.optimizer, torch.optim.SGD) and not self.optimizer.state


def _nothing(out: StepOutput) -> StepOutput:
    """Return a stand-in's share of what is reported."""
    return StepOutput(out.loss, {name: torch.zeros_like(value) for name, value in out.sums.items()}, 0)
