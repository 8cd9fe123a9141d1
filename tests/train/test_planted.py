"""Planted faults in real runs: each is reported, with its own step, at the next log step at the latest."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expkit.events import read_events
from expkit.experiment import RunDir
from expkit.journal import read_journal
from tests.conftest import SMALL, Train

Fault = Callable[..., RunDir]

_SHORT = ("checkpoint=none", "plots=[]", "gpu.enabled=false", "trainer.eval_interval=1000")
_GPT = ("task.data.val_fraction=0.005", "task.num_samples=0")


@pytest.fixture
def fault(train: Train, outputs: Path) -> Fault:
    """Call as `fault("gpt", "nan", ...)`: train the small task with a planted fault, and return the run."""

    def run(task: str, name: str, *arguments: str) -> RunDir:
        train(*SMALL[task], *(_GPT if task == "gpt" else ()), f"debug={name}", *_SHORT, *arguments, "run.id=run")
        return RunDir(outputs / "run")

    return run


def events(run: RunDir) -> list[dict[str, Any]]:
    return [event for event in read_events(run.events) if event["kind"] != "response"]


def losses(run: RunDir) -> list[float]:
    return [loss for entry in read_journal(run.metrics) for loss in entry["series"].get("train_loss", ())]


def check_at_the_next_record(run: RunDir, event: dict[str, Any]) -> None:
    """Check that an event was said of the first record that could tell of its step, before the one after that."""
    records = [(entry["step"], entry["time"]) for entry in read_journal(run.metrics)]
    following = itertools.dropwhile(lambda record: record[0] < event["step"], [*records, (math.inf, math.inf)])
    (_, begin), (_, end) = next(following), next(following)
    assert begin <= event["time"] < end


SPIKES = {
    "classify": ("task.fault.step=106", "trainer.max_steps=108", "optimizer.lr=0.02"),
    # Little is learned in so few steps, and without it the wrong targets are as likely as the right ones.
    "gpt": (
        *("task.fault.step=78", "trainer.max_steps=84", "optimizer.lr=0.03", "trainer.batch_size=64"),
        *("detectors=[standard,loss_spike]", "detectors.loss_spike.threshold=0.2", "detectors.loss_spike.warmup=30"),
    ),
}


def check_spike(fault: Fault, task: str, name: str, seed: int) -> None:
    run = fault(task, name, *SPIKES[task], "trainer.log_interval=12", f"trainer.seed={seed}")
    (event,) = events(run)
    assert event["kind"] == "loss_spike"
    assert f"task.fault.step={event['step']}" in SPIKES[task]
    check_at_the_next_record(run, event)


def check_nan(fault: Fault, task: str, name: str, seed: int) -> None:
    short = ("task.fault.step=5", "trainer.max_steps=9", "trainer.log_interval=3")
    run = fault(task, name, *short, f"trainer.seed={seed}")
    found = [math.isnan(loss) for loss in losses(run)]
    assert found == [False] * 4 + [True] + [task == "classify"] * 4  # a mean over nothing has a gradient of zeros
    (event,) = events(run)
    assert (event["detector"], event["step"], event["severity"]) == ("nonfinite", 5, "CRITICAL")
    check_at_the_next_record(run, event)


@pytest.mark.parametrize("task", ["denoise", "classify"])
def test_a_loss_that_diverges_and_fluctuates_is_reported(fault: Fault, task: str) -> None:
    run = fault(task, "diverge", "trainer.max_steps=76", "trainer.log_interval=4")
    assert [event["reason"] for event in events(run)] == ["divergence_detected"]


STOP = ("trainer.max_steps=200", "trainer.log_interval=1000", "detectors.divergence.respond=[stop]")
RISING = {
    # The loss rises from the first steps on; a record is of an epoch, or of nine updates. With more, text becomes NaN.
    ("classify", "diverge"): ("trainer.batch_size=256",),
    ("gpt", "diverge"): ("trainer.log_interval=9", "optimizer.lr=3"),
    ("classify", "overfit"): ("task.model.hidden=64", "optimizer.lr=0.01", "task.fault.samples=32"),
    ("gpt", "overfit"): ("task.model.d_model=32", "optimizer.lr=0.01", "task.fault.samples=16"),
}


def check_rising(fault: Fault, task: str, name: str, seed: int) -> None:
    overfit = ("trainer.eval_interval=6", "task.fault.wrong=0.5") if name == "overfit" else ()
    run = fault(task, name, *STOP, *overfit, *RISING[task, name], f"trainer.seed={seed}")
    (event,) = events(run)
    metric = "val_loss" if name == "overfit" else "train_loss"
    assert event["detector"] == "divergence"
    assert event["message"].startswith(f"{metric} is rising")
    check_at_the_next_record(run, event)
    status = json.loads(run.status.read_text())
    assert event["message"] in status["stopped_by"]
    if name == "overfit":
        found = losses(run)
        assert sum(found[-8:]) < sum(found[:8])
        samples = json.loads(run.config.read_text())["dataset"]["train"]["samples"]
        assert f"task.fault.samples={samples}" in RISING[task, name]


#: The first seed of these is always on: every fault, and both tasks.
QUICK = [("classify", "spike"), ("classify", "nan"), ("gpt", "nan"), ("gpt", "diverge"), ("classify", "overfit")]
CHECKS = {"spike": check_spike, "nan": check_nan, "diverge": check_rising, "overfit": check_rising}


@pytest.mark.parametrize(("task", "name"), QUICK)
def test_it_is_reported_with_its_own_step(fault: Fault, task: str, name: str) -> None:
    CHECKS[name](fault, task, name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("task", ["classify", "gpt"])
def test_it_is_so_with_other_seeds_too(fault: Fault, task: str, name: str, seed: int) -> None:
    CHECKS[name](fault, task, name, seed)


@pytest.mark.parametrize(
    ("task", "seed"), [("denoise", 0), *(pytest.param("gpt", seed, marks=pytest.mark.slow) for seed in range(4))]
)
def test_a_rewound_run_ends_within_two_percent_of_the_clean_one(
    train: Train, outputs: Path, task: str, seed: int
) -> None:
    """The whole bundled task, as docs/how-to/when-training-goes-wrong.md has it, with the fault and without."""
    final = {}
    for name, *more in (("rewound", "detectors.nonfinite.respond=[snapshot,rewind]"), ("clean", "task.fault=null")):
        common = ("debug=nan", "plots=[]", "gpu.enabled=false", f"trainer.seed={seed}", f"run.id={name}")
        train(f"task={task}", *common, *more)
        results = json.loads((outputs / name / "results.json").read_text())
        final[name] = results["final_metrics"]["val_loss"]
    rewound = json.loads((outputs / "rewound" / "config.json").read_text())
    assert [resume["rewind"]["seen"] for resume in rewound["resumes"]] == [180]
    assert final["rewound"] == pytest.approx(final["clean"], rel=0.02)
