"""`expkit dashboard`: trackio's own page with a run's curves, on this machine alone."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from expkit.cli.main import main
from tests.expkit.trackers.conftest import clean_environment, takes_ctrl_c

FILL = """
import math, sys
from pathlib import Path
from expkit.record import Record
from expkit.trackers import RunInfo
from expkit.trackers.trackio import TrackioTracker

for project, run in [("my.project", "toy_1"), ("my.project", "toy_2"), ("other", "toy_3")]:
    tracker = TrackioTracker()
    tracker.start(RunInfo(id=run, dir=Path("run"), project=project))
    for step in range(1, 101):
        tracker.log(Record(step, 0, 1.7e9 + step, {"train_loss": int(run[-1]) * math.exp(-step / 30)}))
    tracker.finish({})
"""


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trackio's with two projects."""
    folder = tmp_path_factory.mktemp("trackio")
    env = clean_environment(TRACKIO_DIR=str(folder), HOME=str(folder))
    subprocess.run([sys.executable, "-c", FILL], env=env, cwd=folder, check=True, timeout=60)
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def make_run(outputs: Path, **tracker: object) -> None:
    """Make a run directory as far as `expkit dashboard` reads it."""
    (outputs / "toy_2").mkdir(parents=True)
    config = {"run": {"project": "my.project"}, "tracker": tracker}
    (outputs / "toy_2" / "config.json").write_text(json.dumps({"experiment_id": "toy_2", "config": config}))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


