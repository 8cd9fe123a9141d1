"""The benchmark of a training step: all competitors do the same mathematics, and nothing is missing from the tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.harness import Comparison
from benchmarks.loop import BASELINE, OFF, ON, PEERS, Measured, Size, Tables, bare, competitors, goals
from benchmarks.ours import expkit_standard
from benchmarks.problem import Ready, make_batches, make_model
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import read_journal

STEPS = 128  # two epochs of the 64 batches that differ

TINY = Size("Tiny", width=16, batch=8, steps=STEPS, steps_on=STEPS, warmup=8, rounds=1)


def test_all_competitors_end_with_the_same_weights_and_have_a_row(tmp_path: Path) -> None:
    turns = competitors(TINY, tmp_path)
    expected, _ = make_model(TINY.width)
    expected.load_state_dict(turns[BASELINE]()[1].state_dict())
    samples: dict[str, list[float]] = {}
    for name, train in turns.items():
        batches, model = train()
        trained = model.state_dict()
        for parameter, value in expected.state_dict().items():
            assert torch.equal(value, trained[parameter]), f"{name}: {parameter}"
        wall, cpu = batches.per_step()
        assert wall > 0 and cpu > 0
        assert (0 < batches.beside < cpu) if name == ON else batches.beside == 0
        samples[name] = [wall]
    table = Measured("Tiny", Comparison("us", BASELINE, samples), Comparison("us", BASELINE, samples)).markdown()
    assert all(f"| {name} |" in table for name in turns)
    assert "*Everything on* adds" in table
    _check_that_everything_was_on(tmp_path)


def _check_that_everything_was_on(folder: Path) -> None:
    [config] = folder.glob("*/config.json")
    files = RunDir(config.parent)
    records = list(read_journal(files.metrics))
    assert [record["step"] for record in records] == [50, 64, 100, 128]
    assert "gradients/norm" in records[0]
    assert {"activations/1.relu/dead_share", "sparsity", "blob/n_clusters_dbscan", "val_loss"} <= {*records[1]}
    assert (files.checkpoints / "checkpoint_step_128.pt").exists()
    [delivered] = read_json(files.logs / "delivery.json").values()
    assert {name: found["step"] for name, found in delivered.items()} == {"wandb": 128, "trackio": 128}
    assert list(files.visualizations.glob("*.png"))


def test_goals_are_of_a_small_step_without_anything_and_of_a_long_training_with_everything() -> None:
    def measured(wall: dict[str, float]) -> Measured:
        table = Comparison("us", BASELINE, {name: [value] for name, value in wall.items()})
        return Measured("", table, table, beside=90.0)

    def said(off: float, on: float) -> list[bool]:
        small = measured({BASELINE: 200.0, OFF: 200.0 + off, **dict.fromkeys(PEERS, 230.0)})
        large = measured({BASELINE: 9000.0, OFF: 9000.0 - off})
        return [each.met for each in goals(Tables([small, large, measured({BASELINE: 9000.0, ON: 9000.0 + on})]))]

    assert said(29.0, 170.0) == [True, True, True]
    assert said(34.0, 190.0) == [True, False, False]
    assert said(36.0, 0.0) == [False, False, True]


def test_the_clock_runs_from_the_warm_up_to_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(moments)))
    monkeypatch.setattr("time.thread_time", lambda: 0.5)
    batches = Ready(make_batches(5), warmup=3, epochs=2)
    for _ in range(2):
        for _ in batches:
            next(moments)  # a step takes a second
    # Drawn at 3 and at 9 of ten: six steps, in which the clock is looked at once.
    assert batches.per_step() == (pytest.approx(7 / 6 * 1e6), 0.0)


def test_standard_parts_record_what_a_bare_loop_computes(tmp_path: Path) -> None:
    model, optimizer = make_model()
    batches = make_batches(120)
    bare(model, optimizer, Ready(batches[:-1]))
    inputs, classes = batches[-1]
    loss = torch.nn.functional.cross_entropy(model(inputs), classes).item()
    runner, close = expkit_standard(Ready(batches), tmp_path / "run")
    records = []
    runner._on_record = (*runner._on_record, records.append)
    assert runner.fit()
    close()
    assert [record.step for record in records] == [50, 100, 120]
    assert records[-1].series["train_loss"][-1] == loss
    assert (tmp_path / "run" / "logs" / "metrics.jsonl").read_bytes().count(b"\n") == 3
