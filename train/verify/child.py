"""One training run that writes down what it sees at every step, in a process of its own, which may be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import torch

import train.preparing
from expkit.dist import Control
from expkit.experiment import RunDir
from train.runner import Runner
from train.shares import StepBatches, inside
from train.verify.fingerprint import fingerprint, generators, hidden_state, optimizer_state, weights
from train.verify.orders import Orders, kill_and_save

__all__ = ["Recorded", "main"]

_PATIENCE = 120.0  # seconds in which a checkpoint must be there


def main(arguments: Sequence[str]) -> int:
    """Train as `python -m train` does. `arguments`: the orders as JSON, then what is typed. Return the exit code."""
    orders = Orders.read(arguments[0])

    class Ordered(Recorded):
        given = orders

    vars(train.preparing)["Runner"] = Ordered  # here alone, so that the ordinary runner needs no hook
    from train.cli.main import main as cli

    return cli(["expkit verify-resume", *arguments[1:]])


class _Seen:
    """An update that keeps its values for the record."""

    def __init__(self, update: Any) -> None:
        self._update = update
        self.values: dict[str, torch.Tensor] = {}

    def __call__(self, *arguments: Any) -> Any:
        values, names, count = self._update(*arguments)
        self.values = dict(zip(names, values, strict=True))
        return values, names, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._update, name)


class Recorded(Runner):
    """A runner that writes one line of JSON for each step, and dies where it is told to."""

    given: Orders

    def fit(self) -> bool:
        self.update = _Seen(self.update)  # type: ignore[assignment]
        self._resumed_at = self.progress.step
        self._dies, self._saves = self.plan()
        with Path(self.given.record).open("wb", buffering=0) as self._file:
            self._write("restored", **self._state())
            return super().fit()

    def plan(self) -> tuple[int, int]:
        """Return the steps in which to die, and after which to save."""
        return kill_and_save(self.given.steps, self.train.steps, self.given.kill_at)

    def _train_step(self, batches: StepBatches) -> None:
        epoch, number, step = self.progress.epoch, self.progress.batch, self.progress.step + 1
        # Wanted at the first step after the resume: a run that is not stopped cannot know which one that will be.
        hidden = self._hidden() if step <= self._dies or step == self._resumed_at + 1 else {}
        several = len(batches.pieces) > 1
        before = {
            "epoch": epoch + 1,
            "number": number + 1,
            "workers": self.train.num_workers,
            "batch": {
                name: text
                for piece, (batch, _) in enumerate(batches.pieces)
                for name, text in fingerprint(batch, f"piece {piece}" if several else "batch").items()
            },
            "rng": generators(),
            "hidden": hidden,
        }
        super()._train_step(batches)
        loss = fingerprint(self.update.values)  # type: ignore[attr-defined]
        self._write("step", **before, last=self.progress.epoch_ended, loss=loss, **self._state())
        if self.given.kill and step == self._dies:
            self._die()

    def _after_step(self) -> bool:
        if self.progress.step == self._saves:
            self.control.request(Control.SAVE)
        return super()._after_step()

    def _state(self) -> dict[str, dict[str, str]]:
        update = self.update
        return {
            "weights": weights(self.model),
            "optimizer": optimizer_state(update.optimizer, self.model),
            "scheduler": fingerprint(update.scheduler.state_dict()) if update.scheduler is not None else {},
        }

    def _hidden(self) -> dict[str, str]:
        data, update = self.train.data, self.update
        objects = {"training data": data}
        objects |= {f"training data's {type(part).__name__}": part for part in inside(data)}
        objects["task"] = self.task
        if self.val is not None:
            objects["validation data"] = self.val.data
        objects["diagnostics"] = self.diagnostics
        return hidden_state(self.model, update.optimizer, update.scheduler, objects)

    def _write(self, kind: str, **what: Any) -> None:
        self._file.write(orjson.dumps({"kind": kind, "step": self.progress.step, **what}) + b"\n")

    def _die(self) -> None:
        """Die in the middle of a step, once the checkpoint to resume from is there: it may be written meanwhile."""
        folder = RunDir(self.given.run).checkpoints
        steps = range(self._saves, self._dies)
        files = [folder / f"checkpoint_step_{step}{suffix}" for step in steps for suffix in (".pt", "")]
        deadline = time.monotonic() + (_PATIENCE if self.save is not None else 0)
        while not any(file.exists() for file in files) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