Dashboard = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """Start `expkit dashboard` as a user does: `dashboard(*arguments, **environment)`."""
    started = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "expkit", "dashboard", *map(str, arguments)]
        # Servers that start at the same moment must not find the same port free.
        env = clean_environment(HOME=str(tmp_path), GRADIO_SERVER_PORT=str(free_port())) | environment
        if "DISPLAY" not in environment:
            env = {name: value for name, value in env.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": takes_ctrl_c}
        process = subprocess.Popen(command, env=env, cwd=tmp_path, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Press Ctrl-C. Return the exit code and what was said since."""
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)
    return process.returncode, *said


def runs_shown(address: str) -> set[str]:
    """Return the names of the runs that a server has of the project in its page's address."""
    page, _, project = address.partition("?project=")
    data = json.dumps({"project": project}).encode()
    request = urllib.request.Request(f"{page}api/get_runs_for_project", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return {run["name"] for run in json.load(answer)["data"]}


def test_the_newest_runs_project_is_served_until_ctrl_c_and_no_network_is_asked(
    dashboard: Dashboard, databases: Path, outputs: Path
) -> None:
    make_run(outputs, trackio={"project": "my.project", "dir": str(databases), "space_id": None})
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        silent.settimeout(0)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = dashboard(
            HF_TOKEN="hf_0123456789",
            HF_ENDPOINT=url,
            HTTP_PROXY=url,
            HTTPS_PROXY=url,
            TRACKIO_SPACE_ID="somebody/space",
            TRACKIO_SERVER_URL=f"{url}?write_token=t",
            TRACKIO_BUCKET_ID="somebody/bucket",
            GRADIO_SERVER_NAME="0.0.0.0",
            GRADIO_SHARE="true",
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:") and address.endswith("/?project=myproject")
        assert runs_shown(address) == {"toy_1", "toy_2"}
        assert process.stdout.readline() == "Ctrl-C ends it\n"
        assert end(process) == (0, "", "")
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_project_that_is_not_there_is_one_line_that_lists_those_that_are(
    dashboard: Dashboard, databases: Path, tmp_path: Path
) -> None:
    process = dashboard("nope", "--dir", databases)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (1, "")
    assert stderr == (
        f"error: trackio has no project 'nope' in {databases}: choose from myproject, other, "
        "or name the folder with --dir\n"
    )
    process = dashboard("nope", TRACKIO_DIR=str(tmp_path))
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1 and "it is empty; `expkit replay --to trackio` fills it" in stderr
    assert stderr.count("\n") == 1


def test_runs_from_a_network_file_system_are_taken_in_first(dashboard: Dashboard, tmp_path: Path) -> None:
    """There trackio's runs write files, and there is no database before somebody looks."""
    env = clean_environment(TRACKIO_DIR=str(tmp_path / "db"), HOME=str(tmp_path), TRACKIO_STORAGE_MODE="jsonl")
    subprocess.run([sys.executable, "-c", FILL], env=env, cwd=tmp_path, check=True, timeout=60)
    assert not list((tmp_path / "db").glob("*.db"))
    process = dashboard("other", TRACKIO_DIR=str(tmp_path / "db"), TRACKIO_STORAGE_MODE="jsonl")
    assert process.stdout is not None
    assert runs_shown(process.stdout.readline().strip()) == {"toy_3"}


def test_a_damaged_database_is_one_line(dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database " * 1000)
    process = dashboard("broken", "--dir", tmp_path)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert stderr.startswith("error: trackio's page cannot be shown: ") and stderr.count("\n") == 1


def test_a_port_that_cannot_be_used_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dashboard", "x", "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: --port {port} cannot be used (Address already in use): choose another")
    assert said.count("\n") == 1
    assert main(["dashboard", "x", "--port", "0"]) == 1
    assert capsys.readouterr().err == "error: --port 0: it must be from 1 to 65535\n"


@pytest.mark.parametrize(
    ("trackio", "place"),
    [({"space_id": "me/space"}, "me/space"), ({"server_url": "http://host:7860?write_token=t"}, "http://host:7860,")],
)
def test_a_run_that_was_sent_elsewhere_is_said(
    trackio: dict[str, str], place: str, outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    make_run(outputs, trackio=trackio)
    monkeypatch.chdir(outputs.parent)
    assert main(["dashboard"]) == 1
    said = capsys.readouterr().err
    assert place in said and "write_token" not in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "opened"),
    [([], {"DISPLAY": ":9"}, True), (["--no-browser"], {"DISPLAY": ":9"}, False), ([], {}, False)],
)
def test_a_browser_opens_only_where_there_is_a_display(
    arguments: list[str],
    environment: dict[str, str],
    opened: bool,
    dashboard: Dashboard,
    databases: Path,
    tmp_path: Path,
) -> None:
    if sys.platform == "darwin":
        pytest.skip("a Mac always has a display")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    port = free_port()
    process = dashboard("other", "--dir", databases, "--port", port, *arguments, BROWSER=str(browser), **environment)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/?project=other"
    assert runs_shown(address) == {"toy_3"}
    assert process.stdout.readline() == "Ctrl-C ends it\n"
    wait_until = time.monotonic() + 10
    while opened and not (tmp_path / "opened").exists() and time.monotonic() < wait_until:
        time.sleep(0.05)
    assert end(process)[0] == 0
    assert (tmp_path / "opened").exists() == opened
    assert not opened or (tmp_path / "opened").read_text().strip() == address


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_shows_the_curves_in_a_real_browser(dashboard: Dashboard, databases: Path, tmp_path: Path) -> None:
    from PIL import Image

    process = dashboard("my.project", "--dir", databases)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    picture = tmp_path / "page.png"
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path}/profile", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
        *("--window-size=1400,900", "--virtual-time-budget=8000", f"--screenshot={picture}", "--dump-dom", address),
    ]
    env = {**os.environ, "HOME": str(tmp_path)}
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert "train_loss" in shown.stdout
    assert "toy_1" in shown.stdout and "toy_2" in shown.stdout and "toy_3" not in shown.stdout
    # Right of the menus only curves have a colour, and theirs fall from left to right.
    image = Image.open(picture).convert("RGB").crop((300, 130, 680, 420))
    pixels: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for x, y in itertools.product(range(image.width), range(image.height)):
        colour = cast("tuple[int, ...]", image.getpixel((x, y)))
        if max(colour) - min(colour) > 40:
            pixels.setdefault(colour, []).append((x, y))
    curves = [curve for curve in pixels.values() if len(curve) > 100]
    assert len(curves) == 2
    for curve in curves:
        (left, top), (right, bottom) = min(curve), max(curve)
        assert right - left > 200 and bottom - top > 50
    assert end(process)[0] == 0
