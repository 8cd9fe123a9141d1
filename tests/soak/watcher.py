"""`expkit watch` beside the training."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from tests.soak.place import REPOSITORY, Place

__all__ = ["Watcher"]


class Watcher:
    """Watches the run from a process of its own, which may be killed and started again.

    Attributes:
        codes: the exit codes of those that were not killed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.codes: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it goes on where the last one stood."""
        with (self.place.folder / "said_watch").open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "expkit", "watch", str(self.place.run), "detectors=run"],
                **{"env": self.place.environment(), "cwd": REPOSITORY, "stdout": file, "stderr": file},
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.codes.append(self._process.returncode)
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Let it read the rest, and end it as a person does."""
        assert self._process is not None
        time.sleep(6)
        self._process.send_signal(signal.SIGTERM)
        self.codes.append(self._process.wait(60))
