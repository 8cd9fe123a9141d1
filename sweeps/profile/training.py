"""The runner of a measurement: `train`'s own, timed, without anything that is written or sent anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from expkit.dist import Dist
from expkit.errors import ConfigError
from expkit.record import Record
from expkit.schedule import Every
from sweeps.profile.noise import NoiseScale, gradient
from sweeps.profile.timing import StepTimer, waiter
from train.data import Batches
from train.parts import Parts
from train.runner import Runner
from train.shares import StepBatches

__all__ = ["SizeError", "Timed", "losses", "make_batches"]


class SizeError(ConfigError):
    """A batch size that does not fit the data or the configuration."""


def make_batches(parts: Parts, size: int) -> tuple[Batches, Batches | None]:
    """Return training and validation batches.

    Raises:
        SizeError: the size does not fit.
        ConfigError: the batch size is the task's own.
    """
    data = parts.data("train_data")
    if not hasattr(data, "__getitem__"):
        raise ConfigError(
            f"task: train_data returns a {type(data).__name__}, whose batches are its own: trainer.batch_size does "
            "nothing here; return a data set with a length and __getitem__ to profile batch sizes"
        )
    if size > len(data):
        raise SizeError(f"batch size {size:,} is more than the {len(data):,} training samples: take a smaller one")
    pieces = parts.trainer.grad_accumulation
    if size % pieces:
        raise SizeError(f"batch size {size:,} is not divisible by trainer.grad_accumulation={pieces}")
    dist = Dist()
    held_out = parts.data("val_data")
    val = parts.batches(held_out, training=False, dist=dist) if held_out is not None else None
    return parts.batches(data, training=True, dist=dist), val


class Timed(Runner):
    """A runner that times its updates, and keeps what the losses were.

    Args:
        parts: what a configuration selects.
        train, val: its batches.
        warm_up: updates that are not timed.
        every: updates between two evaluations.
        on_point: called after each evaluation, or where one would be.

    Attributes:
        timer: the time of updates.
        tests: (samples seen, test loss) at each evaluation.
        seen: (samples seen, train loss) at each update.
    """

    def __init__(
        self,
        parts: Parts,
        train: Batches,
        val: Batches | None,
        warm_up: int,
        every: int,
        on_point: Callable[[], None],
    ) -> None:
        super().__init__(
            parts.task, parts.model, parts.update(parts.trainer.total_steps(train.steps)), parts.trainer, train, val
        )
        self.timer = StepTimer(waiter(self.update.device), warm_up)
        self.tests: list[tuple[int, float]] = []
        self.seen: list[tuple[int, float]] = []
        self._counts: list[int] = []
        self._told = on_point
        self._eval = Every(steps=every)
        self.recorder.connect(self._keep)

    def _train_step(self, batches: StepBatches) -> None:
        whole = batches.samples == self.config.batch_size
        if not whole:
            self.timer.stop()
        super()._train_step(batches)
        self._counts.append(self.progress.samples)
        if whole:
            self.timer.step()
        else:
            self.timer.go_on()
        if self.val is None and self._eval.due(self.progress):
            self.timer.stop()
            self._told()
            self.timer.go_on()

    def evaluate(self) -> dict[str, float]:
        """Return the means over all validation data, and keep the loss."""
        self.timer.stop()
        means = super().evaluate()
        self.tests.append((self.progress.samples, self.task.summarize(means)["loss"]))
        self._told()
        self.timer.go_on()
        return means

    def _keep(self, record: Record) -> None:
        values = record.series.get("train_loss", ())
        self.seen += zip(self._counts[len(self.seen) : len(self.seen) + len(values)], values, strict=True)

    def time_more(self, blocks: int, seconds: float) -> None:
        """Do more updates until so many blocks, and seconds, have been timed, if they have not. The losses stay."""
        for batches in self._more():
            if len(self.timer.blocks) >= blocks and self.timer.seconds >= seconds:
                break
            self._train_step(batches)
        self.timer.stop()

    def noise_scale(self, batches: int) -> float | None:
        """Return the gradient noise scale where the weights are now, from at most so many whole batches."""
        found = NoiseScale(self.config.batch_size)
        assert self.train.steps is not None
        whole = (each for each in self._more() if each.samples == self.config.batch_size)
        for each in itertools.islice(whole, min(batches, max(2, self.train.steps))):
            found.add(gradient(self.task, self.model, self.update, each.pieces))
        return found.value

    def _more(self) -> Iterator[StepBatches]:
        """Yield batches of epochs that have not been trained on."""
        for epoch in itertools.count(self.progress.epoch + 1):
            yield from self.train.epoch(epoch)


def losses(runner: Timed, size: int) -> dict[str, Any]:
    """Return final losses and the curve of a training that is over, as attributes of a `Profile`."""
    total = runner.progress.samples
    window = max(total / 10, size)

    def train_loss(until: float) -> float | None:
        inside = [loss for samples, loss in runner.seen if until - window < samples <= until]
        return sum(inside) / len(inside) if inside else None

    points: list[tuple[int, float | None]] = list(runner.tests) or [(total * part // 10, None) for part in range(1, 11)]
    return {
        "final_train_loss": train_loss(total),
        "final_test_loss": runner.tests[-1][1] if runner.tests else None,
        "curve": [(samples, train_loss(samples), test) for samples, test in dict(points).items()],
    }
