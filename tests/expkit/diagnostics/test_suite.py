"""When diagnostics are measured, what they may take of the time, and what happens to one that fails."""

from __future__ import annotations

import json
import math
import random
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expkit.diagnostics import Diagnostic, DiagnosticSuite
from expkit.diagnostics.budget import Cost, stretches
from expkit.errors import ConfigError
from expkit.schedule import Progress

MODEL = nn.Linear(2, 2)
EPOCH = 10


class Noting(Diagnostic):
    """Notes when it is asked, and for which part."""

    def __init__(self, interval: int | str, spread: bool = False, seconds: float = 0.0) -> None:
        self.interval, self.spread, self.seconds = interval, spread, seconds
        self.parts: list[tuple[int, int]] = []

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        assert not torch.is_grad_enabled()
        self.parts.append((part, parts))

    def measure(self, model: nn.Module) -> dict[str, Any]:
        assert not torch.is_grad_enabled()
        time.sleep(self.seconds)
        return {"parts": float(len(self.parts)), "list": [1, 2]}


class Plain(Diagnostic):
    """The least that a diagnostic is."""

    def measure(self, model: nn.Module) -> dict[str, Any]:
        return {"plain": 1, "it": 2}


def train(suite: DiagnosticSuite, steps: range, end: int = 0) -> list[int]:
    """Play the runner; return the steps in which something was measured."""
    measured = []
    for step in steps:
        ahead = Progress(step=step, epoch=step // EPOCH, epoch_ended=step % EPOCH == 0)
        look = suite.look_ahead(MODEL, ahead, step == end)
        if look is not None:
            look()
        if suite.due:
            suite.measure(MODEL, due=True)
            measured.append(step)
            suite.lengthen(suite.too_long())
    return measured


@pytest.mark.parametrize(
    ("interval", "steps"),
    [(7, [7, 14, 21]), ("log", [5, 10, 15, 20, 25, 27]), ("epoch", [10, 20, 27])],
)
def test_it_is_measured_in_its_interval(interval: int | str, steps: list[int]) -> None:
    diagnostic = Noting(interval)
    assert train(DiagnosticSuite({"a": diagnostic}, log_interval=5), range(1, 28), end=27) == steps
    assert diagnostic.parts == [(0, 1)] * len(steps)


def test_one_that_is_spread_does_a_part_in_each_step() -> None:
    diagnostic = Noting(4, spread=True)
    assert train(DiagnosticSuite({"a": diagnostic}), range(1, 10)) == [4, 8]
    assert diagnostic.parts == [(0, 4), (1, 4), (2, 4), (3, 4)] * 2 + [(0, 4)]


def test_at_the_end_of_epochs_there_is_nothing_to_spread() -> None:
    diagnostic = Noting("epoch", spread=True)
    assert train(DiagnosticSuite({"a": diagnostic}), range(1, 21)) == [10, 20]
    assert diagnostic.parts == [(0, 1)] * 2


def test_ordinary_steps_ask_nobody() -> None:
    suite = DiagnosticSuite({"a": Noting(4), "b": Plain()})
    assert suite.look_ahead(MODEL, Progress(step=3), last=False) is None
    assert not suite.due


def test_each_is_measured_in_its_own_interval_under_its_own_name() -> None:
    suite = DiagnosticSuite({"it": Plain(), "a": Noting(4)})
    assert train(suite, range(1, 13)) == [4, 8, 10, 12]
    metrics, details = suite.measure(MODEL)
    times = {metrics.pop("it/computation_time_ms"), metrics.pop("a/computation_time_ms")}
    assert all(took >= 0 for took in times)
    assert metrics == {"it/plain": 1, "it": 2, "a/parts": 3}  # what has the diagnostic's own name needs no other
    assert details == {"a/list": [1, 2]}


def test_with_the_log_it_is_measured_at_the_end_of_an_epoch_too() -> None:
    assert train(DiagnosticSuite({"a": Noting("log")}, log_interval=7), range(1, 23)) == [7, 10, 14, 20, 21]


def test_one_that_a_run_is_too_short_for_is_said(caplog: pytest.LogCaptureFixture) -> None:
    suite = DiagnosticSuite({"a": Noting(50), "b": Noting("log"), "c": Noting("epoch"), "d": Noting(20)})
    suite.start(20)
    (message,) = caplog.messages
    assert message.startswith("diagnostics.a is measured every 50 steps, but the run has 20: not once")


@pytest.mark.parametrize("interval", [0, -1, True, 2.5, "step", None])
def test_an_interval_that_cannot_be_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigError, match=rf"diagnostics\.a\.interval={interval}: a number of steps, or log, or epoch"):
        DiagnosticSuite({"a": Noting(interval)})


class Failing(Noting):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__(2)
        self.where = where

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        if self.where == "before_update":
            raise RuntimeError("no gradient")

    def measure(self, model: nn.Module) -> Any:
        if self.where == "measure":
            raise RuntimeError("no weight")
        return None if self.where == "nothing" else {}


class Careless(Diagnostic):
    """Looks at the model as one would who forgets that it trains."""

    interval = 2

    def before_update(self, model: nn.Module) -> None:
        torch.rand(3), random.random(), np.random.rand()

    def measure(self, model: nn.Module) -> dict[str, Any]:
        model.eval()
        return {"sum": float(model[0](torch.randn(4, 2)).sum()) + random.random() + np.random.rand()}


def test_one_that_draws_numbers_or_changes_the_mode_does_not_change_training() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    model[2].eval()  # kept so by its task
    suite = DiagnosticSuite({"careless": Careless()})
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    look = suite.look_ahead(model, Progress(step=2), last=False)
    assert look is not None
    look()
    assert "careless/sum" in suite.measure(model, due=True)[0]
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert [module.training for module in model.modules()] == [True, True, True, False]


