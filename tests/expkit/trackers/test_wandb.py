from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from expkit.errors import ConfigError
from expkit.trackers import Alert, Delivery, RunInfo
from expkit.trackers.wandb import WandbTracker

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)


def send(tracker: WandbTracker, run: RunInfo, records: Any, **calls: Any) -> Delivery:
    delivery = Delivery({"wandb": tracker}, start_timeout=30)
    delivery.start(run)
    for record in records:
        delivery.log(record)
        for call in calls.get("after", {}).get(record.step, ()):
            call(delivery)
    delivery.finish(calls.get("summary"), failed=calls.get("failed", False))
    return delivery


def test_an_offline_run_holds_every_value(run, records, picture, wandb_files, same_numbers, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["train", "--token", "hunter2"])
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    sent = records([1, 2, 3, 50, 51, 52, 200])
    after = {
        50: [lambda d: d.image("samples", picture, 50), lambda d: d.image("dynamics", picture, 40)],
        51: [lambda d: d.alert(Alert("loss_spike " * 9, "loss rose by 37.8%", "CRITICAL", 51))],
        200: [lambda d: d.image("samples", picture, 200)],
    }
    delivery = send(WandbTracker(), run, sent, after=after, summary={"final/loss": 0.25}, failed=True)
    assert delivery.failures() == {}
    (file,) = wandb_files(run.dir)

    assert list(file.rows) == [*(record.step for record in sent), 201]
    for record in sent:
        row = file.rows[record.step]
        assert same_numbers(row, record)
        assert (row["epoch"], row["_timestamp"]) == (record.epoch, record.time)
    assert set(file.rows[2]) == {*sent[1].metrics, "epoch", "_step", "_timestamp", "_runtime"}
    captions = {
        step: (row["samples.caption"], row.get("dynamics.caption"))
        for step, row in file.rows.items()
        if "samples.path" in row
    }
    assert captions == {51: ("step 50", "step 40"), 201: ("step 200", None)}  # 200: no record came after it
    (about,) = file.of_type("run")
    assert (about["run_id"], about["project"], about["display_name"]) == (run.id, run.project, run.name)
    assert (about["run_group"], about["tags"], about["notes"]) == (run.group, list(run.tags), run.notes)
    assert about["config"]["update"]["optimizer"] == {"lr": 0.001, "betas": [0.9, 0.99]}
    assert about["config"]["update"]["_private"] == 1
    (alert,) = file.of_type("alert")
    assert alert["level"] == "ERROR" and alert["text"] == "loss rose by 37.8% (step 51)"
    assert len(alert["title"]) < 64
    summary = {}
    for entry in file.of_type("summary"):
        summary.update(entry["update"])
    assert summary["final/loss"] == 0.25
    assert [entry["exit_code"] for entry in file.of_type("exit")] == [1]
    media = [path for path in file.path.parent.rglob("*.png")]
    assert len(media) == 3 and all(path.read_bytes() == picture.read_bytes() for path in media)

    stored = b"".join(path.read_bytes() for path in (run.dir / "wandb").rglob("*") if path.is_file())
    assert b"hunter2" not in stored and KEY.encode() not in stored
    assert capfd.readouterr() == ("", "")


def test_names_that_wandb_keeps_for_itself(run, records, wandb_files):
    record = dataclasses.replace(records([7])[0], metrics={"_step": 99, "_runtime": -1.0}, epoch=0)
    odd = dataclasses.replace(run, id="a:b/c#d e?" + "x" * 200 + "_end", tags=("t" * 90,), name="")
    assert send(WandbTracker(), odd, [record]).failures() == {}
    (file,) = wandb_files(run.dir)
    row = file.rows[7]
    assert (row["_step"], row["metric/_step"], row["metric/_runtime"]) == (7, 99, -1.0)
    assert row["_runtime"] >= 0 and "epoch" not in row
    (about,) = file.of_type("run")
    assert len(about["run_id"]) == 128 and about["run_id"].endswith("x_end")
    assert about["display_name"] == odd.id and about["tags"] == ["t" * 64]


def test_a_resumed_offline_run_goes_on_under_the_same_id(run, records, wandb_files):
    send(WandbTracker(), run, records([10, 20, 30]))
    send(WandbTracker(), dataclasses.replace(run, resumed_step=20), records([30, 40]))
    first, second = wandb_files(run.dir)
    assert (list(first.rows), list(second.rows)) == ([10, 20, 30], [40])
    assert first.of_type("run")[0]["run_id"] == second.of_type("run")[0]["run_id"] == run.id


def test_the_users_own_run_is_left_alone(run, records, tmp_path, wandb_files):
    import wandb

    settings = wandb.Settings(silent=True, x_disable_meta=True, x_disable_stats=True, console="off")
    (tmp_path / "mine").mkdir()
    mine = wandb.init(mode="offline", dir=tmp_path / "mine", project="mine", settings=settings)
    send(WandbTracker(project="other"), run, records([1, 2]))
    mine.log({"x": 1}, step=5)
    mine.finish()
    (theirs,), (ours,) = wandb_files(tmp_path / "mine"), wandb_files(run.dir)
    assert list(theirs.rows) == [5] and list(ours.rows) == [1, 2]
    assert ours.of_type("run")[0]["project"] == "other"


