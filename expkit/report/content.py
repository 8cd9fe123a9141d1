"""What a report tells, read from the runs' files: plain values, whatever they are written into afterwards."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expkit.comparison.compare import Comparison, Request, compare
from expkit.comparison.run_data import RunData, load_runs
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.nested import flatten
from expkit.reading.pictures import pictures_of
from expkit.reading.state import AlertLine, RunState, StateReader
from expkit.report.pictures import EmbeddedPicture, Room
from expkit.report.privacy import private, private_tree, without_home
from expkit.secrets import mask_arguments
from expkit.snapshots.reading import Snapshot, list_snapshots

__all__ = ["Report", "RunPart", "gather"]

_EVENTS = 2000  # of all runs together
_EVENTS_OF_RUN = 20, 200
_SAMPLES = 8
_SAMPLE_LENGTH = 4000

#: What of config.json tells where, when and with what a run was trained.
_FACTS = (
    "timestamp", "command", "git_hash", "git_dirty", "parent", "seed", "model", "dataset", "hardware", "slurm",
    "packages",
)  # fmt: skip
_NO_FACTS = ("model.children", "hardware.gpu_uuids")


@dataclass(frozen=True)
class RunPart:
    """What there is to tell of one run.

    Attributes:
        data: its curves and configuration.
        state: how it stands.
        facts: flat: command, commit, hardware, packages, model, data.
        typed: what was typed to configure it.
        events: those that are told, worse ones first.
        counted: severity -> how many events there are.
        snapshots: what was kept when something happened.
        samples: what it made: texts, or pictures.
        pictures: the newest of each kind.
        left_out: kinds of pictures, samples, that there was no room for.
    """

    data: RunData
    state: RunState
    facts: Mapping[str, Any]
    typed: Sequence[str]
    events: Sequence[AlertLine]
    counted: Mapping[str, int]
    snapshots: Sequence[Snapshot]
    samples: Sequence[str | EmbeddedPicture] = ()
    pictures: Sequence[EmbeddedPicture] = ()
    left_out: Sequence[str] = ()

    @property
    def label(self) -> str:
        """Its name in this report."""
        return self.data.label

    @property
    def place(self) -> str:
        """Its directory."""
        return without_home(str(self.data.feed.run.root))

    @property
    def lives(self) -> bool:
        """Whether it still goes on, as far as is known."""
        return self.state.state in ("starting", "running", "stalled")


@dataclass(frozen=True)
class Report:
    """What there is to tell of runs.

    Attributes:
        title: of the report.
        comparison: of the runs; of a single one, too.
        runs: one by one.
        made: when.
    """

    title: str
    comparison: Comparison
    runs: Sequence[RunPart]
    made: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def single(self) -> bool:
        """Whether it is of one run."""
        return len(self.runs) == 1

    @property
    def notes(self) -> list[str]:
        """What to know before reading, a sentence each."""
        living = [part.label for part in self.runs if part.lives]
        found = []
        if living:
            who = "The run" if self.single else f"{', '.join(living[:5])}{' and more' if len(living) > 5 else ''}"
            verb = "was" if len(living) == 1 else "were"
            found.append(f"{who} {verb} still running when this was written, {self.when}: figures are as of then.")
        if not any(part.data.metrics for part in self.runs):
            found.append("No metric was recorded.")
        unknown = [part.label for part in self.runs if not part.data.config]
        if unknown:
            whose = "" if self.single else f" of {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}"
            found.append(f"The configuration{whose} is not known: config.json is not there, or says nothing of it.")
        for part in self.runs:
            if part.state.broken:
                found.append(f"{part.label}: {part.state.broken} line(s) of the journal cannot be read.")
        return [*found, *(f"{note[0].upper()}{note[1:]}." for note in self.comparison.notes)]

    @property
    def when(self) -> str:
        """When it was made."""
        return f"{self.made:%Y-%m-%d %H:%M} UTC"


def gather(runs: Sequence[RunDir], request: Request | None = None, title: str | None = None) -> Report:
    """Read runs, for a report.

    Args:
        runs: at least one.
        request: which metrics, and how runs are compared.
        title: of the report; None: the run's id, or how many runs there are.

    Raises:
        UserError: there is no run, its files cannot be read, or a metric or key was asked for that there is not.
    """
    if not runs:
        raise UserError("a report is of one run or more: name them")
    if len(runs) == 1 and request is not None and request.group_by is not None:
        raise UserError(f"--group-by {request.group_by}: there is only one run; name several")
    comparison = compare([_private(run) for run in load_runs(runs)], request)
    most = min(max(_EVENTS // len(runs), _EVENTS_OF_RUN[0]), _EVENTS_OF_RUN[1])
    parts = _with_pictures([_part(run, most) for run in comparison.runs])
    usual = parts[0].data.name if len(parts) == 1 else f"{len(parts)} runs"
    return Report(title or usual, comparison, parts)


def _private(run: RunData) -> RunData:
    label = run.label.encode("utf-8", "replace").decode()  # a file's name may be no text
    return replace(run, label=label, config=_private_flat(run.config), environment=_private_flat(run.environment))


def _private_flat(flat: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = private_tree(flat)
    return found


def _part(run: RunData, most: int) -> RunPart:
    state = StateReader(run.feed).read()
    state = replace(state, text=private(state.text))
    whole = _content(run.feed.run.config)
    typed = whole.get("overrides")
    alerts = [replace(each, message=private(each.message)) for each in state.alerts]
    counted = Counter(entry["severity"].value for entry in run.feed.events)
    return RunPart(
        run,
        state,
        _facts(whole),
        private_tree(typed) if isinstance(typed, list) else [],
        _worst(alerts, most),
        counted,
        list_snapshots(run.feed.run),
        list(_texts_and_names(run.results)),
    )


def _facts(whole: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: whole[key] for key in _FACTS if whole.get(key) not in (None, {}, [], "")}
    command = chosen.pop("command", None)
    found: dict[str, Any] = private_tree(flatten(chosen))
    kept = {key: value for key, value in found.items() if value is not None and not key.startswith(_NO_FACTS)}
    return {**({"command": _command(command)} if command else {}), **kept}


def _command(command: Any) -> str:
    if not isinstance(command, list):
        return private(str(command))
    return without_home(shlex.join(mask_arguments(list(map(str, command)))))


def _worst(alerts: Sequence[AlertLine], most: int) -> list[AlertLine]:
    """Return so many events, of the worst severity and the newest, in order of severity and step."""
    order = {"CRITICAL": 0, "WARNING": 1}
    found = sorted(alerts, key=lambda each: (order.get(each.severity, 2), -each.step))[:most]
    return sorted(found, key=lambda each: (order.get(each.severity, 2), each.step))


def _texts_and_names(results: Mapping[str, Any]) -> Iterator[str]:
    samples = results.get("generation_samples")
    for sample in samples if isinstance(samples, list) else []:
        yield sample if isinstance(sample, str) else str(sample)


def _with_pictures(parts: Sequence[RunPart]) -> list[RunPart]:
    """Add the pictures that there is room for: of each run the first kind, of each the second, and so on."""
    taken: list[tuple[list[str | EmbeddedPicture], list[EmbeddedPicture], list[str]]] = [([], [], []) for _ in parts]
    room = Room()
    asked = [list(_asked(part)) for part in parts]
    for turn in range(max(map(len, asked))):
        for part, wanted, (samples, pictures, left_out) in zip(parts, asked, taken, strict=True):
            if turn >= len(wanted):
                continue
            name, kind, step, is_sample = wanted[turn]
            picture = room.take(part.data.feed.run, name, kind, step)
            if picture is None:
                left_out.append(name)
            elif is_sample:
                samples.append(picture)
            else:
                pictures.append(picture)
    made = []
    for part, (samples, pictures, left_out) in zip(parts, taken, strict=True):
        texts = [str(each) for each in part.samples if _picture_name(str(each)) is None]
        samples = [*map(_shortened, texts[:_SAMPLES]), *samples]
        if len(texts) > _SAMPLES:
            left_out.append(f"{len(texts) - _SAMPLES} more texts")
        made.append(replace(part, samples=samples, pictures=pictures, left_out=left_out))
    return made


def _asked(part: RunPart) -> Iterator[tuple[str, str, int | None, bool]]:
    """Yield file name, kind and step of the pictures of a run that belong into a report, and whether it is a sample."""
    kinds = pictures_of(part.data.feed.run)
    known = {picture.name: picture for pictures in kinds.values() for picture in pictures}
    samples = [name for each in part.samples if (name := _picture_name(str(each))) in known]
    for name in dict.fromkeys(samples):
        yield name, known[name].kind, _step(known[name].step), True
    for kind, pictures in kinds.items():
        if pictures[-1].name not in samples:
            yield pictures[-1].name, kind, _step(pictures[-1].step), False


def _step(step: int) -> int | None:
    return step if step >= 0 else None


def _picture_name(sample: str) -> str | None:
    """Return the file's name of a sample that is a picture of the run's; None of any other one."""
    found = Path(sample) if len(sample) < 300 and "\n" not in sample else Path()
    return found.name if found.parts[:-1] == ("visualizations",) else None


def _shortened(text: str) -> str:
    return text if len(text) <= _SAMPLE_LENGTH else f"{text[:_SAMPLE_LENGTH]} ... ({len(text):,} characters)"


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.exists() else {}
    except UserError:
        return {}  # damaged, or written just now
