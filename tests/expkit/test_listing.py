"""Runs in a list: states without reading journals, values of columns, conditions, and what is no run."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.errors import UserError
from expkit.listing.columns import check_names, main_metric, shown, value_of
from expkit.listing.entry import RunEntry
from expkit.listing.filters import parse_filter
from expkit.listing.scan import scan
from expkit.listing.selected import option_of
from expkit.nested import MISSING
from expkit.reading.feed import RunFeed
from expkit.reading.state import StateReader
from expkit.standing import standing

#: No process has it: pids end at 2**22.
GONE = 2**22 + 1


def make(root: Path, status: Any = None, config: Any = None, results: Any = None, records: int = 0) -> Path:
    """Make a run directory."""
    (root / "logs").mkdir(parents=True)
    for name, content in (("status", status), ("config", config), ("results", results)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (root / f"{name}.json").write_text(text)
    if records:
        lines = [{"step": step, "time": time.time(), "loss": 1 / step} for step in range(1, records + 1)]
        (root / "logs" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def status(state: str, **fields: Any) -> dict[str, Any]:
    """Return what a status.json says."""
    here = {"host": platform.node(), "pid": os.getpid(), "heartbeat_time": time.time()}
    return {"state": state, "step": 5, "total_steps": 10, **here, **fields}


def only(outputs: Path) -> RunEntry:
    """Return the one run of a folder."""
    [found] = scan(outputs)
    return found


CASES = {
    "finished": ({"status": status("finished")}, "finished"),
    "preempted": ({"status": status("preempted")}, "preempted"),
    "starting": ({"status": status("starting")}, "starting"),
    "running": ({"status": status("running"), "records": 3}, "running"),
    "dead": ({"status": status("running", pid=GONE), "records": 7}, "crashed"),
    "elsewhere": ({"status": status("running", host="node7", heartbeat_time=time.time() - 100)}, "crashed"),
    "own loop": ({"config": {}, "records": 3}, "running"),
    "results alone": ({"results": {"final_metrics": {"val_loss": 2.0}}}, "finished"),
    "nothing yet": ({"config": {}}, "unknown"),
}


@pytest.mark.parametrize("case", CASES)
def test_list_and_monitor_judge_alike(case: str, tmp_path: Path) -> None:
    arguments, expected = CASES[case]
    make(tmp_path / "outputs" / "run", **arguments)
    entry = only(tmp_path / "outputs")
    assert entry.state == expected and entry.problem == ""
    feed = RunFeed(entry.run, index=False)
    feed.refresh()
    seen = StateReader(feed).read().state
    feed.close()
    assert seen == expected or (case == "results alone" and seen == "unknown")  # it has no history to draw


def test_a_run_whose_process_lives_and_writes_no_record_is_stalled(tmp_path: Path) -> None:
    root = make(tmp_path / "outputs" / "run", status("running"), records=3)
    os.utime(root / "logs" / "metrics.jsonl", (time.time() - 40, time.time() - 40))
    assert only(tmp_path / "outputs").state == "stalled"
    slow = [{"step": step, "time": 1000.0 + 10 * step} for step in range(5)]
    (root / "logs" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    os.utime(root / "logs" / "metrics.jsonl", (time.time() - 40, time.time() - 40))
    assert only(tmp_path / "outputs").state == "running", "a record each 10 s: 40 s say nothing"


def test_a_state_that_nobody_knows_is_unknown() -> None:
    assert standing({"state": "dancing"}) == "unknown"


def test_the_step_of_a_killed_run_is_its_journals(tmp_path: Path) -> None:
    root = make(tmp_path / "outputs" / "run", status("running", pid=GONE), records=7)
    with (root / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "ti')  # torn by the kill
    assert only(tmp_path / "outputs").step == 7


def test_the_metrics_of_a_killed_run_are_its_journals(tmp_path: Path) -> None:
    heartbeat = status("running", pid=GONE, metrics={"loss": 0.5, "val_loss": 0.9, "gpu/0/power_w": 100.0})
    results = {"final_metrics": {"best_val_loss": 0.8}}
    root = make(tmp_path / "outputs" / "run", heartbeat, results=results, records=7)
    with (root / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "time": 1.0, "loss": 0.1, "val_loss": 0.25}\n{"step": 9, "time": 2.0, "loss": 0.125}\n')
    run = only(tmp_path / "outputs")
    found = {name: value_of(run, name) for name in ("loss", "val_loss", "best_val_loss", "gpu/0/power_w")}
    assert found == {"loss": 0.125, "val_loss": 0.25, "best_val_loss": 0.25, "gpu/0/power_w": 100.0}


def test_of_a_killed_run_nothing_is_read_that_its_heartbeat_has_said(tmp_path: Path) -> None:
    """A loop of somebody's own that went back: what is before the heartbeat's step again is older than it."""
    heartbeat = status("running", pid=GONE, step=4, metrics={"loss": 0.5})
    root = make(tmp_path / "outputs" / "run", heartbeat, records=7)
    with (root / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.5}\n{"step": 5, "time": 1.0, "acc": 0.75}\n')
    run = only(tmp_path / "outputs")
    assert (run.step, run.metrics) == (5, {"loss": 0.5, "acc": 0.75})


def test_a_resume_that_trained_nothing_has_the_metrics_of_the_journal(tmp_path: Path) -> None:
    make(tmp_path / "outputs" / "run", status("finished", metrics={}), records=5)
    assert only(tmp_path / "outputs").newest_metrics == {"loss": 0.2}


@pytest.mark.parametrize(
    ("group", "target", "name"),
    [
        ("optimizer", "torch.optim.Adam", "adam"),
        ("optimizer", "torch.optim.AdamW", "adamw"),
        ("optimizer", "train.optim.sgld.SGLD", "sgld"),
        ("task", "train.tasks.gpt.GPTTask", "gpt"),
        ("task.model", "TwoLayerNet", "two_layer_net"),
    ],
)
def test_an_option_of_which_the_class_is_known_has_its_name(group: str, target: str, name: str) -> None:
    assert option_of(group, target) == name


@pytest.mark.parametrize("broken", ["{", "[]", ""])
def test_half_written_runs_are_listed_as_such(tmp_path: Path, broken: str) -> None:
    outputs = tmp_path / "outputs"
    make(outputs / "damaged", broken, config={})
    make(outputs / "half", config=broken)
    make(outputs / "whole", status("finished"), config=broken)
    (outputs / "notes").mkdir()
    (outputs / "notes.txt").touch()
    found = {run.name: run for run in scan(outputs)}
    assert {name: run.state for name, run in found.items()} == {
        "damaged": "unreadable", "half": "unreadable", "whole": "finished",
    }  # fmt: skip
    assert found["half"].problem.startswith("config.json ")
    assert value_of(found["whole"], "seed") is MISSING and found["whole"].problem.startswith("config.json ")


def test_what_stands_below_a_sweeps_folder_belongs_to_the_list(tmp_path: Path) -> None:
    for number in range(2):
        make(tmp_path / "outputs" / "sweep" / str(number), status("finished"))
    make(tmp_path / "outputs" / "sweep" / "deep" / "er", status("finished"))
    make(tmp_path / "outputs" / "plain", status("finished"))
    (tmp_path / "outputs" / "dangling").symlink_to("nowhere")
    assert sorted(run.name for run in scan(tmp_path / "outputs")) == ["plain", "sweep/0", "sweep/1"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        scan(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        scan(tmp_path / "file")
    with pytest.raises(UserError, match="is a run itself: expkit show"):
        scan(make(tmp_path / "run", status("finished")))


CONFIG = {
    "seed": 7,
    "git_hash": "abc",
    "overrides": ["optimizer=adamw", "+trainer.x=1"],
    "config": {
        "task": {"_target_": "train.tasks.denoise.DenoiseTask"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001, "betas": [0.9, 0.99]},
        "tracker": {"wandb": {"_target_": "x"}, "trackio": {"_target_": "y"}},
        "trainer": {"compile": False},
    },
}


@pytest.fixture
def entry(tmp_path: Path) -> RunEntry:
    metrics = {"val_loss": 1.5, "val_psnr": None, "final/best_val_loss": 1.25}
    started = {"timestamp": "2026-01-01T12:00:00+00:00"}
    beat = 1767268800.0 + 7200  # two hours later
    make(
        tmp_path / "outputs" / "run",
        status("finished", metrics=metrics, heartbeat_time=beat),
        {**CONFIG, **started},
        {"final_metrics": {"best_step": 4, "total_time_seconds": 2.5}},
    )
    return only(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "run"),
        ("progress", 0.5),
        ("duration", 7200.0),
        ("seed", 7),
        ("task", "denoise"),
        ("optimizer", "adamw"),
        ("tracker", "wandb,trackio"),
        ("optimizer.lr", 0.001),
        ("trainer.compile", False),
        ("git_hash", "abc"),
        ("val_loss", 1.5),
        ("best_val_loss", 1.25),
        ("best_step", 4),
        ("nothing", MISSING),
        ("optimizer.nothing.more", MISSING),
    ],
)
def test_a_column_is_one_of_ours_a_key_or_a_metric(entry: RunEntry, name: str, value: Any) -> None:
    assert value_of(entry, name) == value


def test_a_metric_that_is_not_finite_is_nan(entry: RunEntry) -> None:
    value = value_of(entry, "val_psnr")
    assert value != value


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("state=finished", True),
        ("state=running,finished", True),
        ("state!=finished", False),
        ("task=denoise", True),
        ("task=Denoise", True),
        ("task=gpt", False),
        ("optimizer.lr=1e-3", True),
        ("optimizer.lr>0.0005", True),
        ("optimizer.lr >= 0.001", True),
        ("optimizer.lr<0.001", False),
        ("val_loss<2", True),
        ("val_psnr<2", False),
        ("val_psnr>2", False),
        ("val_psnr=nan", True),
        ("nothing=1", False),
        ("nothing!=1", True),
        ("nothing<1", False),
        ("run~RU", True),
        ("run!~ru", False),
        ("trainer.compile=false", True),
        ("trainer.compile=0", False),
        ("duration>1.5h", True),
        ("duration>2d", False),
        ("started>1d", True),
        ("started<1h", False),
        ("optimizer.betas~0.99", True),
        ("overrides~=adamw", True),
        ("optimizer.betas=[0.9,0.99]", True),
        ("tracker=wandb,trackio", True),
        ("tracker!=wandb,trackio", False),
        ("progress<60%", True),
        ("progress>60%", False),
    ],
)
def test_conditions(entry: RunEntry, text: str, matches: bool) -> None:
    assert parse_filter(text).matches(entry) is matches


@pytest.mark.parametrize(
    "text", ["", "state", "=1", "lr>", "lr>much", "lr<nan", "duration>2y", "progress>5%%", "__import__('os')"]
)
def test_what_is_no_condition_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--filter") as caught:
        parse_filter(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("moment", "says"), [(99.5, "0 s ago"), (100.5, "0 s ago"), (-200.0, "5 min ago"), (1e300, "1e+300"), (None, None)]
)
def test_how_long_ago_is_told_whatever_clocks_say(moment: float | None, says: str | None) -> None:
    assert shown("active", moment, now=100.0) == says


def test_a_column_that_no_run_has_is_refused_with_what_was_meant(entry: RunEntry) -> None:
    check_names(["optimizer.lr", "run"], [entry], "--sort")
    with pytest.raises(UserError, match="--sort lr: no run here has it; did you mean optimizer"):
        check_names(["lr"], [entry], "--sort")
    with pytest.raises(UserError, match="did you mean val_loss"):
        check_names(["val_los"], [entry], "--sort")


def test_the_main_metric_is_the_best_of_what_is_validated(entry: RunEntry, tmp_path: Path) -> None:
    assert main_metric([entry]) == "best_val_loss"
    make(tmp_path / "own" / "run", records=2)
    assert main_metric(scan(tmp_path / "own")) == "loss"
    assert main_metric([]) is None


def test_a_best_value_older_than_the_last_one_gives_way(tmp_path: Path) -> None:
    results = {"final_metrics": {"best_val_loss": 2.0, "best_val_accuracy": 50.0}}
    make(tmp_path / "o" / "r", status("failed", metrics={"val_loss": 1.5, "val_accuracy": 40.0}), results=results)
    entry = only(tmp_path / "o")
    assert (value_of(entry, "best_val_loss"), value_of(entry, "best_val_accuracy")) == (1.5, 50.0)


def test_times_for_people() -> None:
    assert shown("duration", 7200.0) == "2 h"
    assert shown("active", 1000.0, now=1090.0) == "90 s ago"
    assert shown("started", 1000.0, now=1e9) == "1970-01-01"
    assert shown("seed", 3) == 3
