"""Where a soak happens: a folder with a disk in it that can be filled, a clock that can be moved, and its processes."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.soak.plan import PERIOD as SECONDS
from tests.soak.task import BEAT, PERIOD

__all__ = ["REPOSITORY", "Place", "fill"]

REPOSITORY = Path(__file__).resolve().parents[2]
#: Environment variable by which every process that the soak starts, and theirs, is known.
_MARK = "EXPKIT_SOAK"
_SETTLED = 5.0  # seconds


class Place:
    """The folder of a soak, and what is in it.

    Attributes:
        disk: a file system of its own where this user may mount one; there is the run.
        run: the run directory.
        trackio: the folder of trackio's databases.
        mounted: whether `disk` is one.
    """

    def __init__(self, folder: Path, megabytes: int = 768) -> None:
        self.folder = folder
        self.disk, self.trackio, self.home = folder / "disk", folder / "trackio", folder / "home"
        self.run = self.disk / "soak"
        for each in (self.disk, self.trackio, self.home):
            each.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.disk)]
        try:
            self.mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False
        self._beat, self._clock = folder / "beat", folder / "clock"
        self._beat.write_bytes(bytes(16))
        self._clock.write_bytes(bytes(8))
        self._known: dict[psutil.Process, bool] = {}

    def close(self) -> None:
        """End what still runs, and take the disk away."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.mounted:
            subprocess.run(["umount", "-l", self.disk], check=True)

    def environment(self, restarts: int = 0, period: float = SECONDS) -> dict[str, str]:
        """Return that of a process of the soak: a SLURM job that has been started so many times again."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_", "HF_"))}
        temporary = Path(tempfile.mkdtemp(prefix="t", dir=self.folder))
        return kept | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("clock")), str(REPOSITORY)]),
            "EXPKIT_SOAK_CLOCK": str(self._clock),
            BEAT: str(self._beat),
            PERIOD: str(period),
            _MARK: str(self.folder),
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "TRACKIO_DIR": str(self.trackio),
            "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": "4242",
            "SLURM_RESTART_COUNT": str(restarts),
        }

    @property
    def beat(self) -> tuple[int, int]:
        """The pid of who trains, and how many updates it has done."""
        pid, updates = struct.unpack("qq", self._beat.read_bytes())
        return pid, updates

    @property
    def clock(self) -> float:
        """Seconds that the wall clock of all these processes is ahead."""
        (ahead,) = struct.unpack("d", self._clock.read_bytes())
        return float(ahead)

    @clock.setter
    def clock(self, ahead: float) -> None:
        with self._clock.open("r+b") as file:  # in place: who has it in memory sees it at once
            file.write(struct.pack("d", ahead))

    def processes(self) -> list[psutil.Process]:
        """Return all living processes of the soak: those that have its mark in their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                mine = self._known.get(process)
                if mine is None:
                    mine = self._is_mine(process)
                    if mine or time.time() - process.create_time() > _SETTLED:  # it may not be what it will be yet
                        self._known[process] = mine
                if mine and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return f"{_MARK}={self.folder}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """The run's disk takes nothing more. Without a disk of its own: no file may grow."""
        if self.mounted:
            with fill(self.disk):
                yield
            return
        self._limit(0)
        try:
            yield
        finally:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def fill(disk: Path) -> Iterator[None]:
    """Leave not a byte free on a small disk, for the time of this context."""
    ballast, size = disk / "ballast", 16 << 20
    with ballast.open("ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()
