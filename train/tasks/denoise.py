"""The bundled denoising task: a two-layer network restores digits, or sparse vectors, from noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train.faults import Fault, planted
from train.figures import draw_rows
from train.tasks.base import StepOutput, Task, build_fitting, check_data
from train.tasks.denoise_data import DigitsData, NoisyVectors, TwoHotData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DenoiseTask"]

_SHOWN = 10


class DenoiseTask(Task):
    """Minimise the weighted squared error between the denoised and the clean vector.

    scaled_loss = batch mean of [lambda_on * (sum of squared errors at active coordinates) + (that at the others)];
    loss = scaled_loss + enc_reg * ||W1||^2 + dec_reg * ||W2||^2 (Frobenius). Logged besides: loss_on and loss_off
    (the two sums, unweighted) and psnr, in dB: 10 log10(1 / mean squared error per coordinate).

    Args:
        data: makes the pairs (noisy, clean).
        model: makes the network, which has `encoder` and `decoder` layers.
        lambda_on: weight of the coordinates at which the clean vector is above 0.
        enc_reg: weight of the squared norm of the encoder's matrix.
        dec_reg: weight of the squared norm of the decoder's matrix.
        fault: what is wrong with the training data, on purpose (`train/faults.py`).
    """

    higher_is_better = ("psnr",)

    def __init__(
        self,
        data: DigitsData | TwoHotData,
        model: Callable[..., nn.Module],
        lambda_on: float = 1.0,
        enc_reg: float = 0.0,
        dec_reg: float = 0.0,
        fault: Fault | None = None,
    ) -> None:
        check_data("denoise", data, (DigitsData, TwoHotData), "task/data=digits or two_hot")
        self.data = data
        self.model = model
        self.lambda_on = lambda_on
        self.enc_reg = enc_reg
        self.dec_reg = dec_reg
        self.fault = fault
        self._val: NoisyVectors | None = None

    def build_model(self) -> nn.Module:
        """Return a new network."""
        d = self.data.d
        return build_fitting("denoise", self.model, torch.zeros(2, d), (2, d), "task/model=two_layer_net", d=d)

    def train_data(self) -> Any:
        """Return the training pairs."""
        return planted(self.data.train(), self.fault)

    def val_data(self) -> NoisyVectors:
        """Return the validation pairs."""
        self._val = self.data.val()
        return self._val

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss of a batch of pairs, each (batch, d)."""
        noisy, clean = batch
        count = len(clean)
        squared = (model(noisy) - clean).square_()
        loss_on = (squared * (clean > 0)).sum()
        loss_off = squared.sum() - loss_on
        scaled = self.lambda_on * loss_on + loss_off
        loss = scaled / count
        for factor, name in ((self.enc_reg, "encoder.weight"), (self.dec_reg, "decoder.weight")):
            if factor:
                loss = loss + factor * model.get_parameter(name).square().sum()
        sums = {"scaled_loss": scaled.detach(), "loss_on": loss_on.detach(), "loss_off": loss_off.detach()}
        return StepOutput(loss, sums, count)

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Add psnr, which is no mean."""
        error = (means["loss_on"] + means["loss_off"]) / self.data.d
        return {**means, "psnr": math.inf if error <= 0 else -10 * math.log10(error)}  # NaN stays NaN

    def describe_data(self) -> dict[str, Any]:
        """Return what config.json says about the data."""
        return {"name": type(self.data).__name__, **vars(self.data)}

    def figures(self, model: nn.Module) -> dict[str, Callable[[], Figure]]:
        """Return a picture of up to ten validation samples: noisy, denoised and true, one below the other."""
        assert self._val is not None
        device = next(model.parameters()).device
        shown = min(_SHOWN, len(self._val))
        noisy, clean = self._val.batch(range(shown))
        denoised = model(noisy.to(device)).float().cpu()
        side = math.isqrt(self.data.d)
        shape = (shown, side, side) if side * side == self.data.d else (shown, 1, self.data.d)
        rows = {"noisy": noisy, "denoised": denoised, "true": clean}
        images = {title: vectors.reshape(shape).numpy() for title, vectors in rows.items()}
        return {"denoised": functools.partial(draw_rows, images)}
