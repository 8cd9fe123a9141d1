"""What is known of one batch size. Light: the process that watches over a measurement imports this, and no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Profile", "Status", "failed"]

Status = Literal["OK", "OOM", "TIMEOUT", "ERROR"]


@dataclass(slots=True)
class Profile:
    """One batch size, measured. What could not be measured is None. GB are 1024^3 bytes.

    Attributes:
        batch_size: samples per update.
        status: OK; OOM (out of memory); TIMEOUT (stopped after `timeout_min`); ERROR.
        message: why it is not OK, in one line.
        about_size: whether another size may fare better; False where the configuration itself is refused.
        time_per_epoch: seconds, without evaluation: `samples` / `samples_per_second`.
        samples_per_second: `batch_size` / `step_time`.
        step_time: seconds of an update, loading its batch included: the median over blocks of updates, before and
            after each of which the device was waited for.
        step_time_iqr: the interquartile range over these blocks, in seconds.
        timed_steps: how many updates they hold, after the warm-up.
        gpu_memory_gb: the most that the process took of the GPU, CUDA's context included where it could be told.
        allocated_gb, reserved_gb: the most that tensors took, and that torch's allocator held, of the GPU.
        alloc_retries: how often the allocator had to give memory back first.
        rss_gb: the largest resident set of the process.
        memory_total_gb: the GPU's memory, or without a GPU the host's, or the limit that was set.
        samples: in an epoch.
        steps_per_epoch: updates.
        updates: that the losses come after.
        final_train_loss: mean over the last tenth of these updates.
        final_test_loss: on all validation data, at the end.
        curve: (samples seen, train loss, test loss) at a tenth, two tenths ... of the training.
        train_loss_equal_time, test_loss_equal_time: as of `curve`, after the time that the fastest size needs for
            all; None if that is before its first point.
        noise_scale: B_simple = S / |G|^2 of McCandlish et al. (arXiv:1812.06162), in samples, at the end.
        device: what it ran on.
    """

    batch_size: int
    status: Status = "ERROR"
    message: str = ""
    about_size: bool = True
    time_per_epoch: float | None = None
    samples_per_second: float | None = None
    step_time: float | None = None
    step_time_iqr: float | None = None
    timed_steps: int = 0
    gpu_memory_gb: float | None = None
    allocated_gb: float | None = None
    reserved_gb: float | None = None
    alloc_retries: int | None = None
    rss_gb: float | None = None
    memory_total_gb: float | None = None
    samples: int | None = None
    steps_per_epoch: int | None = None
    updates: int = 0
    final_train_loss: float | None = None
    final_test_loss: float | None = None
    curve: list[tuple[int, float | None, float | None]] = field(default_factory=list)
    train_loss_equal_time: float | None = None
    test_loss_equal_time: float | None = None
    noise_scale: float | None = None
    device: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was measured to the end."""
        return self.status == "OK"

    @property
    def oom_error(self) -> bool:
        """Whether it ran out of memory."""
        return self.status == "OOM"

    @property
    def memory_gb(self) -> float | None:
        """The memory that counts: the GPU's, or without one the process's resident set."""
        return self.rss_gb if self.gpu_memory_gb is None else self.gpu_memory_gb

    @property
    def memory_share(self) -> float | None:
        """The part of the memory there is that it takes, from 0 to 1."""
        if self.memory_gb is None or not self.memory_total_gb:
            return None
        return self.memory_gb / self.memory_total_gb

    @property
    def loss(self) -> float | None:
        """The loss to compare sizes by: on test data, or where there are none, on training data."""
        return self.final_train_loss if self.final_test_loss is None else self.final_test_loss

    @classmethod
    def from_said(cls, said: Mapping[str, Any]) -> Profile:
        """Return the profile of which `said` has the attributes, among others."""
        names = {each.name for each in dataclasses.fields(cls)}
        values = {key: value for key, value in said.items() if key in names}
        values["curve"] = [tuple(point) for point in values.get("curve", [])]
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON values, a loss that is not finite as None."""
        values = {name: _finite(value) for name, value in dataclasses.asdict(self).items()}
        values["curve"] = [[_finite(value) for value in point] for point in self.curve]
        return {**values, "oom_error": self.oom_error, "memory_gb": self.memory_gb}


def failed(batch_size: int, status: Status, message: str, **values: Any) -> Profile:
    """Return the profile of a size that could not be measured to the end."""
    return Profile(batch_size, status, " ".join(message.split()), **values)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