@pytest.mark.parametrize("where", ["before_update", "measure", "nothing"])
def test_one_that_fails_is_said_once_and_the_others_go_on(where: str, caplog: pytest.LogCaptureFixture) -> None:
    other = Noting(2)
    assert train(DiagnosticSuite({"bad": Failing(where), "good": other}), range(1, 9)) == [2, 4, 6, 8]
    assert len(other.parts) == 4
    assert [message.split(" (")[0] for message in caplog.messages] == ["diagnostics.bad failed"]


def test_one_that_does_not_take_a_probe_or_its_own_state_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Choosy(Plain):
        def use_probe(self, forward: Any) -> None:
            raise RuntimeError("no probe")

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise KeyError("window")

    other = Noting(1)
    suite = DiagnosticSuite({"choosy": Choosy(), "other": other})
    suite.use_probe(lambda: lambda model: None)
    suite.load_state_dict({"choosy": {}, "other": {}})
    assert suite.measure(MODEL)[0].keys() >= {"choosy/it", "other/parts"}
    assert [re.sub(r", at \S+test_suite.py, line \d+", "", message) for message in caplog.messages] == [
        "diagnostics.choosy failed (RuntimeError: no probe): training goes on",
        "diagnostics.choosy begins anew: it does not take its own state (KeyError: 'window')",
    ]


def test_within_the_budget_nothing_changes(caplog: pytest.LogCaptureFixture) -> None:
    suite = DiagnosticSuite({"a": Noting(2, seconds=0.001)}, budget=0.9, grace=0)
    for step in range(1, 20):
        train(suite, range(step, step + 1))
        time.sleep(0.001)
    assert suite.multiples() == {}
    assert caplog.messages == []


def test_a_dear_one_is_measured_less_often_and_said(caplog: pytest.LogCaptureFixture) -> None:
    dear = Noting(2, seconds=0.02)
    suite = DiagnosticSuite({"dear": dear, "cheap": Noting(5)}, budget=0.3, grace=0)
    measured = []
    for step in range(1, 50):
        measured += train(suite, range(step, step + 1))
        time.sleep(0.01)
    multiple = suite.multiples()["dear"]["times"]
    assert 2 <= multiple <= 10, "as long as the training in between"
    assert "cheap" not in suite.multiples()
    assert measured[:2] == [2, 4], "the first call says little"
    assert len(dear.parts) < 20, "of 24 that were asked for"
    message = caplog.messages[-1]
    assert message.startswith(f"diagnostics.dear: measured every {2 * multiple} steps from here on, not")
    assert "trainer.diagnostics_budget=0.3" in message

    again = DiagnosticSuite({"dear": Noting(2), "cheap": Noting(5), "new": Noting(3)}, budget=0.05)
    again.load_multiples({**suite.multiples(), "gone": {"interval": 2, "times": 4}})
    assert again.multiples() == suite.multiples()


@pytest.mark.parametrize(("interval", "budget"), [(3, 0.05), ("log", 0.05), (2, None)])
def test_what_a_resume_asks_for_wins_over_a_longer_interval(interval: int | str, budget: float | None) -> None:
    suite = DiagnosticSuite({"dear": Noting(interval)}, budget)
    suite.load_multiples({"dear": {"interval": 2, "times": 4}})
    assert suite.multiples() == {}


def test_a_short_run_has_the_intervals_that_were_asked_for() -> None:
    suite = DiagnosticSuite({"dear": Noting(1, seconds=0.01)}, budget=0.05)
    assert train(suite, range(1, 11)) == [*range(1, 11)]


def test_without_a_budget_it_takes_what_it_takes() -> None:
    suite = DiagnosticSuite({"dear": Noting(1, seconds=0.01)}, grace=0)
    assert train(suite, range(1, 11)) == [*range(1, 11)]


def test_the_slowest_call_does_not_count() -> None:
    cost = Cost()
    cost.add(5.0, 1.0)
    assert cost.ratio is None, "the first call loads libraries"
    cost.add(0.01, 1.0)
    assert cost.ratio == pytest.approx(0.01)
    cost.add(0.03, 4.0)
    assert cost.ratio == pytest.approx(0.02 / 2)
    cost.clear()
    assert cost.ratio is None


@pytest.mark.parametrize(
    ("ratios", "factors"),
    [
        ({"a": 0.01, "b": 0.09}, {}),
        ({"a": 0.2}, {"a": 0.2 / 0.09}),
        ({"a": 0.01, "b": 0.5}, {"b": 0.5 / 0.08}),  # what is cheap keeps its interval
        ({"a": 0.5, "b": 0.5}, {"a": 0.5 / 0.045, "b": 0.5 / 0.045}),
        ({"a": 0.1, "b": 0.02, "c": 1.0}, {"a": 0.1 / 0.035, "c": 1.0 / 0.035}),
        ({}, {}),
    ],
)
def test_the_budget_is_shared(ratios: Mapping[str, float], factors: Mapping[str, float]) -> None:
    share = 0.1 / 1.1  # of all the time: a tenth of the time of training
    found = stretches(ratios, share)
    assert found == pytest.approx(factors)
    left = sum(ratio / found.get(name, 1.0) for name, ratio in ratios.items())
    assert left <= 0.1 * (1 + 1e-9)
    assert not any(math.isinf(factor) for factor in found.values())


def test_the_pages_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "diagnostics.md").read_text()
    blocks = re.findall(r"<!-- diagnostics: \w+ -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(block, names)
    entries = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [*range(10, 101, 10)]
    assert all(entry["norm"] > 0 and entry["update_ratio"] > 0 for entry in entries)
    assert names["metrics"]["blob/n_pairs_analyzed"] == 2048 and "blob/cluster_centers" in names["details"]
