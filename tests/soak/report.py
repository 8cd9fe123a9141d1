"""docs/soak.md: what was done, what happened, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import header
from tests.soak.faults import Row
from tests.soak.sampling import Sample
from tests.soak.training import Trained, Training
from tests.soak.verdicts import Verdict

__all__ = ["page"]

_HEAD = """\
# A soak

`make soak` trains with everything on (three trackers, checkpoints beside training, diagnostics, detectors, pictures, a
loading process, a sample of the machine each second, `expkit watch` beside it), disturbs that at random, and holds what
is left at the end against a training of the same steps that nothing disturbed, and that has none of these on. It wrote
this page. `make soak MINUTES=10 SEED=7` is a shorter one with other faults; the exit code is 1 if a verdict fails.
"""

_FAULTS = """\
## Faults

Each comes at a random step, in the first three fifths of the training; after them it goes on undisturbed. *Away* is how
long no update was done: to the first update of the process that goes on, or the longest pause of one that lived
through it. Updates come every {period:.0f} ms.
"""

_PROCESSES = """\
## Processes

Memory is what a process has taken for itself (anonymous and shared pages), in MB of 10^6 bytes; every two seconds.
"""


def page(
    training: Training,
    reference: Trained,
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    seen: Mapping[Any, Sequence[Sample]],
    command: str,
    period: float,
) -> str:
    """Return the page."""
    first, last = training.attempts[0], training.now
    assert last.ended is not None
    minutes = (last.ended - first.started) / 60
    versions = header("torch on 1 thread", "wandb", "trackio", "tensorboard")
    parts = [
        _HEAD,
        f"`{command}`: {versions}\n",
        f"{training.steps:,} steps under {len(rows)} faults, by {len(training.attempts)} processes one after the "
        f"other, in {minutes:.1f} minutes; without faults {reference.seconds / 60:.1f} minutes, at full speed.\n",
        "## Verdicts\n",
        _table(("", "what must hold", "found"), [("yes" if v.holds else "**NO**", v.name, v.found) for v in verdicts]),
        _FAULTS.format(period=1000 * period),
        _table(
            ("minute", "step", "what was done", "what happened", "away, s"),
            [
                (f"{row.seconds / 60:.1f}", f"{row.step}", row.what, row.unexpected or row.happened, f"{row.away:.1f}")
                for row in rows
            ],
        ),
        _PROCESSES,
        _table(
            ("process", "how many", "MB at first, at the end, most", "descriptors, most", "threads, most"),
            _processes(seen),
        ),
    ]
    return "\n".join(parts).replace(str(training.place.run), "RUN").replace(str(training.place.folder), "SOAK")


def _processes(seen: Mapping[Any, Sequence[Sample]]) -> list[tuple[str, ...]]:
    """Return a line for each role: first and last samples of those that lived longest."""
    by_role: dict[str, list[Sequence[Sample]]] = {}
    for role, samples in ((role, samples) for (_, role, _), samples in seen.items() if samples):
        by_role.setdefault(role, []).append(samples)
    lines = []
    for role, each in sorted(by_role.items(), key=lambda item: -len(max(item[1], key=len))):
        longest = max(each, key=len)
        every = [sample for samples in each for sample in samples]
        memory = (longest[0].megabytes, longest[-1].megabytes, max(sample.megabytes for sample in every))
        descriptors, threads = max(sample.descriptors for sample in every), max(sample.threads for sample in every)
        numbers = ", ".join(f"{value:.0f}" for value in memory)
        lines.append((role, f"{len(each)}", numbers, f"{descriptors}", f"{threads}"))
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *([_cell(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
