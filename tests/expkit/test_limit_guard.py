"""The guard that detectors set the limit of: what it skips, and that it agrees with what its detector says."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from expkit.detectors import Detector
from expkit.detectors.accuracy_drop import AccuracyDrop
from expkit.detectors.gradient_spike import GradientSpike
from expkit.detectors.loss_spike import LossSpike
from expkit.detectors.loss_spike_robust import LossSpikeRobust
from expkit.detectors.nonfinite import NonFinite
from expkit.detectors.window import LASTING
from expkit.errors import ConfigError
from expkit.guards import LimitGuard
from expkit.record import Record
from tests.train.helpers import CPU, Regression
from train.update import Update


def bad(guard: LimitGuard, loss: float, norm: float | None = None) -> bool:
    found = guard.bad(torch.tensor(loss), None if norm is None else torch.tensor(norm))
    assert found.shape == () and found.dtype == torch.bool
    return bool(found)


def test_without_a_limit_only_what_is_not_finite_is_bad() -> None:
    guard = LimitGuard()
    assert not bad(guard, 3e38) and not bad(guard, -3e38)
    assert bad(guard, math.nan) and bad(guard, math.inf) and bad(guard, -math.inf)
    assert not bad(guard, 1.0, math.nan), "it looks at the loss"
    assert not guard.needs_gradient_norm


def test_the_limit_can_be_moved_between_updates_and_survives_a_resume() -> None:
    guard = LimitGuard("gradient_norm")
    assert guard.needs_gradient_norm
    assert not bad(guard, math.nan, 5.0)
    guard.set_limit(4.0)
    assert bad(guard, 0.0, 5.0) and not bad(guard, 0.0, 4.0)
    assert not bad(guard, 9.0), "a norm that nobody has computed"
    again = LimitGuard("gradient_norm")
    again.load_state_dict(guard.state_dict())
    assert bad(again, 0.0, 5.0)
    guard.set_limit(math.inf)
    assert not bad(guard, 0.0, 5.0)


def test_finite_only_has_no_limit() -> None:
    guard = LimitGuard("both", finite_only=True)
    assert bad(guard, 1.0, math.nan) and bad(guard, math.inf, 1.0) and not bad(guard, 1e30, 1e30)
    guard.load_state_dict(guard.state_dict())
    with pytest.raises(ValueError, match="set_limit"):
        guard.set_limit(1.0)
    with pytest.raises(ValueError, match="set_limit"):
        LimitGuard().set_limit(math.nan)


@pytest.mark.parametrize(
    ("detector", "on", "finite_only"),
    [
        (LossSpike(), "loss", False),
        (LossSpikeRobust(), "loss", False),
        (LossSpike(metric="gradient_norm"), "gradient_norm", False),
        (GradientSpike(), "gradient_norm", False),
        (NonFinite(), "both", True),
    ],
)
def test_what_is_guarded_is_what_is_watched(detector: Detector, on: str, finite_only: bool) -> None:
    guard = detector.guard()
    assert isinstance(guard, LimitGuard) and guard is detector.guard()
    assert (guard.on, guard.finite_only) == (on, finite_only)


def test_what_is_known_only_after_an_update_cannot_be_skipped() -> None:
    assert AccuracyDrop().guard() is None and LossSpike(metric="val_loss").guard() is None
    with pytest.raises(ConfigError, match=r"detectors.loss_spike.respond=\[alert,skip\]: this detector cannot"):
        LossSpike(metric="val_loss", respond=["alert", "skip"])
    with pytest.raises(ConfigError, match=r"detectors.accuracy_drop.respond=\[skip\]: this detector cannot"):
        AccuracyDrop(respond=["skip"])


@pytest.mark.parametrize("new", [LossSpike, LossSpikeRobust])
def test_what_is_skipped_is_what_is_said(new: type[LossSpike] | type[LossSpikeRobust]) -> None:
    """At every step, wherever records end: the limit of both is that of the last record."""
    noise = random.Random(0)
    detector = new(cooldown=0, respond=["alert", "skip"])
    guard = detector.guard()
    assert guard is not None
    skipped, said, step = [], [], 0
    while step < 600:
        series = []
        for _ in range(noise.randint(1, 20)):
            step += 1
            loss = float(torch.tensor(2 + noise.gauss(0, 0.1) + (noise.random() < 0.05) * noise.uniform(0, 2)))
            if bad(guard, loss):
                skipped.append(step)
            series.append(loss)
        record = Record(step, 1, 0.0, {"train_loss": sum(series) / len(series)}, {}, {"train_loss": series})
        said += [event.step for event in detector.observe(record)]
    assert skipped == said
    assert len(said) > 5


def test_a_rise_that_stays_is_let_through_in_the_end() -> None:
    detector = LossSpikeRobust(respond=["skip"])
    guard = detector.guard()
    assert guard is not None
    noise = random.Random(0)
    let_through = []
    for step in range(1, 500):
        loss = (1.0 if step < 200 else 5.0) + noise.uniform(-0.1, 0.1)
        if step >= 200 and not bad(guard, loss):
            let_through.append(step)
        detector.observe(Record(step, 1, 0.0, {"train_loss": loss}))
    assert let_through == list(range(200 + LASTING, 500))


def test_a_skipped_update_leaves_everything_as_it_was() -> None:
    task = Regression()
    model = task.build_model()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    guard = LimitGuard("both")
    update = Update(optimizer, None, CPU, guards=[guard])

    def step() -> float:
        values, names, _ = update(task, model, [((task.x, task.y), 1.0)])
        return float(values[names.index("skipped")])

    assert step() == 0.0
    guard.set_limit(0.0)
    before = [*snapshot(model), *(value.clone() for state in optimizer.state.values() for value in state.values())]
    assert step() == 1.0
    after = [*snapshot(model), *(value for state in optimizer.state.values() for value in state.values())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    guard.set_limit(math.inf)
    assert step() == 0.0


def snapshot(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
