"""Diagnostics in the loop: what they see of an update, when, and that a resume and a rank go on as one would."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from expkit.diagnostics import Diagnostic
from expkit.diagnostics.activations import ActivationsDiagnostic
from expkit.diagnostics.gradients import GradientsDiagnostic
from tests.train.helpers import FUSED, Regression, Run
from train.tasks.base import StepOutput


class Seeing(Diagnostic):
    """Keeps what the weight and gradient of the first layer are before an update, and the weight after it."""

    def __init__(self, interval: int | str = 1, spread: bool = False) -> None:
        self.interval, self.spread = interval, spread
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.after: list[torch.Tensor] = []
        self.parts: list[int] = []

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        self.parts.append(part)
        weight = model[0].weight
        self.before.append((weight.clone(), weight.grad.clone()))

    def measure(self, model: nn.Module) -> dict[str, Any]:
        self.after.append(model[0].weight.clone())
        return {"calls": len(self.after), "seen": len(self.before)}

    def state_dict(self) -> dict[str, Any]:
        return {"before": len(self.before), "after": len(self.after)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        nothing = torch.zeros(())
        self.before, self.after = [(nothing, nothing)] * state["before"], [nothing] * state["after"]


def test_it_sees_the_weights_before_and_after_an_update_and_the_clipped_gradient_between() -> None:
    seeing = Seeing()
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.5)  # noqa: E731
    run = Run(optimizer=sgd, parts={"diagnostics": {"seeing": seeing}}, max_steps=3, clip_grad_norm=0.1)
    run.fit()
    for (before, gradient), after in zip(seeing.before, seeing.after, strict=True):
        assert torch.allclose(after, before - 0.5 * gradient)
        assert 0 < gradient.norm() <= 0.1 * (1 + 1e-6)


def test_gradients_are_seen_without_the_scale_of_half_precision() -> None:
    class Small(Regression):
        """With gradients that do not overflow at the scale that training begins with."""

        def step(self, model: nn.Module, batch: Any) -> StepOutput:
            out = super().step(model, batch)
            return StepOutput(1e-3 * out.loss, out.sums, out.count)

    plain, scaled = (
        Run(
            Small(), parts={"diagnostics": {"g": GradientsDiagnostic(interval=1)}}, max_steps=2, precision=precision
        ).fit()
        for precision in ("32", "fp16")
    )
    for one, other in zip(plain.records, scaled.records, strict=True):
        assert other.metrics["g/norm"] == pytest.approx(one.metrics["g/norm"], rel=0.05)
        assert other.metrics["g/update_ratio"] == pytest.approx(one.metrics["g/update_ratio"], rel=0.05)
        assert "gradient_norm" not in other.metrics, "nobody asked for it"


def test_looking_changes_nothing() -> None:
    without = Run(Regression(dropout=0.3), max_epochs=2).fit()
    diagnostics = {"g": GradientsDiagnostic(interval=1), "s": Seeing(3, spread=True)}
    looked = Run(Regression(dropout=0.3), parts={"diagnostics": diagnostics}, max_epochs=2).fit()
    assert all(torch.equal(value, looked.weights()[name]) for name, value in without.weights().items())


def test_parts_go_on_in_the_middle_of_an_interval_after_a_resume() -> None:
    def run(seeing: Seeing, steps: int) -> Run:
        return Run(parts={"diagnostics": {"s": seeing}}, max_steps=steps, max_epochs=5, log_interval=100)

    whole = Seeing(4, spread=True)
    expected = run(whole, 9).fit()
    first = run(Seeing(4, spread=True), 6).fit()
    rest = Seeing(4, spread=True)
    resumed = run(rest, 9)
    resume(first, resumed)
    resumed.fit()
    assert rest.parts == whole.parts[6:] == [2, 3, 0]
    found = [record.metrics for record in resumed.records if "s/calls" in record.metrics]
    wanted = [record.metrics for record in expected.records if "s/calls" in record.metrics][1:]
    assert [(each["s/calls"], each["s/seen"]) for each in found] == [
        (each["s/calls"], each["s/seen"]) for each in wanted
    ]


def resume(before: Run, after: Run) -> None:
    """Bring `after` to where `before` is."""
    after.model.load_state_dict(before.model.state_dict())
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.runner.load_state_dict(before.runner.state_dict())


class Clock:
    """Time that passes by 0.1 ms whenever somebody looks, so that no machine is slower than another."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        self.seconds += 1e-4
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    return clock


