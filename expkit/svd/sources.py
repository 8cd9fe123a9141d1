"""Where analyses come from: the journal of a run, a log file, a W&B run on this machine or on a server."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import JournalReader
from expkit.status import read_status
from expkit.svd.log_lines import LogParser
from expkit.svd.metrics import KeyPattern, SVDMetrics, analyses
from expkit.tail import FileTail

if TYPE_CHECKING:
    from expkit.wandb_data.online import OnlineRun, OnlineSource

__all__ = ["JournalSource", "LogSource", "OfflineWandbSource", "OnlineWandbSource", "Selected", "Source"]

#: Seconds without a heartbeat after which a run may be dead.
_SILENT = 30.0
_ENDED = ("finished", "failed", "interrupted")
_ENDED_ONLINE = ("finished", "failed", "crashed", "killed")


class Source(Protocol):
    """What is watched.

    Attributes:
        name: for people.
        ended: why nothing more will come; None while something may.
        generation: how often what is read began anew: all analyses then come again.
        notes: what a reader has to know, one sentence each.
    """

    name: str
    ended: str | None

    @property
    def generation(self) -> int: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield what is new, in the order of its steps.

        Raises:
            UserError: it is not what it should be.
            NoAnswerError: the server does not answer now.
            OSError: it cannot be read now.
        """
        ...


class JournalSource:
    """Follows the journal of a run directory."""

    def __init__(self, run: RunDir, pattern: KeyPattern) -> None:
        self.name = str(run.root)
        self.ended: str | None = None
        self._run, self._pattern = run, pattern
        self._reader = JournalReader(run.metrics)
        self._status: dict[str, Any] = {}

    @property
    def generation(self) -> int:
        """How often a resume has cut the journal back."""
        return self._reader.generation

    @property
    def notes(self) -> list[str]:
        """Broken lines, and whether the run follows the rules at all."""
        notes = []
        if self._reader.broken:
            notes.append(f"{self._reader.broken} broken line(s) in {self._run.metrics} were passed over")
        silent = time.time() - (self._status.get("heartbeat_time") or math.inf)
        if self._status.get("state") in ("starting", "running") and silent > _SILENT:
            notes.append(f"the run's last heartbeat was {silent:.0f} s ago: it may be dead (expkit show {self.name})")
        if not _switches(self._run):
            asked = "detectors=svd_switch detectors.svd_switch.respond=[alert,switch]"
            notes.append(f"nothing switches layers in this run ({asked} would): IMMINENT means that a rule holds")
        return notes

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses in new entries."""
        self._status = read_status(self._run.status)  # before the journal: what was written last is then there
        for entry in self._reader:
            yield from analyses(entry["step"], entry, self._pattern)
        state = self._status.get("state")
        if state in _ENDED:
            last = self._reader.torn()
            yield from analyses(last["step"], last, self._pattern) if last is not None else ()
            self.ended = f"the run has {state}" if state == "finished" else f"the run has ended: {state}"


class LogSource:
    """Reads a log file, and follows it if asked to."""

    generation = 0

    def __init__(self, path: Path, pattern: KeyPattern, follow: bool) -> None:
        if path.is_dir():
            raise UserError(f"--log-file {path}: it is a folder; a run directory is named without --log-file")
        if not follow and not path.exists():
            raise UserError(f"--log-file {path}: there is no such file; with --follow it may come later")
        self.name = str(path)
        self.ended: str | None = None
        self._path, self._follow = path, follow
        self._parser = LogParser(pattern)
        self._lines = FileTail(path, lambda line: self._parser.take(line.decode(errors="replace")))

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        parser, broken = self._parser, self._lines.broken
        read, unknown = parser.lines + broken, parser.unknown + broken
        notes = [f"{read} lines read, {unknown} of them without anything that the parser knows"]
        if parser.without_step:
            notes.append(f"{parser.without_step} lines have values, but no step before them: passed over")
        journal = self._path.parent / "metrics.jsonl"
        if self._path.name == "training.log" and journal.is_file():
            run = self._path.parent.parent
            notes.append(f"training.log has what detector svd_switch says; all numbers: expkit svd {run}")
        return notes

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses in new lines."""
        for found in self._lines:
            yield from found
        if not self._follow:
            yield from self._lines.torn() or ()
            self.ended = "the file was read"
        yield from self._parser.flush()


