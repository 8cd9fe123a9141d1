"""The run directory of a job: made exclusively for a fresh run, found again for a resumed one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch import nn

from expkit.checkpoints import checkpoint_error
from expkit.config_tracker import ConfigTracker
from expkit.environment import git_state
from expkit.errors import ConfigError, ResumeError, UserError
from expkit.experiment import RunDir, create_experiment_directory, generate_experiment_id, is_id
from expkit.files import check_writable, free_gb, fsync_folder, remove_stale_temporaries, write_bytes
from expkit.journal import cut_needs
from expkit.secrets import mask_arguments, mask_secrets
from expkit.snapshots.files import link_file
from expkit.snapshots.reading import Snapshot, verify
from train.config.build import plain
from train.resume import Origin

__all__ = [
    "check_room",
    "fresh_directory",
    "mask_multirun",
    "may_refuse",
    "note_resume",
    "remove_fresh",
    "reopen",
    "typed_overrides",
]

#: Bytes that a resume writes besides the journals: config.json, .hydra/resume_N, status.json, the log.
_ROOM = 1 << 19


def fresh_directory(config: DictConfig, model: nn.Module, origin: Origin | None = None) -> RunDir:
    """Make the directory of a fresh run, with its config.json. `config.run.id` is set, and with it `config.run.dir`.

    Args:
        config: the configuration.
        model: of the run.
        origin: the snapshot that it begins with: its checkpoint is put there, too.

    Raises:
        UserError: too little disk space, no place to write, or the snapshot is damaged.
    """
    checkpoint = _checkpoint_of(origin.snapshot) if origin is not None and origin.snapshot is not None else None
    outputs = Path(config.run.outputs)
    _check_space(config, outputs)
    if config.run.group is None and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        config.run.group = Path(HydraConfig.get().sweep.dir).absolute().name  # the runs of a sweep belong together
    files = _fresh(config, outputs)
    try:
        _write_hydra(files.root / ".hydra", config)
        if checkpoint is not None:
            link_file(checkpoint, files.checkpoints / checkpoint.name)
            fsync_folder(files.checkpoints)
        parent = origin.parent if origin is not None else None
        ConfigTracker(files.root).save_config(
            plain(config), model, command=_command(), overrides=typed_overrides(), parent=parent
        )
        fsync_folder(outputs)
    except OSError as error:
        remove_fresh(files)
        raise _no_place(files.root, error) from None
    except BaseException:  # Ctrl-C too: a directory without its config.json is no run
        remove_fresh(files)
        raise
    return files


def reopen(config: DictConfig, origin: Origin) -> None:
    """Let `config` say where the run to resume is. Nothing is written yet.

    Raises:
        UserError: too little disk space.
    """
    _check_space(config, origin.run)
    with open_dict(config):
        config.run.outputs, config.run.id = str(origin.run.parent), origin.run.resolve().name
        if config.run.group is None:
            config.run.group = origin.stored["config"]["run"]["group"]


def check_room(files: RunDir, step: int) -> int:
    """Return how many records of the run lie after `step`, once it is sure that the disk takes what a resume writes.

    Raises:
        UserError: it does not. Nothing was changed.
    """
    with may_refuse(files.root):
        for folder in (files.root, files.logs, files.visualizations, *files.root.glob(".hydra/resume_*")):
            if folder.is_dir():
                remove_stale_temporaries(folder)
        needs = [cut_needs(file, step) for file in (files.metrics, files.events)]
        check_writable(files.root, sum(size for _, size in needs) + _ROOM)
    return sum(lines for lines, _ in needs)


@contextlib.contextmanager
def may_refuse(root: Path) -> Iterator[None]:
    """Say in one line that the disk refuses what happens inside to the run directory.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        what = "no checkpoint and no record of it is lost; try again once it can be written"
        raise UserError(f"{root} cannot be written ({reason}): {what}") from None


def note_resume(
    config: DictConfig,
    origin: Origin,
    plain_config: Mapping[str, Any],
    step: int,
    changes: Sequence[str],
    rewind: Mapping[str, Any] | None,
    branch: int,
) -> None:
    """Write down what the run is from here on: the next resume goes on from this configuration.

    Args:
        config: composed for this resume.
        origin: what is resumed.
        plain_config: the same as plain values, secrets masked.
        step: where it goes on.
        changes: how its configuration differs from the one before.
        rewind: what has led back to this step, or None if it was none.
        branch: how often the run has left the course that its trackers know.
    """
    number = 1
    while (origin.run / ".hydra" / f"resume_{number}").exists():
        number += 1
    folder = origin.run / ".hydra" / f"resume_{number}"
    try:
        _write_hydra(folder, config)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    overrides = typed_overrides()
    moment = {
        "step": step,
        "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(),
        **git_state(),
        "changed": changes,
        **({"rewind": rewind} if rewind is not None else {}),
        "overrides": overrides,
    }
    ConfigTracker(origin.run).add_to_config(
        config=plain_config,
        overrides=overrides,
        first_overrides=origin.stored.get("first_overrides", origin.stored.get("overrides")),
        resumes=[*origin.stored.get("resumes", []), moment],
        branch=branch,
    )


