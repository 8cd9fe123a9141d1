"""The other processes of a job on one machine: started by rank 0, and ended with it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from expkit.dist.meeting import open_store
from expkit.dist.place import Place

__all__ = ["Children", "die_with_parent"]

_LOOPBACK = "127.0.0.1"
#: Seconds that they have where this process has failed: all that they could save is saved, or lost.
_SHORT = 1.0
#: Linux's prctl for the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


class Children:
    """Ranks 1 to `count` - 1 of a job whose rank 0 is this process. They are there within the `with` block.

    They are in this process's group, so that Ctrl-C in a terminal reaches all of them, once.

    Args:
        count: number of processes with this one, at least 2.
        command: what each of them runs; `Place.current()` tells it its rank.
        environ: their environment, but for what tells them their rank.
        grace: seconds that they have to end by themselves after the block, and again once they are sent TERM.

    Attributes:
        place: of this process.
    """

    def __init__(
        self, count: int, command: Sequence[str], environ: Mapping[str, str] | None = None, grace: float = 5.0
    ) -> None:
        self.place = Place(0, count, 0, count, 0, socket.gethostname(), "processes", _LOOPBACK, 0)
        self._command = list(command)
        self._environ = dict(os.environ if environ is None else environ)
        self._grace = grace
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Children:
        # The store comes first, at a port that is this process's already: one found for later could be taken by then.
        self.place = open_store(self.place)
        try:
            for rank in range(1, self.place.world_size):
                self._processes[rank] = subprocess.Popen(  # noqa: S603 - no shell
                    self._command, env=self._environment(rank), stdin=subprocess.DEVNULL
                )
        except BaseException:  # whatever it is, a Ctrl-C too: those that have started must not stay behind
            self._end(0.0)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(self._grace if kind is None else _SHORT)

    def dead(self) -> dict[int, int]:
        """Return the exit codes of those that have ended, by rank; -n for signal n."""
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: code for rank, code in codes.items() if code is not None}

    def _environment(self, rank: int) -> dict[str, str]:
        count = self.place.world_size
        return {
            "OMP_NUM_THREADS": str(max(1, _cpus() // count)),
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # torch prints a stack for each connection that ends
            **self._environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": _LOOPBACK,
            "MASTER_PORT": str(self.place.port),
            "EXPKIT_LAUNCHER": "processes",
            "EXPKIT_PARENT": str(os.getpid()),
        }

    def _end(self, grace: float) -> None:
        processes = self._processes.values()
        try:
            if grace and not self._ended(grace):
                for process in processes:
                    process.terminate()
                self._ended(grace)
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _ended(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while len(self.dead()) < len(self._processes):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


def die_with_parent() -> None:
    """Let a process that `Children` started end with its parent, even one that is stopped; Linux only.

    The watch ends it elsewhere, and here what is not being watched yet.
    """
    parent = os.environ.get("EXPKIT_PARENT")
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    try:
        os.kill(int(parent), 0)
    except ProcessLookupError:  # it ended before that could be asked for
        os.kill(os.getpid(), signal.SIGKILL)


def _cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
