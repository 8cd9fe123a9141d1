"""From what was typed to what is watched: its source, its checkpoints, and the folder for what the watcher writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.status import read_status
from expkit.watch.foreign import ForeignCheckpoints
from expkit.watch.sources import Source
from expkit.watch.sources.fields import Fields
from expkit.watch.sources.journal import JournalSource

__all__ = ["SOURCES", "Options", "Target", "other_target", "run_target"]

#: The options that name what is watched instead of a run directory.
SOURCES = ("status_file", "log_file", "wandb_run", "trackio_run")

#: What other trainers call what detectors look for.
_USUAL = {
    "loss": ("train_loss", "loss", "train/loss", "training_loss"),
    "val_loss": ("val_loss", "eval_loss", "eval/loss", "val/loss", "validation_loss"),
    "accuracy": ("val_accuracy", "accuracy", "eval/accuracy", "val/accuracy", "eval_accuracy"),
    "gradient_norm": ("gradient_norm", "grad_norm", "train/grad_norm"),
}
#: Seconds between two questions to a W&B server, at least.
_ASK_EVERY = 30.0
_GUIDES_STATUS = Path("status", "training_status.json")


class Options(Protocol):
    """The options of the command line that name a source."""

    status_file: Path | None
    log_file: Path | None
    wandb_run: str | None
    trackio_run: str | None
    base_dir: Path | None
    fields: str | None
    pattern: str | None
    project: str | None
    entity: str | None
    trackio_dir: Path | None
    checkpoint_dir: str | None


@dataclass(frozen=True)
class Target:
    """What is watched.

    Attributes:
        run: the run directory, or the folder that takes logs and snapshots.
        source: of records.
        status: returns the status to keep in a snapshot.
        keep: copies checkpoints of another trainer; None: the run's own are kept.
        config: the configuration that the run was trained with, if it tells.
    """

    run: RunDir
    source: Source
    status: Callable[[], Mapping[str, Any]]
    keep: Callable[[Path], int | None] | None = None
    config: Mapping[str, Any] | None = None


def run_target(run: RunDir, checkpoints: str | None = None) -> Target:
    """Return a run directory as a target."""
    try:
        config = read_json(run.config).get("config")
    except UserError:
        config = None
    return Target(
        run,
        JournalSource(run),
        lambda: read_status(run.status),
        ForeignCheckpoints(checkpoints) if checkpoints else None,
        config if isinstance(config, dict) else None,
    )


def other_target(options: Options, metrics: Sequence[str], runs: Sequence[str] = ()) -> Target | None:
    """Return what another trainer writes as a target; None if the options name nothing of the kind.

    Args:
        options: of the command line.
        metrics: names that detectors are told to watch.
        runs: what is named as runs.

    Raises:
        UserError: there is no such thing, or the options do not go together.
    """
    named = [option for option in SOURCES if getattr(options, option) is not None]
    base = options.base_dir
    status = options.status_file
    folder = None if named else _guides_folder(base, runs)
    if folder is not None:
        named, base, status = ["status_file"], folder, folder / _GUIDES_STATUS
    for option, needed in (("pattern", "log_file"), ("entity", "wandb_run"), ("trackio_dir", "trackio_run")):
        if getattr(options, option) is not None and needed not in named:
            raise UserError(f"--{option.replace('_', '-')} belongs to --{needed.replace('_', '-')}")
    if options.fields is not None and not named:
        raise UserError("--fields belongs to --status-file, --log-file, --wandb-run or --trackio-run")
    if not named:
        return None
    if len(named) > 1:
        raise UserError(f"one source at a time: {' or '.join('--' + each.replace('_', '-') for each in named)}")
    fields = Fields(options.fields, _USUAL)
    source, place = _source(status, options, fields, metrics)
    run = RunDir(base or place)
    if not run.root.is_dir():
        raise UserError(f"{run.root} is not there: it is to take logs and snapshots; --base-dir names another folder")

    def content() -> Mapping[str, Any]:
        found = getattr(source, "content", None)
        return found if found is not None else {"source": source.name, "step": None}

    return Target(run, source, content, ForeignCheckpoints(options.checkpoint_dir or _NOTHING))


def _guides_folder(base: Path | None, runs: Sequence[str]) -> Path | None:
    """Return the folder of another trainer that keeps its status file below `status`; the file may come later.

    It is `base`; or the current folder, where neither a run nor a folder is named and there are no runs of ours.
    """
    if base is None and not runs and not Path("outputs").exists():
        base = Path()
    return base if base is not None and (base / _GUIDES_STATUS.parent).is_dir() else None


#: A pattern that nothing matches: checkpoints of another trainer are kept only where somebody says which.
_NOTHING = "/dev/null/nothing"


def _source(status: Path | None, options: Options, fields: Fields, metrics: Sequence[str]) -> tuple[Source, Path]:
    """Return the source, and the folder where what the watcher writes is expected."""
    if status is not None:
        from expkit.watch.sources.status_file import StatusFileSource

        _check_folder(status, "--status-file")
        return StatusFileSource(status, fields), _beside(status)
    if options.log_file is not None:
        from expkit.watch.sources.log_file import LogFileSource

        _check_folder(options.log_file, "--log-file")
        return LogFileSource(options.log_file, fields, options.pattern), _beside(options.log_file)
    if options.trackio_run is not None:
        from expkit.watch.sources.trackio import TrackioSource

        if options.project is None:
            raise UserError("--trackio-run: which project? Say --project")
        run = None if options.trackio_run == "latest" else options.trackio_run
        return TrackioSource(options.project, run, options.trackio_dir, fields), Path()
    from expkit.wandb_data.following import FollowedFiles, FollowedOnline
    from expkit.watch.sources.wandb import WandbSource

    assert options.wandb_run is not None
    named, path = options.wandb_run, Path(options.wandb_run)
    if path.exists():
        return WandbSource(FollowedFiles(path), named, fields), path if path.is_dir() else path.parent
    keys = {*fields.paths, *metrics, *(name for names in _USUAL.values() for name in names)}
    online = FollowedOnline(
        named, options.project, options.entity, lambda names: [[key] for key in names if key in keys], every=_ASK_EVERY
    )
    return WandbSource(online, f"W&B run {named}", fields), Path()


def _check_folder(path: Path, option: str) -> None:
    if path.is_dir():
        raise UserError(f"{option} {path}: this is a folder; name the file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.absolute().parent}")


def _beside(file: Path) -> Path:
    folder = file.absolute().parent
    return folder.parent if folder.name in ("status", "logs") else folder