def _checkpoint_of(snapshot: Snapshot) -> Path:
    """Return the checkpoint of a snapshot, once every byte has been read.

    Raises:
        ResumeError: it is damaged, or what is in it is no checkpoint.
    """
    checkpoint = snapshot.checkpoint
    assert checkpoint is not None
    try:
        problem = verify(snapshot)
        if problem is None and (inside := checkpoint_error(checkpoint)) is not None:
            problem = f"{checkpoint.name}: {inside}"
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
    if problem is not None:
        raise ResumeError(f"{snapshot.path} is damaged: {problem}; begin with another snapshot or a checkpoint")
    return checkpoint


def _check_space(config: DictConfig, place: Path) -> None:
    free, least = free_gb(place), float(config.run.min_free_gb)
    if free < least:
        raise UserError(
            f"only {free:.1f} GB free for {place.absolute()}, but run.min_free_gb={least:g}: "
            "free some space, choose another run.outputs, or lower run.min_free_gb"
        )


def _fresh(config: DictConfig, outputs: Path) -> RunDir:
    chosen = config.run.id
    if chosen is not None and not is_id(str(chosen)):
        raise ConfigError(f"run.id={chosen}: it becomes a folder's name; use letters, digits and . _ - only")
    while True:
        with open_dict(config):
            config.run.id = str(chosen) if chosen is not None else generate_experiment_id(config.run.name)
        root = outputs / config.run.id
        try:
            create_experiment_directory(outputs, config.run.id)
        except UserError:
            if chosen is None and root.exists():
                continue  # another job of this second has drawn the same four characters
            raise
        except OSError as error:
            remove_fresh(RunDir(root))
            raise _no_place(root, error) from None
        return RunDir(root)


def _no_place(root: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{root} cannot be written ({reason}): free some space, or choose another folder (run.outputs)")


def remove_fresh(files: RunDir) -> None:
    """Remove a run directory in which nothing has happened yet."""
    shutil.rmtree(files.root, ignore_errors=True)


def mask_multirun(file: Path) -> None:
    """Mask the secrets in what Hydra writes of a sweep."""
    if file.is_file():
        content = mask_secrets(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
        content["hydra"]["job"]["override_dirname"] = ",".join(content["hydra"]["overrides"]["task"])
        write_bytes(file, OmegaConf.to_yaml(OmegaConf.create(content)).encode(), durable=False)


def typed_overrides() -> list[str]:
    """Return what was typed, secrets masked and interpolations (`${oc.env:KEY}`) as they were."""
    if not HydraConfig.initialized():
        return []
    typed = OmegaConf.to_container(cast(ListConfig, HydraConfig.get().overrides.task), resolve=False)
    return mask_arguments(cast("list[str]", typed))


def _command() -> list[str]:
    """Return the command line; in a job of submitit's, which has submitit's, the one that does the same by itself."""
    if "SUBMITIT_EXECUTOR" not in os.environ or not HydraConfig.initialized():
        return [text.encode(errors="backslashreplace").decode() for text in mask_arguments(sys.orig_argv)]
    sources = HydraConfig.get().runtime.config_sources
    folders = [word for each in sources if each.provider == "command-line" for word in ("--config-dir", each.path)]
    return [sys.executable, "-m", "train", *folders, *typed_overrides()]


def _write_hydra(folder: Path, config: DictConfig) -> None:
    """Write what Hydra itself would: it is switched off there, because it writes before a configuration is checked."""
    folder.mkdir(parents=True)
    overrides = typed_overrides()
    contents: dict[str, Any] = {
        "config": OmegaConf.to_container(config, resolve=False),
        "overrides": overrides,
    }
    if HydraConfig.initialized():
        hydra = cast("dict[str, Any]", OmegaConf.to_container(cast(DictConfig, HydraConfig.get()), resolve=False))
        hydra["overrides"]["task"] = overrides
        hydra["job"]["override_dirname"] = ",".join(overrides)
        contents["hydra"] = {"hydra": hydra}
    for name, content in contents.items():
        text = OmegaConf.to_yaml(OmegaConf.create(mask_secrets(content)))
        write_bytes(folder / f"{name}.yaml", text.encode(), durable=False)
