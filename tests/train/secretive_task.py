"""A task that is given secrets, and tells some in what goes wrong."""

from __future__ import annotations

import logging
import os
from typing import Any

from torch import nn

from tests.train.helpers import Regression
from train.tasks.base import StepOutput

log = logging.getLogger("expkit")


class SecretiveTask(Regression):
    """Least squares.

    Args:
        how: "" trains; "fails" raises, after a few steps, an error that holds all secrets.
        secrets: names and values, nested as anybody nests them.
    """

    def __init__(self, how: str = "", **secrets: Any) -> None:
        super().__init__(n=64)
        self.how, self.secrets, self.steps = how, secrets, 0

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        self.steps += 1
        if self.steps == 3:
            told = f"no answer for {self.secrets} in {dict(os.environ)}"
            log.warning("%s", told)
            if self.how == "fails":
                raise RuntimeError(told)
        return super().step(model, batch)
