"""The server of the page: Python's own, as nothing here needs more. It answers GET, on this machine's address."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import zlib
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from expkit.errors import UserError, describe
from expkit.monitor.web import answers
from expkit.monitor.web.hub import Answer, Hub
from expkit.plots.interactive import library

__all__ = ["Server", "open_server"]

log = logging.getLogger("expkit")

_PORT = 8765
_TRIED = 100
_STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_JSON = "application/json"

#: Nothing from elsewhere, no script in the page itself, no frame around it. plotly sets styles of its own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves one page and its JSON.

    Args:
        hub: what there is to say.
        address: host and port; port 0 is any that is free.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, hub: Hub, address: tuple[str, int]) -> None:
        self.hub = hub
        self.host = address[0]
        self.files = {"": _STATIC / "index.html", "plotly.min.js": library()}
        self.files |= {f"static/{path.name}": path for path in _STATIC.iterdir() if path.suffix in _TYPES}
        self.address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking who the host is: that may take seconds where no name server answers."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    def address(self) -> str:
        """Return the page's address, as it is opened on this machine."""
        host = self.host if _is_loopback(self.host) else socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def is_private(self) -> bool:
        """Whether only this machine can ask."""
        return _is_loopback(self.host)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that hang up."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def knows_host(self, host: str | None) -> bool:
        """Whether a request was meant for this server: a name that somebody else has pointed here is refused."""
        try:
            name = urlsplit(f"//{host or ''}").hostname if _is_host(host) else None
        except ValueError:  # half an IPv6 address
            return False
        if name is None:
            return False
        if name in ("localhost", self.host):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not _is_loopback(self.host) and _is_own(name)
        return address.is_loopback or not _is_loopback(self.host)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # connections stay open
    server_version, sys_version = "expkit", ""
    timeout = 60.0

    def do_GET(self) -> None:
        """Answer."""
        if not self.server.knows_host(self.headers.get("Host")):
            self._send(HTTPStatus.FORBIDDEN, b"this name is not this server's\n", "text/plain")
            return
        try:
            parts = urlsplit(self.path)
            self._answer(unquote(parts.path).removeprefix("/"), parts.query)
        except ValueError as error:
            self._send(HTTPStatus.BAD_REQUEST, orjson.dumps({"error": str(error)}), _JSON)
        except OSError:  # the browser has hung up
            raise
        except Exception as error:  # noqa: BLE001 - one question that cannot be answered is not the end of the page
            log.warning("%s could not be answered: %s", parts.path, describe(error))
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, orjson.dumps({"error": describe(error)}), _JSON)

    def _answer(self, path: str, question: str) -> None:
        hub = self.server.hub
        runs = [feed.run for feed in hub.monitor.feeds]
        if path == "api/state":
            self._send_answer(hub.state())
        elif path in _ENDPOINTS:
            query = parse_qs(question, keep_blank_values=True, max_num_fields=200)
            make = partial(_ENDPOINTS[path], hub.monitor, query)
            self._send_answer(hub.answer(f"{path}?{question}", make, self.headers.get("If-None-Match")))
        elif path == "api/memory":
            hub.look()
            with hub.lock:
                said = answers.memory(hub.monitor)
            self._send_answer(_tagged(orjson.dumps(said, option=orjson.OPT_INDENT_2)))
        elif path == "api/pictures":
            self._send_answer(_tagged(orjson.dumps(answers.pictures(runs))))
        elif path.startswith("pictures/") and path.count("/") == 2:
            found = answers.picture(runs, *path.split("/")[1:])
            if found is None:
                self._send_missing()
            else:
                self._send(HTTPStatus.OK, *found, cache="max-age=86400, immutable")
        elif path in self.server.files:
            self._send_file(self.server.files[path])
        else:
            self._send_missing()

    def _send_answer(self, answer: Answer | None) -> None:
        known = self.headers.get("If-None-Match", "")
        if answer is None or (known and answer.tag == known):
            self._send(HTTPStatus.NOT_MODIFIED, b"", _JSON, tag=known)
        else:
            self._send(HTTPStatus.OK, answer.body, _JSON, tag=answer.tag)

    def _send_file(self, path: Path) -> None:
        stat = path.stat()
        tag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", _TYPES[path.suffix], tag=tag, cache="no-cache")
        else:
            self._send(HTTPStatus.OK, path.read_bytes(), _TYPES[path.suffix], tag=tag, cache="no-cache")

    def _send_missing(self) -> None:
        self._send(HTTPStatus.NOT_FOUND, b"there is nothing here\n", "text/plain")

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str, tag: str | None = None, cache: str = "no-store"
    ) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", cache)
        if tag:
            self.send_header("ETag", tag)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse what is no GET, and what is no HTTP, in one line."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._send(status, f"{status.phrase}\n".encode(), "text/plain")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


_ENDPOINTS: dict[str, Callable[..., Any]] = {"api/metrics": answers.metrics, "api/panels": answers.panels}


def open_server(hub: Hub, host: str, port: int | None) -> Server:
    """Return a server that listens.

    Args:
        hub: what there is to say.
        host: the address.
        port: None: 8765, or the next one that is free.

    Raises:
        UserError: it cannot listen there.
    """
    tried = range(_PORT, _PORT + _TRIED) if port is None else [port]
    for each in tried:
        try:
            return Server(hub, (host, each))
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, socket.gaierror):
                raise UserError(f"--host {host}: it is no address of this machine ({reason})") from None
            if port is not None or "in use" not in reason.lower():
                other = ": choose another --port, or leave it out" if "in use" in reason.lower() else ""
                raise UserError(f"--host {host} --port {each}: cannot listen there ({reason}){other}") from None
    raise UserError(f"--port: of {tried[0]} to {tried[-1]} none is free: name another")


def _tagged(body: bytes) -> Answer:
    return Answer(body, f'"{zlib.crc32(body):x}"')


def _is_host(host: str | None) -> bool:
    return bool(host) and not set(host or "") & set("/@?#\\ ")


def _is_own(name: str) -> bool:
    """Whether a name is this host's: the short one, or the whole one, which may take a question to a name server."""
    own = socket.gethostname().lower()
    short = own.partition(".")[0]
    return name in (own, short) or (name.startswith(f"{short}.") and name == socket.getfqdn().lower())


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
