"""Reads the runs that W&B has written to this machine, online or offline ones: no network, no account.

The one reader of these files. It streams: what is in memory is a run's configuration and summary, never its history.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.wandb_data.log_file import LogFile
from expkit.wandb_data.records import decode, dotted, first_run, parsed, records, seconds, update
from expkit.wandb_data.source import Row

__all__ = ["SUPERSEDED", "OfflineRun", "OfflineSource", "offline_files", "offline_runs", "read_offline"]

#: How the name of a folder begins whose run `expkit replay` has written anew.
SUPERSEDED = "superseded-"

log = logging.getLogger("expkit")


class OfflineRun:
    """One run, out of all the files that W&B has written of it: every resume of an offline run begins another.

    Only what identifies it is read at once. The rest is read when it is first asked for, and `history` and `system`
    anew each time; so they show what a running training has written by then.

    Args:
        files: the run's `run-*.wandb` files, in the order in which they were written.

    Attributes:
        parts: these files.
        id, name, project, entity: as the run was given them last; a name that was not given is the id.
        created: when it began, ISO 8601; empty if that is lost.
        state: finished, failed (an exit code that is not 0), or unfinished: it still goes on, or was killed.
        config, summary: nested dictionaries.
        torn: how many records could not be read (a torn end, damage).
        history: iterable of rows, one dictionary each, in the order in which they were written. Nested values have
            dotted names. NaN and infinities are floats.
        system: the same of the system stream; `_timestamp` is in seconds.
    """

    local = True

    def __init__(self, files: Sequence[Path]) -> None:
        self.parts = tuple(files)
        abouts = [first_run(part) for part in self.parts]
        self.id: str = abouts[0].run_id
        self.name, self.project, self.entity = (
            next((getattr(about, name) for about in reversed(abouts) if getattr(about, name)), "")
            for name in ("display_name", "project", "entity")
        )
        self.name = self.name or self.id
        self.began = seconds(abouts[0].start_time)
        self.history: Iterable[dict[str, Any]] = _Rows(self._rows_of_history)
        self.system: Iterable[dict[str, Any]] = _Rows(self._rows_of_system)

    @property
    def created(self) -> str:
        """When it began, in UTC."""
        return datetime.fromtimestamp(self.began, UTC).isoformat(timespec="seconds") if self.began else ""

    @property
    def place(self) -> str:
        """The newest file."""
        return str(self.parts[-1])

    @property
    def state(self) -> str:
        """How the newest part ended."""
        return self._content.state

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, without what W&B adds to it."""
        return self._content.config

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each metric, and what was set by hand."""
        return self._content.summary

    @property
    def torn(self) -> int:
        """How many records could not be read."""
        return self._content.torn

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        if not self.torn:
            return []
        return [f"{self.torn} record(s) cannot be read: a run that was killed, that goes on just now, or damage"]

    def names(self) -> list[str]:
        """Return the names of all metrics in the history."""
        names = self._content.names
        media = tuple(name.removesuffix("_type") for name in names if name.endswith("._type"))  # of a picture, say
        return sorted({name for name in names if not name.startswith(media)} | {prefix[:-1] for prefix in media})

    def system_names(self) -> list[str]:
        """Return the names of all metrics in the system stream."""
        return sorted(self._content.system_names)

    def metrics(self, keys: Sequence[str]) -> Iterator[Row]:
        """Yield the rows of the history that have any of `keys`, and of them only these and `_step`."""
        wanted = {*keys, "_step"}
        for row in self._rows_of_history(wanted):
            if any(key in row for key in keys):
                yield row

    @cached_property
    def _content(self) -> _Content:
        return _read_content(self.parts)

    def _rows_of_history(self, only: set[str] | None = None) -> Iterator[dict[str, Any]]:
        for record in records(self.parts, "history"):
            row = {
                name: decode(item.value_json)
                for item in record.history.item
                if (name := dotted(item)) and (only is None or name in only)
            }
            row.setdefault("_step", record.history.step.num)
            yield row

    def _rows_of_system(self) -> Iterator[dict[str, Any]]:
        for record in records(self.parts, "stats"):
            row = {item.key: decode(item.value_json) for item in record.stats.item}
            yield {"_timestamp": seconds(record.stats.timestamp)} | row


class OfflineSource:
    """The runs in a folder, for the queries.

    Args:
        path: whatever `offline_runs` takes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def runs(self, limit: int) -> list[OfflineRun]:
        """Return at most `limit` runs, the newest first."""
        return offline_runs(self.path)[:limit]

    def find(self, name: str | None = None, run_id: str | None = None) -> OfflineRun:
        """Return the newest run of this name or id; without either, the newest.

        Raises:
            UserError: there is none.
        """
        runs = offline_runs(self.path)
        for run in runs:
            if (run_id is None or run.id == run_id) and (
                name is None or run.name == name or run.config.get("run_name") == name
            ):
                return run
        asked = f"id {run_id}" if run_id is not None else f"name {name}"
        raise UserError(
            f"there is no run of the {asked} in {self.path}; there are: {', '.join(run.name for run in runs[:5])}"
        )


