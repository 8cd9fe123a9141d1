"""`expkit replay`: a run's journal, pictures and events in any tracker, once, whatever was there before."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb

from expkit.cli.main import main
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record
from expkit.replay import Replay
from expkit.wandb_data import read_offline
from tests.expkit.trackers import replay_stores as stores
from tests.expkit.trackers.test_recovery import Tool
from tests.expkit.trackers.wandb_server import wandb_server

ALL = "wandb,trackio,tensorboard"


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Call as `replay(RUN, "--to", ...)`: what `expkit replay` prints, with trackio's database in `tmp_path/db`."""
    monkeypatch.chdir(tmp_path)
    # trackio reads its folder once per process: the tests take the one of this process, and a project each.
    monkeypatch.setenv("WANDB_SILENT", "true")

    def call(*arguments: Any, code: int = 0) -> str:
        capfd.readouterr()
        assert main(["replay", *map(str, arguments)]) == code
        said = capfd.readouterr()
        if " sent to wandb" in said.out:
            stores.wait_for_wandb(tmp_path)
        return said.err if code else said.out

    return call


def trackio_of(query: Any, project: str, run: Path, tmp_path: Path) -> Any:
    """Return what the database of a project holds of a run."""
    folder = tmp_path / "copied"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in Path(os.environ["TRACKIO_DIR"]).glob(f"{project}.db*"):
        shutil.copy(file, folder)
    return stores.trackio(query, folder, run.name)


def same(stored: stores.Stored, wanted: stores.Stored, single: bool = False) -> bool:
    """Whether values and times are those of the journal; `single` precision is TensorBoard's."""
    assert sorted(stored) == sorted(wanted)
    for step, metrics in wanted.items():
        assert stored[step].keys() == metrics.keys(), step
        for name, (value, when) in metrics.items():
            found, then = stored[step][name]
            exact = float(np.float32(value)) if single else value
            assert found == exact or (found != found and value != value), (step, name)
            assert then == pytest.approx(when, abs=0.001), (step, name)
    return True


def test_every_value_step_and_time_arrives_once_in_each_tool(
    replay: Any, tmp_path: Path, trackio_query: Any, tensorboard_events: Any
) -> None:
    run = stores.make_run(tmp_path / "outputs", "whole", project="whole")
    said = replay(run, "--to", ALL)
    assert said.count("40 records, 2 pictures, 1 alert sent to") == 3
    wanted, others = stores.journal_of(run), {"images": 2, "alerts": 1}
    ledger = json.loads((run / "logs" / "delivery.json").read_text())
    assert all(ledger["whole"][name]["finished"] for name in ALL.split(","))
    for again in (False, True):
        if again:
            said = replay(run, "--to", ALL)
            assert said.count("has all 40 records: nothing sent") == 3
        held, counts = trackio_of(trackio_query, "whole", run, tmp_path)
        assert same(held, wanted) and counts == others
        held, counts = stores.tensorboard(tensorboard_events, run / "tensorboard")
        assert same(held, wanted, single=True) and counts == others
        held, counts = stores.wandb(run)
        assert same(held, wanted) and counts == others
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert not read_offline(run).system_names(), "this machine is not the one that trained"


