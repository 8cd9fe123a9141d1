"""trackio reads its folder when it is imported, so every test runs in an interpreter of its own."""

from __future__ import annotations

import json
import socket
import time
from collections import deque

import pytest

from expkit.errors import ConfigError
from expkit.trackers import trackio_calls as calls
from expkit.trackers.trackio import TrackioTracker

SETUP = """
import logging, math, sys, time
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo
from expkit.trackers.trackio import TrackioTracker

logging.basicConfig(format="%(message)s", stream=sys.stderr)

def send(steps, tracker=None, resumed_step=0, then=lambda delivery: None, summary={}, **info):
    about = {"id": "toy_1", "dir": Path("run"), "project": "test", "resumed_step": resumed_step} | info
    delivery = Delivery({"trackio": tracker or TrackioTracker()}, start_timeout=30)
    delivery.start(RunInfo(**about))
    for step in steps:
        special = [math.nan, math.inf, -math.inf, 1e-300, 2**53][step % 5]
        metrics = {"train_loss": 1 / step, "blob/a.b": step * 3, "special": special}
        delivery.log(Record(step, 1 + step // 100, 1.7e9 + step, metrics))
    then(delivery)
    delivery.finish(summary)
    return delivery.failures()
"""

ROWS = "SELECT step, metrics FROM metrics ORDER BY id"


def test_the_database_holds_every_value(python, records, picture, trackio_query, same_numbers, tmp_path):
    script = f"""{SETUP}
config = {{"optimizer": {{"lr": 0.001, "betas": [0.9, 0.99]}}, "_private": 1, "bad": math.nan, "none": None}}
def then(delivery):
    delivery.image("samples", Path(sys.argv[1]), 50)
    delivery.alert(Alert("loss_spike", "loss rose by 37.8%", "WARNING", 51))
    delivery.alert(Alert("nan", "loss is not finite", "CRITICAL", 52))
    delivery.log(Record(201, 0, 1.7e9, {{"run": 1.0, "__own": 2.0, "timestamp": 3.0}}))
assert send([1, 2, 3, 50, 51, 52, 200], then=then, config=config, name="toy run", group="sweep 1",
            tags=("one", "two"), notes="a note", summary={{"final/loss": 0.25, "run": 1.0}}) == {{}}
"""
    stdout, stderr = python(script, picture, TRACKIO_DIR=str(tmp_path / "db"))
    assert (stdout, stderr) == ("", "")

    rows = [(step, json.loads(text)) for step, text in trackio_query(tmp_path / "db", ROWS)]
    sent = records([1, 2, 3, 50, 51, 52, 200])
    assert [step for step, _ in rows] == [1, 2, 3, 50, 51, 52, 200, 50, 201, 201]
    for (step, row), record in zip(rows, sent, strict=False):
        assert step == record.step and row["epoch"] == record.epoch
        assert set(row) == {*record.metrics, "epoch"} and same_numbers(row, record)
    image = rows[7][1]["samples"]
    assert image["caption"] == "step 50"
    assert (tmp_path / "db" / "media" / image["file_path"]).read_bytes() == picture.read_bytes()
    assert rows[8][1] == {"metric/run": 1.0, "metric/own": 2.0, "metric/timestamp": 3.0}
    assert rows[9][1] == {"final/loss": 0.25}  # what no record said

    alerts = trackio_query(tmp_path / "db", "SELECT title, text, level, step FROM alerts ORDER BY id")
    assert alerts == [
        ("loss_spike", "loss rose by 37.8%", "warn", 51),
        ("nan", "loss is not finite", "error", 52),
    ]
    ((run_name, text),) = trackio_query(tmp_path / "db", "SELECT run_name, config FROM configs")
    config = json.loads(text)
    assert run_name == "toy_1"
    assert config["optimizer"] == {"lr": 0.001, "betas": [0.9, 0.99]} and config["config_private"] == 1
    assert (config["run_name"], config["run_tags"]) == ("toy run", ["one", "two"])
    assert (config["run_notes"], config["_Group"]) == ("a note", "sweep 1")
    assert trackio_query(tmp_path / "db", "SELECT COUNT(*) FROM system_metrics") == [(0,)]


