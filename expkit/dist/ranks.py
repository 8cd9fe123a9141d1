"""`Dist`: what the ranks of a job say to each other."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from expkit.errors import UserError, describe

if TYPE_CHECKING:
    import torch

    from expkit.dist.watch import Watch

__all__ = ["Dist"]

T = TypeVar("T")


class Dist:
    """The ranks of this job. As a context manager it leaves them at the end, and says why if that is an error.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process among those of its node.
        local_size: how many of them its node has.
        node: number of its node.
        hosts: what the node of each rank is called, where that is known.
        watch: what notices ranks that are gone or hang; None in one process, and in a group that somebody else made.
        position: (step, phase) that this rank is at.
    """

    #: Seconds for which the ranks of the job that this process has joined wait for each other; None: torch's default.
    timeout: ClassVar[float | None] = None

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        *,
        local_rank: int | None = None,
        local_size: int = 1,
        node: int = 0,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local_rank = _local_rank(rank) if local_rank is None else local_rank
        self.local_size = local_size
        self.node = node
        self.hosts: Sequence[str] = ()
        self.watch: Watch | None = None
        self.position: tuple[int, str] = (0, "starting")
        self._gloo: Any = None

    @classmethod
    def current(cls) -> Dist:
        """Return the ranks of the process group that is initialised, or a single process."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        wait = None if cls.timeout is None else timedelta(seconds=cls.timeout)
        group = dist.new_group(backend="gloo", timeout=wait)
        return cls(dist.get_rank(), dist.get_world_size()).deciding_by(group)

    def deciding_by(self, group: Any) -> Dist:
        """Send decisions and objects through `group`, a gloo group of all ranks; return self."""
        self._gloo = group
        return self

    @contextmanager
    def first_of_node_first(self) -> Iterator[None]:
        """Let the first process of each node do what is inside before the others of it do. Called by all ranks."""
        if not self.is_first_of_node:
            self.barrier()
        yield
        if self.is_first_of_node:
            self.barrier()

    @property
    def group(self) -> Any:
        """The gloo group through which decisions go; None in one process that has no process group."""
        return self._gloo

    @property
    def is_main(self) -> bool:
        """Whether this process writes the journal, trackers and checkpoints."""
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        """Whether this process is the one that says, for all processes of its node, how the machine is doing."""
        return self.world_size == 1 or self.local_rank == 0

    def at(self, step: int, phase: str) -> None:
        """Note that this rank is at `phase` (one of `expkit.dist.beat.PHASES`) of `step`. Costs next to nothing."""
        self.position = (step, phase)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all ranks, in place."""
        return self._reduce(tensor, "SUM")

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the element-wise maximum over all ranks, in place."""
        return self._reduce(tensor, "MAX")

    def share(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` as it is on rank 0, in place."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.broadcast(tensor, src=0)
        return tensor

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

    def gather(self, value: Any) -> list[Any] | None:
        """Return every rank's `value` (anything that can be pickled), rank 0's first, on rank 0; None elsewhere."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self._gloo)
        return values

    def gather_all(self, value: Any) -> list[Any]:
        """Return every rank's `value` (anything that can be pickled), rank 0's first, on every rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._gloo)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` and return what it gives, if it fails on no rank; what fails on one of them fails on all.

        Raises:
            Exception: this rank's own; or an OSError, a UserError or a RuntimeError that says what failed on another.
        """
        if self.world_size == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except Exception as failed:  # noqa: BLE001 - it is raised below, when all have heard of it
            error = failed
        said = self.gather_all(None if error is None else _as_said(error))
        if error is not None:
            raise error
        for rank, failure in enumerate(said):
            if failure is not None:
                kind, code, text = failure
                raise OSError(code, f"{text} (rank {rank})") if kind is OSError else kind(f"rank {rank}: {text}")
        return cast("T", result)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier(group=self._gloo)

    def close(self) -> None:
        """Leave the other ranks: after the last of them where all goes well, and at once where one has failed."""
        if self.watch is None:
            return
        import torch.distributed as dist

        self.watch.leave()
        self._gloo = None
        if dist.is_initialized():
            dist.destroy_process_group()
        self.watch.stop()
        self.watch = None

    def __enter__(self) -> Dist:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.watch is not None and error is not None:
            self.watch.blame(error)
        self.close()

    def _reduce(self, tensor: torch.Tensor, operation: str) -> torch.Tensor:
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
        return tensor


def _as_said(error: Exception) -> tuple[type[Exception], int, str]:
    """Return what other ranks are told of an error: of which kind, its errno, its text."""
    if isinstance(error, OSError):
        return OSError, error.errno or errno.EIO, error.strerror or str(error)
    return (UserError, 0, str(error)) if isinstance(error, UserError) else (RuntimeError, 0, describe(error))


def _local_rank(rank: int) -> int:
    """Return what torchrun or srun says; where they say nothing, rank 0 is the first of its node, and nobody else."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", rank)))
