"""The training loop: what is recorded when, evaluated, saved, and how it ends and goes on."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, TensorDataset

from expkit.checkpoints import EverySteps
from expkit.dist import Control
from expkit.record import Record
from tests.train.helpers import FUSED, Regression, Run, same
from tests.train.observed import Saves, Unsized, WeightNorm, steps_with
from train.data import Batches
from train.optim.sgld import SGLD
from train.position import LOSSES_KEPT
from train.runner import Runner
from train.tasks.base import StepOutput

# --- the same numbers as without a framework -----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_training_is_bit_identical_to_a_bare_loop(optimizer: str) -> None:
    run = Run(Regression(dropout=0.3), FUSED[optimizer], batch_size=6, max_epochs=3, seed=5, clip_grad_norm=1.0)
    torch.manual_seed(7)
    run.fit()

    task = Regression(dropout=0.3)
    model = task.build_model()
    plain = FUSED[optimizer](model.parameters())
    data = Batches(task.train_data(), batch_size=6, seed=5)
    losses = []
    torch.manual_seed(7)
    for epoch in range(3):
        for batches in data.epoch(epoch):
            [((x, y), _)] = batches.pieces
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            plain.step()
            plain.zero_grad()
            losses.append(loss.item())
    assert same(run.weights(), dict(model.state_dict()))
    assert run.series("train_loss") == losses


# --- what is recorded ----------------------------------------------------------------------------------------------


def test_each_step_has_one_record_with_all_that_was_said_of_it() -> None:
    """Training, evaluation, diagnostics and the final values of a step come together: trackers drop a second row."""
    run = Run(parts={"diagnostics": {"norms": WeightNorm()}}, max_epochs=2, log_interval=2, eval_interval=5).fit()
    assert [record.step for record in run.records] == [2, 4, 5, 6, 8, 10]
    assert [record.epoch for record in run.records] == [1, 1, 1, 2, 2, 2]
    last = run.records[-1]
    assert {"train_loss", "val_loss", "val_absolute", "norms/norm", "final/best_val_loss"} <= last.metrics.keys()
    assert last.details == {"norms/shape": [4, 3]}
    assert last.metrics["norms/computation_time_ms"] >= 0
    assert steps_with(run, "norms/norm") == [5, 10]


def test_train_loss_is_the_mean_over_the_samples_of_the_interval() -> None:
    """With 10 samples in batches of 4, the third has 2; summed metrics are means too."""
    run = Run(Regression(10), log_interval=2, max_epochs=2).fit()
    losses, sizes = run.series("train_loss"), [4, 4, 2, 4, 4, 2]
    assert len(losses) == 6
    expected = [
        sum(loss * size for loss, size in zip(losses[part], sizes[part], strict=True)) / sum(sizes[part])
        for part in (slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6))
    ]
    assert [record.step for record in run.records] == [2, 3, 4, 6]
    assert run.values("train_loss") == pytest.approx(expected, rel=1e-6)
    assert list(run.runner.loss_history) == run.values("train_loss")
    assert run.values("samples") == [8, 10, 14, 20]


def test_a_long_run_keeps_the_last_losses_only() -> None:
    run = Run(Regression(8), log_interval=1, max_steps=2).fit()
    history = [float(number) for number in range(LOSSES_KEPT + 5)]
    run.runner.load_state_dict(run.runner.state_dict(), history)
    assert list(run.runner.loss_history) == history[5:]
    run.runner.loss_history.append(-1.0)
    assert len(run.runner.loss_history) == LOSSES_KEPT


def test_summed_metrics_are_divided_by_the_samples_of_the_interval() -> None:
    run = Run(Regression(10), functools.partial(SGLD, lr=0.0), log_interval=100).fit()
    error = run.model(run.task.x) - run.task.y
    assert run.values("train_absolute") == pytest.approx([error.abs().mean().item()])
    assert run.values("train_loss") == pytest.approx([error.square().mean().item()])


@pytest.mark.parametrize("interval", [1, 3, 7, 1000])
def test_the_series_holds_every_step_whatever_the_interval(interval: int) -> None:
    reference = Run(max_epochs=2, clip_grad_norm=1.0).fit()
    run = Run(max_epochs=2, clip_grad_norm=1.0, log_interval=interval).fit()
    for name in ("train_loss", "gradient_norm"):
        assert len(run.series(name)) == 10
        assert run.series(name) == reference.series(name)
    assert same(run.weights(), reference.weights())


def test_the_series_outgrows_its_first_buffer() -> None:
    long = Run(Regression(200), batch_size=1, log_interval=1000).fit()
    short = Run(Regression(200), batch_size=1).fit()
    assert len(long.series("train_loss")) == 200
    assert long.series("train_loss") == short.series("train_loss")


@pytest.mark.parametrize(("total", "expected"), [(999, 10), (1_000, 10), (9_999, 10), (10_000, 50), (None, 50)])
def test_the_automatic_log_interval_depends_on_the_length_of_the_run(total: int | None, expected: int) -> None:
    data = None if total else Unsized(20)
    run = Run(max_steps=total, max_epochs=None if total else 1, log_interval="auto", data=data)
    run.runner.progress.step = expected
    assert run.runner._log.due(run.runner.progress)
    run.runner.progress.step = expected - 1
    assert not run.runner._log.due(run.runner.progress)


def test_a_record_ends_each_epoch_and_the_run() -> None:
    run = Run(max_epochs=3, max_steps=12, log_interval=1000).fit()
    assert [record.step for record in run.records] == [5, 10, 12]


def test_the_learning_rate_that_is_logged_is_the_one_of_the_update() -> None:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (done + 1))

    run = Run(optimizer=functools.partial(SGLD, lr=0.1, temperature=0.0), scheduler=schedule)
    used: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    run.fit()
    assert run.values("learning_rate") == used == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025, 0.02])


def test_speed_is_named_after_what_the_task_counts_and_leaves_evaluation_out() -> None:
    class Slow(Regression):
        unit = "tokens"

        def step(self, model: nn.Module, batch: Any) -> StepOutput:
            if not model.training:
                time.sleep(0.2)
            return super().step(model, batch)

    run = Run(Slow(n_val=1), eval_interval=2, max_steps=3).fit()
    assert "samples_per_sec" not in run.records[0].metrics
    assert run.values("tokens_per_sec")[2] > 4 / 0.2  # there was an evaluation since step 2


def test_observers_see_each_record_after_the_sinks() -> None:
    seen: list[Record] = []
    run = Run()
    run.runner._on_record = (lambda record: seen.append(run.records[-1]),)
    run.fit()
    assert seen == run.records


# --- evaluation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 100])
def test_evaluation_is_the_mean_over_samples_however_they_are_batched(batch_size: int) -> None:
    run = Run(Regression(n_val=7), batch_size=20)
    run.runner.val = Batches(run.task.val_data(), batch_size, shuffle=False)
    error = run.model(run.task.x[:7]) - run.task.y[:7]
    means = run.runner.evaluate()
    assert means == pytest.approx({"loss": error.square().mean().item(), "absolute": error.abs().mean().item()})


def test_evaluation_is_without_dropout_and_training_with_it() -> None:
    modes = []

    class Watched(Regression):
        def step(self, model: nn.Module, batch: Any) -> StepOutput:
            modes.append((model.training, torch.is_grad_enabled()))
            return super().step(model, batch)

    Run(Watched(dropout=0.5, n_val=4), max_epochs=2).fit()
    epoch = [(True, True)] * 5 + [(False, False)]
    assert modes == epoch * 2


@pytest.mark.parametrize(
    ("interval", "expected"), [("epoch", [5, 10, 12]), (4, [4, 8, 12]), (5, [5, 10, 12]), (100, [12])]
)
def test_evaluation_comes_at_its_interval_and_at_the_end(interval: int | str, expected: list[int]) -> None:
    run = Run(max_epochs=5, max_steps=12, eval_interval=interval, log_interval=3).fit()
    assert steps_with(run, "val_loss") == expected


def test_evaluation_does_not_change_training() -> None:
    often, never = (Run(Regression(dropout=0.5), eval_interval=interval, max_epochs=2) for interval in (1, 1000))
    for run in (often, never):
        torch.manual_seed(3)
        run.fit()
    assert same(often.weights(), never.weights())


def test_the_best_of_each_metric_is_said_once_at_the_end() -> None:
    run = Run(Regression(n_val=20), functools.partial(SGLD, lr=0.02, temperature=0.5), max_epochs=8).fit()
    losses = run.values("val_loss")
    best = losses.index(min(losses))
    assert 0 < best < 7  # so that neither the first nor the last could pass for it
    assert run.values("final/best_val_loss") == [losses[best]]
    assert run.values("final/best_val_absolute") == [min(run.values("val_absolute"))]
    assert steps_with(run, "final/best_val_loss") == [40]
    assert run.runner.best.step == 5 * (best + 1)


def test_higher_is_better_where_the_task_says_so() -> None:
    class Accuracy(Regression):
        higher_is_better = ("absolute",)

    run = Run(Accuracy(), max_epochs=3).fit()
    assert run.values("final/best_val_absolute") == [max(run.values("val_absolute"))]
    assert run.values("final/best_val_loss") == [min(run.values("val_loss"))]


def test_a_loss_that_is_nan_is_never_the_best() -> None:
    class Broken(Regression):
        def val_data(self) -> TensorDataset:
            return TensorDataset(self.x * math.nan, self.y)

    saves = Saves()
    run = Run(Broken(), parts={"save": saves}).fit()
    assert math.isnan(run.values("val_loss")[0])
    assert saves == [(5, False)]
    assert "final/best_val_loss" not in run.records[-1].metrics


def test_without_validation_data_nothing_is_evaluated() -> None:
    class Blind(Regression):
        def val_data(self) -> None:
            return None

    run = Run(Blind()).fit()
    assert not any(name.startswith(("val_", "final/")) for record in run.records for name in record.metrics)


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"), [(2, None, 10), (None, 7, 7), (2, 7, 7), (2, 10, 10), (2, 100, 10), (1, 1, 1)]
)
@pytest.mark.parametrize("data", [None, "loader", "unsized"])
def test_a_run_ends_at_whichever_limit_comes_first(
    epochs: int | None, steps: int | None, expected: int, data: str | None
) -> None:
    task = Regression(20)
    source = {"loader": DataLoader(task.train_data(), batch_size=4), "unsized": Unsized(20), None: None}[data]
    run = Run(task, max_epochs=epochs, max_steps=steps, data=source, log_interval=1000)
    assert run.runner.fit()
    assert run.runner.progress.step == expected
    assert run.records[-1].step == expected
    assert len(run.values("final/best_val_loss")) == 1


def test_a_run_that_is_done_does_nothing_more() -> None:
    run = Run(max_epochs=2).fit()
    weights, records = run.weights(), list(run.records)
    assert run.runner.fit()
    assert run.records == records
    assert same(run.weights(), weights)
    again = Run(max_epochs=2)
    again.runner.load_state_dict(run.runner.state_dict())
    assert again.runner.fit()
    assert again.records == []


@pytest.mark.parametrize("step", [3, 5, 10])
def test_a_requested_stop_saves_at_the_next_step_boundary(step: int) -> None:
    saves, control = Saves(), Control()

    def stop(runner: Runner, last: bool) -> None:
        if runner.progress.step == step - 1:
            control.request(Control.STOP)

    run = Run(parts={"control": control, "plot": stop, "save": saves}, max_epochs=2, eval_interval=1000)
    assert run.runner.fit() is (step == 10)  # asked for at the very end, it changes nothing
    assert run.runner.progress.step == step
    assert [saved for saved, _ in saves] == [step]
    assert run.values("final/best_val_loss") == run.values("val_loss")
    assert run.runner.fit()
    assert run.runner.progress.step == 10


def test_a_requested_save_is_made_and_training_goes_on() -> None:
    saves, control = Saves(), Control()
    control.request(Control.SAVE)
    assert Run(parts={"control": control, "save": saves}, eval_interval=1000).runner.fit()
    assert saves == [(1, False), (5, True)]


def test_checkpoints_are_due_at_their_interval_at_the_best_and_at_the_end() -> None:
    saves = Saves(EverySteps(4))
    run = Run(parts={"save": saves}, max_epochs=2, max_steps=9).fit()
    first, second = run.values("val_loss")
    assert saves == [(4, False), (5, True), (8, False), (9, second < first)]
