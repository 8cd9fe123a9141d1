"""Trains a task whole, and again with a SIGKILL and a resume, each in a process of its own, and compares them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from expkit.errors import UserError
from expkit.experiment import RunDir
from train.verify.causes import cause_of_chance, cause_of_resume
from train.verify.compare import KINDS, Difference, Recording, first_difference, first_journal_difference
from train.verify.orders import Orders

__all__ = ["Process", "Verdict", "launch", "verify"]

#: What is set unless it is typed.
_DEFAULTS = {
    "trainer.deterministic": "true",
    "trainer.max_epochs": "null",
    "tracker": "[]",
    "plots": "[]",
    "run.min_free_gb": "0",
}
#: Leaves the parent's folder out of the module search path: a train.py of the user's own would be found there.
_CHILD = f"""\
import sys
sys.path.append({str(Path(__file__).parents[2])!r})
from expkit.importing import importing
with importing():
    from train.verify.child import main
sys.exit(main(sys.argv[1:]))"""


class Process(Protocol):
    """A run that was started."""

    def wait(self) -> int:
        """Return its exit code, negative for a signal."""
        ...

    def kill(self) -> None:
        """End it, if it has not ended."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        ok: nothing differs.
        deterministic: two runs that were not stopped are the same.
        steps, killed_at: of the runs.
        resumed_at: the checkpoint's step, or None if there was no resume to look at.
        where: the place of the resume, for people.
        compared: kind -> how many (see `KINDS`).
        difference: the first one, or None.
        also: further kinds that differ at that step.
        cause, cure: the likely cause, and what to do.
    """

    ok: bool
    deterministic: bool
    steps: int
    killed_at: int
    resumed_at: int | None
    where: str
    compared: dict[str, int]
    difference: Difference | None = None
    cause: str = ""
    cure: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


def launch(arguments: Sequence[str], log: Path) -> Process:
    """Start `train.verify.child` in a process of its own, with what it prints in `log`."""
    command = [sys.executable, "-P", "-c", _CHILD, *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603 - this interpreter, and what the user typed
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def verify(
    typed: Sequence[str],
    folder: Path,
    steps: int = 30,
    kill_at: int | None = None,
    start: Callable[[Sequence[str], Path], Process] = launch,
    together: bool | None = None,
) -> Verdict:
    """Train whole, killed and resumed, and compare.

    Args:
        typed: what follows `python -m train`, without what this command sets itself.
        folder: for runs, records and logs; empty.
        steps: of each run.
        kill_at: the step in which the second run dies, or None for one in mid-epoch, after about 17 of 30.
        start: starts a run, given its arguments and the file for what it prints.
        together: the first two runs side by side; None: where no GPU would have to hold both models.

    Raises:
        UserError: the task does not train.
    """
    runs = _Runs(typed, folder, steps, kill_at, start)
    if together is None:
        together = not Path("/dev/nvidiactl").exists()
    if together:
        runs.train("whole", "stopped")
    else:
        runs.train("whole")
        runs.train("stopped")
    whole, stopped = runs.record("whole"), runs.record("stopped")
    chance = first_difference(whole, stopped)
    if chance is not None:
        return runs.verdict(chance, whole, stopped, deterministic=False)
    runs.train("resumed")
    resumed = runs.record("resumed")
    difference = first_difference(whole, resumed)
    if difference is None:
        difference, _ = first_journal_difference(*(RunDir(folder / run).metrics for run in ("whole", "stopped")))
    if difference is None:
        return runs.verdict(None, whole, resumed)
    runs.train("again")
    again = runs.record("again")
    chance = first_difference(whole, again)
    if chance is None:
        chance, _ = first_journal_difference(*(RunDir(folder / run).metrics for run in ("whole", "again")))
    if chance is not None and chance.step <= difference.step:
        return runs.verdict(chance, whole, again, deterministic=False)
    return runs.verdict(difference, whole, resumed)


class _Runs:
    """The runs of one verification, by name: whole, stopped, resumed (in the directory of stopped), again (whole)."""

    def __init__(
        self,
        typed: Sequence[str],
        folder: Path,
        steps: int,
        kill_at: int | None,
        start: Callable[[Sequence[str], Path], Process],
    ) -> None:
        self.folder, self.steps, self.kill_at, self.start = folder, steps, kill_at, start
        keys = {argument.partition("=")[0].lstrip("+~") for argument in typed}
        defaults = {"trainer.max_steps": str(steps), **_DEFAULTS}
        given = [f"{key}={value}" for key, value in defaults.items() if key not in keys]
        self.arguments = [*given, *typed]

    def train(self, *names: str) -> None:
        """Let these runs happen, side by side.

        Raises:
            UserError: one ended otherwise than it should.
        """
        started: list[tuple[str, Process]] = []
        try:
            for name in names:
                started.append((name, self.start(self._command(name), self._log(name))))
            for name, process in started:
                self._check(name, process.wait())
        finally:
            for _, process in started:
                process.kill()

    def record(self, name: str) -> Recording:
        """Return what a run has recorded."""
        return Recording(self.folder / f"{name}.jsonl")

    def verdict(
        self, difference: Difference | None, whole: Recording, other: Recording, deterministic: bool = True
    ) -> Verdict:
        """Return what there is to say."""
        cause, cure = "", ""
        if difference is not None and deterministic:
            cause, cure = cause_of_resume(difference, whole, other)
        elif difference is not None:
            cause, cure = cause_of_chance(difference)
        resumed = other.start if deterministic else None
        at = whole.steps.get(resumed or 0, {})
        place = f"in the middle of epoch {at.get('epoch')}, after batch {at.get('number')} of it"
        if at.get("last"):
            place = f"at the end of epoch {at.get('epoch')}"
        return Verdict(
            ok=difference is None,
            deterministic=deterministic,
            steps=self.steps,
            killed_at=max(self.record("stopped").steps, default=0),
            resumed_at=resumed,
            where=place if at else "",
            compared=self._compared(other),
            difference=difference,
            cause=cause,
            cure=cure,
        )

    def _compared(self, other: Recording) -> dict[str, int]:
        last = other.steps[max(other.steps)] if other.steps else {}
        compared = {kind: len(last.get(kind, {})) for kind in KINDS if kind != "journal"}
        _, lines = first_journal_difference(*[RunDir(self.folder / "whole").metrics] * 2)
        return compared | {"batch": len(other.steps), "journal": lines}

    def _command(self, name: str) -> list[str]:
        run = "stopped" if name == "resumed" else name
        orders = Orders(
            record=str(self.folder / f"{name}.jsonl"),
            run=str(self.folder / run),
            steps=self.steps,
            kill=name == "stopped",
            kill_at=self.kill_at,
        )
        place = [f"run.outputs='{self.folder}'", f"run.id={run}"]
        return [orders.text(), *self.arguments, *place, *(["resume=auto"] if name == "resumed" else [])]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _check(self, name: str, code: int) -> None:
        recorded = max(self.record(name).steps, default=0)
        if name == "stopped" and code == -signal.SIGKILL:
            if not any(RunDir(self.folder / name).checkpoints.glob("checkpoint_step_*")):
                raise UserError(
                    "the run that was killed had not saved any checkpoint: checkpoint=none cannot be resumed"
                )
            return
        if code:
            raise UserError(f"{_WHAT[name]} ended with exit code {code}: {_last_words(self._log(name))}")
        if name == "stopped":
            raise UserError(
                f"the run ended at step {recorded}, before it could be killed: try more --steps or a smaller --kill-at"
            )


_WHAT = {
    "whole": "the run that is not stopped",
    "stopped": "the run to be killed",
    "resumed": "the resume",
    "again": "the second run that is not stopped",
}


def _last_words(log: Path) -> str:
    """Return the error that a run ended with, in one line if it is a mistake, or else the end of what it printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else os.linesep.join(["", *lines[-12:]])
