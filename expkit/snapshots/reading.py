"""Finding snapshots, and whether every byte of one is as it was written. Nothing in them is executed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from expkit.checkpoint_file import step_of
from expkit.checkpoint_folder import MANIFEST, is_sharded
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import digest, read_json
from expkit.opening import read_whole
from expkit.snapshots.files import METADATA, RUN_CONFIG, digest_of_metadata

__all__ = [
    "BEST",
    "Snapshot",
    "file_stats",
    "is_snapshot",
    "list_snapshots",
    "load_snapshot",
    "quick_problem",
    "verify",
]

_NAME = re.compile(r"anomaly_(?P<time>\d{8}_\d{6})_(?P<reason>.+)")
BEST = "best_model"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot, as its name and metadata.json tell it.

    Attributes:
        path: its folder.
        time: when it was made, in local time.
        reason: what for, as in the guide: loss_spike_37.8pct.
        triggers: all reasons.
        kinds: what these are: loss_spike. Empty if that is not known.
        step: at which that was; None if it is not known.
        loss: at that step.
        accuracy: the last one before, in percent.
        checkpoint: the checkpoint, a file or a folder of shards; None without one.
        metadata: metadata.json; empty if it is missing or damaged.
    """

    path: Path
    time: datetime
    reason: str
    triggers: tuple[str, ...]
    kinds: tuple[str, ...]
    step: int | None
    loss: float | None
    accuracy: float | None
    checkpoint: Path | None
    metadata: Mapping[str, Any]

    @property
    def checkpoint_step(self) -> int | None:
        """The step of its checkpoint."""
        return step_of(self.checkpoint) if self.checkpoint is not None else None

    @property
    def model(self) -> tuple[str, ...]:
        """What is in its folder `model`: the checkpoint, or what another trainer has written."""
        return tuple(sorted(each.name for each in (self.path / "model").glob("[!.]*")))

    @property
    def run(self) -> str:
        """The id of the run that it was made of."""
        return str(self.metadata.get("run") or self.path.resolve().parent.parent.name)

    @property
    def size(self) -> int:
        """Bytes of all its files, those included that it shares with the checkpoints of the run."""
        return sum(each.st_size for each in file_stats(self.path))

    @property
    def is_best(self) -> bool:
        """Whether it was made because the model was the best so far."""
        return self.is_of(BEST)

    def is_of(self, kind: str) -> bool:
        """Whether one of its triggers is of this kind; where kinds are not known, as far as the reasons tell."""
        reasons = (self.reason, *self.triggers)
        return kind in self.kinds or (
            not self.kinds and any(reason == kind or reason.startswith(f"{kind}_") for reason in reasons)
        )

    def config(self) -> dict[str, Any]:
        """Return the config.json of the run as it was.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / RUN_CONFIG)


def file_stats(folder: Path) -> Iterator[os.stat_result]:
    """Yield what the system says of each file in a folder, links aside; somebody may be removing them."""
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield found


def is_snapshot(path: Path) -> bool:
    """Whether `path` looks like a snapshot: by its name, and what is in it."""
    try:
        named = _NAME.fullmatch(path.resolve().name) is not None
        return named and path.is_dir() and ((path / METADATA).is_file() or (path / "model").is_dir())
    except OSError:  # no name that a folder could have
        return False


def load_snapshot(path: Path) -> Snapshot:
    """Return the snapshot at `path`, whatever its state: see `verify`.

    Raises:
        UserError: there is none.
    """
    match = _NAME.fullmatch(path.resolve().name)
    if match is None or not path.is_dir():
        raise UserError(f"{path} is no snapshot: it is a folder called anomaly_{{time}}_{{reason}}")
    try:
        time = datetime.strptime(match["time"], "%Y%m%d_%H%M%S")
    except ValueError:
        raise UserError(f"{path} is no snapshot: {match['time']} is no time") from None
    try:
        metadata = read_json(path / METADATA)
    except UserError:
        metadata = {}
    reason = metadata.get("reason")
    triggers = _texts(metadata.get("triggers"))
    return Snapshot(
        path=path,
        time=time,
        reason=reason if isinstance(reason, str) else match["reason"],
        triggers=triggers,
        kinds=_texts(metadata.get("kinds")),
        step=_number(metadata.get("step"), int),
        loss=_number(metadata.get("loss"), float),
        accuracy=_number(metadata.get("accuracy"), float),
        checkpoint=next((file for file in sorted((path / "model").glob("*")) if step_of(file) is not None), None),
        metadata=metadata,
    )


def list_snapshots(run: RunDir) -> list[Snapshot]:
    """Return the snapshots of a run, oldest first, damaged ones too. A link in their place is none."""
    found = []
    try:
        paths = [path for path in run.snapshots.iterdir() if not path.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    for path in paths:
        try:
            found.append(load_snapshot(path))
        except UserError:
            continue  # a file or folder of somebody's own
    return sorted(found, key=lambda each: (each.time, each.step or 0, each.path.name))


def verify(snapshot: Snapshot) -> str | None:
    """Read every byte and return what is wrong with a snapshot, or None if it is as it was made.

    Raises:
        OSError: a file cannot be read, which says nothing about what is in it.
    """
    return _problem(snapshot, read=True)


def quick_problem(snapshot: Snapshot) -> str | None:
    """Return what is wrong as far as metadata.json and the sizes of the files tell, without reading them.

    Raises:
        OSError: as for `verify`.
    """
    return _problem(snapshot, read=False)


def _problem(snapshot: Snapshot, read: bool) -> str | None:
    root = snapshot.path.resolve()
    try:
        text = read_whole(root / METADATA)
    except (FileNotFoundError, IsADirectoryError):
        return f"{METADATA} is missing"
    if not snapshot.metadata or (root / METADATA).is_symlink():
        return f"{METADATA} is damaged"
    said, files = snapshot.metadata.get("sha256"), snapshot.metadata.get("files")
    if not isinstance(said, str) or len(said) != 64 or not isinstance(files, dict):
        return f"{METADATA} holds no digests: nobody can tell whether the files are as they were"
    if digest_of_metadata(text, said) != said:
        return f"{METADATA} was changed after it was written"
    if (kept := snapshot.checkpoint) is not None:
        named = kept / MANIFEST if is_sharded(kept) else kept
        if named.relative_to(snapshot.path).as_posix() not in files:
            return f"{kept.name} was put there later"
    found = (_file_problem(root, name, expected, read) for name, expected in files.items())
    return next((problem for problem in found if problem is not None), None)


def _file_problem(root: Path, name: str, expected: Any, read: bool) -> str | None:
    if not isinstance(expected, dict) or "\0" in name:
        return f"{METADATA} is damaged"
    file, size = root / name, expected.get("size")
    if file.resolve() != file:  # a link, or a name that leads out
        return f"{name} is not in the snapshot itself"
    try:
        there = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"{METADATA} is damaged"
    if not stat.S_ISREG(there.st_mode) or there.st_size != size:
        return f"{name} has {there.st_size} bytes instead of {size}"
    if read and digest(file) != expected.get("sha256"):
        return f"{name} was changed after it was written"
    return None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _number(value: Any, kind: type[Any]) -> Any:
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