def test_what_is_there_in_part_is_completed(
    replay: Any, tmp_path: Path, trackio_query: Any, tensorboard_events: Any
) -> None:
    short = stores.make_run(tmp_path / "short", "part", range(1, 16), project="part")
    (short / "visualizations" / "samples_step_40.png").unlink()
    replay(short, "--to", ALL)
    whole = stores.make_run(tmp_path / "outputs", "part", project="part")
    for name in ("wandb", "tensorboard"):
        shutil.copytree(short / name, whole / name, symlinks=True)
    plan = replay(whole, "--to", ALL, "--dry-run")
    assert "40 records, 2 pictures, 1 alert would be sent to wandb" in plan and plan.count("25 records") == 2
    assert replay(whole, "--to", ALL).replace(" sent to", " would be sent to").startswith(plan.splitlines()[0])
    wanted = stores.journal_of(whole)
    late = {"final/best_loss"}  # of the short run, at its end
    held, _ = trackio_of(trackio_query, "part", whole, tmp_path)
    for stored in (held, stores.tensorboard(tensorboard_events, whole / "tensorboard")[0]):
        assert {step: row.keys() - late for step, row in stored.items()} == {
            step: row.keys() - late for step, row in wanted.items()
        }
    assert same(stores.wandb(whole)[0], wanted)  # anew, and whole
    assert len(list((whole / "wandb").glob("superseded-offline-run-*"))) == 1
    assert len(list((whole / "wandb").glob("offline-run-*"))) == 1


