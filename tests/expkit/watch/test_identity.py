"""A watcher beside real runs with planted faults finds what their own detectors have found, to the last digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from expkit.cli.main import main
from tests.conftest import Train
from tests.expkit.watch.runs import told

SMALL = (
    *("task=classify", "task/model=mlp", "task.model.hidden=16", "task.fault.step=60", "trainer.max_steps=100"),
    *("trainer.log_interval=7", "trainer.eval_interval=10", "checkpoint.save_interval=10", "tracker=[]", "plots=[]"),
    *("trainer.deterministic=true", "gpu.enabled=false"),
)
DETECTORS = (
    "detectors=standard,loss_spike,gradient_spike,accuracy_drop,best_model,plateau,threshold",
    *("detectors.loss_spike.threshold=0.15", "detectors.loss_spike.cooldown=3", "detectors.plateau.patience=3"),
    *("detectors.best_model.cooldown=0", "detectors.threshold.threshold=1.0", "detectors.gradient_spike.least=20"),
    *(
        "detectors.loss_spike_robust.least=20",
        "detectors.gradient_spike.threshold=2.0",
        "detectors.plateau.cooldown=20",
    ),
)


SKIPPED = (
    *("debug=spike", "detectors.loss_spike.respond=[skip,alert]", "detectors.gradient_spike.respond=[skip]"),
    *("trainer.log_interval=20", "detectors.loss_spike.cooldown=0", "detectors.loss_spike.threshold=0.03"),
)
REWOUND = (
    *("debug=nan", "detectors.nonfinite.respond=[rewind,alert]"),
    *("responses.rewind_back=5", "responses.rewind_clean=5"),
)


def same_events(run: Path) -> int:
    """Return how many events the run has, which are those of a watcher."""
    assert main(["watch", str(run), "--once", "detectors=run"]) == 0
    own, beside = (told(run / "logs" / name) for name in ("events.jsonl", "watch_events.jsonl"))
    assert beside == own
    return len(own)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("debug=nan",), marks=pytest.mark.slow),
        SKIPPED,
        pytest.param(REWOUND, marks=pytest.mark.slow),
    ],
    ids=["nan", "skipped updates", "rewound"],
)
def test_the_events_are_those_of_the_run(train: Train, outputs: Path, more: tuple[str, ...]) -> None:
    train(*SMALL, *DETECTORS, *more, "run.id=run")
    assert same_events(outputs / "run") > 5
    assert bool(list((outputs / "run" / "logs").glob("events.cut-1.jsonl"))) == ("responses.rewind_back=5" in more)


@pytest.mark.slow
def test_the_events_of_a_resumed_run_and_of_a_fork(train: Train, outputs: Path) -> None:
    train(*SMALL, *DETECTORS, "debug=spike", "trainer.max_steps=75", "run.id=run")
    first = same_events(outputs / "run")
    train(f"resume={outputs / 'run'}/checkpoints/checkpoint_step_50.pt", "trainer.max_steps=110")
    assert same_events(outputs / "run") > first
    snapshot = max((outputs / "run" / "snapshots").iterdir())
    train(f"resume={snapshot}", "run.id=fork", "trainer.max_steps=120")
    assert same_events(outputs / "fork") > 0