def test_disabled_stores_nothing(run, records, picture):
    after = {1: [lambda d: d.image("a", picture, 1), lambda d: d.alert(Alert("a", "b", "INFO", 1))]}
    assert send(WandbTracker(mode="disabled"), run, records([1, 2]), after=after, summary={"a": 1}).failures() == {}
    assert not (run.dir / "wandb").exists()


def test_the_configuration_wins_over_the_environment(run, records, wandb_files, monkeypatch, caplog):
    asked = {"WANDB_MODE": "disabled", "WANDB_PROJECT": "else", "WANDB_RUN_ID": "else", "WANDB_NAME": "else"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "expkit"):
        send(WandbTracker(), run, records([1]))
    (file,) = wandb_files(run.dir)
    (about,) = file.of_type("run")
    assert (about["project"], about["run_id"], about["display_name"]) == (run.project, run.id, run.name)
    assert [entry.getMessage().split("=")[0] for entry in caplog.records] == list(asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "ofline"}, r"tracker\.wandb\.mode is 'ofline'.*offline, online, disabled"),
        ({"init_timeout": 0}, r"tracker\.wandb\.init_timeout is 0"),
        ({"init_timeout": "soon"}, r"tracker\.wandb\.init_timeout is 'soon'"),
    ],
)
def test_bad_values_are_refused_at_once(arguments, said):
    with pytest.raises(ConfigError, match=said):
        WandbTracker(**arguments)


class FakeServer(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs. `last_step` makes it know the run; `hang` makes it fall silent."""

    protocol_version = "HTTP/1.1"
    last_step: int | None = None
    hang = False
    rows: list[dict[str, Any]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        while type(self).hang:
            time.sleep(0.1)
        if self.path == "/graphql":
            query = json.loads(body)
            self._reply({"data": self._graphql(query["operationName"], query.get("variables", {}))})
            return
        history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {})
        type(self).rows += [json.loads(line) for line in history.get("content", [])]
        self._reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply({})

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._known(variables["name"])}}
        if operation == "UpsertBucket":
            bucket = {"id": "r", "name": "r", "displayName": "r", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": self.last_step is None}}
        if operation == "CreateRunFiles":
            url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
            files = [{"name": name, "uploadUrl": url} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _known(self, name: str) -> dict[str, Any] | None:
        if self.last_step is None:
            return None
        tail = json.dumps([json.dumps({"_step": self.last_step, "_runtime": 3})])
        counts = {"logLineCount": 0, "historyLineCount": 5, "eventsLineCount": 0}
        texts = {"config": "{}", "summaryMetrics": "{}", "historyTail": tail, "eventsTail": "[]"}
        return {"name": name, "displayName": name, "tags": [], "wandbConfig": '{"t": 1}', **counts, **texts}

    def _reply(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server():
    handler = type("Handler", (FakeServer,), {"rows": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads, http.block_on_close = True, False
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{http.server_address[1]}"
        handler.hang = False
        http.shutdown()


ONLINE = """
import sys, time
from pathlib import Path
import expkit.trackers.wandb as module
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo

if len(sys.argv) > 2:
    module._FINISH_TIMEOUT = float(sys.argv[2])
delivery = Delivery({"wandb": module.WandbTracker(mode="online", init_timeout=1.5)}, start_timeout=30)
delivery.start(RunInfo(id="toy", dir=Path("run"), project="p", resumed_step=int(sys.argv[1])))
for step in range(39, 44):
    delivery.log(Record(step, 0, 1.0, {"loss": float(step)}))
print("ready", flush=True)
sys.stdin.read()
delivery.finish()
print(delivery.failures())
print(time.time())
"""


def online(python, *arguments: Any, **environment: str) -> tuple[dict[str, Any], float]:
    *_, failures, ended = python(ONLINE, *arguments, **environment)[0].splitlines()
    return eval(failures), time.time() - float(ended)


def test_an_online_run_goes_on_after_what_the_server_holds(python, server):
    handler, url = server
    handler.last_step = 40
    failures, _ = online(python, 39, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert failures == {}
    assert [(row["_step"], row["loss"]) for row in handler.rows] == [(41, 41), (42, 42), (43, 43)]


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_an_online_run_without_a_network_fails_in_time(way, python, server):
    handler, url = server
    handler.hang = True
    url = "http://127.0.0.1:9" if way == "refused" else url
    began = time.monotonic()
    failures, exit_took = online(python, 0, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert (failures["wandb"]["failures"], failures["wandb"]["undelivered"]) == (1, 5)
    assert failures["wandb"]["last_error"].startswith("start: CommError: ")
    assert time.monotonic() - began < 15 and exit_took < 4


def test_an_online_run_without_a_key_says_what_to_do(python):
    failures, _ = online(python, 0, WANDB_BASE_URL="http://127.0.0.1:9")
    assert "tracker.wandb.mode=offline" in failures["wandb"]["last_error"]


def test_a_server_that_falls_silent_does_not_hold_up_the_end(server, start_python):
    handler, url = server
    process = start_python(ONLINE, 0, 1, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert process.stdout.readline() == "ready\n"
    handler.hang = True
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert "TimeoutError" in stdout, stderr
    assert time.monotonic() - began < 8
