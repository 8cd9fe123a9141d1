"""One process or many: `Dist` is what ranks say to each other, `Control` is what they must do together.

With one process every call is the identity and costs nothing. With more, tensors go through the default process
group, and decisions through a gloo group, so that they never wait for a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Control", "Dist", "is_main_process"]


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process. Asks no other rank, and does not import torch.

    The process group knows; before there is one, the RANK and WORLD_SIZE that torchrun sets.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() == 0)
    return not (os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0")


class Dist:
    """The ranks of this job.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self._gloo: Any = None

    @classmethod
    def current(cls) -> Dist:
        """Return the ranks of the process group that is initialised, or a single process."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        self = cls(dist.get_rank(), dist.get_world_size())
        self._gloo = dist.new_group(backend="gloo")
        return self

    @property
    def is_main(self) -> bool:
        """Whether this process writes the journal, trackers and checkpoints."""
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        """Whether this process is the one that says, for all processes of its node, how the machine is doing."""
        if self.world_size == 1:
            return True
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))  # torchrun's, srun's
        return self.is_main if local is None else local == "0"

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all ranks, in place."""
        return self._reduce(tensor, "SUM")

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the element-wise maximum over all ranks, in place."""
        return self._reduce(tensor, "MAX")

    def any_bits(self, mask: int) -> int:
        """Return the bitwise OR of every rank's `mask`."""
        if self.world_size == 1:
            return mask
        import torch
        import torch.distributed as dist

        bits = torch.tensor([mask], dtype=torch.int64)
        dist.all_reduce(bits, op=dist.ReduceOp.BOR, group=self._gloo)
        return int(bits.item())

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` (anything that can be pickled) on every rank."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._gloo)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier(group=self._gloo)

    def _reduce(self, tensor: torch.Tensor, operation: str) -> torch.Tensor:
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
        return tensor


class Control:
    """What all ranks must do at the same step: a bitmask, OR-reduced every `interval` steps.

    `interval` is about one second of steps, chosen by rank 0 from the speed that it sees: an exchange at every step
    would cost a millisecond each. With one process a request is seen at the next step boundary.

    Attributes:
        elapsed: seconds since the run (with what came before a resume) began, as all ranks agree on.
    """

    SAVE = 1
    STOP = 2
    DIAGNOSTICS = 4
    RESPOND = 8
    REWIND = 16

    def __init__(self, dist: Dist | None = None, elapsed: float = 0.0) -> None:
        self.dist = dist or Dist()
        self.elapsed = elapsed
        self._began = time.monotonic() - elapsed
        self._requested: deque[int] = deque()
        self._interval = 1
        self._next = 0

    def request(self, action: int) -> None:
        """Ask all ranks for `action`. Safe in a signal handler, and in any thread."""
        self._requested.append(action)

    def go_on_from(self, elapsed: float) -> None:
        """Count `elapsed` seconds, of the run before a resume, as passed already."""
        self.elapsed = elapsed
        self._began = time.monotonic() - elapsed

    def now(self) -> float:
        """Return the seconds of the run by this process's own clock."""
        return time.monotonic() - self._began

    def poll(self, step: int) -> int:
        """Return what to do now, the same on all ranks when called by all after the same `step`."""
        if step < self._next and (self.dist.world_size > 1 or not self._requested):
            return 0
        mine = 0
        while self._requested:
            mine |= self._requested.popleft()
        now = self.now()
        if self.dist.world_size == 1:
            actions = mine
        else:
            actions = self.dist.any_bits(mine)
            now = self.dist.broadcast(now)
        self._schedule(step, now)
        return actions

    def _schedule(self, step: int, now: float) -> None:
        # Every rank computes the same interval, from rank 0's clock. It at most doubles each time, so that a first
        # estimate from very fast steps does not silence the ranks for minutes; capped for the same reason.
        passed = now - self.elapsed
        speed = self._interval / passed if passed > 0 else float(self._interval)
        self._interval = max(1, min(2 * self._interval, int(speed), 1000))
        self.elapsed = now
        self._next = step + self._interval
