"""`import expkit` is light, and everything that it promises is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import expkit

HEAVY = ("torch", "pynvml", "psutil", "numpy", "wandb", "trackio", "matplotlib", "sklearn", "hydra", "omegaconf")


@pytest.mark.parametrize(
    "statement",
    [
        "import expkit",
        "import expkit.cli.main, expkit.cli.show, expkit.cli.checkpoints",
        "from expkit import JournalReader, read_journal, MetricsLogger, check_disk_space, generate_experiment_id",
        "import expkit.detectors, expkit.events, expkit.recorder, expkit.schedule, expkit.status, expkit.results",
        "import expkit.trackers, expkit.plots, expkit.config_tracker, expkit.dist, expkit.stopping, expkit.secrets",
        "import expkit.machine, expkit.environment",
        "import expkit.snapshots, expkit.cli.snapshots",
        "import expkit.cli.svd, expkit.svd; from expkit import SVDMonitor, SwitchThresholds, SVDMetrics",
        "import expkit.watch, expkit.cli.watch\nexpkit.watch.select_detectors([], 'standard,svd_switch')",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_every_name_resolves_and_is_listed() -> None:
    for name in expkit.__all__:
        assert getattr(expkit, name) is not None
    assert set(expkit.__all__) <= set(dir(expkit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'expkit' has no attribute 'CheckpointManger'") as refused:
        expkit.CheckpointManger  # noqa: B018
    # Of these Python makes its "Did you mean: 'CheckpointManager'?".
    assert (refused.value.name, refused.value.obj) == ("CheckpointManger", expkit)
