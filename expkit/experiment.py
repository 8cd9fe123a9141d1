"""Where a run lives: its id, its folder, its free space."""

from __future__ import annotations

import random
import re
import string
import threading
from datetime import datetime
from pathlib import Path

from expkit.errors import UserError
from expkit.files import check_disk_space, is_there

__all__ = [
    "RunDir",
    "active_runs",
    "check_disk_space",
    "create_experiment_directory",
    "generate_experiment_id",
    "is_id",
    "newest_run",
    "readable_name",
]

#: What there is to read of a run; the runner's have the first one.
_MARKS = ("config.json", "logs/metrics.jsonl", "results.json")
_ALPHABET = string.ascii_lowercase + string.digits
_random = random.SystemRandom()  # ids must differ even between runs that seed everything alike
_issued: set[str] = set()
_lock = threading.Lock()


def generate_experiment_id(name: str) -> str:
    """Return `{name}_{YYYYmmdd_HHMMSS}_{4 characters}`: readable, sortable, never the same twice in one process.

    Of many processes within one second, two may draw the same (1 in 1.7 million for each pair):
    `create_experiment_directory` then gives it to one of them only. Characters of `name` that do not belong into a file
    name become dashes.
    """
    readable = readable_name(name)
    moment = datetime.now().astimezone().strftime("%Y%m%d_%H%M%S")
    with _lock:
        while (made := f"{readable}_{moment}_{''.join(_random.choices(_ALPHABET, k=4))}") in _issued:
            pass
        _issued.add(made)
    return made


def readable_name(name: str) -> str:
    """Return `name` with what does not belong into a file name replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def is_id(text: str) -> bool:
    """Whether `text` can be a run's id: the name of a folder right below the folder of all runs."""
    return re.fullmatch(r"[\w.+=-]+", text) is not None and text not in (".", "..")


def create_experiment_directory(base: Path | str, experiment_id: str, exist_ok: bool = False) -> dict[str, Path]:
    """Make `base/experiment_id` with its folders, and return them: root, checkpoints, logs, visualizations.

    Args:
        base: folder of all runs; made if it is not there.
        experiment_id: the run's folder.
        exist_ok: take the directory that is there, for a script that goes on with its own run when started again.

    Raises:
        UserError: there is such a directory already (it is somebody's run), or it cannot be made; or `experiment_id`
            is a path, which might lead out of `base`.
    """
    if experiment_id in ("", ".", "..") or Path(experiment_id).name != experiment_id:
        raise UserError(f"experiment_id={experiment_id}: it must be the name of a folder in {base}, and no path")
    root = Path(base) / experiment_id
    if Path(base).exists() and not Path(base).is_dir():
        raise UserError(f"{base} is a file, so there can be no run directories in it: choose another folder for runs")
    try:
        Path(base).mkdir(parents=True, exist_ok=True)
        root.mkdir(exist_ok=exist_ok)  # exclusive, unless asked: of two runs with one id only one gets it
    except FileExistsError:
        raise UserError(
            f"{root} exists already: choose another id, or go on with that run (resume={root}; in Python exist_ok=True)"
        ) from None
    except OSError as error:
        raise UserError(
            f"the run directory {root} cannot be made: {error.strerror}; choose another folder for runs (run.outputs)"
        ) from None
    folders = {name: root / name for name in ("checkpoints", "logs", "visualizations")}
    for folder in folders.values():
        folder.mkdir(exist_ok=exist_ok)
    return {"root": root, **folders}


class RunDir:
    """The names of things in a run directory, said once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.config = self.root / "config.json"
        self.status = self.root / "status.json"
        self.results = self.root / "results.json"
        self.checkpoints = self.root / "checkpoints"
        self.logs = self.root / "logs"
        self.metrics = self.logs / "metrics.jsonl"
        self.events = self.logs / "events.jsonl"
        self.text_log = self.logs / "training.log"
        self.visualizations = self.root / "visualizations"
        self.snapshots = self.root / "snapshots"

    @property
    def id(self) -> str:
        """The experiment id: the folder's name."""
        return self.root.resolve().name

    def has_something(self) -> bool:
        """Whether there is anything to read, also of a loop of somebody's own, which needs no config.json."""
        return any(is_there(self.root / mark) for mark in _MARKS)

    def exists(self) -> bool:
        """Whether there is a run here: a run exists once its config.json does."""
        try:
            return self.config.is_file()
        except OSError:  # no name that a file could have
            return False


def active_runs(outputs: Path, own: bool = False) -> list[RunDir]:
    """Return the runs in `outputs`, the one that was active last at the end.

    Args:
        outputs: a folder of run directories.
        own: all that have something to read, a journal or a results.json, and not only a config.json.
    """
    marks = _MARKS if own else _MARKS[:1]
    roots = {path.parents[mark.count("/")] for mark in marks for path in outputs.glob(f"*/{mark}")}
    return sorted(map(RunDir, roots), key=_changed)


def _changed(run: RunDir) -> tuple[float, str]:
    """Return when a run gave its last sign of life."""
    files = (run.status, run.metrics, run.results, run.config)
    return next((file.stat().st_mtime for file in files if file.exists()), 0.0), run.id


def newest_run(outputs: Path) -> RunDir | None:
    """Return the run in `outputs` that was active last, or None if there is no run."""
    return next(iter(active_runs(outputs)[::-1]), None)
