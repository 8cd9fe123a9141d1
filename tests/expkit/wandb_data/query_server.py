"""A W&B server with several runs in it, for `wandb.Api`: it answers what that asks, as the real one does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.expkit.trackers.wandb_server import WandbServer

_EMPTY = {"sweepName": None, "jobType": None, "commit": None, "readOnly": False, "description": None, "notes": None}


class QueryServer(WandbServer):
    """The project me/p. Runs are in the order in which they were made: the oldest first.

    Attributes:
        stored: the runs.
        asked: names of the operations, in order.
        given: of each answer about a history, the first step that was asked for, and how many rows it had.
        cap: the server gives at most that many rows of a history, spread evenly.
        silent_on: an operation that is never answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.given: list[tuple[int, int]] = []
        self.cap = 10**9
        self.silent_on = ""

    def add(
        self,
        run_id: str,
        name: str,
        history: Sequence[Mapping[str, Any]] = (),
        system: Sequence[Mapping[str, Any]] = (),
        **config: Any,
    ) -> None:
        """Store a run, newer than all others."""
        made = f"2026-01-01T00:00:{len(self.stored):02}Z"
        about = {"id": f"storage-{run_id}", "name": run_id, "displayName": name, "state": "finished", "createdAt": made}
        self.stored.append({"about": about, "config": config, "history": history, "system": system})

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer the questions of `wandb.Api`, those of a run that logs like its parent."""
        self.asked.append(operation)
        while operation == self.silent_on:
            time.sleep(0.1)
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "v", "entity": "me"}}
        if operation == "Runs":
            return {"project": self._runs(variables)}
        if operation in ("RunSampledHistory", "RunFullHistory", "Run"):
            return {"project": {"run": self._run(operation, variables)}}
        return super().answer(operation, variables)

    def _runs(self, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        if (variables["entity"], variables["project"]) != ("me", "p"):
            return None
        filters = json.loads(variables["filters"])
        found = [run for run in self.stored if _matches(run, filters)]
        assert variables["order"].lstrip("+-") == "created_at"
        if variables["order"].startswith("-"):
            found.reverse()
        start = int(variables["cursor"] or 0)
        page = found[start : start + variables["perPage"]]
        edges = [{"node": _node(run), "cursor": str(start + index + 1)} for index, run in enumerate(page)]
        more = start + len(page) < len(found)
        return {
            "internalId": "1",
            "runCount": len(found),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": more}},
        }

    def _run(self, operation: str, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        run = next((run for run in self.stored if run["about"]["name"] == variables["name"]), None)
        if run is None or operation == "Run":
            return run and _node(run)
        if operation == "RunSampledHistory":
            (spec,) = map(json.loads, variables["specs"])
            first, end = spec.get("minStep", 0), spec.get("maxStep", 10**18)
            full = [row for row in run["history"] if all(key in row for key in spec["keys"])]  # drops all others
            full = [row for row in full if first <= row["_step"] < end]
            number = min(spec["samples"], self.cap)
            sample = full[:: max(1, -(-len(full) // number))]
            self.given.append((first, len(sample)))
            return {"sampledHistory": [[{key: row[key] for key in spec["keys"]} for row in sample]]}
        return {"events": [json.dumps(row) for row in run["system"]]}


def _matches(run: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    for key, value in filters.items():
        if key == "$or":
            if not any(_matches(run, each) for each in value):
                return False
        elif key.startswith("config."):
            if run["config"].get(key.removeprefix("config.")) != value:
                return False
        elif run["about"][key] != value:
            return False
    return True


def _node(run: Mapping[str, Any]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in run["history"]:
        for key in row:
            counts[key] = counts.get(key, 0) + 1
    keys = {key: {"typeCounts": [{"type": "number", "count": count}]} for key, count in counts.items()}
    return {
        **_EMPTY,
        **run["about"],
        "projectId": "1",
        "tags": [],
        "group": None,
        "heartbeatAt": run["about"]["createdAt"],
        "historyLineCount": len(run["history"]),
        "user": {"name": "me", "username": "me"},
        "config": json.dumps({key: {"value": value} for key, value in run["config"].items()}),
        "summaryMetrics": json.dumps(run["history"][-1] if run["history"] else {}),
        "systemMetrics": "{}",
        "historyKeys": {"keys": keys, "lastStep": run["history"][-1]["_step"] if run["history"] else -1, "sets": []},
    }
