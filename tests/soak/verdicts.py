"""What must be true of a soak at its end, whatever has happened on the way."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expkit.journal import is_volatile, read_journal, stable
from tests.soak.copies import COPIES, lacking
from tests.soak.faults import Row
from tests.soak.place import REPOSITORY, Place
from tests.soak.sampling import Sample, slope
from tests.soak.training import Attempt, Training, wait_for

__all__ = ["Verdict", "judge"]

#: Seconds in which what a process leaves behind has to be gone.
_GONE = 20.0
#: Of a checkpoint, what says when, how long, why and with what it was made; and when a snapshot was taken last, which a
#: full disk delays, and a kill between an event and its snapshot costs. All else has to be the same.
_OF_THE_DAY = frozenset(
    {"/config", "/time", "/reason", "/sampler_state/elapsed", "/snapshot_state/saved", "/snapshot_state/waiting_best"}
)
#: Growth in an hour that counts as none, in MB (10^6 bytes) and in descriptors.
FLAT = {"MB": 10.0, "descriptors": 1.0}
#: Part of an attempt that is not looked at: the first evaluation, the first pictures; and the minutes that the rest
#: must have for a verdict: until then memory still settles.
_WARM_UP, _LEAST = 0.2, 10.0
#: torch's cache of compiled code has one name for all processes of a user, and stays for the next.
_CACHES = ("torchinductor_*",)


@dataclass(frozen=True)
class Verdict:
    """Whether something holds, and what was found."""

    name: str
    holds: bool
    found: str


def judge(
    training: Training,
    reference: Path,
    rows: Sequence[Row],
    planned: int,
    codes: Sequence[int],
    seen: Mapping[Any, Sequence[Sample]],
) -> Iterator[Verdict]:
    """Yield a verdict on each thing that must hold.

    Args:
        training: which has ended.
        reference: the run directory of the training without faults.
        rows: the faults.
        planned: how many there were to be.
        codes: exit codes of watchers.
        seen: what a `Sampler` has seen.
    """
    place, last = training.place, training.now
    strange = [f"{row.kind} at step {row.step}: {row.unexpected}" for row in rows if row.unexpected]
    if len(rows) != planned:
        strange.append(f"{len(rows)} faults of {planned} have come")
    yield Verdict("each fault had the effect that docs/faults.md and docs/preemption.md say", not strange, _or(strange))
    state = training.status().get("state")
    yield Verdict(
        "the training ended by itself, with everything saved",
        (last.code, state) == (0, "finished"),
        f"exit code {last.code}, {state} at step {training.status().get('step')} of {training.steps}",
    )
    yield _same_state(place.run, reference, training.steps)
    yield _same_journal(place.run, reference, training.steps)
    yield _same_events(place.run, reference, codes)
    for name in COPIES:
        yield _copied(training, name)
    yield _no_files(place, training.attempts, rows)
    yield _no_processes(place)
    yield _no_shared_memory(seen)
    yield from _flat(training.attempts, seen)


def _or(wrong: Sequence[str], nothing: str = "none had another") -> str:
    return "; ".join(wrong) if wrong else nothing


def _copied(training: Training, name: str) -> Verdict:
    """Look into a tracker. What the run itself says that it lacks may come from `expkit replay`, as it advises."""
    expected, wrong = lacking(training.place, name)
    found = _or(wrong, f"{expected} values, read back")
    if wrong and name in training.status().get("trackers", {}):
        command = [sys.executable, "-m", "expkit", "replay", str(training.place.run), "--to", name]
        environment = training.place.environment()
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        before, (_, wrong) = found, lacking(training.place, name)
        found = f"{before}, as the run says at its end; after expkit replay: " + _or(wrong, "all of them")
        found += f" ({done.stderr[-300:]})" if wrong else ""
    return Verdict(f"{name} has each value of the journal once", not wrong, found)


def _same_state(run: Path, reference: Path, steps: int) -> Verdict:
    name = f"checkpoints/checkpoint_step_{steps}.pt"
    name_of_verdict = "weights, optimizer, generators and all other state: bit for bit those of a run without faults"
    try:
        one, other = (torch.load(each / name, weights_only=True) for each in (run, reference))
    except OSError as error:
        return Verdict(name_of_verdict, False, str(error))
    leaves = [dict(_leaves("", state)) for state in (one, other)]
    different = [
        path for path in leaves[0].keys() | leaves[1].keys() if not _equal(*(each.get(path) for each in leaves))
    ]
    counted = f"{len(leaves[0])} tensors and values of step {steps} compared"
    return Verdict(name_of_verdict, not different, _or(sorted(different)[:5], counted))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            if f"{path}/{key}" not in _OF_THE_DAY and not (path == "/metrics" and is_volatile(str(key))):
                yield from _leaves(f"{path}/{key}", each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(f"{path}/{number}", each)
    else:
        yield path, value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return repr(one) == repr(other)  # NaN equals NaN there


def _same_journal(run: Path, reference: Path, steps: int) -> Verdict:
    entries = [list(read_journal(each / "logs" / "metrics.jsonl")) for each in (run, reference)]
    at = [entry["step"] for entry in entries[0]]
    seen = sum(len(entry.get("series", {}).get("train_loss", ())) for entry in entries[0])
    wrong = [f"step {b} comes after {a}" for a, b in itertools.pairwise(at) if b <= a]
    if seen != steps:
        wrong.append(f"{seen} losses of {steps} steps")
    texts = [[repr(stable(entry)) for entry in each] for each in entries]
    if texts[0] != texts[1]:
        pairs = zip(texts[0], texts[1], strict=False)
        first = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
        place = f"first at step {at[first]}" if first is not None else f"{len(texts[0])} and {len(texts[1])} records"
        wrong.append(f"another than that of the run without faults, {place}")
    found = _or(wrong, f"{len(at)} records, {seen} steps")
    return Verdict("the journal: the same, with no step missing and none twice", not wrong, found)


def _same_events(run: Path, reference: Path, codes: Sequence[int]) -> Verdict:
    files = (run / "logs" / "events.jsonl", run / "logs" / "watch_events.jsonl", reference / "logs" / "events.jsonl")
    own, watched, expected = map(_events, files)
    wrong = [] if own == expected else [f"the run has {len(own)} events, not {len(expected)}"]
    wrong += [] if watched == expected else [f"expkit watch has {len(watched)} events, not {len(expected)}"]
    wrong += [f"expkit watch ended with {code}" for code in codes if code]
    name = "events: those of the run without faults, in the run and beside it (expkit watch), each once"
    return Verdict(name, not wrong, _or(wrong, f"{len(expected)} events"))


def _events(path: Path) -> list[str]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError:
        return []
    names = ("step", "detector", "kind", "severity", "message", "values")
    return [repr([line[name] for name in names]) for line in lines if line["kind"] != "response"]


def _no_files(place: Place, attempts: Sequence[Attempt], rows: Sequence[Row]) -> Verdict:
    left = [path.relative_to(place.disk) for path in place.run.rglob("*.tmp")]
    # What is killed cannot tidy up behind itself.
    clean = [each.temporary for each in attempts if each.code is not None and each.code >= 0 and not each.wounded]
    left += [path.relative_to(place.folder) for each in clean for path in each.iterdir() if not _is_cache(path)]
    damaged = sum(row.kind == "damage" for row in rows)
    corrupt = sum(1 for _ in place.run.rglob("*.corrupt"))
    wrong = [f"left: {', '.join(map(str, left[:5]))}"] if left else []
    wrong += [f"{corrupt} damaged checkpoints, not {damaged}"] if corrupt != damaged else []
    found = _or(wrong, f"none of {len(clean)} trainings without a killed process; none in the run directory")
    return Verdict("no temporary files are left", not wrong, found)


def _is_cache(path: Path) -> bool:
    return any(path.match(each) for each in _CACHES)


def _no_processes(place: Place) -> Verdict:
    try:
        wait_for(lambda: not place.processes(), "the end of all processes", _GONE)
    except TimeoutError:
        left = [f"{process.name()} ({process.pid})" for process in place.processes()]
        return Verdict("no process is left", False, ", ".join(left))
    return Verdict("no process is left, and so no socket", True, f"none within {_GONE:.0f} s")


def _no_shared_memory(seen: Mapping[Any, Sequence[Sample]]) -> Verdict:
    pids = {str(pid) for _, _, pid in seen}
    folder = Path("/dev/shm")
    left = [path.name for path in folder.glob("*") if pids & set(path.name.replace("-", "_").split("_"))]
    return Verdict("no shared memory is left", not left, _or(left, "none"))


def _flat(attempts: Sequence[Attempt], seen: Mapping[Any, Sequence[Sample]]) -> Iterator[Verdict]:
    """Judge the longest attempt, whose processes lived through all of it."""
    calm = max(attempts, key=lambda each: (each.ended or time.monotonic()) - (each.began or each.started))
    assert calm.began is not None and calm.ended is not None
    length = calm.ended - calm.began
    warm = calm.began + _WARM_UP * length
    judged = set[str]()
    for (number, role, _), samples in sorted(seen.items()):
        rest = [sample for sample in samples if warm <= sample.time <= calm.ended - 2]
        if number != calm.number or role == "watcher" or not rest or rest[-1].time - rest[0].time < 0.6 * length:
            continue
        times = [sample.time for sample in rest]
        for unit, values in (
            ("MB", [sample.megabytes for sample in rest]),
            ("descriptors", [float(sample.descriptors) for sample in rest]),
        ):
            line = slope(times, values)
            if line is None:
                continue
            minutes = (times[-1] - times[0]) / 60
            found = (
                f"{line.per_hour:+.2f} ± {line.error:.2f} {unit} an hour, at {values[0]:.0f} to {values[-1]:.0f}, "
                f"over {minutes:.1f} min; flat: no more than 2 standard errors or {FLAT[unit]:g}"
            )
            name = f"flat: {unit} of {role}"
            if role.startswith("wandb"):
                yield Verdict(f"{name} (W&B's own: said, not judged)", True, found)
            elif minutes < _LEAST:
                yield Verdict(f"{name} (said, not judged in less than {_LEAST:g} minutes)", True, found)
            else:
                judged.add(role)
                yield Verdict(name, line.is_flat(FLAT[unit]), found)
    if (1 - _WARM_UP) * length / 60 > _LEAST + 1 and "training" not in judged:
        yield Verdict("flat: MB and descriptors of training", False, "nobody has looked at them")