def test_a_resumed_run_is_the_same_run_without_a_step_twice_or_missing(python, trackio_query, tmp_path):
    python(f"{SETUP}\nassert send(range(1, 8)) == {{}}", TRACKIO_DIR="db")
    # As if the run had been killed before the last batch was written, though it was delivered.
    trackio_query(tmp_path / "db", "DELETE FROM metrics WHERE step > 5")
    script = f"""{SETUP}
assert send(range(4, 12), resumed_step=3) == {{}}
final = lambda delivery: delivery.log(Record(12, 0, 1.7e9, {{"final/loss": 0.25}}))
for resumed_step in (11, 12):
    assert send([], resumed_step=resumed_step, then=final, summary={{"final/loss": 0.25}}) == {{}}
"""
    python(script, TRACKIO_DIR="db")
    rows = trackio_query(tmp_path / "db", "SELECT run_id, run_name, step FROM metrics ORDER BY id")
    assert rows == [("toy_1", "toy_1", step) for step in range(1, 13)]


def test_on_a_network_file_system_too(python, trackio_query, tmp_path):
    """There trackio writes files, and its database holds as much as a dashboard has imported: here 4 steps."""
    python(f"{SETUP}\nassert send(range(1, 5)) == {{}}", TRACKIO_DIR="db", TRACKIO_STORAGE_MODE="sqlite")
    environment = {"TRACKIO_DIR": "db", "TRACKIO_STORAGE_MODE": "jsonl"}
    python(f"{SETUP}\nassert send(range(5, 8), resumed_step=4) == {{}}", **environment)
    stdout, _ = python(f"{SETUP}\nassert send(range(4, 12), resumed_step=3) == {{}}", **environment)
    assert stdout == ""
    files = (tmp_path / "db").rglob("*.jsonl")
    written = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert sorted(entry["step"] for entry in written if "metrics" in entry) == list(range(5, 12))
    assert {entry["run_id"] for entry in written} == {"toy_1"}
    rows = trackio_query(tmp_path / "db", "SELECT run_id, step FROM metrics ORDER BY id")
    assert rows == [("toy_1", step) for step in range(1, 5)]


def test_the_folder_can_be_chosen_once(python, tmp_path):
    script = f"""{SETUP}
folder = sys.argv[1]
print(send([1, 2], TrackioTracker(dir=folder)))
print(send([3], TrackioTracker(dir=folder), id="toy_2"))
print(send([1, 2], TrackioTracker(dir=folder + "_else")))
"""
    stdout, _ = python(script, tmp_path / "mine")
    same, again, other = map(eval, stdout.splitlines())
    assert same == again == {}
    assert "TRACKIO_DIR before Python starts" in other["trackio"]["last_error"]
    assert [path.name for path in (tmp_path / "mine").glob("*.db")] == ["test.db"]
    assert not (tmp_path / "mine_else").exists()


def test_without_a_folder_it_is_where_trackio_looks(python, tmp_path):
    stdout, _ = python(f"{SETUP}\nsend([1])\nimport trackio.utils; print(trackio.utils.TRACKIO_DIR)")
    assert (tmp_path / ".cache" / "huggingface" / "trackio" / "test.db").exists()
    assert stdout.strip() == str(tmp_path / ".cache" / "huggingface" / "trackio")


