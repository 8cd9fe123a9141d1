"""What only watches, draws or tells may fail in any way: the run trains on, and says so once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from expkit.detectors import Detector, Event
from expkit.diagnostics import Diagnostic
from expkit.plots import NOTHING, Plot
from tests.conftest import Train
from train import job
from train.parts import Parts, assemble
from train.tasks.denoise import DenoiseTask

FAST = ("debug=smoke", "plots=[]", "run.id=run")


class Failing(Detector, Diagnostic):
    """Fails whenever it is asked."""

    def observe(self, record: Any) -> Any:
        raise RuntimeError("no\ndetector")

    def measure(self, model: Any) -> Any:
        raise RuntimeError("no\ndiagnostic")


class Silent(Detector, Diagnostic):
    """Forgets its `return`, or returns what it should not."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def observe(self, record: Any) -> Any:
        return self.answer

    def measure(self, model: Any) -> Any:
        return self.answer


class FailingPlot(Plot):
    """Fails to draw."""

    def draw(self, context: Any, collected: Any) -> Any:
        raise RuntimeError("no picture")


class FailingTwice(Plot):
    """Cannot write, until somebody has made room."""

    drawn = 0

    def collect(self, source: Any) -> Any:
        self.drawn += 1
        if self.drawn <= 2:
            raise OSError(28, "No space left on device")
        return NOTHING if self.drawn == 3 else None

    def draw(self, context: Any, collected: Any) -> Any:
        return []


def broken(monkeypatch: pytest.MonkeyPatch, change: Callable[[Parts], None]) -> None:
    """Let `train` run with parts that `change` has broken."""

    def changed(config: Any, *ranks: Any) -> Parts:
        parts = assemble(config, *ranks)
        change(parts)
        return parts

    monkeypatch.setattr(job, "assemble", changed)


def test_a_part_that_works_again_is_said_too(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda parts: parts.plots.update(bad=FailingTwice(viz_interval=5)))
    done = train(*FAST)
    assert done.stderr.count("plots.bad failed at step 5 (OSError: [Errno 28] No space left on device, at ") == 1
    assert done.stderr.count("plots.bad works again: 2 picture(s) were not drawn") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda parts: parts.detectors.update(bad=Failing()),
            f"detectors.bad failed (RuntimeError: no detector, at {__file__}, line ",
        ),
        (
            lambda parts: parts.diagnostics.update(bad=Failing()),
            f"diagnostics.bad failed (RuntimeError: no diagnostic, at {__file__}, line ",
        ),
        (
            lambda parts: parts.detectors.update(bad=Silent()),
            "detectors.bad failed (TypeError: observe() returned None, but it must return a list of events)",
        ),
        (
            lambda parts: parts.detectors.update(bad=Silent(["high"])),
            "detectors.bad failed (TypeError: observe() returned a list with a str in it",
        ),
        (
            lambda parts: parts.detectors.update(bad=Silent([Event("bad", "x", "WARN", 1, "text")])),  # type: ignore[arg-type]
            "detectors.bad failed (ValueError: 'WARN' is not a valid Severity)",
        ),
        (
            lambda parts: parts.diagnostics.update(bad=Silent()),
            "diagnostics.bad failed (TypeError: measure() returned None, but it must return a dict of numbers)",
        ),
        (
            lambda parts: parts.diagnostics.update(bad=Silent({"a": 1, "b": object()})),
            "diagnostics.bad failed (TypeError: object has no plain JSON form)",
        ),
        (lambda parts: parts.plots.update(bad=FailingPlot()), "plots.bad failed"),
    ],
)
def test_a_part_that_raises_is_said_once(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch, change: Any, says: str
) -> None:
    broken(monkeypatch, change)
    done = train(*FAST, "trainer.max_steps=50")
    assert done.stderr.count(says) == 1
    assert json.loads((outputs / "run" / "status.json").read_text())["state"] == "finished"


def test_samples_are_made_in_evaluation_mode_and_may_fail(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def samples(self: DenoiseTask, model: torch.nn.Module) -> list[str]:
        seen.append((model.training, torch.is_grad_enabled()))
        raise RuntimeError("no samples")

    monkeypatch.setattr(DenoiseTask, "samples", samples)
    done = train(*FAST)
    assert seen == [(False, False)]
    assert "task.samples failed (RuntimeError: no samples)" in done.stderr
    assert json.loads((outputs / "run" / "status.json").read_text())["state"] == "finished"


def test_a_full_disk_under_results_costs_results_only(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("expkit.results.ResultsView.write", full)
    done = train(*FAST, check=False)
    assert done.returncode == 1
    assert done.stderr.count("results.json cannot be written (No space left on device)") == 1
    assert "not all was saved: results.json could not be written (No space left on device)" in done.stderr
    assert "finished at step 20" in done.stderr
    assert json.loads((outputs / "run" / "status.json").read_text())["state"] == "finished"


def test_without_validation_there_is_an_entry_for_each_epoch(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenoiseTask, "val_data", lambda self: None)
    train("trainer.max_epochs=3", "diagnostics=blob", "tracker=[]", "plots=[]", "run.id=run")
    history = json.loads((outputs / "run" / "results.json").read_text())["training_history"]
    assert [(entry["epoch"], entry["test"]) for entry in history] == [(1, {}), (2, {}), (3, {})]
    assert all("weight_correlation" in entry["diagnostics"] for entry in history)


def test_a_schedule_that_changes_the_rate_as_it_is_made_is_made_once(compose: Callable[..., Any]) -> None:
    config = compose("tracker=[]")
    linear = {"_target_": "torch.optim.lr_scheduler.LinearLR", "_partial_": True, "start_factor": 0.1}
    config.scheduler = OmegaConf.create(linear)
    parts = assemble(config)
    update = parts.update(100)
    assert update.learning_rate == pytest.approx(0.0003)


def test_a_console_is_only_told(outputs: Path, compose: Callable[..., Any]) -> None:
    """The job itself needs no terminal and no command line."""
    outcome = job.run(compose("debug=smoke", "plots=[]", "run.id=run"), Console(stderr=True))
    assert outcome.state == "finished"
    assert outcome.dir == outputs / "run"


def test_a_detector_that_does_not_take_its_own_state_begins_anew(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Detector):
        def observe(self, record: Any) -> Any:
            return []

        def state_dict(self) -> dict[str, Any]:
            return {"seen": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise KeyError("window")

    broken(monkeypatch, lambda parts: parts.detectors.update(mine=Forgetful()))
    train(*FAST)
    done = train("resume=latest", "trainer.max_steps=8")
    assert done.returncode == 0 and done.stderr.count("detectors.mine begins anew") == 1
    assert "KeyError: 'window'" in done.stderr
