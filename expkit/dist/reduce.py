"""Gradients that are summed in the same order wherever they lie in DDP's buckets: what a bit-identical resume needs.

DDP lays its buckets out anew after the first backward pass of a process, and an all-reduce sums three or more ranks in an
order that depends on where a number lies in its bucket: a run that is resumed would differ in the last digits.
"""

# Annotations are not postponed in this file: DDP looks at those of a hook.
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["ordered_allreduce", "ordered_mean"]


def ordered_allreduce(
    group: Any,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # it is there
) -> torch.futures.Future[torch.Tensor]:
    """Average a bucket of gradients over all ranks: a communication hook of DistributedDataParallel.

    `model.register_comm_hook(None, ordered_allreduce)`. It moves as many bytes as an all-reduce, but the backward pass
    waits for each bucket: in the background, the second half of several buckets could come in another order on
    another rank.

    Args:
        group: process group of the ranks; None: all of them.
        bucket: of gradients; they are overwritten with their mean.
    """
    buffer: torch.Tensor = bucket.buffer()
    devices: list[Any] | None = [buffer.device] if buffer.device.type == "cuda" else None
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
    future.set_result(ordered_mean(buffer, group))
    return future


def ordered_mean(tensor: torch.Tensor, group: Any = None) -> torch.Tensor:
    """Return the mean of `tensor` over all ranks of `group`, each number summed from rank 0 to the last.

    Args:
        tensor: of n floats, the same n on all ranks; it is overwritten with the mean.
        group: process group; None: all ranks.
    """
    world = dist.get_world_size(group)
    share = -(-tensor.numel() // world)  # of which each rank makes the sums
    mine = torch.zeros(world * share, dtype=tensor.dtype, device=tensor.device)
    mine[: tensor.numel()] = tensor.view(-1)
    parts = torch.empty_like(mine)
    dist.all_to_all_single(parts, mine, group=group)
    rows = parts.view(world, share)
    total = rows[0] / world  # divided first, as DDP does: a sum of half-precision numbers may overflow
    for row in rows[1:]:
        total.add_(row / world)
    dist.all_gather(list(mine.view(world, share).unbind()), total, group=group)
    tensor.copy_(mine[: tensor.numel()].view_as(tensor))
    return tensor
