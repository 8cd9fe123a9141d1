"""The journal of a run directory, the same records that its own detectors see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import takewhile
from typing import Any

from expkit.errors import UserError
from expkit.experiment import RunDir, is_id
from expkit.files import read_json
from expkit.journal import JournalReader, to_record
from expkit.record import Record
from expkit.watch.sources.following import FollowedFile

__all__ = ["JournalSource"]


class JournalSource(FollowedFile[dict[str, Any]]):
    """Follows `logs/metrics.jsonl` of a run, with its rotated parts, over resumes that cut it back."""

    def __init__(self, run: RunDir) -> None:
        super().__init__(JournalReader(run.metrics))
        self._run = run

    @property
    def name(self) -> str:
        return str(self._run.root)

    def prelude(self) -> Iterator[Record]:
        """Yield what the run was before it was forked: its own detectors began with what they knew there."""
        try:
            parent: Any = read_json(self._run.config).get("parent")
        except UserError:
            return
        if not isinstance(parent, dict) or not isinstance(parent.get("step"), int) or not is_id(str(parent.get("run"))):
            return
        before = JournalSource(RunDir(self._run.root.resolve().parent / str(parent["run"])))
        if before.name != self.name:
            yield from before.prelude()
            yield from takewhile(lambda record: record.step <= parent["step"], before.read())

    def resumed(self, after: float, until: float) -> bool:
        # config.json has whole seconds.
        try:
            resumes: Any = read_json(self._run.config).get("resumes")
        except UserError:
            return False
        for each in resumes if isinstance(resumes, list) else ():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                if after - 1 <= datetime.fromisoformat(each["timestamp"]).timestamp() <= until:
                    return True
        return False

    def to_record(self, entry: Mapping[str, Any]) -> Record:
        return to_record(entry)
