"""What one rank meets is everybody's: bad samples and what is done about them, signals, and loaders of a task's own."""

from __future__ import annotations

import math

import pytest
import torch

from tests.train.ranks import (
    Ranks,
    assert_close,
    assert_same_run,
    events_of,
    journal_of,
    last_checkpoint,
)

#: 13 updates in an epoch; something is wrong with the last sample of the tenth, which is the last rank's.
STEPS = 16
TYPED = ("task.n=195", f"trainer.max_steps={STEPS}", "optimizer.lr=0.001")
NAN, LARGE, LESS = (f"task.bad=[10,15,{error}]" for error in ("nan", 40.0, 8.5))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(
    ("detector", "bad", "skips"),
    [("nonfinite", NAN, True), ("loss_spike", LARGE, True), ("loss_spike", LESS, False)],
    ids=["NaN", "the loss of all ranks", "the loss of one rank"],
)
def test_ranks_skip_the_updates_that_one_process_skips(detector: str, bad: str, skips: bool, ranks: Ranks) -> None:
    settings = (*TYPED, bad, f"detectors=[{detector}]", f"detectors.{detector}.respond=[skip]")
    if detector == "loss_spike":
        settings = (*settings, "detectors.loss_spike.threshold=2")
    name = f"{detector}{skips}"
    alone = ranks(1, name, *settings)
    journal = journal_of(alone)
    assert [entry["step"] for entry in journal if entry["skipped_steps"]] == ([12] if skips else [])
    losses = [loss for entry in journal for loss in entry["series"]["train_loss"]]
    assert math.isnan(losses[9]) if bad == NAN else losses[9] > 1.5 * losses[8]
    for strategy in ("ddp", "fsdp") if bad == NAN else ("ddp",):
        run = ranks(2, f"{name}_{strategy}", *settings, f"trainer.strategy={strategy}")
        assert_same_run(alone, run)
        assert_close(events_of(alone), events_of(run))
        assert all(bool(torch.isfinite(each).all()) for each in last_checkpoint(run)["model_state_dict"].values())
