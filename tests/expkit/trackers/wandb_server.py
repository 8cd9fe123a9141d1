"""A stand-in for a W&B server: it keeps what runs send, and answers as much as a run asks."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """What it knows of the one run that it has room for, and how it behaves.

    Attributes:
        rows: the history, as sent.
        about: variables of the mutations that made or changed the run, later ones over earlier ones.
        alerts: variables of the mutations that sent an alert.
        summary, exit_code: the last that was sent; None before.
        files: name -> content.
        hang: fall silent.
        refuse: take no key.
        failures: how many requests to answer with an error of the server's own, before all is well again.
        requests: how many GraphQL requests came.
    """

    daemon_threads, block_on_close = True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []
        self.summary: dict[str, Any] | None = None
        self.exit_code: int | None = None
        self.files: dict[str, bytes] = {}
        self.hang = self.refuse = False
        self.failures = self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *args: Any) -> None:
        """Say nothing of a client that has gone."""

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL request."""
        name, entity = variables.get("project") or "uncategorized", {"id": "e", "name": "me"}
        project = {"id": "p", "name": name, "entity": entity}
        if operation == "Viewer":
            return {"viewer": {"id": "v", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._known(variables["name"])}}
        if operation == "UpsertBucket":
            inserted = not (self.about or self.rows)
            self.about.update({key: value for key, value in variables.items() if value is not None})
            name = variables["name"]
            bucket = {"id": "r", "name": name, "displayName": name, "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/file/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        return {}

    def stream(self, sent: dict[str, Any]) -> None:
        """Take what a run sends while it goes on."""
        files = sent.get("files", {})
        self.rows += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary = json.loads(line)
        if sent.get("complete"):
            self.exit_code = sent["exitcode"]

    def _known(self, name: str) -> dict[str, Any] | None:
        if not self.rows:
            return None
        tail = json.dumps([json.dumps(self.rows[-1] | {"_runtime": 3})])
        counts = {"logLineCount": 0, "historyLineCount": len(self.rows), "eventsLineCount": 0}
        texts = {"config": "{}", "summaryMetrics": "{}", "historyTail": tail, "eventsTail": "[]"}
        return {"name": name, "displayName": name, "tags": [], "wandbConfig": '{"t": 1}', **counts, **texts}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        while self.server.hang:
            time.sleep(0.1)
        if self.path != "/graphql":
            self.server.stream(sent)
            self._reply({})
            return
        self.server.requests += 1
        if self.server.failures > 0:
            self.server.failures -= 1
            self._reply({}, 500)
        elif self.server.refuse:
            self._reply({"errors": [{"message": "invalid key"}]}, 401)
        else:
            named = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            operation = sent["operationName"] or (named[1] if named else "")
            self._reply({"data": self.server.answer(operation, sent.get("variables") or {})})

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/file/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply({})

    def _reply(self, content: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def wandb_server(kind: type[WandbServer] = WandbServer) -> Iterator[Any]:
    """Run a server until the end of the block."""
    with kind() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.hang = False
        server.shutdown()
