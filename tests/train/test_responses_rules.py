"""What responses to detectors' events reckon with: batches, rates and limits, before there is a run."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from expkit.detectors.base import Event, Severity
from expkit.dist import Control, Dist
from expkit.guards import LimitGuard
from tests.conftest import Train
from tests.train.troubled import LossNan
from train.config.responses import ResponseSettings
from train.responses import Responder, Rewind, left_course, lower_as_rewinds, lowered, passes, rewinds
from train.restoring import _restore_schedule, restore_guards
from train.update import Update


@pytest.mark.parametrize("scheduled", [False, True])
def test_what_lower_lr_has_left_counts_until_another_is_typed(scheduled: bool) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0) if scheduled else None
    update = Update(optimizer, scheduler, torch.device("cpu"))
    update.scale_learning_rate(0.5)
    state = {"scheduler_state_dict": scheduler.state_dict() if scheduler is not None else None, "step": 3}
    for typed, left in ((0.1, 0.05), (0.08, 0.08), (0.1, 0.05)):
        before, now = ({"optimizer": {"lr": lr}, "scheduler": {}} for lr in (0.1, typed))
        _restore_schedule(update, state, before, now)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(left)
        update.scale_learning_rate(0.05 / left)


def test_a_rewind_without_checkpoints_is_a_mistake(train: Train) -> None:
    with pytest.raises(AssertionError, match=r"detectors\.nonfinite\.respond: a rewind needs checkpoints"):
        train("checkpoint=none", "detectors.nonfinite.respond=[rewind]")


def test_what_rewinds_pass_over() -> None:
    first, second, near = (Rewind(20, at, batches, 31, "nan", "") for at, batches in ((29, 4), (50, 2), (49, 3)))
    stored = {"resumes": [{"step": 5}, {"step": 20, "rewind": asdict(first)}, {"step": 25}]}
    assert passes({}) == {}
    assert passes(stored) == {29: 4}
    assert passes(stored, second) == {29: 4, 50: 2}
    stored["resumes"].append({"step": 20, "rewind": asdict(second)})
    assert passes(stored, near) == {29: 4, 49: 5}, "those of the place where the trouble has come again, too"
    assert passes({"parent": {"passes": [[7, 1]]}, **stored}) == {7: 1, 29: 4, 50: 2}
    assert rewinds(stored) == 2


def test_what_rewinds_lower_the_learning_rate_by() -> None:
    rewind = Rewind(20, 29, 4, 31, "nan", "", lr_factor=0.5)
    stored = {"resumes": [{"step": 20, "rewind": asdict(rewind)}, {"step": 25}], "parent": {"lr_factor": 0.1}}
    assert lowered({}) == 1
    assert lowered(stored) == 0.05
    assert lowered(stored, rewind) == 0.025
    resumes = stored["resumes"][:1]
    parameter = torch.nn.Parameter(torch.zeros(1))
    for step, before, rate, back in (
        (20, {}, 0.5, None),
        (21, {"lowered": 1.0}, 0.5, 20),
        (21, {"lowered": 0.5}, 1, None),
    ):
        state = {"step": step, "sampler_state": {"cursor": {"skipped": 0}}, "response_state": before}
        update = Update(torch.optim.SGD([parameter], 1.0), None, torch.device("cpu"))
        lower_as_rewinds(update, {"resumes": resumes}, state)
        assert update.learning_rate == rate
        assert left_course({"resumes": resumes}, state) == back, "trained at the rate of before"


@pytest.mark.parametrize(("step", "skipped", "back"), [(29, 0, None), (30, 0, 20), (30, 4, None)])
def test_a_checkpoint_of_the_course_that_a_rewind_has_left_is_told(step: int, skipped: int, back: int | None) -> None:
    stored = {"resumes": [{"step": 20, "rewind": asdict(Rewind(20, 29, 4, 31, "nan", ""))}]}
    state = {"step": step, "sampler_state": {"cursor": {"skipped": skipped}}}
    assert left_course(stored, state) == back
    assert left_course({"resumes": [*stored["resumes"], {"step": step}]}, state) is None
    assert left_course({}, state) is None


@pytest.mark.parametrize(
    ("around", "total", "batches"),
    [("auto", 60, 2), ("auto", 300, 6), ("auto", 10**6, 200), ("auto", None, 200), (7, 300, 7), (0, 300, 0)],
)
def test_how_many_batches_a_rewind_passes_over(around: int | str, total: int | None, batches: int) -> None:
    settings = ResponseSettings(rewind_skip=around)
    assert settings.batches_around(total) == batches
    responder = Responder(
        settings, {"d": LossNan(respond=["rewind"])}, Control(Dist()), print, lambda: [50, 250], lambda: [], 0, total
    )
    responder.take([Event("d", "nan", Severity.CRITICAL, 180, "")])
    (order,) = responder.state_dict()["orders"]
    rewind = order["rewind"]
    assert rewind["step"] == 50
    assert rewind["at"] < 180 <= rewind["at"] + rewind["batches"], "that of the trouble is one of them"
    assert rewind["batches"] == max(1, batches)
    assert rewind["at"] == 180 - max(1, -(-batches // 2)), "half of them before it"


@pytest.mark.parametrize(("now", "limit"), [("loss_spike", 3.0), ("gradient_spike", math.inf)])
def test_a_limit_is_not_taken_for_that_of_another_detector(now: str, limit: float) -> None:
    guard, parameter = LimitGuard(on="loss"), torch.nn.Parameter(torch.zeros(1))
    update = Update(torch.optim.SGD([parameter], 0.1, fused=True), None, torch.device("cpu"), guards=[guard])
    restore_guards(update, [{"limit": 3.0}], {"detectors": {"loss_spike": {}}}, {"detectors": {now: {}}})
    assert guard.limit == limit
