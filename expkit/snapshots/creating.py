"""Making a snapshot: all of it or nothing, and the checkpoint in it without a copy where the disk can."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from expkit.checkpoint_file import step_of
from expkit.errors import ConfigError
from expkit.experiment import RunDir
from expkit.files import atomic_folder, digest, fsync_folder, write_bytes, write_json
from expkit.record import to_plain
from expkit.snapshots.checkpoint import candidates, export, first_intact, second_names
from expkit.snapshots.files import METADATA, RUN_CONFIG, STATUS, with_own_digest
from expkit.snapshots.reading import list_snapshots, load_snapshot

__all__ = ["Observed", "Trigger", "begin", "check_export", "create"]

log = logging.getLogger("expkit")

#: Seconds after which a temporary folder is surely nobody's: its maker may be alive on another host.
_STALE = 86400.0


class Trigger(Protocol):
    """What a snapshot is made for: an event, say."""

    @property
    def kind(self) -> str:
        """What happened, in a word: loss_spike."""
        ...

    @property
    def reason(self) -> str:
        """The same with a number, for the name of the folder: loss_spike_37.8pct."""
        ...


@dataclass(frozen=True)
class Observed:
    """How the run stood: fields of metadata.json.

    Attributes:
        step: the step of the events.
        time: seconds since 1970 of their record: everybody who saw it gives the snapshot the same name.
        loss: at that step; None if it was not measured.
        accuracy: the last one, in percent.
        loss_history: the last losses up to that step.
        best_loss: the lowest loss so far.
        best_loss_step: the step that it belongs to.
    """

    step: int
    time: float
    loss: float | None = None
    accuracy: float | None = None
    loss_history: Sequence[float] = ()
    best_loss: float | None = None
    best_loss_step: int | None = None


def create(
    run: RunDir,
    triggers: Sequence[Trigger],
    observed: Observed,
    status: Mapping[str, Any],
    checkpoint: Path | None = None,
    safetensors: bool = False,
) -> Path | None:
    """Make `snapshots/anomaly_{YYYYmmdd_HHMMSS}_{reason}/` in a run directory.

    It appears whole or not at all, and when it returns it is on the disk. Of several that make the same one, the runner
    and a watcher say, one does. It may be called from any thread.

    Args:
        run: the run directory.
        triggers: what happened at this step, the first one names the folder; at least one.
        observed: how the run stood.
        status: what status.json says now.
        checkpoint: the checkpoint to keep; None, or if that one is gone or damaged: the newest intact one.
        safetensors: write the model's weights to model/model.safetensors, too. This reads the checkpoint into memory.

    Returns:
        Its path; None if there is one of this step and reason already, or if the disk refuses, which is one warning.

    Raises:
        ConfigError: `safetensors` without the package of that name.
    """
    try:
        return begin(run, triggers, observed, status, checkpoint, safetensors=safetensors)()
    except OSError as error:
        why = error.strerror or str(error)
        log.warning("no snapshot of step %d in %s (%s): training goes on", observed.step, run.snapshots, why)
        return None


def begin(
    run: RunDir,
    triggers: Sequence[Trigger],
    observed: Observed,
    status: Mapping[str, Any],
    checkpoint: Path | None = None,
    near: int | None = None,
    safetensors: bool = False,
    keep: Callable[[Path], int | None] | None = None,
    before: int | None = None,
) -> Callable[[], Path | None]:
    """Do of `create` what must be done at this step, which is quick, and return what does the rest, in any thread.

    The checkpoint has its second name then (or is open, where the disk has none), so that retention may delete it. A
    disk that refuses is an OSError, of either half.

    Args:
        run, triggers, observed, status, checkpoint, safetensors: see `create`.
        near: rather the checkpoint nearest to this step.
        keep: puts the checkpoint of another trainer into a folder, and returns its step if that is known; part of the
            rest.
        before: no checkpoint of this step or a later one, unless it is `checkpoint`: it would have the trouble in it.

    Raises:
        OSError: nothing was made.
        ConfigError: as for `create`.
    """
    if safetensors:
        check_export()
    if not run.snapshots.is_dir():
        run.snapshots.mkdir(exist_ok=True)
        fsync_folder(run.root)
    timestamp = f"{datetime.fromtimestamp(observed.time):%Y%m%d_%H%M%S}"
    path = run.snapshots / f"anomaly_{timestamp}_{_word(triggers[0].reason)}"
    if path.exists() and load_snapshot(path).step != observed.step:
        path = path.with_name(f"{path.name}_step_{observed.step}")  # that one is of another step within the same second
    said, config = to_plain(status), run.config.read_bytes() if run.config.is_file() else None  # somebody's own loop
    with ExitStack() as stack:
        folder = stack.enter_context(atomic_folder(path))
        (folder / "model").mkdir()
        own = list(candidates(run, checkpoint, near, before)) if keep is None else []
        names = second_names(own, folder / "model")
        held = list(itertools.islice(names, 1))  # it does, mostly; the others are tried if it is damaged
        half_made = stack.pop_all()

    def finish() -> Path | None:
        try:
            with half_made:
                _remove_stale(run.snapshots)
                _check_new(run, triggers[0].reason, observed)
                kept = first_intact(itertools.chain(held, names))
                if kept is not None and safetensors:
                    export(kept, folder / "model" / "model.safetensors")
                write_json(folder / STATUS, said)
                if config is not None:
                    write_bytes(folder / RUN_CONFIG, config)
                step = keep(folder / "model") if keep is not None else step_of(kept) if kept is not None else None
                metadata = _metadata(run, triggers, observed, timestamp, folder, step)
                write_bytes(folder / METADATA, with_own_digest(metadata))
        except FileExistsError:
            return None  # somebody else was first
        return path

    return finish


def check_export() -> None:
    """Refuse to export weights without the package that does it.

    Raises:
        ConfigError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("safetensors") is None:
        raise ConfigError(
            "snapshots.safetensors=true: this needs a package that is not installed: pip install 'expkit[safetensors]'"
        )


def _check_new(run: RunDir, reason: str, observed: Observed) -> None:
    """Raise FileExistsError if there is this snapshot: a watcher's, or this run's own from before it was resumed."""
    loss = observed.loss if observed.loss is not None and math.isfinite(observed.loss) else None
    for there in list_snapshots(run):
        if (there.step, there.reason, there.loss) == (observed.step, reason, loss):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(there.path))


def _metadata(
    run: RunDir, triggers: Sequence[Trigger], observed: Observed, timestamp: str, folder: Path, step: int | None
) -> dict[str, Any]:
    return {
        "timestamp": timestamp,
        "reason": triggers[0].reason,
        "step": observed.step,
        "loss": observed.loss,
        "accuracy": observed.accuracy,
        "triggers": list(dict.fromkeys(trigger.reason for trigger in triggers)),
        "loss_history": list(observed.loss_history),
        "best_loss": observed.best_loss,
        "best_loss_step": observed.best_loss_step,
        "kinds": list(dict.fromkeys(trigger.kind for trigger in triggers)),
        "run": run.id,
        "checkpoint_step": step,
        "files": {
            file.relative_to(folder).as_posix(): {"sha256": digest(file), "size": file.stat().st_size}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }


def _word(reason: str) -> str:
    """Return `reason` as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", reason)[:80] or "event"


def _remove_stale(folder: Path) -> None:
    """Remove what a process that died in the middle of making or removing a snapshot has left."""
    for path in folder.glob(".anomaly_*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE:
                shutil.rmtree(path)
