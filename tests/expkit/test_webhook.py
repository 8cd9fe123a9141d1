"""Alerts that are posted: to a real server, which may be slow, refuse, or not be there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from expkit.errors import UserError
from expkit.secrets import mask_arguments, mask_secrets
from expkit.webhook import Webhook


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with `codes`, one after the other, then 200, each after `pause` seconds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?key=SECRET"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.hold.wait(10)
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 200:
            self.server.received.append(body)
        self.send_response(code)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()


def test_alerts_arrive_in_order(receiver: Receiver) -> None:
    webhook = Webhook(receiver.url)
    for step in range(5):
        webhook.send({"title": "loss_spike", "step": step})
    webhook.close()
    assert receiver.received == [{"title": "loss_spike", "step": step} for step in range(5)]
    assert webhook.lost == 0


def test_a_server_that_stumbles_is_asked_again(receiver: Receiver) -> None:
    receiver.codes = [500, 429]
    webhook = Webhook(receiver.url, pauses=(0.01, 0.01))
    webhook.send({"step": 1})
    webhook.close()
    assert receiver.received == [{"step": 1}]


@pytest.mark.parametrize("codes", [[404], [500, 500, 500]])
def test_one_that_refuses_is_said_once_without_the_key(
    receiver: Receiver, codes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    receiver.codes = [*codes, *codes]
    webhook = Webhook(receiver.url, pauses=(0.01, 0.01))
    for step in range(3):
        webhook.send({"step": step})
    webhook.close()
    assert receiver.received == [{"step": 2}]
    assert webhook.lost == 2
    (message,) = caplog.messages
    assert f"HTTP {codes[0]}" in message
    assert "SECRET" not in message


def test_one_that_hangs_holds_nobody_up(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.hold.clear()
    webhook = Webhook(receiver.url)
    began = time.monotonic()
    for step in range(200):
        webhook.send({"step": step})
    webhook.close(timeout=0.1)
    assert time.monotonic() - began < 5
    assert webhook.lost >= 99
    assert "not delivered" in caplog.messages[-1]


def test_nobody_there_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    webhook = Webhook("http://127.0.0.1:9/", pauses=())
    webhook.send({"step": 1})
    webhook.close()
    assert webhook.lost == 1
    assert "Connection refused" in caplog.messages[0]


@pytest.mark.parametrize("url", ["", "ftp://x/y", "file:///etc/passwd", "hooks.example.org", 5])
def test_what_is_no_address_is_refused(url: Any) -> None:
    with pytest.raises(UserError, match="begins with http:// or https://"):
        Webhook(url)


def test_its_address_is_a_secret() -> None:
    assert mask_secrets({"responses": {"webhook": "https://x/T0K3N"}}) == {"responses": {"webhook": "***"}}
    assert mask_arguments(["responses.webhook=https://x/T0K3N"]) == ["responses.webhook=***"]
