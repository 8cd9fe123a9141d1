"""When something is due: `Every(steps=100).due(progress)`. Stateless, so that a resume changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Every", "Progress", "auto_intervals"]


@dataclass(slots=True)
class Progress:
    """Where a run stands, at a step boundary.

    Attributes:
        step: optimizer updates done.
        epoch: epochs finished.
        batch: batches consumed in the current epoch.
        samples: training samples consumed.
        skipped: batches passed over after rewinds.
        epoch_ended: the update just done was the last of its epoch.
        elapsed, previous_elapsed: seconds of the run at the last two moments on which all ranks agreed
            (see `expkit.dist.Control`).
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    skipped: int = 0
    epoch_ended: bool = False
    elapsed: float = 0.0
    previous_elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class Every:
    """A schedule: every n steps, every n epochs, every n seconds, or whichever of these comes.

    Step n means that n updates are done; nothing is due at 0. Seconds are counted by rank 0's clock, so that all
    ranks agree. Without any argument nothing is ever due.

    Raises:
        ValueError: an interval is not positive.
    """

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for unit in ("steps", "epochs", "seconds"):
            value = getattr(self, unit)
            if value is not None and value <= 0:
                raise ValueError(f"an interval of {value} {unit} can never be due: it must be more than 0")

    def due(self, progress: Progress) -> bool:
        """Whether the moment has come at `progress`."""
        if self.steps is not None and progress.step > 0 and progress.step % self.steps == 0:
            return True
        if self.epochs is not None and progress.epoch_ended and progress.epoch % self.epochs == 0:
            return True
        return self.seconds is not None and (
            progress.elapsed // self.seconds > progress.previous_elapsed // self.seconds
        )


def auto_intervals(total_steps: int) -> dict[str, int]:
    """Return the intervals that `auto` stands for, in steps, for a run of `total_steps`: checkpoint, log, plot."""
    if total_steps < 1_000:
        return {"checkpoint": 100, "log": 10, "plot": 100}
    if total_steps < 10_000:
        return {"checkpoint": 500, "log": 10, "plot": 500}
    return {"checkpoint": 1_000, "log": 50, "plot": 1_000}
