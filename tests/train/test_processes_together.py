"""What one rank meets is everybody's: bad samples and what is done about them, signals, and loaders of a task's own."""

from __future__ import annotations

import json
import math
import signal
import time

import pytest

from tests.train.helpers import same
from tests.train.ranks import (
    Ranks,
    assert_close,
    assert_same_run,
    at,
    events_of,
    journal_of,
    last_checkpoint,
    status_of,
    val_loss_of,
)
from train.runner import Runner

#: 13 updates in an epoch; something is wrong with the last sample of the tenth, which is the last rank's.
STEPS = 16
TYPED = ("task.n=195", f"trainer.max_steps={STEPS}", "optimizer.lr=0.001")
NAN, LARGE, LESS = (f"task.bad=[10,15,{error}]" for error in ("nan", 40.0, 7.0))


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
        assert all(bool(each.isfinite().all()) for each in last_checkpoint(run)["model_state_dict"].values())


@pytest.mark.parametrize(
    ("responses", "strategy"),
    [("stop", "ddp"), ("skip,lower_lr", "fsdp"), ("rewind", "ddp"), ("skip,lower_lr,rewind", "fsdp")],
)
def test_what_is_done_about_an_event_is_done_as_one_process_does_it(
    responses: str, strategy: str, ranks: Ranks
) -> None:
    settings = (
        *(*TYPED, NAN, "trainer.log_interval=1", "detectors=[nonfinite]", "checkpoint.save_interval=3"),
        *(f"detectors.nonfinite.respond=[{responses}]", "responses.rewind_back=3", "responses.rewind_clean=3"),
        "responses.rewind_skip=0",
    )
    name = responses.replace(",", "_")
    alone = ranks(1, name, *settings)
    run = ranks(2, f"{name}_{strategy}", *settings, f"trainer.strategy={strategy}", by_clock=True)
    assert_same_run(alone, run)
    assert_close(events_of(alone), events_of(run))
    assert "response" in [event["kind"] for event in events_of(run)]
    one, other = (status_of(each) for each in (alone, run))
    assert (one["state"], one["step"]) == (other["state"], other["step"])
    rewinds = [
        [resume["rewind"] for resume in json.loads((each / "config.json").read_text()).get("resumes", ())]
        for each in (alone, run)
    ]
    assert_close(*rewinds)
    assert len(rewinds[0]) == ("rewind" in responses)
    if responses == "stop":
        assert one["step"] == 11
    elif "lower_lr" in responses:
        assert journal_of(run)[-1]["learning_rate"] == 0.0005


def slowly(rank: int) -> None:
    """Let each step take so long that ranks do not exchange at each of them what they have to do."""
    after_step = Runner._after_step

    def waiting(self: Runner) -> bool:
        time.sleep(0.01)
        return after_step(self)

    Runner._after_step = waiting  # type: ignore[method-assign]


@pytest.mark.parametrize(("of", "strategy"), [(0, "ddp"), (1, "fsdp")])
def test_a_signal_to_any_rank_stops_all_at_the_same_step_and_all_is_saved(of: int, strategy: str, ranks: Ranks) -> None:
    def set_up(rank: int) -> None:
        slowly(rank)
        at(9, signal.SIGTERM, of)(rank)

    typed = ("trainer.max_steps=40", "task.n=100", "task.dropout=0.3", f"trainer.strategy={strategy}")
    run = ranks(2, f"{strategy}_stopped", *typed, setup=set_up, code=128 + signal.SIGTERM, by_clock=True)
    status, state = status_of(run), last_checkpoint(run)
    assert (status["state"], status["signal"]) == ("preempted", "SIGTERM")
    assert 9 <= status["step"] < 40
    assert state["step"] == state["sampler_state"]["step"] == status["step"]
    assert f"preempted at step {status['step']}; go on with: " in ranks.said
    ranks(2, run.name)
    assert status_of(run)["state"] == "finished"
    whole = ranks(2, f"{strategy}_whole", *typed)
    assert repr(journal_of(run)) == repr(journal_of(whole))
    one, other = (last_checkpoint(each) for each in (whole, run))
    for key in ("model_state_dict", "optimizer_state_dict", "rng_state", "ranks"):
        assert same(one[key], other[key]), key


@pytest.mark.parametrize(("count", "n", "strategy"), [(2, 67, "ddp"), (3, 65, "fsdp")])
def test_ranks_share_the_batches_of_a_loader_of_the_tasks_own(count: int, n: int, strategy: str, ranks: Ranks) -> None:
    typed = (f"task.n={n}", "task.loader=own", "trainer.max_steps=12", "trainer.clip_grad_norm=0.5")
    typed += ("trainer.batch_size=48",)  # of the evaluation alone
    alone = ranks(1, f"loader{n}", *typed)
    run = ranks(
        *(count, f"loader{n}_{count}", *typed, f"trainer.strategy={strategy}"),
        setup=at(7, signal.SIGTERM, of=count - 1),
        code=128 + signal.SIGTERM,
    )
    ranks(count, run.name)
    assert_same_run(alone, run)
    assert journal_of(run)[-1]["samples"] == 2 * n + 2 * 16


@pytest.mark.parametrize(("strategy", "loader"), [("ddp", "uneven"), ("fsdp", "of no length")])
def test_epochs_and_evaluations_end_together_where_a_rank_has_more_batches(
    strategy: str, loader: str, ranks: Ranks
) -> None:
    typed = (f"task.loader='{loader}'", "trainer.max_steps=10", "trainer.log_interval=100")
    run = ranks(2, f"{strategy}_{loader.replace(' ', '_')}", *typed, f"trainer.strategy={strategy}")
    journal = journal_of(run)
    assert [entry["step"] for entry in journal] == [4, 8, 10], "one rank has 5 batches, the other 4"
    assert journal[-1]["val_loss"] == pytest.approx(val_loss_of(run), rel=1e-4), "of all samples of both ranks"


def test_a_batch_that_cannot_be_shared_is_one_line(ranks: Ranks) -> None:
    run = ranks(2, "odd", "task.loader=odd", "trainer.max_steps=4", code=1)
    last = ranks.said.strip().splitlines()[-1]
    assert last.startswith("error: the processes cannot share a batch of the task's loader")
    assert "(its tensors have 16, 17 rows): " in last
    assert "Traceback" not in ranks.said
    assert not run.exists()