def test_local_stays_local_and_asks_nobody(python, trackio_query, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        silent.settimeout(0)
        began = time.monotonic()
        stdout, stderr = python(
            f"{SETUP}\nassert send([1, 2]) == {{}}\nassert send([3], resumed_step=2) == {{}}\n"
            "import huggingface_hub.constants\nassert not huggingface_hub.constants.HF_HUB_OFFLINE",
            TRACKIO_DIR="db",
            TRACKIO_SPACE_ID="somebody/space",
            TRACKIO_SERVER_URL=f"{url}?write_token=t",
            TRACKIO_BUCKET_ID="somebody/bucket",
            HF_TOKEN="hf_0123456789",
            HF_ENDPOINT=url,
        )
        assert time.monotonic() - began < 20
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert len(trackio_query(tmp_path / "db", ROWS)) == 3
    assert stdout == ""
    said = stderr.splitlines()
    assert len(said) == 6 and said[0] == (
        "TRACKIO_SPACE_ID has no effect: this run is logged locally unless tracker.trackio.space_id is set"
    )
    assert said[1].startswith("TRACKIO_SERVER_URL has no effect")
    assert said[2].startswith("TRACKIO_BUCKET_ID has no effect")


def test_a_space_that_is_configured_is_asked_and_one_that_never_answers_holds_nothing_up(python):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        script = f"""{SETUP}
import trackio  # which takes its time on a busy machine
began = time.monotonic()
delivery = Delivery({{"trackio": TrackioTracker(space_id="me/space")}}, finish_timeout=2)
delivery.start(RunInfo(id="toy_1", dir=Path("run"), project="test"))
delivery.log(Record(1, 0, 1.7e9, {{"a": 1.0}}))
assert time.monotonic() - began < 0.5
delivery.finish()
assert time.monotonic() - began < 4
"""
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        _, stderr = python(script, TRACKIO_DIR="db", HF_TOKEN="hf_0123456789", HF_ENDPOINT=url)
        assert "abandoned in start() after 2 s, with 1 item(s) not delivered" in stderr
        silent.accept()


def test_the_users_own_run_is_left_alone(python, trackio_query, tmp_path):
    script = f"""{SETUP}
import trackio
trackio.init("test", name="mine", auto_log_cpu=False)
assert send([1, 2]) == {{}}
tracker = TrackioTracker()  # in this thread, too
assert tracker.start(RunInfo(id="toy_1", dir=Path("run"), project="test")) == 2
tracker.log(Record(3, 0, 1.7e9, {{"a": 1.0}}))
tracker.finish({{}})
trackio.log({{"x": 1}}, step=5)
trackio.finish()
"""
    stdout, _ = python(script, TRACKIO_DIR="db")
    assert stdout.count("Created new run: mine") == 1 and stdout.count("Run finished") == 1
    assert "toy_1" not in stdout
    rows = trackio_query(tmp_path / "db", "SELECT run_name, step FROM metrics ORDER BY run_name, step")
    assert rows == [("mine", 5), ("toy_1", 1), ("toy_1", 2), ("toy_1", 3)]


@pytest.mark.parametrize("project", ["registry-models", "toy_system"])
def test_a_project_name_that_cannot_be_is_said(project, python):
    stdout, _ = python(f"{SETUP}\nprint(send([1, 2], project={project!r}))", TRACKIO_DIR="db")
    trouble = eval(stdout)["trackio"]
    assert (trouble["failures"], trouble["undelivered"]) == (1, 2)
    assert trouble["last_error"].startswith(f"start: ConfigError: tracker.trackio.project: Project name {project!r}")


def test_rows_that_trackio_could_not_write_are_counted(python):
    script = f"""{SETUP}
def break_storage(delivery):
    from trackio.sqlite_storage import SQLiteStorage
    time.sleep(1)
    def bulk_log(**arguments):
        raise OSError("disk is full")
    SQLiteStorage.bulk_log = bulk_log
    delivery.log(Record(4, 1, 1.0, {{"a": 1.0}}))
print(send([1, 2, 3], then=break_storage))
"""
    stdout, _ = python(script, TRACKIO_DIR="db")
    assert eval(stdout)["trackio"]["last_error"] == ("finish: RuntimeError: trackio did not store 1 rows of run toy_1")


@pytest.mark.parametrize("again", [1, 3])
def test_rows_that_the_database_refuses_for_a_time_come_later_in_order_and_once(again, python, trackio_query, tmp_path):
    script = f"""{SETUP}
import sqlite3
from trackio.sqlite_storage import SQLiteStorage
write, refused = SQLiteStorage.bulk_log, []
def bulk_log(*arguments, **options):
    if 3 in options["steps"] and len(refused) < {again}:
        refused.append(options["steps"])
        raise sqlite3.OperationalError("database is locked")
    write(*arguments, **options)
SQLiteStorage.bulk_log = bulk_log
def then(delivery):
    for step in range(3, 7):
        delivery.log(Record(step, 1, 1.7e9 + step, {{"a": 1.0}}))
        time.sleep(0.7)  # longer than trackio waits before it writes
assert send([1, 2], then=then) == {{}}
assert len(refused) == {again}
"""
    _, stderr = python(script, TRACKIO_DIR="db")
    said = "trackio cannot write (OperationalError: database is locked): rows wait, and it is tried again"
    assert stderr.splitlines() == [said]
    assert [step for step, _ in trackio_query(tmp_path / "db", ROWS)] == [1, 2, 3, 4, 5, 6]


def test_rows_that_the_database_will_never_take_hold_up_no_others(monkeypatch):
    came = []

    def never():
        raise TypeError("no such column")

    monkeypatch.setitem(calls._waiting, "mine", deque([never, lambda: came.append(2)]))
    with pytest.raises(TypeError):
        calls.write_waiting("mine")
    calls.write_waiting("mine")
    assert came == [2] and not calls._waiting["mine"]


def test_it_is_said_once_that_rows_are_dropped_which_wait_for_too_long(monkeypatch, caplog):
    monkeypatch.setattr(calls, "_waiting", {})
    monkeypatch.setattr(calls, "_MOST_WAITING", 3)
    came = []
    for number in range(5):
        calls.wait("mine", lambda number=number: came.append(number))
    assert [record.getMessage() for record in caplog.records] == [
        "trackio's database has taken nothing for 3 writes: from here on the oldest are dropped; "
        "`expkit replay` brings them later"
    ]
    calls.write_waiting("mine")
    assert came == [2, 3, 4]


def test_what_trackio_drops_of_a_row_with_a_warning_is_said_and_the_row_comes_once(python, trackio_query, tmp_path):
    then = "lambda delivery: delivery.log(Record(4, 0, 1.0, {'fits': 1, 'does_not': 2**70}))"
    stdout, stderr = python(f"{SETUP}\nprint(send([1, 2, 3], then={then}))", TRACKIO_DIR="db")
    trouble = eval(stdout)["trackio"]
    assert (trouble["failures"], trouble["undelivered"]) == (1, 0)
    assert "skipped metric 'does_not'" in trouble["last_error"] and "skipped metric" in stderr
    *_, (step, row) = trackio_query(tmp_path / "db", ROWS)
    assert (step, json.loads(row)) == (4, {"fits": 1})


def test_rows_are_whole_while_another_thread_imports_matplotlib(python, trackio_query, tmp_path):
    half_imported = "import types\nsys.modules['matplotlib.figure'] = types.ModuleType('matplotlib.figure')"
    python(f"{SETUP}\n{half_imported}\nassert send([1]) == {{}}", TRACKIO_DIR="db")
    ((_, row),) = trackio_query(tmp_path / "db", ROWS)
    assert set(json.loads(row)) == {"train_loss", "blob/a.b", "special", "epoch"}


def test_it_says_where_to_look(run):
    started = {"_run": object()}
    for arguments, said in [
        ({}, f"expkit dashboard {run.project}"),
        ({"project": "my own", "dir": "db"}, "expkit dashboard 'my own' --dir db"),
        ({"space_id": "me/space"}, "https://huggingface.co/spaces/me/space"),
        ({"server_url": "http://host:7860?write_token=t"}, "http://host:7860"),
    ]:
        tracker = TrackioTracker(**arguments)
        assert tracker.where(run) is None, "it has not started"
        vars(tracker).update(started)
        assert tracker.where(run) == said


def test_two_places_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"tracker\.trackio\.space_id.*tracker\.trackio\.server_url"):
        TrackioTracker(space_id="a/b", server_url="http://localhost")


SERVER = """
import sys, trackio
_, url, _, full_url = trackio.show(open_browser=False, block_thread=False)
print(url, full_url.partition("write_token=")[2], flush=True)
sys.stdin.read()
"""


def test_a_server_of_your_own(start_python, python, trackio_query, tmp_path):
    server = start_python(SERVER, TRACKIO_DIR="server_db")
    printed = iter(server.stdout.readline, "")
    url, token = next(line.split() for line in printed if line.startswith("http"))
    script = f"{SETUP}\ntracker = lambda: TrackioTracker(server_url={url!r})\n"
    environment = {"TRACKIO_DIR": "db", "TRACKIO_WRITE_TOKEN": token}
    stdout, stderr = python(f"{script}assert send(range(1, 6), tracker()) == {{}}", **environment)
    assert (stdout, stderr) == ("", "")
    python(f"{script}assert send(range(4, 9), tracker(), resumed_step=3) == {{}}", **environment)
    rows = trackio_query(tmp_path / "server_db", "SELECT run_id, run_name, step FROM metrics ORDER BY step")
    assert rows == [("toy_1", "toy_1", step) for step in range(1, 9)]
