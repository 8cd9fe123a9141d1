"""Rank 0 of several looks at the whole model, and alone writes: what is left of a run is as of one process."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sklearn.cluster  # noqa: F401 - what the diagnostic imports: here, and not in each rank

from expkit.journal import read_journal, stable
from tests.train.launching import launched, task_option
from tests.train.watched_task import WatchedTask

SMALL = (
    *("plots=noting", "tracker=noting", "diagnostics=gradients,blob", "detectors=[]", "gpu.enabled=false"),
    *("trainer.device=cpu", "trainer.threads=1", "trainer.batch_size=8", "trainer.max_steps=11", "optimizer=sgd"),
    *("trainer.log_interval=4", "optimizer.lr=0.1", "trainer.clip_grad_norm=0.1", "diagnostics.blob.interval=5"),
    *("trainer.deterministic=true", "checkpoint.save_interval=5"),
)


class Left(NamedTuple):
    """What there is after a run."""

    run: Path
    journal: list[dict[str, Any]]
    seen: list[dict[str, Any]]
    tracked: list[str]

    @property
    def results(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "results.json").read_text()))

    def noted(self, what: str) -> list[dict[str, Any]]:
        return [line[what] for line in self.seen if what in line]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Left]:
    """Call with a number of processes and a strategy: what its run has left, which is made once."""
    folder = tmp_path_factory.mktemp("watched")
    typed = task_option(folder, "watched", WatchedTask)
    for group, kind in (("plots", "NotingPlot"), ("tracker", "NotingTracker")):
        (folder / "conf" / group).mkdir()
        text = f"# @package {group}.noting\n_target_: tests.train.watched_task.{kind}\nfile: ''\n"
        (folder / "conf" / group / "noting.yaml").write_text(text)

    @functools.cache
    def made(count: int, strategy: str) -> Left:
        name = f"{strategy}{count}"
        seen, tracked = folder / f"seen.{name}", folder / f"tracked.{name}"
        files = (f"plots.noting.file={seen}", f"tracker.noting.file={tracked}")
        ranks = launched(
            folder / "outputs", *typed, *SMALL, *files, f"run.id={name}", f"trainer.strategy={strategy}", count=count
        )
        assert [each.code for each in ranks] == [0] * count, ranks[0].said
        assert all(each.said == "" for each in ranks[1:])
        run = folder / "outputs" / name
        journal = [stable(entry) for entry in read_journal(run / "logs" / "metrics.jsonl")]
        lines = [json.loads(line) for line in seen.read_text().splitlines()]
        return Left(run, journal, lines, tracked.read_text().splitlines())

    return made


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two nested structures differ, numbers by more than float tolerance."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, pair in pairs for found in differences(*pair, f"{where}/{place}")]
    same = one == other
    if isinstance(one, float) and isinstance(other, float):
        same = math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return [] if same else [f"{where}: {one} {other}"]


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_who_looks_at_the_model_sees_what_one_process_shows(left: Callable[..., Left], strategy: str) -> None:
    alone, spread = left(1, "auto"), left(2, strategy)
    names = {name for entry in alone.journal for name in entry}
    assert {"gradients/norm", "blob/decoder_std", "size_encoder.weight"} <= names, names
    assert differences(alone.journal, spread.journal) == []
    gradients, of_alone = (each.noted("gradients") for each in (spread, alone))
    assert len(of_alone) == 4, "at every third step, and the last"
    assert differences(of_alone, gradients) == []
    weights, of_alone = (each.noted("weights") for each in (spread, alone))
    assert len(of_alone) == 4
    if strategy == "fsdp":  # the whole is put together when all ranks next hear of it, and at the end
        weights, of_alone = weights[-1:], of_alone[-1:]
    assert differences(of_alone, weights) == []
    samples, shown = (
        json.loads((each.run / "results.json").read_text())["generation_samples"] for each in (spread, alone)
    )
    assert len(samples) == 6 and samples == pytest.approx(shown, abs=2e-3)


def contents(run: Path) -> set[str]:
    """Return the names of all files below a run directory."""
    return {str(file.relative_to(run)) for file in run.rglob("*") if not file.is_dir()}


def test_rank_0_alone_writes(left: Callable[..., Left]) -> None:
    alone, ddp, fsdp = left(1, "auto"), left(2, "ddp"), left(2, "fsdp")
    assert contents(ddp.run) == contents(alone.run)
    shards = "checkpoints/checkpoint_step_"
    folders = {name for name in contents(fsdp.run) if not name.startswith("checkpoints/")}
    assert folders == {name for name in contents(alone.run) if not name.startswith("checkpoints/")}
    assert any(name.startswith(shards) and "/" in name.removeprefix(shards) for name in contents(fsdp.run))
    for each in (alone, ddp, fsdp):
        assert [line.partition(" ")[0] for line in each.tracked].count("made") == 1, "in one process alone"
        assert each.tracked[1:] == [f"step {entry['step']}" for entry in each.journal]
