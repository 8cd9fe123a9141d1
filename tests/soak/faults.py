"""The faults: what each does to the training, and what came of it. Each ends when the training goes on."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.soak.plan import Planned
from tests.soak.training import Training, wait_for
from tests.soak.victim import MOMENT, UnexpectedError, Victim
from tests.soak.watcher import Watcher

__all__ = ["FAULTS", "RESTARTING", "Row", "strike"]


#: `expkit show` under a clock that has jumped for all: the moment at which the kernel says that a process began, too.
_SHOW = """
import sys, psutil
from expkit.cli.main import main
began, ahead = psutil.Process.create_time, float(sys.argv[1])
psutil.Process.create_time = lambda process: began(process) + ahead
sys.exit(main(["show", sys.argv[2], "--json"]))
"""


@dataclass(frozen=True)
class Row:
    """A fault that has been.

    Attributes:
        seconds: since the training began for the first time.
        step: the last one that was done before it.
        kind: a key of FAULTS.
        what: was done.
        happened: then.
        away: seconds until an update was done again.
        unexpected: what should not have been, or "".
    """

    seconds: float
    step: int
    kind: str
    what: str
    happened: str
    away: float
    unexpected: str = ""


def _kill(victim: Victim) -> tuple[str, str]:
    since = time.monotonic()
    code = victim.training.signal(signal.SIGKILL)
    return "SIGKILL", victim.restart(since, code, -signal.SIGKILL, "gone at once")


def _kill_at_start(victim: Victim) -> tuple[str, str]:
    since, wait = time.monotonic(), victim.lasting(8)
    victim.training.signal(signal.SIGKILL)
    step = victim.training.step
    victim.training.start()
    time.sleep(wait)
    code = victim.training.signal(signal.SIGKILL)
    said = victim.restart(since, code, -signal.SIGKILL, "gone at once, twice", max(step, victim.training.step))
    return f"SIGKILL, and once more {wait:.1f} s after it was started again", said


def _preempt(victim: Victim) -> tuple[str, str]:
    number = victim.rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
    since = time.monotonic()
    code = victim.training.signal(number)
    left = time.monotonic() - since
    state = victim.training.status().get("state")
    if state not in ("preempted", "interrupted"):
        raise UnexpectedError(f"status.json says {state}, not that it was preempted")
    said = victim.restart(since, code, 128 + number, f"saved and left within {left:.1f} s ({state})")
    return f"{number.name}, and requeued", said


def _suspend(victim: Victim) -> tuple[str, str]:
    seconds = victim.lasting(25)
    since = time.monotonic()
    victim.training.main.suspend()
    time.sleep(seconds)
    victim.training.main.resume()
    said = victim.lives(MOMENT)
    victim.away = max(victim.away, time.monotonic() - since - MOMENT)
    return f"suspended (SIGSTOP) for {seconds:.0f} s", said


def _loader(victim: Victim) -> tuple[str, str]:
    since = time.monotonic()
    victim.kill_one("loader")
    code = victim.training.end()
    return "the loading process killed", victim.restart(since, code, 1, "failed with one line, exit code 1")


def _full_disk(victim: Victim) -> tuple[str, str]:
    seconds, length = victim.lasting(30), len(victim.training.now.text)
    with victim.place.full():
        said = victim.lives(seconds)
        longest = victim.away
    victim.lives(MOMENT)
    victim.away = max(longest, victim.away)
    warning = victim.warned(length)
    return f"the run's disk full for {seconds:.0f} s", f"{said}; {warning}" if warning else said


def _killed_on_full_disk(victim: Victim) -> tuple[str, str]:
    seconds = victim.lasting(20)
    with victim.place.full():
        victim.lives(seconds)
        since = time.monotonic()
        code = victim.training.signal(signal.SIGKILL)
    return f"the run's disk full for {seconds:.0f} s, then SIGKILL, then room", victim.restart(
        since, code, -signal.SIGKILL, "gone at once"
    )


def _wandb(victim: Victim) -> tuple[str, str]:
    length = len(victim.training.now.text)
    victim.kill_one("wandb")
    said = victim.lives(2 * MOMENT)
    warning = victim.warned(length)
    return "wandb's service process killed", f"{said}; {warning}" if warning else said


def _trackio(victim: Victim) -> tuple[str, str]:
    seconds = victim.lasting(40)
    (database,) = wait_for(lambda: list(victim.place.trackio.glob("*.db")), "trackio's database")
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        said = victim.lives(seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    return f"trackio's database locked for {seconds:.0f} s", said


def _tensorboard(victim: Victim) -> tuple[str, str]:
    shutil.rmtree(victim.place.run / "tensorboard")
    return "tensorboard's folder deleted", victim.lives(MOMENT)


def _pictures(victim: Victim) -> tuple[str, str]:
    victim.kill_one("pictures")
    return "the process that draws killed", victim.lives(MOMENT)


def _clock(victim: Victim) -> tuple[str, str]:
    before = victim.place.clock
    hours = victim.rng.choice([-1, 1]) * victim.rng.uniform(0.5, 12)
    victim.place.clock = before + 3600 * hours
    # Two heartbeats later everything that is written has the new time.
    said = victim.lives(2 * MOMENT + 1)
    away = victim.away
    status = victim.training.status()
    ahead = status["heartbeat_time"] - time.time() - victim.place.clock
    if abs(ahead) > 3 * MOMENT:
        raise UnexpectedError(f"the heartbeat is {ahead:.0f} s off the clock")
    forecast = status.get("forecast", {})
    left, rate = forecast.get("remaining_seconds"), forecast.get("steps_per_sec")
    if left is not None and abs(left - (status["total_steps"] - status["step"]) / rate) > 0.02 * left + 1:
        raise UnexpectedError(f"{left} s remain, it says, at {rate} steps a second")
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW, str(victim.place.clock), str(victim.place.run)],
        env=victim.place.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if '"state": "running"' not in shown.stdout:
        raise UnexpectedError(f"expkit show does not say that it runs: {shown.stdout[:300]} {shown.stderr[-300:]}")
    victim.away = away
    ends = f"; ends in {left / 60:.0f} min, it says" if left is not None else ""
    return f"the wall clock jumps by {hours:+.1f} h", f"{said}{ends}; expkit show: running"


def _watcher(victim: Victim) -> tuple[str, str]:
    victim.watcher.kill()
    said = victim.lives(victim.lasting(10))
    victim.watcher.start()
    return "expkit watch killed, and started again", said


def _damage(victim: Victim) -> tuple[str, str]:
    since = time.monotonic()
    code = victim.training.signal(signal.SIGKILL)
    folder = victim.place.run / "checkpoints"
    newest = max(folder.glob("checkpoint_step_*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    with newest.open("r+b") as file:
        at = victim.rng.randrange(newest.stat().st_size // 4, newest.stat().st_size // 2)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << victim.rng.randrange(8)]))
    said = victim.restart(since, code, -signal.SIGKILL, "gone at once")
    return f"SIGKILL, and a bit of the newest checkpoint ({newest.stem.rpartition('_')[2]}) flipped", said


FAULTS: dict[str, Callable[[Victim], tuple[str, str]]] = {
    "kill": _kill,
    "preemption": _preempt,
    "full disk": _full_disk,
    "wandb": _wandb,
    "clock": _clock,
    "loader": _loader,
    "trackio": _trackio,
    "tensorboard": _tensorboard,
    "watcher": _watcher,
    "kill at start": _kill_at_start,
    "kill on full disk": _killed_on_full_disk,
    "damage": _damage,
    "pictures": _pictures,
    "suspension": _suspend,
}
#: Those after which the training is started again.
RESTARTING = ("kill", "preemption", "loader", "kill at start", "kill on full disk", "damage")


def strike(planned: Planned, training: Training, watcher: Watcher) -> Row:
    """Let a fault happen, and return what came of it."""
    victim, kind = Victim(training, watcher, planned), planned.kind
    step, seconds = training.step, time.monotonic() - training.attempts[0].started
    what, happened, unexpected = kind, "", ""
    try:
        what, happened = FAULTS[kind](victim)
    except (UnexpectedError, TimeoutError, RuntimeError, psutil.Error, OSError) as error:
        unexpected = f"{type(error).__name__}: {error}"
        if training.has_ended:
            training.restart()
    return Row(seconds, step, kind, what, happened, victim.away, unexpected)