def read_offline(path: Path | str) -> OfflineRun:
    """Return the newest run at `path`.

    Args:
        path: a run directory, its `wandb` folder, a folder `offline-run-*` or `run-*`, or a file `run-*.wandb`. The
            last two mean that part alone, if a run was resumed; the first two all parts.

    Raises:
        UserError: there is no run, or the file is no transaction log.
    """
    return offline_runs(path)[0]


def offline_runs(path: Path | str, everywhere: bool = False) -> list[OfflineRun]:
    """Return the runs at `path`, the newest first: like `read_offline`, or a folder of run directories.

    Args:
        path: where.
        everywhere: look on below where the first ones are found.

    Raises:
        UserError: there is none, or a file is no transaction log.
    """
    path = Path(path)
    parts: dict[tuple[Path, str, str], list[tuple[str, float, Path]]] = {}
    files = offline_files(path, everywhere)
    for file in files:
        try:
            about = first_run(file)
        except UserError as error:
            if len(files) == 1:
                raise
            log.warning("left out: %s", error)  # one bad file must not hide the runs beside it
            continue
        # The folder's name has whole seconds, and is there even if the time in the file is not.
        moment = re.search(r"\d{8}_\d{6}", file.parent.name)
        # Ids are unique in one wandb folder and project only: a copy of a run directory is another run.
        run = parts.setdefault((file.parent.parent, about.project, about.run_id), [])
        run.append((moment[0] if moment else "", seconds(about.start_time), file))
    if not parts:
        if not path.exists():
            raise UserError(f"{path} is not there: name a run directory, or a wandb folder")
        hint = ": it was trained without tracker=wandb, or killed before W&B began" if RunDir(path).exists() else ""
        raise UserError(f"there is no W&B run in {path}{hint}")
    for folder, project, run_id in list(parts):
        named = [key for key in parts if key[0] == folder and key[2] == run_id and key[1]]
        if not project and named:  # torn before it said whose it is
            parts[named[0]] += parts.pop((folder, project, run_id))
    newest_first = sorted((sorted(found) for found in parts.values()), key=lambda found: found[-1], reverse=True)
    return [OfflineRun([file for *_, file in found]) for found in newest_first]


def offline_files(path: Path, everywhere: bool = False) -> list[Path]:
    """Return the transaction logs at `path`, wherever they are in what people call a run.

    Args:
        path: see `offline_runs`.
        everywhere: look on below where the first ones are found.
    """
    if path.is_file():
        return [path]
    every: dict[Path, Path] = {}
    for pattern in ("run-*.wandb", "*run-*/run-*.wandb", "wandb/*run-*/run-*.wandb", "*/wandb/*run-*/run-*.wandb"):
        # Links to runs (W&B's latest-run, one's own) lead to files that are there already.
        files = [file for file in path.glob(pattern) if not file.parent.name.startswith(SUPERSEDED)]
        every |= {Path(os.path.realpath(file)): file for file in sorted(files, reverse=True)}
        if every and not everywhere:
            break
    return sorted(every.values())


@dataclass
class _Content:
    """What one pass over the files tells."""

    state: str = "unfinished"
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    system_names: set[str] = field(default_factory=set)
    torn: int = 0


class _Rows:
    """Rows that can be iterated more than once, each time from the file."""

    def __init__(self, make: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._make()


def _read_content(parts: Sequence[Path]) -> _Content:
    content = _Content()
    for path in parts:
        file, content.state = LogFile(path), "unfinished"
        for record in parsed(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                content.names.update(map(dotted, record.history.item))
            elif kind == "stats":
                content.system_names.update(item.key for item in record.stats.item)
            elif kind == "run":
                update(content.config, record.run.config)
                update(content.summary, record.run.summary)
            elif kind == "config":
                update(content.config, record.config)
            elif kind == "summary":
                update(content.summary, record.summary)
            elif kind == "exit":
                content.state = "failed" if record.exit.exit_code else "finished"
        content.torn += file.torn
    content.config.pop("_wandb", None)
    content.summary.pop("_wandb", None)
    return content
