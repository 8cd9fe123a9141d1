"""Every reader of a file that anybody may have written, in one list: what it reads, and what it may refuse with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expkit.errors import UserError
from tests.fuzz import other_readers, readers
from tests.fuzz.formats import DATABASE, LINES, SNAPSHOT, TENSORBOARD, WANDB, ZIPPED
from tests.fuzz.mutations import Container

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: what is read, and by what.
        file: where its file is in the corpus; a pattern.
        read: takes the path of the file, among those that belong to it.
        share: how many of a thousand inputs it gets.
        refuses: the errors that it documents. A UserError is one line.
        container: the format of its file, if that has checksums or lengths.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    share: int
    refuses: tuple[type[Exception], ...] = ()
    container: Container | None = None


_LOGS = "run/logs"
_WANDB = "run/wandb/*/run-*.wandb"

TARGETS = (
    Target("journal lines", f"{_LOGS}/metrics.jsonl", readers.lines, 150, container=LINES),
    Target("journal", f"{_LOGS}/metrics.jsonl", readers.journal, 80, container=LINES),
    Target("journal, curves", f"{_LOGS}/metrics.jsonl", readers.feed, 40, container=LINES),
    Target("journal, MetricsLogger", f"{_LOGS}/metrics.jsonl", readers.metrics_logger, 40, container=LINES),
    Target("events.jsonl", f"{_LOGS}/events.jsonl", readers.events, 60, container=LINES),
    Target("watch_events.jsonl", f"{_LOGS}/watch_events.jsonl", readers.watch_events, 40, container=LINES),
    Target("config.json", "run/config.json", readers.config, 20, (UserError,)),
    Target("config.json, detectors", "run/config.json", readers.detectors_of_run, 40, (UserError,)),
    Target("config.json, list of runs", "run/config.json", readers.entry, 20, (UserError,)),
    Target("status.json", "run/status.json", readers.status, 30),
    Target("status.json, list of runs", "run/status.json", readers.entry, 20, (UserError,)),
    Target("results.json", "run/results.json", readers.results, 60, (UserError,)),
    Target("log lines of SVDs", "training.log", other_readers.svd_log, 60, (UserError,), LINES),
    Target("log lines of other trainers", "training.log", other_readers.watched_log, 60, (UserError,), LINES),
    Target("status file of other trainers", "training_status.json", other_readers.status_file, 40, (UserError,)),
    Target("text of results", "results.txt", other_readers.text_results, 50, (UserError,), LINES),
    Target("W&B log", _WANDB, other_readers.wandb, 40, (UserError,), WANDB),
    Target("trackio database", "trackio/project.db", other_readers.trackio, 20, (UserError, OSError), DATABASE),
    Target("TensorBoard events", "run/tensorboard/events.*", readers.tensorboard, 15, (), TENSORBOARD),
    Target("delivery.json", f"{_LOGS}/delivery.json", readers.ledger, 20),
    Target("watch_state.json", f"{_LOGS}/watch_state.json", readers.watch_state, 20),
    Target("index of a journal", f"{_LOGS}/metrics.index.npz", readers.index, 10, (), ZIPPED),
    Target("earlier drawings", "run/visualizations/.earlier/*.npz", readers.earlier, 10, (), ZIPPED),
    Target("checkpoint", "run/checkpoints/checkpoint_step_24.pt", readers.checkpoint, 5, (), ZIPPED),
    Target("checkpoint of shards, manifest", "checkpoint_step_3/manifest.json", readers.shards, 5),
    Target("checkpoint of shards, state", "checkpoint_step_3/state.pt", readers.noted_shards, 5, (), ZIPPED),
    Target("checkpoint of shards, table", "checkpoint_step_3/.metadata", readers.noted_shards, 10),
    Target("snapshot", "run/snapshots/*/metadata.json", readers.snapshot, 10, (), SNAPSHOT),
    Target("weights of other trainers", "foreign/model.safetensors", other_readers.foreign, 10),
    Target("index of weights", "foreign/model.safetensors.index.json", other_readers.foreign, 10),
    Target("sweep.json", "sweep/sweep.json", readers.sweep, 5, (UserError,)),
    Target("job of a sweep", "sweep/jobs/0.json", readers.sweep, 5, (UserError,)),
    Target("submissions.jsonl", "sweep/submissions.jsonl", readers.sweep, 5, (UserError,), LINES),
    Target("experiment", "experiment.json", other_readers.experiment, 20, (UserError,)),
    Target("experiment, overrides", "experiment.json", other_readers.experiment_used, 1, (UserError,)),
    Target("YAML of detectors", "detectors/mine.yaml", other_readers.yaml, 10, (UserError,)),
    Target("overrides", "overrides.txt", other_readers.overrides, 10, (UserError,), LINES),
    Target("settings of detectors", "overrides.txt", other_readers.values, 10, (UserError,), LINES),
)
