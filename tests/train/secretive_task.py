"""A task and a tracker that are given secrets, and tell them in what goes wrong."""

from __future__ import annotations

import logging
import os
from typing import Any

from torch import nn

from expkit.record import Record
from expkit.trackers.base import Tracker
from tests.train.helpers import Regression
from train.tasks.base import StepOutput


class TellingTracker(Tracker):
    """Fails at each record, and tells its key."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key

    def log(self, record: Record) -> None:
        raise RuntimeError(f"{self.api_key} is not taken, nor is {os.environ['SERVICE_PASSWORD']}")


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
