"""Two options that hold the same detector: said if their values differ."""

from __future__ import annotations

import pytest

from tests.conftest import SMALL, Train
from train.cli.overlaps import overlaps

_BOTH = "both hold {}; the later one's values count: {}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["detectors=[standard,nonfinite]"], []),
        (["tracker=[wandb,wandb]"], []),
        (["detectors=[standard,nothing]", "optimizer=sgd", "plots=[]", "detectors=plateau"], []),
        (
            ["detectors=[standard,loss_spike_robust]"],
            ["standard and loss_spike_robust " + _BOTH.format("loss_spike_robust", "log_threshold=null")],
        ),
        (["detectors=[standard,loss_spike_robust]", "detectors.loss_spike_robust.log_threshold=2"], []),
        (
            ["detectors=[moderate,plateau,aggressive]"],
            [
                "moderate and aggressive " + _BOTH.format("loss_spike", "threshold=0.5, cooldown=1000"),
                "moderate and aggressive " + _BOTH.format("accuracy_drop", "threshold=20.0, cooldown=1000"),
                "moderate and aggressive " + _BOTH.format("best_model", "cooldown=1000"),
                "moderate and aggressive " + _BOTH.format("divergence", "cooldown=1000"),
            ],
        ),
    ],
)
def test_only_what_contradicts_is_said(overrides: list[str], said: list[str]) -> None:
    assert list(overlaps(overrides)) == [f"{overrides[0]}: {each}" for each in said]


def test_a_run_says_it_in_one_line(train: Train) -> None:
    short = ("trainer.max_steps=1", "tracker=[]", "plots=[]", "detectors=loss_spike_robust,standard")
    done = train(*SMALL["denoise"], *short)
    said = " ".join((done.stdout + done.stderr).split())  # in lines as wide as the terminal
    assert said.count("the later one's values count: log_threshold=4.0") == 1
