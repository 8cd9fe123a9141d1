"""Which rank is to blame when a job cannot go on: decided from their signs of life, and told in one line."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from expkit.dist.beat import LATE, LEFT, Beat, Member

__all__ = ["ended", "is_consequence", "is_timeout", "judge", "named"]

#: What gloo, NCCL and the store say when the fault is with another rank.
_BROKEN = (
    *("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "Socket closed"),
    *("recvValue failed", "sendBytes failed", "failed to recv", "Failed to recv", "connectFullMesh"),
    *("NCCL communicator was aborted", "ncclRemoteError", "ncclSystemError", "remote process exited"),
)
_TIMEOUT = ("Timed out waiting", "Application timeout", "timed out after", "wait timeout", "Socket Timeout", "Watchdog caught collective")
#: A rank that has been at the same place for this part of the time-out when others ran into it was not about to come.
_NEARLY = 0.8


def is_timeout(error: BaseException) -> bool:
    """Whether `error` is that of a rank that waited in vain for another."""
    return _of_torch(error) and any(text in str(error) for text in _TIMEOUT)


def is_consequence(error: BaseException) -> bool:
    """Whether `error` is that of a rank that could not reach another, so that it is not to blame for it."""
    return is_timeout(error) or (_of_torch(error) and any(text in str(error) for text in _BROKEN))


def _of_torch(error: BaseException) -> bool:
    """Whether torch raised it: a tracker's ConnectionResetError, say, is no rank's."""
    return isinstance(error, RuntimeError)


def ended(member: Member | str, code: int) -> str:
    """Return what to say of a process that has ended with `code` (-n: by signal n), though it was still needed."""
    if code >= 0:
        return f"{member} ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "no name"
    return f"{member} was killed (signal {-code}, {name})"


def judge(
    members: Sequence[Member],
    beats: Sequence[Beat],
    silent: Sequence[float],
    timeout: float,
    patience: float,
    trouble: float | None,
) -> str | None:
    """Return what is said of the rank to blame, or None if nothing is to be said yet.

    Args:
        members: all ranks.
        beats: the last sign of life of each.
        silent: seconds for which each has said nothing.
        timeout: seconds for which ranks wait for each other.
        patience: seconds of silence after which a rank is given up once another cannot reach it; `timeout` before.
        trouble: seconds since the first of the ranks could not reach another; None: none has said so.
    """
    here = [rank for rank, beat in enumerate(beats) if beat.state != LEFT]
    suspects = [rank for rank in here if not beats[rank].troubled]
    if suspects:
        gone = max(suspects, key=lambda rank: silent[rank])
        if silent[gone] >= (timeout if trouble is None else patience):
            seen = f"; last seen at step {beats[gone].step}" if beats[gone].step else ""
            return (
                f"{members[gone]} has said nothing for {silent[gone]:.0f} s: it was killed, stopped, or its node is "
                f"gone{seen}"
            )
    waited_in_vain = any(beats[rank].state == LATE for rank in here)
    limit = _NEARLY * timeout if waited_in_vain else timeout
    behind = [rank for rank in suspects if _kept_waiting(beats[rank], [beats[other] for other in here]) >= limit]
    if behind:
        first = min(behind, key=lambda rank: beats[rank].place)
        return _hangs(members, beats, first, [rank for rank in behind if beats[rank].place == beats[first].place])
    if waited_in_vain and trouble is not None and trouble >= patience:
        return _among_equals(members, beats, here, [rank for rank in suspects if beats[rank].age >= limit])
    return None


def _kept_waiting(beat: Beat, others: Sequence[Beat]) -> float:
    """Return the seconds for which some rank that is further on has waited for this one."""
    return max((min(beat.age, other.age) for other in others if other.place > beat.place), default=0.0)


def _hangs(members: Sequence[Member], beats: Sequence[Beat], rank: int, like: Sequence[int]) -> str:
    beat = beats[rank]
    where = f" (it is at {beat.where})" if beat.where else ""
    more = [str(other) for other in like if other != rank]
    so_do = f"; so do ranks {', '.join(more)}" if len(more) > 1 else f"; so does rank {more[0]}" if more else ""
    step = f" for step {beat.step}" if beat.step else ""
    return (
        f"{members[rank]} hangs: it has been {beat.phase}{step} for {beat.age:.0f} s{where}, and the others wait for it"
        f"{so_do}"
    )


def _among_equals(
    members: Sequence[Member], beats: Sequence[Beat], here: Sequence[int], suspects: Sequence[int]
) -> str | None:
    """Return who hangs where all are in the same phase: who is not where those are that waited in vain."""
    waiting = {beats[rank].where for rank in here if beats[rank].state == LATE}
    odd = [rank for rank in suspects if beats[rank].where not in waiting] or suspects
    if odd:
        return _hangs(members, beats, odd[0], odd)
    if all(beats[rank].troubled for rank in here):
        them = "; ".join(f"rank {rank} {beats[rank].phase} for step {beats[rank].step}" for rank in here[:4])
        return f"the ranks waited for each other in vain, each for something else ({them})"
    return None


def named(members: Sequence[Member], dead: Mapping[int, int]) -> str | None:
    """Return what to say of the first of the processes that have ended, or None if none has."""
    return next((ended(members[rank], code) for rank, code in sorted(dead.items())), None)
