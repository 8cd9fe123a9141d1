"""`expkit sync`: the real `wandb sync` against a stand-in for a W&B server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import expkit.cli.sync as sync_module
from expkit.cli.main import main
from expkit.experiment import RunDir
from expkit.lock import run_lock
from expkit.record import Record
from expkit.trackers import RunInfo
from expkit.trackers.wandb import WandbTracker
from tests.expkit.trackers.conftest import clean_environment, takes_ctrl_c
from tests.expkit.trackers.wandb_server import WandbServer, wandb_server

KEY = "0123456789abcdef" * 2 + "01234567"

Sync = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sync:
    """Call as `sync("--dry-run")` in a folder with an offline run in two parts, `outputs/one`."""
    import wandb

    wandb.teardown()  # it keeps the address of the server that it asked first
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "outputs" / "one"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for first in (1, 4):
        tracker = WandbTracker(system_metrics=False)
        tracker.start(RunInfo(id="one", dir=run, project="p", name="a name", resumed_step=first - 1))
        for step in range(first, first + 3):
            tracker.log(Record(step, 1, 1.7e9 + step, {"loss": 1.0 / step}))
        tracker.finish({"final/loss": 0.5})

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["sync", *arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running


def test_both_parts_are_uploaded_in_order_once(sync: Sync, server: WandbServer, tmp_path: Path) -> None:
    code, out, err = sync("--dry-run")
    assert (code, err) == (0, "") and out.startswith("one: would be uploaded (") and ", 2 parts) to p" in out
    assert server.rows == []
    code, out, err = sync()
    assert (code, err) == (0, "") and f"to p: {server.url}/me/p/runs/one" in out
    assert [(row["_step"], row["loss"]) for row in server.rows] == [(step, 1.0 / step) for step in range(1, 7)]
    assert server.summary is not None and server.summary["final/loss"] == 0.5
    assert sync() == (0, "nothing to upload in outputs\n", "")
    assert len(server.rows) == 6
    assert len(list((tmp_path / "outputs").rglob("*.wandb.synced"))) == 2


def test_a_run_that_goes_on_and_one_that_was_superseded_wait(sync: Sync, server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "one"
    child = os.fork()
    if child == 0:
        with run_lock(RunDir(run)):
            (tmp_path / "locked").touch()
            time.sleep(30)
        os._exit(0)
    while not (tmp_path / "locked").exists():
        time.sleep(0.01)
    try:
        code, out, _ = sync("--json")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    (said,) = map(json.loads, out.splitlines())
    assert (code, said["state"], len(said["folders"])) == (0, "still running", 2) and server.rows == []
    for folder in (run / "wandb").glob("offline-run-*"):
        folder.rename(folder.with_name(f"superseded-{folder.name}"))
    assert sync() == (0, "nothing to upload in outputs\n", "")


def test_without_a_key_or_a_server_one_line_says_so(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = sync()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "there is no key for https://" in err and "nothing was uploaded" in err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    code, out, err = sync("--timeout", "2")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "the server cannot be reached" in err and "nothing was uploaded" in err
    code, _, err = sync("nowhere")
    assert (code, err.count("\n")) == (1, 1) and "nowhere is not there" in err


def test_a_server_that_goes_away_in_an_upload_is_given_up(
    sync: Sync, server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sync_module, "_ASK_EVERY", 0.2)
    monkeypatch.setattr(sync_module, "_PATIENCE", 0.5)
    monkeypatch.setattr(sync_module, "_is_there", lambda: False)
    monkeypatch.setattr(sync_module, "_check_server", lambda timeout: None)
    server.hang = True
    began = time.monotonic()
    code, out, err = sync()
    assert time.monotonic() - began < 15
    assert (code, out, err.count("\n")) == (1, "", 1) and "error: one: the server has not been there" in err
    assert not list((tmp_path / "outputs").rglob("*.wandb.synced"))
    server.hang = False
    monkeypatch.undo()


def test_ctrl_c_ends_it_and_the_upload_with_it(sync: Sync, server: WandbServer, tmp_path: Path) -> None:
    assert sync("--dry-run")[0] == 0
    server.hang = True
    environment = clean_environment(WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY, HOME=str(tmp_path))
    command = [sys.executable, "-m", "expkit", "sync", "--timeout", "60"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": takes_ctrl_c}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
