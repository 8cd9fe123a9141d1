"""Runs in SLURM jobs: submitted as a user does, disturbed, and compared with the run that nothing has disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from expkit.journal import read_journal, stable
from tests.train.forked import Forked
from tests.train.helpers import same

__all__ = ["STEPS", "TYPED", "Case", "ask", "assert_same", "state", "wait_for"]

ROOT = Path(__file__).parents[2]

STEPS = 300
#: What is typed for each run. Checkpoints are far apart: what is resumed after a stop is what the stop has saved.
TYPED = (
    *("task=slow", "tracker=[]", "plots=[]", "trainer.batch_size=8", f"trainer.max_steps={STEPS}"),
    *("trainer.max_epochs=null", "trainer.log_interval=4", "trainer.deterministic=true", "trainer.threads=1"),
    *("trainer.device=cpu", "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.001", "scheduler=cosine"),
    *("checkpoint.save_interval=100", "checkpoint.save.on_best=false", "gpu.enabled=false"),
)


def wait_for(condition: Callable[[], Any], about: Callable[[], str], seconds: float = 100) -> Any:
    """Return the first value of `condition` that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, about()
        time.sleep(0.2)
    return found


def ask(*command: str) -> str:
    """Return what one of SLURM's commands says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def state(job: str) -> tuple[str, int]:
    """Return the state of a job, and how often it was requeued."""
    said = dict(each.partition("=")[::2] for each in ask("scontrol", "-o", "show", "job", job).split())
    return said["JobState"], int(said["Restarts"])


class Case:
    """A folder in which `python -m train` is typed, and the one run that comes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.go = folder, folder / "go"
        (folder / "conf" / "task").mkdir(parents=True)
        text = f"_target_: tests.slurm.slow_task.SlowTask\ngo: {self.go}\ndata: dataset\nworkers: 0\nbatch_size: 8\n"
        (folder / "conf" / "task" / "slow.yaml").write_text(text)

    def typed(self, *more: str) -> Forked:
        """Type `python -m train` in this folder; what is in `more` wins."""

        def setup() -> None:
            os.environ["PYTHONPATH"] = str(ROOT)  # jobs inherit it

        chosen = {each.partition("=")[0] for each in more}
        typed = [each for each in TYPED if each.partition("=")[0] not in chosen]
        return Forked(self.folder / "outputs", "--config-dir", str(self.folder / "conf"), *typed, *more, setup=setup)

    @contextlib.contextmanager
    def submitted(self, *more: str) -> Iterator[Forked]:
        """Submit it as a sweep of one job; the command waits for its end."""
        process = self.typed("-m", "hydra/launcher=slurm_requeue", "hydra.launcher.cpus_per_task=1", *more)
        try:
            yield process
        finally:
            if process.code is None:
                process.send(signal.SIGKILL)
                process.end()

    @property
    def run(self) -> Path | None:
        """Its directory, once it is there."""
        runs = [file.parent for file in self.folder.glob("outputs/*/config.json")]
        assert len(runs) < 2, runs
        return runs[0] if runs else None

    @property
    def status(self) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            found: dict[str, Any] = json.loads((self.run or Path()).joinpath("status.json").read_bytes())
            return found
        return {}

    @property
    def step(self) -> int:
        """The last step of the journal."""
        file = (self.run or self.folder) / "logs" / "metrics.jsonl"
        return max((entry["step"] for entry in read_journal(file)), default=0) if file.exists() else 0

    def reaches(self, step: int, restarts: int = 0) -> str:
        """Wait until it has done so many steps in this start of its job, and return the job's number."""
        wait_for(lambda: self.status.get("restarts") == restarts and self.step >= step, self.said)
        return str(self.status["slurm"]["job_id"])

    def requeued(self, job: str, times: int, seed: int) -> None:
        """Have the job requeued so often at random: after a few steps, or wherever it is."""
        chance = random.Random(seed)
        for number in range(times):
            wait_for(lambda: state(job) == ("RUNNING", number), self.said)  # noqa: B023
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 15))  # loading torch, say
            else:
                later = self.step + chance.randint(1, 12)
                wait_for(lambda: self.step >= later, self.said)  # noqa: B023
            ask("scontrol", "requeue", job)
        wait_for(lambda: state(job) == ("RUNNING", times), self.said)
        wait_for(lambda: self.status["slurm"].get("restart_count") == str(times), self.said)

    def stops(self) -> int:
        """Wait until it has saved and left, and return the step."""
        wait_for(lambda: self.status.get("state") in ("preempted", "starting"), self.said)
        return self.step

    def finishes(self) -> None:
        """Let it go on as fast as it can, to its end."""
        self.go.touch()
        wait_for(lambda: self.status.get("state") == "finished", self.said)

    def said(self) -> str:
        """Everything that was said, for a test that fails."""
        files = [*self.folder.glob("**/*_log.*"), *self.folder.glob("*.out")]
        texts = [f"{file}:\n{file.read_text(errors='replace')[-3000:]}" for file in files]
        return "\n".join([*texts, json.dumps(self.status, indent=1), ask("scontrol", "-o", "show", "job")])

    def checkpoint(self) -> Mapping[str, Any]:
        """Return the last checkpoint, without what differs by nature; of its shards, their digests."""
        assert self.run is not None
        path = self.run / "checkpoints" / f"checkpoint_step_{STEPS}"
        file, shards = path.with_name(f"{path.name}.pt"), {}
        if path.is_dir():
            file, files = path / "state.pt", json.loads((path / "manifest.json").read_bytes())["files"]
            shards = {name: note["sha256"] for name, note in files.items() if name.endswith(".distcp")}
        state = torch.load(file, weights_only=True)
        for each in ("model_state_dict", "optimizer_state_dict") if shards else ():
            del state[each]  # which are in the shards
        for each in ("config", "time", "reason"):
            del state[each]
        state["sampler_state"]["elapsed"] = None
        state["metrics"] = stable(state["metrics"])
        return {**state, **shards}

    def journal(self) -> list[str]:
        """Return the comparable entries, as text: NaN equals NaN there."""
        assert self.run is not None
        return [repr(stable(entry)) for entry in read_journal(self.run / "logs" / "metrics.jsonl")]

    def resumed_at(self) -> list[int]:
        """Return the steps at which it says that it was gone on with."""
        assert self.run is not None
        text = (self.run / "logs" / "training.log").read_text()
        return [int(step) for step in re.findall(r"resumed at step (\d+)", text)]


def assert_same(case: Case, whole: Case) -> None:
    """It has ended as the run that nothing has disturbed has, bit for bit."""
    one, other = whole.checkpoint(), case.checkpoint()
    assert one.keys() == other.keys()
    for key in one:
        assert same(one[key], other[key]), key
    assert case.journal() == whole.journal()