class OfflineWandbSource:
    """Reads the files that W&B writes on this machine, as they grow."""

    generation = 0

    def __init__(self, path: Path, pattern: KeyPattern) -> None:
        from expkit.wandb_data.offline import read_offline

        self._path, self._pattern = path, pattern
        self._sizes: list[int] = []
        self._last = -1
        run = read_offline(path)
        self.name = f"{run.name} ({run.id}), {run.place}"
        self.ended: str | None = None
        self.notes: list[str] = []

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses behind the last step that was read; W&B writes every 15 seconds or 32 KiB."""
        from expkit.wandb_data.offline import read_offline

        run = read_offline(self._path)
        sizes = [part.stat().st_size for part in run.parts]
        if sizes == self._sizes:
            return
        self._sizes = sizes
        before = self._last
        for row in run.history:
            if isinstance(row["_step"], int) and row["_step"] > before:
                self._last = max(self._last, row["_step"])
                yield from analyses(row["_step"], row, self._pattern)
        self.notes = run.notes
        self.ended = f"the run has {run.state}" if run.state in ("finished", "failed") else None


class OnlineWandbSource:
    """Asks a W&B server for a run. A connection that is lost is opened anew at the next poll.

    Args:
        run_id: its id.
        project, entity, timeout: see `OnlineSource`.
        pattern: finds layer and metric in a name.
        layers: patterns of layers to ask for; all others cost nothing.
    """

    generation = 0

    def __init__(
        self, run_id: str, project: str | None, entity: str | None, timeout: int, pattern: KeyPattern, layers: Selected
    ) -> None:
        self.name = f"{run_id} on the W&B server"
        self.ended: str | None = None
        self._run_id, self._place, self._pattern, self._layers = run_id, (project, entity, timeout), pattern, layers
        self._source: OnlineSource | None = None
        self._seen: tuple[int, int] | None = None
        self._last = -1
        self.notes: list[str] = []

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses behind the last step that was read. Nothing is asked where the run has no new row."""
        from expkit.wandb_data.online import OnlineSource

        source, self._source = self._source, None  # whatever fails, the next poll begins with a new connection
        source = source or OnlineSource(*self._place)
        run = source.find(run_id=self._run_id)
        self.name = f"{run.name} ({run.id}), {run.place}"
        if run.extent != self._seen:
            found = sorted(self._rows(run).items())
            self._seen = run.extent
            for step, row in found:
                yield from analyses(step, row, self._pattern)
                self._last = max(self._last, step)
            self.notes = list(run.notes)
        self.ended = f"the run has {run.state}" if run.state in _ENDED_ONLINE else None
        self._source = source

    def _rows(self, run: OnlineRun) -> dict[int, dict[str, Any]]:
        """Return step -> values, of the steps behind the last one."""
        groups: dict[str, list[str]] = {}
        for name in run.names():
            split = self._pattern.split(name)
            if split is not None and self._layers.has(split[0]):
                groups.setdefault(split[0], []).append(name)
        rows: dict[int, dict[str, Any]] = {}
        for row in run.grouped(list(groups.values())):
            if row["_step"] > self._last:
                rows.setdefault(row["_step"], {}).update(row)
        return rows


class Selected:
    """Layers by patterns of their names, as in a shell, separated by commas; `*` stands for all."""

    def __init__(self, patterns: str = "*") -> None:
        self.patterns = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
        if not self.patterns:
            raise UserError(f"--layers {patterns!r}: names no layer; '*' stands for all of them")
        self._left_out: dict[str, None] = {}

    def has(self, layer: str) -> bool:
        """Whether `layer` is one of them."""
        found = any(fnmatchcase(layer, pattern) for pattern in self.patterns)
        if not found and len(self._left_out) < 1000:
            self._left_out[layer] = None
        return found

    @property
    def left_out(self) -> list[str]:
        """The layers that were asked for, and are none of them."""
        return list(self._left_out)

    def among(self, found: Iterable[SVDMetrics]) -> Iterator[SVDMetrics]:
        """Yield the analyses of these layers."""
        return (each for each in found if self.has(each.layer_name))


def _switches(run: RunDir) -> bool:
    """Whether a run follows what `svd_switch` says."""
    try:
        config = read_json(run.config).get("config")
        node = config["detectors"]["svd_switch"] if isinstance(config, dict) else {}
        return "switch" in node.get("respond", ())
    except (UserError, AttributeError, KeyError, TypeError):
        return False
