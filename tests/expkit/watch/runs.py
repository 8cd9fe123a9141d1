"""A run's journal without training: records with spikes in it, and what its own detectors say of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from expkit.events import EventLog
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record
from expkit.snapshots import Snapshots
from expkit.watch.acting import Acting
from expkit.watch.selecting import make_detectors, settings_of
from expkit.watch.sources import Source
from expkit.watch.sources.journal import JournalSource
from expkit.watch.watcher import Watcher
from expkit.webhook import Webhook

#: Detectors that speak often.
WORDS = (
    *(
        "detectors=loss_spike,nonfinite,best_model",
        "detectors.loss_spike.cooldown=5",
        "detectors.best_model.cooldown=20",
    ),
    *(
        "detectors.loss_spike.respond=[alert]",
        "detectors.nonfinite.respond=[alert]",
        "detectors.best_model.respond=[alert]",
    ),
)


def records(first: int, last: int, seed: int = 0, age: float = 0.0) -> Iterator[Record]:
    """Yield the records of steps first to last: the same step has the same loss, whatever the first."""
    for step in range(first, last + 1):
        noise = random.Random(f"{seed} {step}")
        loss = 2 * 0.99**step + 0.5 + noise.gauss(0, 0.01) + (3 if step % 17 == 0 else 0)
        loss = float("nan") if step % 61 == 0 else loss
        yield Record(step, 1, time.time() - age, {"train_loss": loss, "val_accuracy": 50.0})


def write(run: RunDir, made: Iterator[Record]) -> None:
    """Append records to a run's journal."""
    run.logs.mkdir(parents=True, exist_ok=True)
    if not run.config.exists():
        run.config.write_text("{}")
    with Journal(run.metrics) as journal:
        for record in made:
            journal.write(record)


def watcher(run: RunDir, words: Sequence[str] = WORDS, webhook: Webhook | None = None, **options: Any) -> Watcher:
    """Return a watcher of a run."""
    nodes = settings_of(words, "")
    source: Source = options.pop("source", None) or JournalSource(run)
    acting = Acting(run, lambda: Snapshots(run, options.get("steps", 500)), dict, webhook)
    return Watcher(source, lambda: make_detectors(nodes), nodes, run.logs, acting)


def told(path: Path) -> list[dict[str, Any]]:
    """Return the events in a file, without what differs by nature."""
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [entry for entry in entries if entry["kind"] not in ("response", "stalled")]
    return [{key: value for key, value in entry.items() if key not in ("time", "alert")} for entry in kept]


def in_process(path: Path, made: Iterator[Record], words: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    """Return what a run with these detectors writes down of these records."""
    log = EventLog(path, make_detectors(settings_of(words, "")), lambda _: None)
    for record in made:
        log.observe(record)
    log.close()
    return told(path)
