"""trackio: a local database and dashboard, without a server or an account."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expkit.errors import ConfigError
from expkit.record import Record
from expkit.trackers import trackio_calls as calls
from expkit.trackers.base import Alert, RunInfo, Tracker

__all__ = ["TrackioTracker"]

log = logging.getLogger("expkit")

_OWN_KEYS = frozenset({"project", "run", "timestamp", "step", "time", "metrics"})
_LEVELS = {"INFO": "INFO", "WARNING": "WARN", "CRITICAL": "ERROR"}


class TrackioTracker(Tracker):
    """Sends records to a trackio run, whose name and id are the run's id and whose step is the training step.

    Look at it with `expkit dashboard P`. A resumed run goes on in the same trackio run. NaN and infinities are stored
    as "NaN", "Infinity" and "-Infinity". A metric whose name trackio keeps for itself ("run") becomes "metric/run".
    trackio has no summary: final metrics are in a row of the last step. Nor has it a display name, tags or notes: they
    are in the configuration, as run_name, run_tags and run_notes.

    Runs are local unless `space_id` or `server_url` is given here: TRACKIO_SPACE_ID, TRACKIO_SERVER_URL and
    TRACKIO_BUCKET_ID in the environment have no effect, which is said once. TRACKIO_WRITE_TOKEN and
    TRACKIO_WEBHOOK_URL mean what they always do. On a network file system trackio writes files that its dashboard
    imports; see its TRACKIO_STORAGE_MODE.

    Args:
        project: trackio project; None takes the run's.
        dir: folder of the databases; None is where `trackio show` looks by itself ($TRACKIO_DIR, or a folder
            in the Hugging Face cache). One process has one such folder.
        space_id: Hugging Face Space to send to.
        server_url: trackio server of your own to send to. Give its token in TRACKIO_WRITE_TOKEN.

    Raises:
        ConfigError: both `space_id` and `server_url` are given, or `project` cannot be.
    """

    requires = "trackio"

    def __init__(
        self,
        *,
        project: str | None = None,
        dir: str | None = None,
        space_id: str | None = None,
        server_url: str | None = None,
    ) -> None:
        if space_id and server_url:
            raise ConfigError("tracker.trackio.space_id and tracker.trackio.server_url exclude each other: set one")
        if isinstance(project, str) and ("/" in project or "\\" in project):
            raise ConfigError(f"tracker.trackio.project is {project!r}, but it must not hold / or \\")
        self.project = project
        self.dir = dir
        self.space_id = space_id
        self.server_url = server_url
        self._run: Any = None
        self._said = False  # what has no effect
        self._rows = 0
        self._step = 0
        self._written: set[str] = set()  # metrics of the last step
        self._times: dict[int, str] | None = None

    def holds(self, run: RunInfo) -> Set[int] | None:
        """Return the steps that the database holds of the run, or None where rows are elsewhere.

        Raises:
            ConfigError: trackio does not take the project's name, or uses another folder than `dir` already.
        """
        project = self._project(run)
        from trackio.sqlite_storage import SQLiteStorage

        if not self._in_database():
            return None
        rows = SQLiteStorage.get_logs(project, run.id, run_id=run.id)
        # A picture is a row of its own.
        return {row["step"] for row in rows if any(isinstance(value, int | float | str) for value in _metrics(row))}

    def start(self, run: RunInfo) -> int | None:
        """Open the run. Return the last step that the database holds of it, -1 for none, or None.

        Raises:
            ConfigError: as `holds` does.
        """
        project = self._project(run)
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        if self._run is not None:
            with contextlib.suppress(Exception), self._inside(strict=False):
                self._run.finish()
            calls.forget_waiting(run.id)
        if not self._said:
            self._say_ignored()
        self._said = True
        with self._inside(strict=False):
            # In an empty context, because trackio.init ends the run that it finds in its context.
            self._run = contextvars.Context().run(
                trackio.init,
                project,
                name=run.id,
                group=run.group,
                config=_valid_config(run),
                resume="allow",
                space_id=self.space_id,
                server_url=self.server_url,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        if self._local and self._run.url is not None:
            raise RuntimeError(f"trackio would send this local run to {self._run.url}")
        # trackio finds a run to resume in the database only, which lags behind on a network file system. With
        # an id of ours it is the same run in any case.
        self._run.id = run.id
        held = self._last_step(project, run)
        if held is not None:
            self._rows = self._stored_rows()
            self._times = calls.times.setdefault(run.id, {})
        if held is not None and held >= 0:
            self._step = held
            self._written = set(SQLiteStorage.get_snapshot(project, run.id, step=held, run_id=run.id))
        return held

    def log(self, record: Record) -> None:
        """Write one row."""
        row: dict[str, Any] = {_valid_key(name): value for name, value in record.metrics.items()}
        if record.epoch:
            row["epoch"] = record.epoch
        if self._times is not None:
            self._times[record.step] = datetime.fromtimestamp(record.time, UTC).isoformat()
        self._log(row, record.step)
        self._step, self._written = record.step, set(row)

    def image(self, name: str, path: Path, step: int) -> None:
        """Copy a picture to trackio's folder and write it in a row of its own."""
        import trackio

        self._log({_valid_key(name): trackio.Image(str(path), caption=f"step {step}")}, step)

    def alert(self, alert: Alert) -> None:
        """Write an alert."""
        import trackio

        level = trackio.AlertLevel[_LEVELS[alert.level]]
        with self._inside():
            self._run.alert(alert.title, alert.text, level=level, step=alert.step)

    def finish(self, summary: Mapping[str, Any], failed: bool = False) -> None:  # noqa: ARG002
        """Write what the last record has not said of the summary, and what is left, and close the run.

        Raises:
            RuntimeError: rows are missing in the database. trackio itself only warns when it cannot write.
        """
        final = {_valid_key(name): value for name, value in summary.items()}
        unsaid = {name: value for name, value in final.items() if name not in self._written}
        try:
            if unsaid:
                self._log(unsaid, self._step)
        finally:
            with self._inside():
                self._run.finish()
            calls.write_waiting(self._run.id)
            calls.forget_waiting(self._run.id)
            calls.times.pop(self._run.id, None)
        if self._in_database() and (missing := self._rows - self._stored_rows()) > 0:
            raise RuntimeError(f"trackio did not store {missing} rows of run {self._run.name}")

    def where(self, run: RunInfo) -> str | None:
        """Return the command that shows the project, or the address of the server that has it."""
        if self._run is None:
            return None
        if not self._local:
            url = f"https://huggingface.co/spaces/{self.space_id}" if self.space_id else str(self.server_url)
            return url.partition("?")[0]  # what may follow is the key to write there
        folder = ("--dir", self.dir) if self.dir else ()
        return shlex.join(["expkit", "dashboard", self.project or run.project, *folder])

    def _project(self, run: RunInfo) -> str:
        """Return the project's name, with trackio ready to be imported for its folder."""
        if self.dir is not None:
            _use_folder(Path(self.dir).expanduser().absolute())
        from trackio.sqlite_storage import SQLiteStorage

        if self._local:
            # Else whatever asks the database first, in any thread, downloads the bucket that TRACKIO_BUCKET_ID names.
            SQLiteStorage._dataset_import_attempted = True
        project = self.project or run.project
        try:
            SQLiteStorage.validate_project_name(project)
        except ValueError as error:
            raise ConfigError(f"tracker.trackio.project: {error}") from None
        return project

    def _last_step(self, project: str, run: RunInfo) -> int | None:
        from trackio.sqlite_storage import SQLiteStorage

        if not self._in_database():
            return None
        held: int | None = SQLiteStorage.get_max_step_for_run(project, run.id, run_id=run.id)
        return -1 if held is None else held

    @property
    def _local(self) -> bool:
        return not (self.space_id or self.server_url)

    def _log(self, row: dict[str, Any], step: int) -> None:
        self._rows += 1
        with self._inside():
            self._run.log(row, step=step)

    def _in_database(self) -> bool:
        """Whether rows are in the local database as soon as they are written, so that it can be asked."""
        from trackio import utils

        with self._inside(strict=False):
            return self._local and utils.get_storage_mode() == "sqlite"

    def _stored_rows(self) -> int:
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_log_count(self._run.project, self._run.name, self._run.id)

    def _say_ignored(self) -> None:
        keys = {"TRACKIO_SPACE_ID": "space_id", "TRACKIO_SERVER_URL": "server_url", "TRACKIO_BUCKET_ID": "space_id"}
        for variable, key in keys.items():
            if self._local and os.environ.get(variable):
                message = "%s has no effect: this run is logged locally unless tracker.trackio.%s is set"
                log.warning(message, variable, key)

    def _inside(self, strict: bool = True) -> contextlib.AbstractContextManager[None]:
        return calls.inside(self._local, strict)


def _use_folder(folder: Path) -> None:
    # trackio reads the variable when it is imported, and never again.
    if "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(folder)
    from trackio import utils

    if utils.TRACKIO_DIR.resolve() != folder.resolve():
        raise ConfigError(
            f"tracker.trackio.dir is {folder}, but this process writes to {utils.TRACKIO_DIR} already: "
            "leave it out and set TRACKIO_DIR before Python starts"
        )


def _metrics(row: Mapping[str, Any]) -> Iterator[Any]:
    return (value for name, value in row.items() if name not in ("step", "timestamp", "epoch"))


def _valid_key(name: str) -> str:
    return f"metric/{name.lstrip('_')}" if name in _OWN_KEYS or name.startswith("__") else name


def _valid_config(run: RunInfo) -> dict[str, Any]:
    # trackio refuses keys with a leading underscore.
    config = {f"config{key}" if key.startswith("_") else key: value for key, value in run.config.items()}
    said = {"run_name": run.name, "run_tags": list(run.tags), "run_notes": run.notes, "run_group": run.group}
    return config | {key: value for key, value in said.items() if value}
