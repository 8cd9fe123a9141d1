"""What the page's server says, and to whom: endpoints, tags, and what nobody gets from it."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from expkit.cli.main import main
from expkit.errors import UserError
from expkit.monitor import TrainingMonitor, View
from expkit.monitor.web.hub import Hub
from expkit.monitor.web.server import Server, open_server
from tests.conftest import ended
from tests.expkit.monitor.test_screen import write
from tests.expkit.trackers.conftest import takes_ctrl_c

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    write(folder, range(1, 2001), loss=lambda step: math.nan if step == 7 else 1 / step, **{SCRIPT: 1.0, "a+b[0]*": 2})
    write(folder, range(2001, 2002), **{"gpu/0/memory_used_pct": 50.0, "memory/percent": 40.0})
    (folder / "visualizations").mkdir()
    return folder


@pytest.fixture
def server(run: Path) -> Iterator[Server]:
    with serving(run) as server:
        yield server


@contextlib.contextmanager
def serving(*runs: Path, **view: Any) -> Iterator[Server]:
    with TrainingMonitor(list(runs), View(**view), index=False) as monitor:
        hub = Hub(monitor, interval=0.1)
        server = open_server(hub, "127.0.0.1", 0)
        hub.start()
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            yield server
        finally:  # a test that fails must not leave a thread that pytest waits for
            server.shutdown()
            thread.join()
            server.server_close()
            hub.close()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def said(server: Server, path: str, **query: Any) -> Any:
    status, _, body = ask(server, f"{path}?{urlencode(query, doseq=True)}" if query else path)
    assert status == 200, body
    return orjson.loads(body)


def test_the_state_says_how_runs_stand(server: Server) -> None:
    state = said(server, "/api/state")
    [run] = state["runs"]
    assert (run["name"], run["records"], run["step"]) == ("a", 2001, 2001)
    assert state["panels"][0] == "loss" and not state["reading"]
    assert {gauge["name"] for gauge in run["gauges"]} == {"gpu 0 memory", "memory"}


def test_values_are_thinned_and_it_is_said(server: Server) -> None:
    [found] = said(server, "/api/metrics", name="loss", points=100)["values"]
    assert found["points"] == len(found["values"]) <= 100 < found["of"] == 1999
    assert found["nonfinite_steps"] == [7] and max(found["values"]) == 1
    [part] = said(server, "/api/metrics", name="loss", **{"from": 100, "to": 120})["values"]
    assert {step: value for step, value in zip(part["steps"], part["values"], strict=True) if 100 <= step <= 120} == {
        step: 1 / step for step in range(100, 121)
    }
    assert part["steps"][0] == 100 and part["steps"][-1] == 120 and part["nonfinite_steps"] == []
    for points in (4, 5, 7):
        assert said(server, "/api/metrics", name="loss", points=points)["values"][0]["points"] <= points
    names = {metric["name"] for metric in said(server, "/api/metrics")["metrics"]}
    assert names == {"loss", SCRIPT, "a+b[0]*", "gpu/0/memory_used_pct", "memory/percent"}
    [odd] = said(server, "/api/metrics", name="a+b[0]*")["values"]
    assert set(odd["values"]) == {2}


def test_memory_is_that_of_the_run_and_of_the_monitor(server: Server) -> None:
    memory = said(server, "/api/memory")
    assert memory["runs"][0]["metrics"] == {"gpu/0/memory_used_pct": 50.0, "memory/percent": 40.0}
    assert ask(server, "/api/memory")[1]["ETag"]
    assert memory["monitor"]["rss_mb"] > 1 and memory["monitor"]["pid"] == os.getpid()


def test_panels_are_figures_with_names_that_are_no_html(server: Server) -> None:
    found = said(server, "/api/panels", panel=["loss", SCRIPT], x="epoch", smooth=0.1, theme="light")
    loss, odd = found["panels"]
    assert [line["metric"] for line in loss["lines"]] == ["loss"] and loss["figure"]["data"][0]["x"]
    assert odd["title"] == SCRIPT  # a text node
    assert SCRIPT not in str([trace["name"] for trace in odd["figure"]["data"]])
    assert found["limits"][0] < 1 < found["limits"][1]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/api/metrics?name=lost", "there is no metric lost (yet): did you mean loss?"),
        ("/api/metrics?run=b", "run=b: choose from a"),
        ("/api/metrics?name=loss&points=x", "points=x: give a number from 4 to"),
        ("/api/metrics?name=loss&from=9&to=3", "from=9: it is behind to=3"),
        (f"/api/metrics?{'name=loss&' * 300}", "Max number of fields exceeded"),
        ("/api/panels?x=hour", "x=hour: choose step or time or epoch"),
        ("/api/panels?theme=pink", "theme=pink: choose dark or light"),
        ("/api/panels?unit=5", "unit=5: choose 1 or 60 or 3600"),
        ("/api/panels?smooth=nan", "smooth=nan: give a number from 0 to 0.5"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong(server: Server, path: str, reason: str) -> None:
    status, _, body = ask(server, path)
    assert status == 400 and reason in orjson.loads(body)["error"]


def test_a_question_that_cannot_be_answered_is_not_the_end_of_it(
    server: Server, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said(server, "/api/state")

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as broken:
        broken.setattr("expkit.monitor.web.answers.state_of", fail)  # also in the thread that reads
        broken.setattr("expkit.monitor.web.answers.memory", fail)
        status, _, body = ask(server, "/api/memory")
        assert status == 500 and "a mistake of ours" in orjson.loads(body)["error"]
        write(run, range(2002, 2003), loss=1.0)
        time.sleep(0.3)
    deadline = time.monotonic() + 20
    while said(server, "/api/state")["runs"][0]["step"] != 2002:
        assert time.monotonic() < deadline
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_knows_nothing_yet_gets_all_before_the_first_reading(run: Path) -> None:
    with TrainingMonitor(run, index=False) as monitor, contextlib.ExitStack() as stack:
        hub = Hub(monitor, interval=0.1)
        hub.look = lambda: None  # type: ignore[method-assign]  # nothing is read
        stack.callback(hub.close)
        server = open_server(hub, "127.0.0.1", 0)
        stack.callback(server.server_close)
        hub.start()
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert said(server, "/api/state")["reading"] is True
        thread.join()


@pytest.mark.parametrize("path", ["/api/state", "/api/panels?panel=loss", "/api/metrics?name=loss", "/api/pictures"])
def test_what_has_not_changed_is_not_sent_again(server: Server, run: Path, path: str) -> None:
    def settled() -> tuple[int, http.client.HTTPMessage, bytes]:
        for _ in range(20):  # a state says how long ago the last record was, in whole seconds
            _, headers, _ = ask(server, path)
            answer = ask(server, path, If_None_Match=headers["ETag"])
            if answer[0] == 304:
                return answer
        return answer

    status, headers, body = settled()
    assert (status, body) == (304, b"")
    if path != "/api/pictures":
        write(run, range(2002, 2100), loss=0.1)
        deadline = time.monotonic() + 20
        while ask(server, path, If_None_Match=headers["ETag"])[0] == 304:
            assert time.monotonic() < deadline


def test_runs_are_read_once_for_all_and_only_while_somebody_looks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(server, "/api/state")
    monkeypatch.setattr("expkit.monitor.web.hub._LOOKED", -1.0)
    time.sleep(0.3)
    reads: list[str] = []
    refresh = server.hub.monitor.refresh
    monkeypatch.setattr(
        server.hub.monitor,
        "refresh",
        lambda within: (reads.append(threading.current_thread().name), refresh(within))[1],
    )
    time.sleep(0.5)
    assert reads == []
    monkeypatch.setattr("expkit.monitor.web.hub._LOOKED", 10.0)
    threads = [threading.Thread(target=said, args=(server, "/api/state")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(reads) <= 8 and set(reads) == {"expkit-monitor-web"}


def test_a_disk_that_cannot_be_read_is_said_and_what_was_read_stays(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(server, "/api/state")

    def fail(_: float) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(server.hub.monitor, "refresh", fail)
    deadline = time.monotonic() + 20
    while "the runs cannot be read now: " not in str((state := said(server, "/api/state"))["notes"]):
        assert time.monotonic() < deadline
    assert state["runs"][0]["records"] == 2001


def test_two_runs_share_a_panel_with_a_colour_each(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, range(1, 50), train_loss=2.0, val_loss=3.0)
    with serving(tmp_path / "a", tmp_path / "b") as server:
        [panel] = said(server, "/api/panels", panel="loss")["panels"]
        assert [(line["run"], line["metric"]) for line in panel["lines"]] == [
            (0, "train_loss"), (0, "val_loss"), (1, "train_loss"), (1, "val_loss"),
        ]  # fmt: skip
        assert len({line["colour"] for line in panel["lines"]}) == 2
        one = said(server, "/api/metrics", name="val_loss", run="b")["values"]
        assert [found["run"] for found in one] == ["b"]


def test_runs_beyond_the_last_colour_have_styles_and_time_has_the_unit_that_was_asked_for(tmp_path: Path) -> None:
    runs = [tmp_path / f"run_{number}" for number in range(9)]
    for folder in runs:
        write(folder, range(1, 150), train_loss=2.0, val_loss=3.0)
    with serving(*runs) as server:
        looks = said(server, "/api/state")["looks"]["dark"]
        assert looks[0] == [looks[8][0], "solid"] and looks[8][1] == "dot"
        answer = said(server, "/api/panels", panel="loss", x="time", unit="1")
        last = answer["panels"][0]["lines"][-2:]
        assert [(line["metric"], line["dash"]) for line in last] == [("train_loss", "dot"), ("val_loss", "dashdot")]
        assert answer["unit"] == 1 and answer["limits"][1] > 148
        assert said(server, "/api/panels", panel="loss", x="time")["unit"] == 60


def test_the_next_free_port_is_taken_and_a_taken_one_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TrainingMonitor(run, index=False) as monitor, socket.create_server(("127.0.0.1", 0)) as taken:
        hub, port = Hub(monitor, 1), taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: cannot listen there \(Address already in use\)"):
            open_server(hub, "127.0.0.1", port)
        monkeypatch.setattr("expkit.monitor.web.server._PORT", port)
        server = open_server(hub, "127.0.0.1", None)
        assert server.server_port > port
        server.server_close()
        with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: it is no address of this machine"):
            open_server(hub, "no.such.host.invalid", 0)


def test_ctrl_c_before_it_has_begun_to_read_ends_it_too(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(hub: Hub) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Hub, "start", pressed)
    assert main(["monitor", str(run), "--web", "--port", "0"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_also_with_browsers_connected(run: Path) -> None:
    command = [sys.executable, "-m", "expkit", "monitor", str(run), "--web", "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ended(subprocess.Popen(command, **pipes, preexec_fn=takes_ctrl_c)) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        connections = [http.client.HTTPConnection(address[7:].rstrip("/"), timeout=20) for _ in range(3)]
        for connection in connections:
            connection.request("GET", "/api/state")
            assert connection.getresponse().read()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
        for connection in connections:
            connection.close()


def test_all_that_the_page_loads_is_in_the_package(server: Server) -> None:
    _, _, page = ask(server, "/")
    for name in ("static/style.css", "static/curves.css", "static/app.js", "plotly.min.js"):
        assert name.encode() in page
        assert ask(server, f"/{name}")[0] == 200
    static = Path(str(sys.modules["expkit.monitor.web.server"].__file__)).with_name("static")
    for path in static.iterdir():
        text = path.read_text()
        assert "http://" not in text and "https://" not in text and len(text.splitlines()) <= 300, path
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, path


def test_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["monitor", "--help"])
    assert "--web" in capsys.readouterr().out
