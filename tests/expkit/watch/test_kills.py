"""kill -9 at random moments: each event exactly once in the file, each alert at least once, each snapshot once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from expkit.experiment import RunDir
from expkit.journal import cut_journal
from expkit.snapshots import list_snapshots
from expkit.webhook import Webhook
from tests.expkit.watch.runs import in_process, records, told, watcher, write

WORDS = ("detectors=loss_spike,nonfinite", "detectors.loss_spike.cooldown=5", "detectors.nonfinite.respond=[alert]")


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield an address, and the list of what was posted to it."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start(run: RunDir, url: str) -> int:
    """Start a watcher in a process of its own, and return its number."""
    child = os.fork()
    if child:
        return child
    try:  # whatever happens, it must not come back into the tests
        watching = watcher(run, WORDS, Webhook(url), steps=50)
        while True:
            watching.catch_up()
            watching.save(force=True)
            time.sleep(0.001)
    finally:
        os._exit(1)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kills(tmp_path: Path, kills: int) -> None:
    run = RunDir(tmp_path / "run")
    chance = random.Random(0)
    last = 0
    with receiver() as (url, got):
        for _ in range(kills):
            child = start(run, url)
            for _ in range(chance.randrange(1, 5)):
                write(run, records(last + 1, last + 20))
                last += 20
                time.sleep(chance.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        webhook = Webhook(url)
        final = watcher(run, WORDS, webhook, steps=50)
        final.catch_up()
        webhook.close()
    expected = in_process(tmp_path / "events.jsonl", records(1, last), WORDS)
    assert told(run.logs / "watch_events.jsonl") == expected
    assert not list(run.logs.glob("watch_events.cut-*"))  # they were recognised
    told_of = {each["id"]: (each["detector"], each["title"], each["step"], each["text"]) for each in got}
    assert sorted(told_of.values()) == sorted(
        (each["detector"], each["kind"], each["step"], each["message"]) for each in expected
    )
    steps = [snapshot.step for snapshot in list_snapshots(run)]
    assert len(set(steps)) == len(steps) > 0


def test_an_alert_that_was_not_delivered_is_sent_by_the_next_watcher(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, records(1, 40))
    unheard = Webhook("http://127.0.0.1:9/", pauses=(60.0,))
    first = watcher(run, WORDS, unheard)
    first.catch_up()
    assert not first.save(force=True)  # a state would say that all is done
    unheard.close(timeout=0)
    assert not first.save(force=True)  # as a watcher that is told to end does, whose receiver is not there
    with receiver() as (url, got):
        webhook = Webhook(url)
        second = watcher(run, WORDS, webhook)
        second.catch_up()
        webhook.close()
        assert {each["step"] for each in got} == {17, 34}
        assert len(told(run.logs / "watch_events.jsonl")) == 2
        assert second.save(force=True)
        webhook = Webhook(url)
        watcher(run, WORDS, webhook).catch_up()
        webhook.close()
    assert len(got) == 2


def test_an_alert_after_a_resume_is_not_taken_for_one_that_was_delivered_before(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, records(1, 200))
    first = watcher(run, WORDS)
    first.catch_up()
    assert first.save(force=True)  # a file of events that is longer than what comes of it
    cut_journal(run.metrics, 100)
    write(run, records(101, 140, seed=1))
    unheard = Webhook("http://127.0.0.1:9/", pauses=(60.0,))
    watcher(run, WORDS, unheard).catch_up()
    unheard.close(timeout=0)
    with receiver() as (url, got):
        webhook = Webhook(url)
        watcher(run, WORDS, webhook).catch_up()
        webhook.close()
    assert {each["step"] for each in got} == {102, 119, 136, 122}
    assert len({each["id"] for each in got}) == len({(each["step"], each["text"]) for each in got})
