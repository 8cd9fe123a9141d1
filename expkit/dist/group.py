"""The group of a job's ranks, for `Dist`: joined by all of them, as often as rank 0 has another job."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from expkit.dist.beat import Beat, introduce, members
from expkit.dist.children import die_with_parent
from expkit.dist.meeting import Meeting, meet
from expkit.dist.place import Place
from expkit.dist.ranks import Dist
from expkit.dist.verdict import ended
from expkit.dist.watch import Watch
from expkit.errors import RankFailed, UserError

__all__ = ["join"]

_LOOK = 0.05


def join(
    place: Place,
    timeout: float = 600.0,
    device_type: str = "cpu",
    *,
    patience: float = 300.0,
    dead: Callable[[], Mapping[int, int]] = dict,
) -> Dist:
    """Join the other ranks in rank 0's next job.

    After `Dist.close` it can be called again, by all of them, for the next one. Of the GPUs that it sees a rank takes
    the one that has its number on its node.

    Args:
        place: of this process.
        timeout: seconds for which ranks wait for each other in a collective, and after which one that hangs is named;
            what rank 0 says counts for all.
        device_type: where tensors are: "cpu" (gloo), or "cuda" (NCCL, and gloo for what is on the CPU); likewise.
        patience: seconds for which rank 0 waits for the others to come.
        dead: `Children.dead` where rank 0 has started the others.

    Raises:
        RankFailed: another rank did not come, or the group cannot be made.
        UserError: the store cannot be opened.
    """
    import torch
    import torch.distributed as dist

    die_with_parent()
    meeting = meet(place, patience)
    number = meeting.joined = meeting.joined + 1
    try:
        texts, (timeout, device_type) = _assemble(place, meeting, number, (timeout, device_type), patience, dead)
        store = meeting.under(f"job/{number}/ranks", second=True)
    except RuntimeError as error:
        where = f"{place.address}, port {place.port}"
        raise UserError(f"rank {place.rank} on {place.host} lost the others at {where}: {_line(error)}") from error
    ranks = Dist(
        place.rank, place.world_size, local_rank=place.local_rank, local_size=place.local_size, node=place.node
    )
    everybody = members(texts)
    ranks.hosts = tuple(each.host for each in everybody)
    keeper = f"the launcher at {place.address}, port {place.port}," if place.store_is_there else str(everybody[0])
    watch = Watch(store, everybody, place.rank, timeout, keeper, lambda: ranks.position, dead)
    ranks.watch = meeting.watch = watch
    Dist.timeout = timeout
    watch.start()
    try:
        if device_type == "cuda":
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        if place.launcher == "processes" and sys.platform == "linux":
            # Groups that are made later, too, stay within this machine, whatever it is called.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=meeting.under(f"job/{number}/group"),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=timeout),
        )
        return ranks.deciding_by(dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)))
    except RuntimeError as error:
        why = watch.blame(error)
        ranks.close()
        raise RankFailed(why or f"rank {place.rank} on {place.host} cannot join the others: {_line(error)}") from error
    except BaseException as error:
        watch.blame(error)
        ranks.close()
        raise


def _assemble(
    place: Place,
    meeting: Meeting,
    number: int,
    settings: tuple[float, str],
    patience: float,
    dead: Callable[[], Mapping[int, int]],
) -> tuple[list[bytes], tuple[float, str]]:
    """Wait until all ranks are there; return how they introduce themselves, rank 0 first, and rank 0's settings."""
    store = meeting.under(f"job/{number}/ranks")
    store.set(f"beat/{place.rank}", Beat().text())
    store.set(f"here/{place.rank}", introduce(place.host))
    keys = [f"here/{rank}" for rank in range(place.world_size)]
    if place.rank == 0:
        meeting.store.set(f"job/{number}", "")
    end = time.monotonic() + patience
    while not store.check(keys if place.rank == 0 else ["go"]):
        time.sleep(_LOOK)
        if place.rank == 0:
            missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
            left = {rank: -int(meeting.store.get(f"left/{rank}")) for rank in missing if meeting.has_left(rank)}
            _check(place, missing, end, patience, {**left, **dead()})
        elif meeting.store.check(["over"]):
            raise RankFailed("rank 0 has ended before all were there")
    if place.rank == 0:
        store.set("go", json.dumps(settings))
    return list(store.multi_get(keys)), json.loads(store.get("go"))


def _check(place: Place, missing: list[int], end: float, patience: float, dead: Mapping[int, int]) -> None:
    for rank in missing:
        if rank in dead:
            raise RankFailed(f"{ended(f'rank {rank} (of {place.world_size})', dead[rank])} before it had begun")
    if missing and time.monotonic() > end:
        names = ", ".join(map(str, missing))
        raise RankFailed(
            f"rank {names} (of {place.world_size}) did not come within {patience:.0f} s: see what it has said"
        )


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
