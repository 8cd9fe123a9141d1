"""What a rank says of itself every second or so: that it is there, how far it is, and whether the others can be reached."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["BROKEN", "LATE", "LEFT", "PHASES", "RUNS", "Beat", "Member", "introduce", "members", "whereabouts"]

#: What a rank does in a step, in this order.
PHASES = ("starting", "loading data", "computing", "updating", "evaluating", "measuring", "saving", "finishing")

#: States of a rank: as it should be; a connection to another rank broke; it waited in vain for another; it has left.
RUNS, BROKEN, LATE, LEFT = "runs", "broken", "late", "left"


@dataclass(frozen=True)
class Member:
    """A rank as people are told of it.

    Attributes:
        rank: its number.
        size: how many ranks there are.
        host: what its node is called.
        pid: of its process there.
    """

    rank: int
    size: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (of {self.size}, on {self.host}, pid {self.pid})"


@dataclass(frozen=True)
class Beat:
    """One sign of life.

    Attributes:
        number: each one's is higher than the last.
        state: RUNS, BROKEN, LATE or LEFT.
        step: that it is at.
        phase: of that step, one of `PHASES`.
        age: seconds for which it has been there.
        where: its main thread is, if it has been there for long.
        heard: whether it knows the verdict.
    """

    number: int = 0
    state: str = RUNS
    step: int = 0
    phase: str = PHASES[0]
    age: float = 0.0
    where: str = ""
    heard: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """How far it is: it can be compared with another's."""
        return self.step, PHASES.index(self.phase) if self.phase in PHASES else len(PHASES)

    @property
    def troubled(self) -> bool:
        """Whether it could not reach others: it is not to blame for that."""
        return self.state in (BROKEN, LATE)

    def text(self) -> str:
        """Return it as the store holds it."""
        return json.dumps(list(asdict(self).values()))

    @classmethod
    def read(cls, text: bytes) -> Beat:
        """Return what `text` says."""
        return cls(*json.loads(text))


def introduce(host: str) -> str:
    """Return how this process introduces itself to the others, for `members`."""
    return json.dumps([host, os.getpid()])


def members(texts: Sequence[bytes]) -> list[Member]:
    """Return the ranks as they have introduced themselves, rank 0 first."""
    return [Member(rank, len(texts), *json.loads(text)) for rank, text in enumerate(texts)]


def whereabouts() -> str:
    """Return where the main thread is now, "file:line in function"."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
