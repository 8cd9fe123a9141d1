"""A part of somebody's own leaves the process in the midst of a run: that is no end, whatever its exit code says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from expkit.journal import read_journal
from expkit.status import read_status
from tests.conftest import Train
from train.tasks.base import StepOutput
from train.tasks.denoise import DenoiseTask


@pytest.mark.parametrize(("code", "said"), [(0, "0"), (None, ""), ("no data left", "'no data left'")])
def test_a_run_whose_task_leaves_has_failed(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch, code: Any, said: str
) -> None:
    step, updates = DenoiseTask.step, []

    def leaves(self: DenoiseTask, model: nn.Module, batch: Any) -> StepOutput:
        updates.append(model.training)
        if updates.count(True) == 12:
            sys.exit(code)
        return step(self, model, batch)

    monkeypatch.setattr(DenoiseTask, "step", leaves)
    done = train("debug=smoke", "tracker=[]", "plots=[]", "run.id=run", check=False)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: sys.exit({said}) was called in the run, at {__file__}, line ")
    assert "Traceback" not in done.stderr
    status = read_status(outputs / "run" / "status.json")
    assert (status["state"], status["step"]) == ("failed", 11)
    assert f"sys.exit({said}) was called" in status["error"]
    assert [entry["step"] for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")] == [5, 10]
