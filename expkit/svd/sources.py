"""Where analyses come from: the journal of a run, a log file, a W&B run on this machine or on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from expkit.ending import Ending, ending
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import JournalReader
from expkit.status import read_status
from expkit.svd.log_lines import LogParser
from expkit.svd.metrics import KeyPattern, SVDMetrics, analyses, natural
from expkit.switch_thresholds import SwitchThresholds
from expkit.tail import FileTail
from expkit.wandb_data.following import FollowedRun

__all__ = ["JournalSource", "LogSource", "Selected", "Source", "WandbSource", "layer_groups"]

_ENDED = ("finished", "failed", "interrupted", "killed")
_ENDED_ONLINE = ("finished", "failed", "crashed", "killed")


class Source(Protocol):
    """What is watched.

    Attributes:
        name: for people.
        ended: why nothing more will come; None while something may.
        generation: how often what is read began anew: all analyses then come again.
        notes: what a reader has to know, one sentence each.
    """

    ended: str | None

    @property
    def name(self) -> str: ...
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
        self._rules = _own_rules(run)
        self._end: Ending | None = None
        self._analysed = False

    @property
    def thresholds(self) -> dict[str, float]:
        """Those that the run's own detector `svd_switch` has, by name."""
        known = {field.name for field in fields(SwitchThresholds)} & self._rules.keys()
        numbers = {name: self._rules[name] for name in sorted(known)}
        return {name: float(value) for name, value in numbers.items() if type(value) in (int, float) and value > 0}

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
        if self._end is not None and self._end.state == "silent":
            notes.append(f"the run is {self._end.text}")
        if self._analysed and "switch" not in (self._rules.get("respond") or ()):
            asked = "detectors=svd_switch detectors.svd_switch.respond=[alert,switch]"
            notes.append(f"nothing switches layers in this run ({asked} would): IMMINENT means that a rule holds")
        return notes

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses in new entries."""
        # Before the journal, so that what was written last is there. One that was preempted comes back.
        preempted = read_status(self._run.status).get("state") == "preempted"
        self._end = end = None if preempted else ending(self._run)
        for entry in self._reader:
            for analysis in analyses(entry["step"], entry, self._pattern):
                self._analysed = True
                yield analysis
        if end is None or end.state not in _ENDED:
            return
        last = self._reader.torn()
        yield from analyses(last["step"], last, self._pattern) if last is not None else ()
        how = {"finished": "has finished", "killed": f"is dead: {end}"}.get(end.state, f"has ended: {end}")
        self.ended = f"the run {how}"


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


class WandbSource:
    """Follows a W&B run, in its files or on a server."""

    def __init__(self, run: FollowedRun, pattern: KeyPattern) -> None:
        self.ended: str | None = None
        self._run, self._pattern = run, pattern

    @property
    def name(self) -> str:
        """What W&B calls it."""
        return self._run.name

    @property
    def generation(self) -> int:
        """How often the history began anew."""
        return self._run.generation

    @property
    def notes(self) -> Sequence[str]:
        """What W&B's reader has to say."""
        return self._run.notes

    def poll(self) -> Iterator[SVDMetrics]:
        """Yield the analyses in new rows."""
        for row in self._run.poll():
            if isinstance(row["_step"], int):
                found = analyses(row["_step"], row, self._pattern)
                yield from sorted(found, key=lambda each: natural(each.layer_name))  # W&B keeps names in no order
        self.ended = f"the run has {self._run.state}" if self._run.state in _ENDED_ONLINE else None


def layer_groups(pattern: KeyPattern, layers: Selected) -> Callable[[Sequence[str]], list[list[str]]]:
    """Return what groups the names of a history by layer, those of `layers` alone: all others cost nothing."""

    def grouped(names: Sequence[str]) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for name in names:
            split = pattern.split(name)
            if split is not None and layers.has(split[0]):
                groups.setdefault(split[0], []).append(name)
        return list(groups.values())

    return grouped


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


def _own_rules(run: RunDir) -> Mapping[str, Any]:
    """Return the settings of the run's own detector `svd_switch`; {} if it has none."""
    try:
        config = read_json(run.config).get("config")
        node = config["detectors"]["svd_switch"] if isinstance(config, dict) else {}
    except (UserError, KeyError, TypeError):
        return {}
    return node if isinstance(node, dict) else {}
