"""The training that is soaked: started, ended, and started again with the same command, as a scheduler does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.soak.place import REPOSITORY, Place

__all__ = ["Attempt", "Trained", "Training", "command", "read_json", "wait_for"]

#: Seconds that a training may take to begin, or to end when it is asked to.
_PATIENCE = 180.0

_COMMON = (
    *("task=soak", "trainer.batch_size=8", "trainer.max_epochs=null", "trainer.clip_grad_norm=1.0"),
    *("trainer.deterministic=true", "trainer.threads=1", "trainer.device=cpu", "run.min_free_gb=0"),
    *("diagnostics=blob,gradients,activations", "detectors=standard,best_model"),
)
_EVERYTHING = (
    *("tracker=wandb,trackio,tensorboard", "plots=training,samples,model,blob", "trainer.num_workers=1"),
    *("checkpoint.async_save=true", "gpu.interval=1", "resume=auto"),
)
#: What the journal and the weights do not depend on is left out of the training that is compared with.
_NOTHING = ("tracker=[]", "plots=[]", "gpu.enabled=false", "checkpoint.save.on_best=false")


def command(run: Path, steps: int, everything: bool) -> list[str]:
    """Return what starts the training in `run`, with everything on or with what counts only."""
    more = _EVERYTHING if everything else _NOTHING
    return [
        *(sys.executable, "-m", "train", "--config-dir", str(Path(__file__).with_name("conf"))),
        *(f"run.outputs={run.parent}", f"run.id={run.name}", f"trainer.max_steps={steps}"),
        *(f"checkpoint.save_interval={max(20, steps // 200)}", *_COMMON, *more),
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of the run says; {} while it is not there or cannot be read."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content


def wait_for(there: Callable[[], Any], what: str, seconds: float = _PATIENCE) -> Any:
    """Return what `there` returns once that is true.

    Raises:
        TimeoutError: it is not, for too long.
    """
    deadline = time.monotonic() + seconds
    while not (found := there()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return found


@dataclass
class Attempt:
    """One process that trained.

    Attributes:
        number: from 0.
        process: the process.
        said: the file of what it said.
        temporary: the folder of its temporary files.
        started, began, ended: seconds on the monotonic clock; `began` when its first update came.
        code: its exit code; negative for the signal that killed it.
        wounded: whether another process of it was killed, which could not tidy up.
    """

    number: int
    process: subprocess.Popen[bytes]
    said: Path
    temporary: Path
    started: float
    began: float | None = None
    ended: float | None = None
    code: int | None = None
    wounded: bool = False

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.said.read_text(errors="replace")

    @property
    def resumed_at(self) -> int:
        """The step that it went on from."""
        found = re.search(r"resumed at step (\d+)", self.text)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Trained:
    """What came of a training that nothing troubled: its directory, and seconds until its first update and its end."""

    run: Path
    start: float
    seconds: float


class Training:
    """The training under faults.

    Args:
        place: where.
        steps: after so many it ends.

    Attributes:
        attempts: the processes so far, the last one living.
    """

    def __init__(self, place: Place, steps: int) -> None:
        self.place, self.steps = place, steps
        self.attempts: list[Attempt] = []

    def reference(self) -> Trained:
        """Train without trouble, and without what must not matter."""
        run = self.place.folder / "reference" / "soak"
        said = self.place.folder / "said_reference"
        began = time.monotonic()
        with said.open("wb") as file:
            environment = self.place.environment(period=0.0)
            process = subprocess.Popen(
                command(run, self.steps, everything=False), env=environment, cwd=REPOSITORY, stdout=file, stderr=file
            )
            wait_for(lambda: self.place.beat[0] == process.pid or process.poll() is not None, "the reference's start")
            start = time.monotonic() - began
            code = process.wait()
        if code:
            raise RuntimeError(f"the training without faults ended with {code}:\n{said.read_text()[-2000:]}")
        return Trained(run, start, time.monotonic() - began)

    @property
    def now(self) -> Attempt:
        """The attempt that is going on, or was the last."""
        return self.attempts[-1]

    @property
    def main(self) -> psutil.Process:
        """The process that trains now."""
        return psutil.Process(self.now.process.pid)

    @property
    def step(self) -> int:
        """The last step that is done, or is being done."""
        pid, updates = self.place.beat
        return self.now.resumed_at + updates if pid == self.now.process.pid else 0

    @property
    def has_begun(self) -> bool:
        """Whether the attempt that is going on has done an update."""
        if self.now.began is None and self.place.beat[0] == self.now.process.pid:
            self.now.began = time.monotonic()
        return self.now.began is not None

    @property
    def has_ended(self) -> bool:
        """Whether no process trains."""
        if self.now.ended is None and self.now.process.poll() is not None:
            self.now.ended, self.now.code = time.monotonic(), self.now.process.returncode
        return self.now.ended is not None

    def start(self) -> Attempt:
        """Start the same command as the first time, and do not wait for it."""
        number = len(self.attempts)
        said = self.place.folder / f"said_{number:03d}"
        environment = self.place.environment(restarts=number)
        with said.open("wb") as file:
            process = subprocess.Popen(
                command(self.place.run, self.steps, everything=True),
                **{"env": environment, "cwd": REPOSITORY, "stdout": file, "stderr": file},
            )
        self.attempts.append(Attempt(number, process, said, Path(environment["TMPDIR"]), time.monotonic()))
        return self.now

    def goes_on(self) -> None:
        """Wait for the first update of a training that was started.

        Raises:
            RuntimeError: it ended before.
        """
        wait_for(lambda: self.has_begun or self.has_ended, "the first update")
        if not self.has_begun:
            raise RuntimeError(f"it ended with {self.now.code} before its first update: {self.now.text[-1500:]}")

    def restart(self) -> Attempt:
        """Start again, and wait until it trains."""
        self.start()
        self.goes_on()
        return self.now

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the process that trains, and return its exit code once it has ended."""
        self.now.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for the process to end, and return its exit code."""
        wait_for(lambda: self.has_ended, "the end of the training")
        assert self.now.code is not None
        return self.now.code

    def status(self) -> dict[str, Any]:
        """Return what status.json says."""
        return read_json(self.place.run / "status.json")
