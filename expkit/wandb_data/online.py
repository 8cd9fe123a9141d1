"""The runs on a W&B server, through `wandb.Api`: reads only, asks again when the network fails, then says so."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from typing import Any, TypeVar

from expkit.errors import UserError
from expkit.wandb_data.at_once import at_once
from expkit.wandb_data.login import missing_login
from expkit.wandb_data.source import SYSTEM, NoAnswerError, Row

__all__ = ["OnlineRun", "OnlineSource"]

T = TypeVar("T")

_TRIES = 3
_PAUSE = 0.5  # seconds before the second try, twice as long before the third; W&B itself asks again within each
_SAMPLES = 10_000  # rows that a server is asked for at most: a day of a value every ten seconds
#: As in wandb's own client, whose `Run.history` knows no steps, and whose `scan_history` asks three times.
_QUESTION = """
query RunSampledHistory($project: String!, $entity: String!, $name: String!, $specs: [JSONString!]!) {
    project(name: $project, entityName: $entity) { run(name: $name) { sampledHistory(specs: $specs) } }
}
"""
_LOCAL = "without a network, name a local run by its path"
_HERE = "what is on this machine: `expkit wandb runs outputs`, `expkit wandb keys latest`"


class OnlineSource:
    """The runs of one project.

    Args:
        project: its name; None takes WANDB_PROJECT, which W&B reads.
        entity: user or team; None takes WANDB_ENTITY, or the account's default.
        timeout: seconds to wait for each answer.
        said: what was said already, by sources before this one.

    Attributes:
        given_up: why nothing more is asked; None while all is well.

    Raises:
        NoAnswerError: the server does not answer.
        UserError: W&B is not installed, nobody is logged in, or the key is refused.
    """

    def __init__(
        self, project: str | None, entity: str | None = None, timeout: int = 10, said: set[str] | None = None
    ) -> None:
        if find_spec("wandb") is None:
            raise UserError("W&B is not installed: pip install wandb")
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import: no line about where the key was found
        import wandb

        project = project or os.environ.get("WANDB_PROJECT")
        if not project:
            raise UserError(f"which project? Say --project; {_HERE}")
        missing = missing_login()
        if missing:
            raise UserError(f"{missing}: run `wandb login` or set WANDB_API_KEY; {_LOCAL}")
        self.host = wandb.env.get_base_url(wandb.setup().settings.base_url) or "the W&B server"
        self._said = said if said is not None else set()
        self.given_up: str | None = None
        self._api = api = self.ask(lambda: wandb.Api(overrides={"entity": entity} if entity else None, timeout=timeout))
        owner = entity or self.ask(lambda: api.settings["entity"] or api.default_entity)
        if not owner:
            raise UserError(f"your account at {self.host} has no default entity: say --entity")
        self.path = f"{owner}/{project}"

    def runs(self, limit: int) -> list[OnlineRun]:
        """Return at most `limit` runs, the newest first.

        Raises:
            UserError: there is no such project, or the server does not answer.
        """
        return self._query({}, limit, lazy=True)[0]

    def find(self, name: str | None = None, run_id: str | None = None) -> OnlineRun:
        """Return the newest run of this name or id; without either, the newest.

        Raises:
            UserError: there is none, or the server does not answer.
        """
        filters: dict[str, Any] = {}
        if run_id is not None:
            filters["name"] = run_id  # what W&B calls name is the id
        if name is not None:
            filters["$or"] = [{"displayName": name}, {"config.run_name": name}]
        found, number = self._query(filters, 1)
        if not found:
            asked = f"run of the id {run_id}" if run_id is not None else f"run of the name {name}" if name else "run"
            raise self._missing(asked)
        if number > 1 and name is not None:
            found[0].notes.append(f"{number} runs are called {name}; this is the newest (--run-id names one exactly)")
        return found[0]

    def named(self, text: str) -> OnlineRun:
        """Return the run of this id, else the newest of this name.

        Raises:
            UserError: there is none, or the server does not answer.
        """
        found, _ = self._query({"$or": [{"name": text}, {"displayName": text}, {"config.run_name": text}]}, 50)
        if not found:
            raise self._missing(f"run of the id or name {text}")
        return next((run for run in found if run.id == text), found[0])

    def ask(self, question: Callable[[], T]) -> T:
        """Return what the server answers.

        Raises:
            NoAnswerError: it did not, several times.
            UserError: it refuses.
        """
        import wandb
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        for attempt in range(1, _TRIES + 1):
            if self.given_up is not None:  # another question waited long enough
                raise NoAnswerError(self.given_up)
            try:
                return question()
            except (wandb.Error, WandbApiFailedError, ValueError) as error:
                trouble = _trouble(error)
                refusal = self._refusal(trouble, error)
                if refusal:
                    raise UserError(refusal) from None
            if attempt < _TRIES and self.given_up is None:
                self._say(f"{self.host} does not answer ({trouble}): trying again, {attempt + 1} of {_TRIES}")
                time.sleep(_PAUSE * attempt)
        self.given_up = f"{self.host} did not answer in {_TRIES} tries ({trouble}): check the network; {_LOCAL}"
        raise NoAnswerError(self.given_up)

    def _missing(self, asked: str) -> UserError:
        newest = ", ".join(run.name for run in self.runs(5))
        return UserError(f"there is no {asked} in {self.path}" + (f"; the newest: {newest}" if newest else ""))

    def _query(self, filters: dict[str, Any], limit: int, lazy: bool = False) -> tuple[list[OnlineRun], int]:
        def asked() -> tuple[list[Any], int]:
            self._api.flush()  # type: ignore[no-untyped-call]  # what it has cached of a run is old
            # The default order is oldest first.
            runs = self._api.runs(self.path, filters, order="-created_at", per_page=min(limit, 50), lazy=lazy)
            first = list(islice(runs, limit))
            return first, len(runs)

        found, number = self.ask(asked)
        return [OnlineRun(self, run) for run in found], number

    def _refusal(self, trouble: str, error: BaseException) -> str | None:
        """Return what to tell the user, None for what may be over in a moment."""
        answer = _answer(error)
        if answer is None and isinstance(error, ValueError):
            if "Could not find project" in trouble:
                return f"{self.host} has no project {self.path}: check --entity and --project"
            return f"{self.host} answers what W&B does not understand: is it a W&B server? ({trouble})"
        status = getattr(answer, "http_status", 0)
        if status in (401, 403):
            return f"{self.host} refuses the key or the request ({trouble}): check `wandb login` and --entity"
        if (400 <= status < 500 and status not in (408, 429)) or trouble.startswith("input:"):
            return f"{self.host} refuses the request: {trouble}"
        return None

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(text, file=sys.stderr)


class OnlineRun:
    """One run on the server; see `QueriedRun`."""

    local = False

    def __init__(self, source: OnlineSource, run: Any) -> None:
        self.notes: list[str] = []
        self._source = source
        self._run = run
        self.id: str = run.id
        self.name: str = run.name or run.id
        self.state: str = run.state
        self.created: str = getattr(run, "created_at", None) or ""
        self.place: str = run.url

    @cached_property
    def counts(self) -> dict[str, int]:
        """The names in the history, and how many values each has, 0 if the server does not say."""
        known = (getattr(self._run, "history_keys", None) or {}).get("keys") or {}
        return {key: sum(each.get("count", 0) for each in about.get("typeCounts", ())) for key, about in known.items()}

    @property
    def extent(self) -> tuple[int, int]:
        """How many values the history has, and the last step: when both are as before, there is nothing new in it."""
        known = getattr(self._run, "history_keys", None) or {}
        return sum(self.counts.values()), int(known.get("lastStep", -1))

    @property
    def system(self) -> Iterator[Row]:
        """The system stream, at most as many rows as a server is asked for."""
        rows = self._source.ask(lambda: self._run.history(stream="system", samples=_SAMPLES, pandas=False))
        if len(rows) >= _SAMPLES:
            self._note(f"the system stream may have more than these {len(rows)} rows: they may be a sample")
        for row in rows:
            yield {key.removeprefix(SYSTEM): value for key, value in row.items()}

    def names(self) -> list[str]:
        """Return the names of all metrics in the history."""
        return sorted(self.counts)

    def system_names(self) -> list[str]:
        """Return the names of all metrics in the system stream, without their prefix."""
        return sorted({key for row in self.system for key in row if not key.startswith("_")})

    def metrics(self, keys: Sequence[str]) -> list[Row]:
        """Return the rows of the history that have any of `keys`, in order of their steps."""
        rows: dict[int, dict[str, Any]] = {}
        # One request per key: asked for several, W&B leaves out the rows that lack one of them.
        for key, answer in zip(keys, self._answers([(key,) for key in keys]), strict=True):
            if len(answer) < (self.counts.get(key) or 0):
                sample = f"a sample of {len(answer)} out of {self.counts[key]} rows"
                self._note(f"the server gave {sample}: averages and maxima are of that")
            for row in answer:
                rows.setdefault(row["_step"], {"_step": row["_step"]})[key] = row.get(key)
        return [rows[step] for step in sorted(rows)]

    def grouped(self, groups: Sequence[Sequence[str]], after: int, before: Mapping[str, int]) -> Iterator[Row]:
        """Yield the rows behind a step, of each group of keys those that have any of them.

        Args:
            groups: keys that are logged together, which makes it one request for all of a group.
            after: the step; -1: all rows.
            before: `counts` up to that step. What has no new value since is not asked for.
        """
        new = {key: count - before.get(key, 0) for key, count in self.counts.items()}
        groups = [[key for key in keys if new[key] or not self.counts[key]] for keys in groups]
        together = [keys for keys in groups if len({new[key] for key in keys}) == 1]
        asked = [*together, *([key] for keys in groups if keys not in together for key in keys)]
        for keys, answer in zip(asked, self._answers(asked, after), strict=True):
            yield from answer
            expected = new[keys[0]]
            if _SAMPLES <= len(answer) < expected:
                self._note(f"the server gave a sample of {len(answer)} out of {expected} rows")
            elif len(answer) < expected and len(keys) > 1:  # as often, but not in the same rows
                for more in self._answers([[key] for key in keys], after):
                    yield from more

    def _answers(self, groups: Sequence[Sequence[str]], after: int | None = None) -> list[list[dict[str, Any]]]:
        """Return the rows of each group of keys, one request for each."""
        try:
            return at_once(lambda keys: self._values(keys, after), [tuple(keys) for keys in groups])
        except KeyboardInterrupt:
            self._source.given_up = "interrupted"  # the threads that still wait have nothing more to say
            raise

    def _values(self, keys: Sequence[str], after: int | None) -> list[dict[str, Any]]:
        """Return a sample of the rows that have all of `keys`; behind a step, up to the last one that was counted."""
        rows: list[dict[str, Any]]
        if after is None:
            rows = self._source.ask(lambda: self._run.history(keys=list(keys), samples=_SAMPLES, pandas=False))
            return rows
        spec = {"keys": ["_step", *keys], "samples": _SAMPLES, "minStep": after + 1}
        if self.extent[1] >= 0:
            spec["maxStep"] = self.extent[1] + 1  # not of it
        answer = self._source.ask(lambda: self._run._exec(_QUESTION, specs=[json.dumps(spec)]))
        rows = ((answer["project"] or {}).get("run") or {}).get("sampledHistory", [[]])[0]
        return rows

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _answer(error: BaseException | None) -> Any:
    """Return what the server said to W&B's core process, which lies below some layers of exceptions; None for nothing.

    Silence of the server is an answer of the core, without a response: then an empty object is returned.
    """
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    while error is not None:
        if isinstance(error, WandbApiFailedError):
            return error.response if error.response is not None else object()
        error = error.__cause__
    return None


def _trouble(error: BaseException) -> str:
    answer = _answer(error)
    text = getattr(answer, "message", "") or str(error)
    if "did not respond in time" in text:
        return "no answer in time"
    return " ".join(text.split())[:200]
