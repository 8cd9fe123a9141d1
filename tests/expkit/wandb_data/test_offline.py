"""The reader of W&B's own files: against runs that W&B wrote, W&B's own reader, and every way to tear a file."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expkit.errors import UserError
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from expkit.trackers.wandb import WandbTracker
from expkit.wandb_data import offline_runs, read_offline
from expkit.wandb_data.log_file import LogFile
from tests.expkit.trackers.conftest import clean_environment
from tests.expkit.wandb_data import log_writer


def judge(path: Path) -> list[dict[str, Any]]:
    """What W&B's own reader finds in a file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def number(value: Any) -> Any:
    """Undo W&B's spelling of what JSON lacks."""
    return {"NaN": "nan", "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that W&B itself has written, of several blocks, with all that a row can hold."""
    import wandb

    folder = tmp_path_factory.mktemp("outputs") / "recorded"
    folder.mkdir()
    settings = wandb.Settings(silent=True, console="off", x_disable_meta=True, x_stats_sampling_interval=0.2)
    config = {"run_name": "mine", "optimizer": {"lr": 0.1}}
    run = wandb.init(
        mode="offline", dir=folder, project="p", entity="e", id="abc", name="shown", config=config, settings=settings
    )
    run.config.update({"late": [1, 2]})
    run.config.update({"optimizer": {"lr": 0.2}}, allow_val_change=True)
    for step in range(0, 900, 3):
        odd = {1: math.nan, 2: math.inf, 0: -math.inf}[step // 3 % 3]
        run.log({"loss": 1 / (step + 1), "odd": odd, "deep": {"er": {"x": step}}, "text": "ä" * 90}, step=step)
    run.log({"huge": "x" * 100_000}, step=900)
    run.summary["best"] = {"loss": 0.5}
    run.summary["gone"] = 1
    del run.summary["gone"]
    run.finish(exit_code=3)
    return folder


def test_every_record_is_what_wandbs_own_reader_finds(recorded: Path) -> None:
    run = read_offline(recorded)
    (file,) = run.parts
    assert file.stat().st_size > 4 * log_writer.BLOCK
    theirs = judge(file)
    rows = [entry["history"]["item"] for entry in theirs if entry["type"] == "history"]
    ours = [{key: "nan" if value != value else value for key, value in row.items()} for row in run.history]
    assert ours == [{key: number(value) for key, value in row.items()} for row in rows]
    assert [row["_step"] for row in ours] == list(range(0, 901, 3))
    system = [entry["stats"]["item"] for entry in theirs if entry["type"] == "stats"]
    assert [{key: row[key] for key in row if key != "_timestamp"} for row in run.system] == system and system
    assert all(1.7e9 < row["_timestamp"] < 4e9 for row in run.system)
    assert run.torn == 0 and len(list(LogFile(file))) == len(theirs)


def test_a_run_says_what_it_is(recorded: Path) -> None:
    run = read_offline(recorded)
    assert (run.id, run.name, run.project, run.entity, run.state) == ("abc", "shown", "p", "e", "failed")
    assert run.config == {"run_name": "mine", "optimizer": {"lr": 0.2}, "late": [1, 2]}
    assert run.summary["best"] == {"loss": 0.5} and run.summary["deep"] == {"er": {"x": 897}}
    assert run.summary["_step"] == 900 and "gone" not in run.summary
    assert run.names() == sorted(["_runtime", "_step", "_timestamp", "deep.er.x", "huge", "loss", "odd", "text"])
    assert "memory_percent" in run.system_names()
    assert [row for row in run.metrics(["loss", "huge"])][-2:] == [
        {"_step": 897, "loss": 1 / 898},
        {"_step": 900, "huge": "x" * 100_000},
    ]


def test_the_same_run_is_found_from_every_path_that_a_user_has(recorded: Path) -> None:
    (file,) = read_offline(recorded).parts
    for path in (file, file.parent, recorded / "wandb", recorded, recorded.parent):
        assert read_offline(path).parts == (file,), path


def test_the_test_files_are_such_that_wandbs_own_reader_takes_them(tmp_path: Path) -> None:
    rows = [{"x": float(step), "text": "x" * (step * 997 % 70_000)} for step in range(40)]
    records = [log_writer.run("abc"), *(log_writer.history(step, row) for step, row in enumerate(rows))]
    path = log_writer.write_log(tmp_path / "run-abc.wandb", records)
    theirs = [entry["history"]["item"] for entry in judge(path) if entry["type"] == "history"]
    assert theirs == list(read_offline(path).history) == [{**row, "_step": step} for step, row in enumerate(rows)]


def send(run: RunInfo, steps: range) -> None:
    delivery = Delivery({"wandb": WandbTracker(system_metrics=False)}, start_timeout=30)
    delivery.start(run)
    for step in steps:
        delivery.log(Record(step, 1, 1.7e9 + step, {"loss": float(step)}))
    delivery.finish()
    assert delivery.failures() == {}


def test_what_a_tracker_wrote_in_several_starts_is_one_run(tmp_path: Path) -> None:
    run = RunInfo(id="toy", dir=tmp_path, project="p", name="toy run", config={"lr": 0.1})
    send(run, range(1, 4))
    send(dataclasses.replace(run, resumed_step=3), range(4, 6))
    deadline = time.monotonic() + 20
    while True:
        (found,) = offline_runs(tmp_path)
        if (found.state == "finished" and len(list(found.history)) == 5) or time.monotonic() > deadline:
            break
        time.sleep(0.05)  # W&B returns from `finish` a little before its service has written all
    assert len(found.parts) == 2
    assert [(row["_step"], row["loss"], row["_timestamp"]) for row in found.history] == [
        (step, step, 1.7e9 + step) for step in range(1, 6)
    ]
    assert (found.name, found.state, found.summary["loss"]) == ("toy run", "finished", 5)
    assert found.config == {"run_name": "toy run", "lr": 0.1}, "what people filter runs by, on the server"


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """A log of three blocks that a test may damage: its row of step i begins in block i // 9."""
    rows = [log_writer.history(step, {"x": step, "text": "x" * 3600}) for step in range(27)]
    return log_writer.write_log(tmp_path / "offline-run-x-abc" / "run-abc.wandb", [log_writer.run("abc"), *rows])


def steps(path: Path) -> list[int]:
    return [row["_step"] for row in read_offline(path).history]


def test_a_file_cut_anywhere_is_read_up_to_there(torn: Path) -> None:
    whole = torn.read_bytes()
    assert len(whole) + 4000 > 3 * log_writer.BLOCK
    assert steps(torn) == list(range(27)) and read_offline(torn).torn == 0
    near = [block * log_writer.BLOCK + by for block in (1, 2) for by in range(-9, 10)]
    longest = 0
    for length in sorted({*range(60), *range(60, len(whole), 1409), *near, len(whole) - 1}):
        torn.write_bytes(whole[:length])
        found = steps(torn)
        assert found == list(range(len(found))) and len(found) >= longest
        longest = len(found)
        run = read_offline(torn)
        assert run.torn <= 1 and run.id == "abc" and run.state == "unfinished"
    assert longest == 26 and run.torn == 1 and "cannot be read" in run.notes[0]


@pytest.mark.parametrize("place", [0, 3, 4, 6, 7, 2000])
def test_damage_costs_no_more_than_its_block(place: int, torn: Path) -> None:
    content = bytearray(torn.read_bytes())
    second = log_writer.BLOCK
    (length,) = struct.unpack_from("<H", content, second + 4)  # the rest of the row that the first block began
    content[second + 7 + length + place] ^= 4  # checksum, length, kind and content of the next
    torn.write_bytes(content)
    found = steps(torn)
    assert found[:9] == list(range(9)) and found[-8:] == list(range(19, 27))
    assert set(range(9, 27)) - set(found) <= set(range(9, 19))
    assert read_offline(torn).torn >= 1


def test_copies_and_links_of_a_run_are_not_taken_for_more_of_it(tmp_path: Path) -> None:
    records = [log_writer.run("abc"), log_writer.history(1, {"x": 1})]
    for name in ("a", "b"):
        log_writer.write_log(tmp_path / name / "wandb" / "offline-run-20260101_000000-abc" / "run-abc.wandb", records)
    (tmp_path / "latest").symlink_to("a")
    (tmp_path / "a" / "wandb" / "latest-run-x").symlink_to("offline-run-20260101_000000-abc")
    assert [len(list(run.history)) for run in offline_runs(tmp_path)] == [1, 1]
    assert len(list(read_offline(tmp_path / "a").history)) == 1


def test_a_file_that_only_just_began_is_a_run_without_rows(tmp_path: Path) -> None:
    for content in (b"", b":W&", struct.pack("<4sHB", b":W&B", 0xBEE1, 0)):
        path = tmp_path / "run-abc.wandb"
        path.write_bytes(content)
        run = read_offline(path)
        assert (run.id, run.name, run.state, list(run.history)) == ("abc", "abc", "unfinished", [])


def test_a_part_whose_beginning_is_lost_keeps_its_place(tmp_path: Path) -> None:
    for second, row in ((1, {"x": 1}), (2, {"x": 2}), (3, {"x": 3})):
        folder = tmp_path / "wandb" / f"offline-run-20260101_00000{second}-abc"
        records = [log_writer.history(second, row)] if second == 2 else [log_writer.run("abc", started=second)]
        log_writer.write_log(folder / "run-abc.wandb", [*records, log_writer.history(second, row)][-2:])
    (run,) = offline_runs(tmp_path)
    assert [row["x"] for row in run.history] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04 something else", "is no W&B"), (struct.pack("<4sHB", b":W&B", 0xBEE1, 7), "of version 7")],
)
def test_another_file_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run-abc.wandb"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_offline(path)


def test_one_bad_file_does_not_hide_the_runs_beside_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("good", "bad"):
        folder = tmp_path / "wandb" / f"offline-run-20260101_000000-{name}"
        file = log_writer.write_log(folder / f"run-{name}.wandb", [log_writer.run(name)])
    file.write_bytes(bytes(5000))  # what a power cut may leave
    assert [run.id for run in offline_runs(tmp_path)] == ["good"]
    assert [entry.getMessage() for entry in caplog.records] == [
        f"left out: {file} is no W&B transaction log: its first bytes are others"
    ]


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        read_offline(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no W&B run in .*\d$"):
        read_offline(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="without tracker=wandb"):
        read_offline(tmp_path)


def test_a_long_history_is_not_held_in_memory(tmp_path: Path) -> None:
    rows: Iterator[Any] = (log_writer.history(step, {"x": step, "text": "x" * 100_000}) for step in range(200))
    path = log_writer.write_log(tmp_path / "run-abc.wandb", rows)
    assert path.stat().st_size > 20e6
    steps(log_writer.write_log(tmp_path / "first" / "run-first.wandb", []))  # imports
    tracemalloc.start()
    try:
        run = read_offline(path)
        assert sum(row["x"] for row in run.history) == 199 * 100
        assert run.state == "unfinished"
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()
