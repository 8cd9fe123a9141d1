"""One optimizer update: accumulation, clipping, precision and guards."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from expkit.guards import Guard
from tests.train.helpers import CPU, FUSED, Bad, Regression, Run, same
from train.tasks.base import StepOutput
from train.update import Update

SLOW: dict[str, Callable[..., Optimizer]] = {
    f"{name}-{how}": functools.partial(make, lr=0.05, **more, foreach=how == "foreach")
    for name, make, more in (
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
    )
    for how in ("foreach", "loop")
}


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


class LargeNorm(Guard):
    needs_gradient_norm = True

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        assert gradient_norm is not None
        return ~(gradient_norm <= self.limit)


class Everything(Optimizer):
    """Plain descent which keeps the gradients that it saw."""

    def __init__(self, parameters: Any, lr: float = 0.02) -> None:
        super().__init__(parameters, {"lr": lr})
        self.seen: list[torch.Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.seen.append(torch.cat([p.grad.flatten().clone() for p in self.param_groups[0]["params"]]))
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


# --- accumulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 3, 6])
@pytest.mark.parametrize("n", [24, 22, 13], ids=["even", "uneven last batch", "last batch smaller than the pieces"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_pieces_add_up_to_the_whole_batch(pieces: int, n: int, optimizer: str) -> None:
    whole, split = (
        Run(Regression(n), FUSED[optimizer], batch_size=12, max_epochs=3, grad_accumulation=k).fit()
        for k in (1, pieces)
    )
    assert len(whole.records) == len(split.records)
    for name, value in whole.weights().items():
        torch.testing.assert_close(split.weights()[name], value, rtol=1e-5, atol=1e-6)
    for metric in ("train_loss", "train_absolute", "val_loss", "samples"):
        assert split.values(metric) == pytest.approx(whole.values(metric), rel=1e-5)


def test_sums_of_a_task_may_carry_gradients_and_be_integers() -> None:
    class Careless(Regression):
        def step(self, model: nn.Module, batch: Any) -> StepOutput:
            out = super().step(model, batch)
            error = model(batch[0]) - batch[1]
            return StepOutput(out.loss, {"error": error.sum(), "positive": (error > 0).sum()}, out.count)

    run = Run(Careless(), grad_accumulation=2, eval_interval=1).fit()
    assert all(0 <= share <= 1 for share in run.values("train_positive") + run.values("val_positive"))


# --- clipping -------------------------------------------------------------------------------------------------------


def test_the_norm_that_is_logged_is_the_one_before_clipping() -> None:
    run = Run(optimizer=Everything, clip_grad_norm=0.5, batch_size=20, max_epochs=3)
    start, task = run.task.build_model(), run.task
    task.step(start, (task.x, task.y)).loss.backward()
    before = gradients(start).norm().item()
    run.fit()
    assert before > 0.5
    assert run.values("gradient_norm")[0] == pytest.approx(before, rel=1e-6)
    assert run.optimizer.seen[0].norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_gradient_below_the_limit_is_not_touched() -> None:
    free, clipped = (Run(optimizer=Everything, clip_grad_norm=limit).fit() for limit in (None, 1e6))
    assert same(free.optimizer.seen, clipped.optimizer.seen)
    assert "gradient_norm" not in free.records[0].metrics


@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
def test_clipping_sees_the_true_norm_in_every_precision(precision: str) -> None:
    run = Run(optimizer=Everything, precision=precision, clip_grad_norm=0.5, grad_accumulation=2)
    if precision == "fp16":
        run.runner.update.scaler = GradScaler("cpu", init_scale=256)  # that does not overflow here
    run.fit()
    exact = Run(optimizer=Everything, clip_grad_norm=0.5).fit()
    assert run.values("gradient_norm") == pytest.approx(exact.values("gradient_norm"), rel=0.05)
    assert all(seen.norm() <= 0.5001 for seen in run.optimizer.seen)


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_runs_in_the_chosen_precision_and_parameters_stay_float32(
    precision: str, dtype: torch.dtype
) -> None:
    seen = set()

    class Watched(Regression):
        def step(self, model: nn.Module, batch: Any) -> StepOutput:
            seen.add(model(batch[0]).dtype)
            return super().step(model, batch)

    run = Run(Watched(), precision=precision, max_epochs=5).fit()
    assert seen == {dtype}  # in evaluation too
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    assert run.values("val_loss")[-1] < 0.9 * run.values("val_loss")[0]


def test_fp16_logs_the_loss_unscaled_and_trains_on_unscaled_gradients() -> None:
    scaled, exact = (Run(optimizer=Everything, precision=precision, max_epochs=3) for precision in ("fp16", "32"))
    scaled.runner.update.scaler = GradScaler("cpu", init_scale=256)
    assert scaled.fit().values("train_loss") == pytest.approx(exact.fit().values("train_loss"), rel=0.02)
    assert scaled.optimizer.seen[0].tolist() == pytest.approx(exact.optimizer.seen[0].tolist(), rel=0.02, abs=0.02)


@pytest.mark.parametrize("guards", [(), (LargeNorm(1e6),)], ids=["scaler alone", "with a guard"])
def test_an_overflow_in_fp16_lowers_the_scale_until_steps_succeed(guards: tuple[Guard, ...]) -> None:
    """A guard that skips overflowing steps must not keep the scaler from learning of them."""
    run = Run(precision="fp16", guards=guards, max_epochs=4)
    scaler = run.runner.update.scaler
    assert scaler is not None
    weight = run.model[0].weight
    weight.register_hook(lambda gradient: gradient * (math.inf if scaler.get_scale() > 1024 else 1))
    start = run.weights()
    run.fit()
    assert scaler.get_scale() == 1024
    assert not same(run.weights(), start)
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    if guards:
        assert sum(run.values("skipped_steps")) == 6  # 65536 / 1024 = 2 ** 6


# --- guards ---------------------------------------------------------------------------------------------------------


class Outlier(Guard):
    """Skips updates with a loss above 1000, NaN included."""

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        return ~(loss.detach() < 1000)


def updated(optimizer: Callable[..., Optimizer], batches: list[Any], **options: Any) -> tuple[Any, list[float]]:
    """Return model and optimizer state after an update with each of `batches`, and what was skipped."""
    task = Regression()
    model = task.build_model()
    update = Update(optimizer(model.parameters()), None, CPU, guards=(Outlier(),), **options)
    if update.scaler is not None:
        update.scaler = GradScaler("cpu", init_scale=16)  # the outlier is finite in float16
    skipped = []
    for batch in batches:
        values, names, _ = update(task, model, [(batch, 1.0)])
        skipped.append(values[names.index("skipped")].item())
    # By position: an optimizer that skipped its first step may not have made its state yet.
    return [dict(model.state_dict()), list(update.optimizer.state_dict()["state"].items())], skipped


def batches(n: int) -> list[Any]:
    task = Regression(4 * n)
    return list(zip(task.x.split(4), task.y.split(4), strict=True))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_first_step_that_overflows_leaves_no_momentum_uninitialised(clip: float | None) -> None:
    fused, loop = (
        Run(
            optimizer=functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, fused=fused),
            precision="fp16",
            clip_grad_norm=clip,
            max_epochs=4,
        ).fit()
        for fused in (True, False)
    )
    assert loop.runner.update.scaler.get_scale() < 2**16, "it did overflow"
    assert all(map(math.isfinite, fused.series("train_loss")))
    assert fused.series("train_loss") == pytest.approx(loop.series("train_loss"), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.5}, {"precision": "fp16"}], ids=["", "clip", "fp16"])
@pytest.mark.parametrize("outlier", [math.nan, math.inf, 100.0])
@pytest.mark.parametrize("optimizer", [*FUSED, *SLOW])
def test_bad_updates_are_as_if_they_had_not_been(optimizer: str, outlier: float, options: dict[str, Any]) -> None:
    """Parameters, moments and step counts are bit for bit those of a run without the bad batches."""
    one, two, three = batches(3)
    bad = (one[0], one[1] + outlier)
    make = (FUSED | SLOW)[optimizer]
    guarded, skipped = updated(make, [bad, one, two, bad, bad, three], **options)
    assert skipped == [1, 0, 0, 1, 1, 0]
    assert same(guarded, updated(make, [one, two, three], **options)[0])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # torch does not know of skipped steps
@pytest.mark.parametrize("optimizer", ["adam", "momentum", "adam-loop"])
def test_data_and_schedule_go_on_when_an_update_is_skipped(optimizer: str) -> None:
    schedule = functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda done: 0.5**done)
    run = Run(optimizer=(FUSED | SLOW)[optimizer], scheduler=schedule, guards=(Bad(1, 2, 4),), log_interval=2).fit()
    first = run.optimizer.param_groups[0]["initial_lr"]
    assert run.values("skipped_steps") == [2, 1, 0]
    assert run.values("learning_rate") == [first * 0.5**done for done in (1, 3, 4)]
    assert run.values("samples") == [8, 16, 20]
    assert len(run.series("train_loss")) == 5


def test_without_guards_nothing_is_skipped_and_nothing_said_of_it() -> None:
    assert "skipped_steps" not in Run().fit().records[0].metrics


@pytest.mark.parametrize("optimizer", ["adam", "sgd-loop"])
def test_a_nan_in_the_data_never_reaches_the_parameters(optimizer: str) -> None:
    task = Regression()
    task.x[5] = math.nan
    run = Run(task, (FUSED | SLOW)[optimizer], guards=(Bad(),), max_epochs=3).fit()
    assert run.values("skipped_steps").count(1) == 3
    assert sum(math.isnan(loss) for loss in run.series("train_loss")) == 3  # the true number is kept
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_any_of_several_guards_can_skip() -> None:
    run = Run(guards=(Bad(1), Bad(3), LargeNorm(1e9))).fit()
    assert run.values("skipped_steps") == [1, 0, 1, 0, 0]
    assert "gradient_norm" in run.records[0].metrics  # a guard asked for it


def test_guards_that_must_wait_for_the_device_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    Run(guards=(Bad(),)).fit()
    assert not caplog.records
    Run(optimizer=SLOW["adam-foreach"], guards=(Bad(),)).fit()
    assert [record.message for record in caplog.records] == [
        "guards wait for the device at every step: only fused optimizers without fp16 avoid it"
    ]
