"""What stands for submitit's executor in the tests here."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from sweeps import launching, slurm


class Executor:
    """Pickles jobs as submitit does, and calls them where it is to."""

    def __init__(self) -> None:
        self.jobs: list[bytes] = []
        self.at_once = True
        self.params: dict[str, Any] = {}

    def submit_array(self, calls: Sequence[Callable[[], Any]]) -> list[SimpleNamespace]:
        start = len(self.jobs)
        self.jobs += map(cloudpickle.dumps, calls)
        if self.at_once:
            for number in range(start, len(self.jobs)):
                self.call(number)
        return [SimpleNamespace(job_id=f"7_{start + place}") for place in range(len(calls))]

    def call(self, number: int) -> None:
        """Run a job; what it raises is SLURM's to see. Hydra's singletons are this process's, too."""
        before = dict(Singleton._instances)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SUBMITIT_EXECUTOR", "debug")
            patch.setenv("SUBMITIT_DEBUG_JOB_ID", f"7_{number}")
            try:
                pickle.loads(self.jobs[number])()
            except Exception:  # noqa: BLE001
                return
            finally:
                # A job loads Hydra's plugins anew; those from before have classes that their modules have no more.
                loaded = {Plugins: plugins} if (plugins := Singleton._instances.get(Plugins)) else {}
                Singleton._instances.clear()
                Singleton._instances.update(before | loaded)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Executor:
    """What stands for submitit's executor, and a SLURM that accepts everything and answers nothing."""
    made = Executor()

    def make(kind: str, params: dict[str, Any], folder: Path) -> Executor:
        made.params = dict(params)
        return made

    monkeypatch.setattr(slurm, "make_executor", make)
    monkeypatch.setattr(slurm, "slurm_said", lambda *_: (1, "", ""))
    monkeypatch.setattr(launching, "check_executor", lambda *_: None)
    return made
