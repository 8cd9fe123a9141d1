"""wandb online, against a server in this process: each run is in an interpreter of its own, as W&B keeps a session."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

import expkit.trackers.wandb as wandb_module
from expkit.trackers import RunInfo
from expkit.trackers.wandb import WandbTracker
from tests.expkit.trackers.wandb_server import WandbServer, wandb_server

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as running:
        yield running


SETUP = """
import dataclasses, math, os, sys, time
from pathlib import Path
import expkit.trackers.wandb as module
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo

tracker = module.WandbTracker(mode="online", init_timeout=float(os.environ.get("PATIENCE", 30)))
delivery = Delivery({"wandb": tracker}, start_timeout=30)
run = RunInfo(id="toy", dir=Path("run"), project="p", config={"optimizer": {"lr": 0.1}})

def record(step):
    return Record(step, 1, 1.7e9 + step, {"loss": float(step), "nan": math.nan})
"""

WHOLE = """
run = dataclasses.replace(run, name="toy run", group="sweep", tags=("one", "two"), notes="a note", resumed_step=2)
Path("run/logs").mkdir(parents=True)
with Journal("run/logs/metrics.jsonl") as journal:  # of its life offline
    journal.write(record(1))
    journal.write(record(2))
Path("run/logs/delivery.json").write_text('{"toy": {"wandb": 2}}')
tracker.check()
assert "wandb" not in sys.modules
delivery.start(run)
delivery.log(record(3))
delivery.image("samples", Path(sys.argv[1]), 3)
delivery.alert(Alert("loss_spike", "loss rose", "CRITICAL", 3))
delivery.log(Record(4, 1, 1.7e9 + 4, {"loss": 4.0, "final/best_loss": 1.0}))
delivery.finish({"final/best_loss": 1.0}, failed=True)
print(delivery.failures(), tracker.where(run))
"""


def test_an_online_run_arrives_whole(server, python, picture):
    stdout, _ = python(SETUP + WHOLE, picture, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert stdout == f"{{}} {server.url}/me/p/runs/toy\n"
    assert [(row["_step"], row["loss"], row["_timestamp"]) for row in server.rows] == [
        (step, step, 1.7e9 + step) for step in (1, 2, 3, 4)
    ]
    assert server.rows[3]["samples"]["caption"] == "step 3"
    (sent,) = (content for name, content in server.files.items() if name.startswith("media/images/samples"))
    assert sent == picture.read_bytes()
    about = {key: server.about[key] for key in ("name", "project", "displayName", "groupName", "notes", "tags")}
    assert about == {
        "name": "toy",
        "project": "p",
        "displayName": "toy run",
        "groupName": "sweep",
        "notes": "a note",
        "tags": ["one", "two"],
    }
    assert json.loads(server.about["config"])["optimizer"]["value"] == {"lr": 0.1}
    (alert,) = server.alerts
    assert (alert["title"], alert["text"], alert["severity"]) == ("loss_spike", "loss rose (step 3)", "ERROR")
    assert sum("final/best_loss" in row for row in server.rows) == 1
    assert json.loads(server.files["wandb-summary.json"])["final/best_loss"] == 1.0
    assert server.exit_code == 1


ONLINE = """
if len(sys.argv) > 2:
    module.WandbTracker.patience = float(sys.argv[2])
run = dataclasses.replace(run, resumed_step=int(sys.argv[1]))
delivery.start(run)
for step in range(39, 44):
    delivery.log(record(step))
print("ready", flush=True)
sys.stdin.read()
delivery.finish()
print(delivery.failures())
print(tracker.where(run))
print(time.time())
"""


def test_an_online_run_goes_on_after_what_the_server_holds(python, server):
    server.rows = [{"_step": 40, "loss": 40.0}]
    stdout, _ = python(SETUP + ONLINE, 39, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert stdout.splitlines()[1] == "{}"
    assert [(row["_step"], row["loss"]) for row in server.rows] == [(step, step) for step in range(40, 44)]


@pytest.mark.parametrize("way", ["refused", "silent", "wrong key"])
def test_without_a_server_that_answers_the_run_is_written_offline(way, python, server, wandb_files, tmp_path):
    server.hang, server.refuse = way == "silent", way == "wrong key"
    url = "http://127.0.0.1:9" if way == "refused" else server.url
    patience = "30" if way == "wrong key" else "1"
    stdout, stderr = python(SETUP + ONLINE, 0, WANDB_BASE_URL=url, WANDB_API_KEY=KEY, PATIENCE=patience)
    _, failures, where, ended = stdout.splitlines()
    assert time.time() - float(ended) < 4, "nothing waits for the network at exit"
    assert failures == "{}"
    assert where == "wandb leet run/wandb"
    (said,) = [line for line in stderr.splitlines() if not line.startswith("wandb: [")]
    (file,) = wandb_files(tmp_path / "run")
    assert url in said and f"`wandb sync {file.path.parent.relative_to(tmp_path)}`" in said
    assert list(file.rows) == [39, 40, 41, 42, 43]
    assert file.of_type("run")[0]["run_id"] == "toy"


NO_KEY = """
from expkit.errors import ConfigError
try:
    tracker.check()
except ConfigError as error:
    print(error)
delivery.start(run)
delivery.finish()
print(delivery.failures()["wandb"]["last_error"], tracker.where(run))
"""


@pytest.mark.parametrize(
    ("environment", "said"), [({}, "there is no key for http"), ({"WANDB_API_KEY": "short"}, "40+ characters, has 5")]
)
def test_an_online_run_without_a_key_says_what_to_do_before_it_starts(environment, said, python):
    stdout, stderr = python(SETUP + NO_KEY, WANDB_BASE_URL="http://127.0.0.1:9", **environment)
    early, late = stdout.splitlines()
    assert early.startswith("tracker.wandb.mode is online, but ") and said in early
    assert early.endswith("run `wandb login`, set WANDB_API_KEY, or choose tracker.wandb.mode=offline")
    assert late == f"start: ConfigError: {early} None"
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("netrc", "environment", "found"),
    [
        ("", {"WANDB_API_KEY": KEY}, True),
        ("", {"WANDB_API_KEY": "short"}, False),
        ("", {}, False),
        (f"machine api.wandb.ai login user password {KEY}", {}, True),
        (f"machine my.host:8080 login user password {KEY}", {"WANDB_BASE_URL": "http://my.host:8080"}, True),
        (f"machine api.wandb.ai login user password {KEY}", {"WANDB_BASE_URL": "http://my.host"}, False),
        ("machine api.wandb.ai login user password short", {}, False),
        ("this is no netrc file", {}, False),
    ],
)
def test_a_key_is_found_where_it_usually_is_without_wandb(netrc, environment, found, tmp_path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(wandb_module, "_check_login", lambda: asked.append(1))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), **environment}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    WandbTracker(mode="online").check()
    assert asked == ([] if found else [1]), "what is not plain, W&B itself decides"
    WandbTracker().check()
    assert len(asked) <= 1, "offline needs no key"


def test_a_server_that_falls_silent_does_not_hold_up_the_end(server, start_python):
    process = start_python(SETUP + ONLINE, 0, 1, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert process.stdout.readline() == "ready\n"
    server.hang = True
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert "TimeoutError" in stdout, stderr
    assert time.monotonic() - began < 8


def test_there_is_nothing_to_see_of_a_run_that_has_not_started(run: RunInfo):
    assert WandbTracker().where(run) is None
    assert WandbTracker(mode="online").where(run) is None