def test_a_torn_wandb_folder_is_superseded_unless_it_was_uploaded(replay: Any, tmp_path: Path) -> None:
    run = stores.make_run(tmp_path / "outputs", "torn")
    replay(run, "--to", "wandb")
    (file,) = (run / "wandb").glob("offline-run-*/run-torn.wandb")
    file.write_bytes(file.read_bytes()[:-300])
    said = replay(run, "--to", "wandb")
    if "nothing sent" in said:  # the tear was behind the last row: cut deeper
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        replay(run, "--to", "wandb")
    assert same(stores.wandb(run)[0], stores.journal_of(run))
    (kept,) = (run / "wandb").glob("superseded-offline-run-*")
    assert (kept / file.name).exists()
    (new,) = (run / "wandb").glob("offline-run-*/run-torn.wandb")
    new.write_bytes(new.read_bytes()[: new.stat().st_size // 2])
    new.with_name(f"{new.name}.synced").touch()
    replay(run, "--to", "wandb")
    assert len(list((run / "wandb").glob("superseded-*"))) == 1, "what is uploaded stays"
    assert same(stores.wandb(run)[0], stores.journal_of(run))


def test_data_that_a_tool_has_lost_are_sent_again(replay: Any, tmp_path: Path, tensorboard_events: Any) -> None:
    run = stores.make_run(tmp_path / "outputs", "lost")
    replay(run, "--to", "tensorboard")
    shutil.rmtree(run / "tensorboard")
    assert "40 records, 2 pictures, 1 alert sent" in replay(run, "--to", "tensorboard")
    assert same(stores.tensorboard(tensorboard_events, run / "tensorboard")[0], stores.journal_of(run), single=True)


def test_the_order_is_that_of_the_run(tmp_path: Path) -> None:
    run = RunDir(stores.make_run(tmp_path / "outputs", "order"))
    order: list[tuple[str, int]] = []
    tool = Tool(lambda call, step: order.append((call, step)))  # type: ignore[func-returns-value, return-value]
    Replay(run, "tool", tool).send()
    assert order[9:13] == [("log", 9), ("log", 10), ("image", 10), ("log", 11)]
    assert order[-2:] == [("image", 40), ("finish", 0)]


def test_a_run_without_a_record_is_complete_once_it_was_sent(replay: Any, tmp_path: Path) -> None:
    run = stores.make_run(tmp_path / "outputs", "empty")
    for path in (run / "logs" / "metrics.jsonl", run / "logs" / "events.jsonl", *run.rglob("*.png")):
        path.unlink()
    assert "metrics.jsonl is not there, so there is nothing to send" in replay(run, "--to", "tensorboard", code=1)
    (run / "logs" / "metrics.jsonl").touch()
    assert "its end sent to tensorboard" in replay(run, "--to", "tensorboard")
    assert "has all 0 records: nothing sent" in replay(run, "--to", "tensorboard")


def test_a_part_that_was_deleted_is_noticed(replay: Any, tmp_path: Path, tensorboard_events: Any) -> None:
    run = stores.make_run(tmp_path / "outputs", "hole", range(1, 21))
    replay(run, "--to", "wandb,tensorboard")
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        for step in range(21, 31):
            journal.write(Record(step, 1, 1.7e9 + step, {"loss": 1.0 / step, "odd": 1.0}))
    replay(run, "--to", "tensorboard")
    first, _ = sorted((run / "tensorboard").iterdir())
    first.unlink()
    said = replay(run, "--to", "tensorboard")
    assert "20 records sent" in said, said
    steps = [event.step for event in tensorboard_events(run / "tensorboard").Scalars("loss")]
    assert sorted(steps) == list(range(1, 31))


def test_what_was_delivered_later_does_not_count_as_undelivered(replay: Any, tmp_path: Path) -> None:
    run = stores.make_run(tmp_path / "outputs", "counted", range(1, 6))
    file = run / "status.json"
    trouble = {"failures": 1, "undelivered": 5, "last_error": "log: OSError"}
    status = json.loads(file.read_text())
    file.write_text(json.dumps(status | {"trackers": {"tensorboard": trouble, "wandb": trouble}}))
    os.utime(file, (1e9, 1e9))
    before = file.read_bytes()
    replay(run, "--to", "tensorboard", "--dry-run")
    assert file.read_bytes() == before
    replay(run, "--to", "tensorboard")
    assert json.loads(file.read_text())["trackers"] == {"tensorboard": trouble | {"undelivered": 0}, "wandb": trouble}
    assert file.stat().st_mtime == 1e9, "the run is not the newest for that"


def test_a_name_that_is_a_number_is_a_name(replay: Any, tmp_path: Path) -> None:
    run = stores.make_run(tmp_path / "outputs", "number")
    assert "to wandb" in replay(run, "--to", "wandb", "wandb.project=7", "wandb.system_metrics=false", "--dry-run")


def test_an_online_run_that_was_written_offline_is_not_on_the_server(
    replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stores.make_run(tmp_path / "outputs", "fallback", range(1, 6))
    for path in run.rglob("*.png"):
        path.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    online = ("--to", "wandb", "wandb.mode=online", "wandb.init_timeout=1", "wandb.system_metrics=false")
    assert "5 records, 1 alert sent to wandb" in replay(run, *online)
    (written,) = (run / "wandb").glob("*run-*-fallback")
    assert written.name.startswith("offline-run-")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()  # it keeps the address of its first run
        assert "5 records, 1 alert sent to wandb" in replay(run, *online)
        assert [row["_step"] for row in server.rows if "loss" in row] == [1, 2, 3, 4, 5]
        assert "has all 5 records: nothing sent" in replay(run, *online)
        assert not list((run / "wandb").glob("offline-run-*")), "expkit sync must not upload it a second time"
        wandb.teardown()


CSV = """
from pathlib import Path
from expkit.trackers import Tracker

class Lines(Tracker):
    def __init__(self, path):
        self.path = path

    def log(self, record):
        with Path(self.path).open("a") as file:
            file.write(f"{record.step}\\n")
"""


def test_a_tracker_of_ones_own_is_the_one_that_the_run_had(
    replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_lines.py").write_text(CSV)
    monkeypatch.setattr("sys.path", [each for each in sys.path if each])
    run = stores.make_run(tmp_path / "outputs", "own", range(1, 6))
    stored = json.loads((run / "config.json").read_text())
    stored["config"]["tracker"] = {"lines": {"_target_": "own_lines.Lines", "path": str(tmp_path / "steps.txt")}}
    (run / "config.json").write_text(json.dumps(stored))
    assert "lines is a tracker of your own: --to package.module:Class sends to it" in replay(run, code=1)
    for _ in range(2):
        replay(run, "--to", "own_lines:Lines")
    assert (tmp_path / "steps.txt").read_text().split() == ["1", "2", "3", "4", "5"]
    assert list(json.loads((run / "logs" / "delivery.json").read_text())["own"]) == ["lines"]
