"""Which metrics share a panel, and what people may pass as a metric."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from expkit.plots.curve import Curve
from expkit.plots.panels import evenly, group, make_panels, numbers


def test_training_and_validation_share_a_panel() -> None:
    names = ["val_accuracy", "learning_rate", "train_accuracy", "val_perplexity", "val_loss", "train_loss", "loss"]
    assert group(names) == {
        "accuracy": ["train_accuracy", "val_accuracy"],
        "learning_rate": ["learning_rate"],
        "val_perplexity": ["val_perplexity"],
        "loss": ["loss", "train_loss", "val_loss"],
    }


def test_colours_mean_the_same_in_every_panel_and_differ_in_one() -> None:
    curve = Curve([1], [1.0])
    groups = {"loss": ["loss", "train_loss", "val_loss"], "accuracy": ["train_accuracy", "val_accuracy"], "x": ["x"]}
    names = [name for members in groups.values() for name in members]
    panels = make_panels(groups, dict.fromkeys(names, curve))
    loss, accuracy, other = ([line.colour for line in panel.lines] for panel in panels)
    assert len(set(loss)) == 3
    assert accuracy == [loss[0], loss[-1]]
    assert other[0] not in accuracy


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (0.5, 0.5),
        (3, 3),
        (torch.tensor(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (None, None),
        ([], []),
        ([1, 0.5, True], [1, 0.5, 1]),
        ([0.5, 0.25], [0.5, 0.25]),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        (deque([1.0], 5), [1.0]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([0.5, 2.0], dtype=torch.bfloat16, requires_grad=True), [0.5, 2.0]),
        ([torch.tensor(0.5, requires_grad=True), torch.ones(1, 1)], [0.5, 1.0]),
        ([torch.tensor(2), np.float64(0.5), 1], [2, 0.5, 1]),
        ({"a": 1.0}.values(), [1.0]),
    ],
    ids=repr,
)
def test_numbers_of_many_kinds(values: Any, found: Any) -> None:
    assert numbers("x", values) == found


def test_a_missing_value_is_nan() -> None:
    found = numbers("x", [1.0, None])
    assert isinstance(found, list)
    assert found[0] == 1.0
    assert math.isnan(found[1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("text", "'x' holds str"),
        (["a"], "'x' holds str"),
        ([[1, 2]], "'x' holds list"),
        ({"a": 1.0}, "'x' holds dict"),
        (torch.ones(2, 3), r"'x' has shape \(2, 3\)"),
        ([torch.ones(2)], "'x' holds Tensor"),
        (object(), "'x' holds object"),
    ],
)
def test_what_is_no_curve_is_refused_by_name(values: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        numbers("x", values)


@pytest.mark.parametrize(
    ("count", "step", "steps"),
    [
        (4, 4, [1, 2, 3, 4]),
        (5, 4, [0, 1, 2, 3, 4]),
        (4, 40, [10, 20, 30, 40]),
        (1, 40, [40]),
        (9, 4, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),
        (3, 0, [1, 2, 3]),
        (0, 7, []),
    ],
)
def test_values_spread_evenly_and_end_at_the_step(count: int, step: int, steps: list[float]) -> None:
    assert list(evenly(count, step)) == steps
