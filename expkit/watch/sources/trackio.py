"""A trackio run: rows of its SQLite database, read without trackio, which would take more memory than all the rest."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from expkit.errors import UserError
from expkit.lenient_json import parse_json
from expkit.record import Record
from expkit.watch.sources.base import Source
from expkit.watch.sources.fields import Fields

__all__ = ["TrackioSource"]


class TrackioSource(Source):
    """Follows the rows of one run in a project's database.

    Args:
        project: as trackio knows it.
        run: its name or id; None: that of the newest row.
        folder: of the databases; None: $TRACKIO_DIR, or trackio's own in the Hugging Face cache.
        fields: where loss and so on are; the step is the row's.

    Raises:
        UserError: there is no such project or run.
    """

    def __init__(self, project: str, run: str | None, folder: Path | None, fields: Fields) -> None:
        folder = folder or _usual_folder()
        self._file = folder / f"{_canonical(project)}.db"
        self._fields = fields
        self._row = 0
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}, where trackio's databases are to be: see --trackio-dir")
        if not self._file.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.db"))) or "none"
            raise UserError(f"trackio has no project {project!r} in {folder}; there are: {known}")
        with self._open() as database:
            runs = database.execute(
                "SELECT run_id, run_name, MAX(id) FROM metrics GROUP BY run_id ORDER BY 3"
            ).fetchall()
        match = [(each[0], each[1]) for each in runs if run is None or run in each[:2]]
        if not match:
            known = ", ".join(each[1] for each in runs[-5:]) or "none yet"
            raise UserError(f"trackio's project {project!r} has no run {run!r}; the newest: {known}")
        self._id, self._name = match[-1]

    @property
    def name(self) -> str:
        return f"trackio run {self._name} in {self._file}"

    @property
    def folders(self) -> Sequence[Path]:
        return (self._file.parent,)

    def read(self, last: bool = False) -> Iterator[Record]:  # noqa: ARG002 - a row is there or not
        question = "SELECT id, timestamp, step, metrics FROM metrics WHERE run_id = ? AND id > ? ORDER BY id"
        with self._open() as database:
            newest = database.execute("SELECT MAX(id) FROM metrics WHERE run_id = ?", (self._id,)).fetchone()[0] or 0
            if newest < self._row:  # somebody has begun the database anew
                self.generation += 1
                self._row = 0
            for row, timestamp, step, metrics in database.execute(question, (self._id, self._row)):
                self._row = row
                with contextlib.suppress(ValueError):
                    entry = parse_json(metrics) if isinstance(metrics, str | bytes) else None
                    if not isinstance(entry, dict) or not isinstance(step, int):
                        continue  # nothing that trackio writes
                    record = self._fields.record({**entry, "step": step, "time": _seconds(timestamp)}, step)
                    if record is not None:  # None: a row with a picture
                        yield record

    def notes(self) -> list[str]:
        return self._fields.notes()

    def place(self) -> Mapping[str, Any] | None:
        return {"row": self._row} if self._row else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._row = int(place["row"])
        return True

    def rewind(self) -> None:
        self._row = 0

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the database to read only.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            connection = sqlite3.connect(f"file:{quote(str(self._file.absolute()))}?mode=ro", uri=True, timeout=10)
            try:
                yield connection
            finally:
                connection.close()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise OSError(f"{self._file} cannot be read: {error}") from error


def _usual_folder() -> Path:
    if folder := os.environ.get("TRACKIO_DIR"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser() / "trackio"


def _canonical(project: str) -> str:
    return "".join(each for each in project if each.isalnum() or each in "-_").rstrip() or "default"


def _seconds(timestamp: Any) -> float:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
