"""Pictures of a run: drawn beside it, they change nothing, and never keep it from ending."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from expkit.journal import read_journal, stable
from expkit.plots import PlotSource
from expkit.trackers import Delivery
from tests.conftest import Train
from tests.expkit.plots.sleepy import Asleep, Counting
from train import attempt, job
from train.parts import Parts, assemble
from train.pictures import Pictures

FAST = ("debug=smoke", "tracker=[]", "checkpoint=none")


def with_plots(monkeypatch: pytest.MonkeyPatch, **plots: Any) -> None:
    """Let runs draw these, too."""

    def assembled(config: Any, *ranks: Any) -> Parts:
        parts = assemble(config, *ranks)
        parts.plots.update(plots)
        return parts

    monkeypatch.setattr(job, "assemble", assembled)


def test_a_drawing_that_hangs_keeps_no_run_from_ending_and_what_is_left_out_is_counted(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "_DRAWING", 0.3)
    with_plots(monkeypatch, asleep=Asleep(viz_interval=1))
    done = train(*FAST, "plots=[]", "run.id=run")
    assert done.returncode == 0
    assert done.stderr.count("is left out, as drawing takes longer than its interval") == 1
    assert "plots.asleep: not drawn within 0.3 seconds, given up" in done.stderr.replace(", plots.asleep:", ":")
    (line,) = (line for line in done.stderr.splitlines() if "pictures left out" in line)
    assert line.startswith("Warning: pictures left out, as drawing takes longer than their intervals: ")
    assert int(line.split()[-3]) >= 15, "of 20"


def test_the_last_picture_is_always_drawn_and_reaches_the_trackers(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str, int]] = []
    monkeypatch.setattr(Delivery, "image", lambda self, name, path, step: sent.append((name, path.name, step)))
    with_plots(monkeypatch, counting=Counting(viz_interval=7))
    train(*FAST, "plots=[]", "run.id=run")
    assert sent[-1] == ("counting", "counting_step_20.png", 20)
    assert (outputs / "run" / "visualizations" / "counting_step_20.png").exists()


class Stopping(Counting):
    """Has the run preempted when it is drawn first."""

    asked = False

    def collect(self, source: PlotSource) -> None:
        if not self.asked:
            self.asked = True
            signal.raise_signal(signal.SIGTERM)


def test_where_a_run_is_stopped_it_is_drawn_once_everything_else_is_said(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[str, bool]] = []
    finish, run = Pictures.finish, outputs / "run"

    def noted(self: Pictures, timeout: float) -> None:
        checkpoints = list((run / "checkpoints").glob("checkpoint_step_*"))
        states.append((json.loads((run / "status.json").read_text())["state"], bool(checkpoints)))
        finish(self, timeout)

    monkeypatch.setattr(Pictures, "finish", noted)
    with_plots(monkeypatch, counting=Stopping(viz_interval=7))
    train("debug=smoke", "tracker=[]", "plots=[]", "run.id=run", check=False)
    step = json.loads((run / "status.json").read_text())["step"]
    assert states == [("preempted", True)] and 7 < step < 20
    assert {path.name for path in (run / "visualizations").iterdir()} >= {f"counting_step_{step}.png"}


def test_plots_change_nothing_in_training(train: Train, outputs: Path) -> None:
    journals = []
    for name, plots in (("with", "plots=samples,model,blob"), ("without", "plots=[]")):  # those that look at the model
        train(*FAST, plots, f"run.id={name}")
        journals.append([stable(entry) for entry in read_journal(outputs / name / "logs" / "metrics.jsonl")])
    assert journals[0] == journals[1]
    drawn = {path.name for path in (outputs / "with" / "visualizations").iterdir()}
    assert {"model_step_20.png", "blob_step_20.png", "denoised_step_20.png"} <= drawn