class Slow(Diagnostic):
    """Takes 30 ms at every step."""

    interval = 1

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def measure(self, model: nn.Module) -> dict[str, Any]:
        self.clock.seconds += 0.03
        return {"it": 1.0}


def test_a_slow_one_is_measured_less_often_and_a_resume_keeps_to_that(clock: Clock) -> None:
    slow = {"diagnostics": {"slow": Slow(clock)}}
    run = Run(Regression(n=400), parts=slow, max_steps=60, batch_size=4, log_interval=100).fit()
    measured = [record.step for record in run.records if "slow/it" in record.metrics]
    assert 30 <= len(measured) < 50, "a second is granted: that is 33 times"
    multiples = run.runner.state_dict()["diagnostics_intervals"]
    assert multiples["slow"]["interval"] == 1 and multiples["slow"]["times"] > 1

    resumed = Run(Regression(n=400), parts=slow, max_steps=61, batch_size=4, log_interval=100)
    resume(run, resumed)
    assert resumed.runner.diagnostics.multiples() == multiples


def test_a_deterministic_run_keeps_its_intervals(clock: Clock) -> None:
    slow = {"diagnostics": {"slow": Slow(clock)}}
    try:
        run = Run(Regression(n=400), parts=slow, max_steps=45, batch_size=4, deterministic=True).fit()
    finally:
        torch.use_deterministic_algorithms(False)
    assert [record.step for record in run.records if "slow/it" in record.metrics] == [*range(1, 46)]


class Probing(Diagnostic):
    """Runs the model on the probe."""

    def use_probe(self, forward: Any) -> None:
        self.forward = forward

    def measure(self, model: nn.Module) -> dict[str, Any]:
        assert model.training
        loss = float(self.forward(model))
        assert model.training
        return {"loss": loss}


@pytest.mark.parametrize("n_val", [7, 0])
def test_the_probe_is_the_first_batch_in_evaluation_mode(n_val: int) -> None:
    class Task(Regression):
        def val_data(self) -> Any:
            return super().val_data() if n_val else None

    task = Task(dropout=0.5)
    run = Run(task, FUSED["adam"], parts={"diagnostics": {"p": Probing()}}, max_epochs=2, batch_size=4).fit()
    data = run.runner.val or run.runner.train
    [(batch, _)] = next(iter(data.epoch(0))).pieces
    run.runner.model.eval()
    expected = float(task.step(run.runner.model, batch).loss.detach())
    assert run.records[-1].metrics["p/loss"] == pytest.approx(expected)


class Merging(nn.Linear):
    """Merges weights for evaluation, as LoRA layers do, and counts in a buffer, not in place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.merged = False
        self.register_buffer("calls", torch.zeros(()))

    def train(self, mode: bool = True) -> Merging:
        self.merged = not mode
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return super().forward(x)


def test_the_probe_leaves_a_layer_that_merges_weights_for_evaluation_as_it_trains() -> None:
    class Task(Regression):
        def build_model(self) -> nn.Module:
            return nn.Sequential(Merging(3, 4), nn.Linear(4, 1))

    def left(diagnostics: dict[str, Diagnostic]) -> tuple[bool, bool, float]:
        layer = Run(Task(), parts={"diagnostics": diagnostics}, max_epochs=1, batch_size=4).fit().runner.model[0]
        return layer.merged, layer.training, float(layer.calls)

    assert left({"a": ActivationsDiagnostic()}) == left({}) == (False, True, 7.0)
