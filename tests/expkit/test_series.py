"""Every step's values, copied once per log step: on the CPU numbers, elsewhere a buffer, which is tried on the CPU."""

from __future__ import annotations

import warnings

import pytest
import torch

from expkit.dist import Dist
from expkit.series import DeviceRows, StepSeries, merge_states

CPU = torch.device("cpu")


@pytest.fixture(params=["numbers", 1, 3, 64], autouse=True)
def rows_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numbers, or in a buffer of so many rows at first."""
    if request.param != "numbers":
        monkeypatch.setattr("expkit.series.HostRows", lambda width: DeviceRows(width, CPU, request.param))


def row(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_a_drain_returns_every_step_since_the_last_one() -> None:
    series = StepSeries(["loss", "correct"], CPU, averaged=["loss"])
    series.push(row(0.5, 3.0), count=4)
    series.push(row(0.25, 4.0), count=2)
    assert len(series) == 2
    assert series.drain() == ({"loss": [0.5, 0.25], "correct": [3.0, 4.0]}, [4, 2])
    assert series.drain() == ({"loss": [], "correct": []}, [])
    series.push(row(1.0, 1.0), count=1)
    assert series.drain() == ({"loss": [1.0], "correct": [1.0]}, [1])


def test_any_number_of_steps_may_pass_between_drains() -> None:
    series = StepSeries(["loss"], CPU)
    for step in range(200):
        series.push(row(float(step)), count=1)
    table, counts = series.drain()
    assert table["loss"] == list(map(float, range(200)))
    assert counts == [1] * 200


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_sums_may_have_another_dtype_than_the_loss(dtype: torch.dtype) -> None:
    series = StepSeries(["loss", "correct"], CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series.push([torch.tensor(0.1), torch.tensor(1, dtype=dtype)], count=1)
    table, _ = series.drain()
    assert table == {"loss": [torch.tensor(0.1).item()], "correct": [1.0]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_all_values_may_have_another_dtype_than_float32(dtype: torch.dtype) -> None:
    series = StepSeries(["a", "b"], CPU)
    series.push([torch.tensor(2, dtype=dtype), torch.tensor(3, dtype=dtype)], count=1)
    assert series.drain()[0] == {"a": [2.0], "b": [3.0]}


def test_nan_and_infinities_are_values() -> None:
    series = StepSeries(["loss"], CPU)
    for value in (float("nan"), float("inf"), 1.0):
        series.push(row(value), count=1)
    losses = series.drain()[0]["loss"]
    assert losses[0] != losses[0]
    assert losses[1:] == [float("inf"), 1.0]


def test_what_was_drained_does_not_change_when_the_buffer_is_used_again() -> None:
    series = StepSeries(["loss"], CPU)
    series.push(row(1.0), count=1)
    table, counts = series.drain()
    series.push(row(2.0), count=5)
    assert (table, counts) == ({"loss": [1.0]}, [1])


@pytest.mark.parametrize("rows", [0, 1, 5, 100])
def test_state_goes_on_where_it_was(rows: int) -> None:
    before = StepSeries(["loss", "correct"], CPU)
    for step in range(rows):
        before.push(row(float(step), 1.0), count=step)
    state = before.state_dict()
    before.push(row(99.0, 99.0), count=99)  # the state is a copy
    after = StepSeries(["loss", "correct"], CPU)
    after.load_state_dict(state)
    assert len(after) == rows
    after.push(row(7.0, 1.0), count=7)
    table, counts = after.drain()
    assert table == {"loss": [*map(float, range(rows)), 7.0], "correct": [1.0] * (rows + 1)}
    assert counts == [*range(rows), 7]


def test_state_is_what_a_checkpoint_may_hold() -> None:
    from expkit.checkpoints.state import check_loadable

    series = StepSeries(["loss"], CPU)
    series.push(row(1.0), count=1)
    check_loadable(series.state_dict(), "series")


def test_state_of_other_columns_is_dropped() -> None:
    before = StepSeries(["loss", "gradient_norm"], CPU)
    before.push(row(1.0, 2.0), count=1)
    after = StepSeries(["loss"], CPU)
    after.load_state_dict(before.state_dict())
    assert after.drain() == ({"loss": []}, [])


class Others(Dist):
    """A rank of two, to whose tables those of the other are added."""

    def __init__(self, tables: list[torch.Tensor]) -> None:
        super().__init__(len(tables), 2)
        self._tables = tables

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self._tables.append(tensor.clone())
        return tensor.copy_(torch.stack(self._tables).sum(dim=0))


def test_several_processes_pending_series_are_one_processes() -> None:
    """Merged, they give what the processes would have drained together: means by samples, and sums."""
    nan = float("nan")
    steps = [
        [(row(1.0, 3.0), 3), (row(5.0, 1.0), 1)],
        [(row(2.0, 0.0), 1), (row(4.0, 2.0), 3)],
        [(row(0.0, 0.0), 0), (row(nan, 2.0), 2)],
    ]
    every = [StepSeries(["loss", "correct"], CPU, averaged=["loss"]) for _ in range(2)]
    for step in steps:
        for series, (values, count) in zip(every, step, strict=True):
            series.push(values, count)
    merged = StepSeries(["loss", "correct"], CPU, averaged=["loss"])
    merged.load_state_dict(merge_states([each.state_dict() for each in every], ["loss"]))
    tables: list[torch.Tensor] = []
    every[0].drain(Others(tables))
    together, counts = every[1].drain(Others(tables))
    table, merged_counts = merged.drain()
    assert counts == merged_counts == [4, 4, 2]
    assert table["loss"] == pytest.approx([2.0, 3.5, nan], nan_ok=True)
    assert together["loss"] == pytest.approx(table["loss"], nan_ok=True)
    assert together["correct"] == table["correct"] == [4.0, 2.0, 2.0]


def test_what_a_process_without_samples_has_does_not_count() -> None:
    states = [{"names": ["loss"], "rows": torch.tensor([[x]]), "counts": [n]} for x, n in ((float("nan"), 0), (2.0, 3))]
    merged = merge_states(states, ["loss"])
    assert (merged["rows"].tolist(), merged["counts"]) == ([[2.0]], [3])
