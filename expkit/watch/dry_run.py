"""The back-test: what detectors would have done on runs that are there already. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expkit.detectors.base import Detector, Event
from expkit.events import ask, entry_of
from expkit.snapshots.reading import BEST
from expkit.watch.resumes import pass_over_resume
from expkit.watch.sources.base import Source
from expkit.watch.unseen import Names, said_of, unseen

__all__ = ["DryRun", "dry_run", "remarks", "table"]


@dataclass(frozen=True)
class DryRun:
    """What would have happened in one run.

    Attributes:
        run: what was read.
        records, first, last: how many records there were, and the steps of the first and the last.
        events: as they would have been written down, with `responses`, what each would have set going: of several
            snapshots of one kind only those that are far enough apart.
        snapshots: how many there would have been: several events of a record make one, and a best model that comes too
            soon gets its own as soon as it may.
        unseen: detectors that had nothing to look at -> the metrics that they watch, the first that is there.
        metrics: the first few that there are.
    """

    run: str
    records: int
    first: int | None
    last: int | None
    events: list[dict[str, Any]] = field(default_factory=list)
    snapshots: int = 0
    unseen: dict[str, list[str]] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)


def dry_run(source: Source, detectors: Mapping[str, Detector], min_steps_between_saves: int) -> DryRun:
    """Show all of `source` to `detectors`, fresh ones.

    Args:
        source: at its start.
        detectors: name -> detector.
        min_steps_between_saves: steps between two snapshots of one kind.
    """
    events: list[dict[str, Any]] = []
    saving = _Saving(min_steps_between_saves)
    failed: set[str] = set()
    names = Names()
    records, first, last, time = 0, None, None, None
    for record in source.prelude():
        for name, detector in detectors.items():
            ask(name, detector, record, failed, "the others go on")
    for record in source.read(last=True):
        pass_over_resume(source, detectors, time, record.time)
        records, first, last = records + 1, record.step if first is None else first, record.step
        time = record.time
        names.add(record)
        found = [
            event
            for name, detector in detectors.items()
            for event in ask(name, detector, record, failed, "the others go on")
        ]
        saves = saving.take(record.step, [each.kind for each in found if _responds(detectors, each, "snapshot")])
        for event in found:
            alerts = _responds(detectors, event, "alert")
            responses = [word for word in detectors[event.detector].respond if word != "snapshot" or saves]
            events.append({**entry_of(event, record.epoch, alerts), "time": record.time, "responses": responses})
    unheard = unseen(detectors) if records else {}
    return DryRun(source.name, records, first, last, events, saving.count, unheard, names.shown())


class _Saving:
    """Which snapshots there would be, as `expkit.snapshots.Snapshots` decides it.

    Args:
        steps: between two of one kind.
    """

    def __init__(self, steps: int) -> None:
        self.count = 0
        self._steps = steps
        self._saved: dict[str, int] = {}
        self._pending = False

    def take(self, step: int, kinds: Sequence[str]) -> bool:
        """Return whether what asks for a snapshot at this record gets one."""
        self._pending |= BEST in kinds
        due = any(self._is_due(kind, step) for kind in kinds)
        late = not due and self._pending and self._is_due(BEST, step)
        taken = kinds if due else [BEST] if late else []
        self._saved |= dict.fromkeys(taken, step)
        self._pending &= BEST not in taken
        self.count += bool(taken)
        return due

    def _is_due(self, kind: str, step: int) -> bool:
        return kind not in self._saved or step - self._saved[kind] >= self._steps


def _responds(detectors: Mapping[str, Detector], event: Event, word: str) -> bool:
    return word in detectors[event.detector].respond


def remarks(runs: Sequence[DryRun]) -> list[str]:
    """Return what has to be said of what was not there, one sentence each: that no event was found may mean that."""
    found = [f"{run.run}: there is no record in it" for run in runs if not run.records]
    alike: dict[str, list[DryRun]] = {}
    for run in runs:
        alike.setdefault(said_of(run.unseen, []), []).append(run)
    for same in alike.values():
        if text := said_of(same[0].unseen, same[0].metrics):
            found.append(text + (f" (in {len(same)} of {len(runs)} runs)" if len(runs) > 1 else ""))
    return found


def table(runs: Sequence[DryRun], names: Sequence[str]) -> list[str]:
    """Return the events as lines of text, then how many there were of each detector."""
    header = ("run", "step", "severity", "kind", "would", "what")
    rows = [
        (
            run.run,
            str(each["step"]),
            each["severity"],
            each["kind"],
            ", ".join(each["responses"]),
            each["message"],
        )
        for run in runs
        for each in run.events
    ]
    lines = []
    if rows:
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, *rows]:
            cells = [text.rjust(widths[at]) if at == 1 else text.ljust(widths[at]) for at, text in enumerate(row)]
            lines.append("  ".join(cells).rstrip())
    counts = Counter(each["detector"] for run in runs for each in run.events)
    snapshots = sum(run.snapshots for run in runs)
    records = sum(run.records for run in runs)
    found = ", ".join(f"{name} {counts[name]}" for name in names) or "no detector"
    lines.append(f"{_count(records, 'record')} of {_count(len(runs), 'run')}: {found}; {_count(snapshots, 'snapshot')}")
    return lines


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
