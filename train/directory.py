"""The run directory of a job: made exclusively for a fresh run, found again for a resumed one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch import nn

from expkit.config_tracker import ConfigTracker
from expkit.errors import UserError
from expkit.experiment import RunDir, create_experiment_directory, generate_experiment_id
from expkit.files import free_gb, write_bytes
from expkit.secrets import mask_arguments, mask_secrets
from train.build import plain
from train.resume import Origin

__all__ = ["open_directory", "remove_fresh", "typed_overrides"]


def open_directory(config: DictConfig, origin: Origin | None, model: nn.Module) -> RunDir:
    """Make the directory of a fresh run, with its config.json, or return that of the run to resume.

    `config.run.id` is set either way, and with it `config.run.dir`.

    Raises:
        UserError: too little disk space, or no place to write.
    """
    outputs = Path(config.run.outputs)
    free, least = free_gb(outputs), float(config.run.min_free_gb)
    if free < least:
        raise UserError(
            f"only {free:.1f} GB free for {outputs.absolute()}, but run.min_free_gb={least:g}: "
            "free some space, choose another run.outputs, or lower run.min_free_gb"
        )
    if config.run.group is None and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        config.run.group = Path(HydraConfig.get().sweep.dir).name  # the runs of a sweep belong together
    if origin is not None:
        with open_dict(config):
            config.run.outputs, config.run.id = str(origin.run.parent), origin.run.resolve().name
        files = RunDir(origin.run)
        number = 1
        while (files.root / ".hydra" / f"resume_{number}").exists():
            number += 1
        _write_hydra(files.root / ".hydra" / f"resume_{number}", config)
        return files
    files = _fresh(config, outputs)
    _write_hydra(files.root / ".hydra", config)
    ConfigTracker(files.root).save_config(plain(config), model, overrides=typed_overrides(), parent=None)
    return files


def _fresh(config: DictConfig, outputs: Path) -> RunDir:
    chosen = config.run.id
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
        return RunDir(root)


def remove_fresh(files: RunDir) -> None:
    """Remove a run directory in which nothing has happened yet."""
    shutil.rmtree(files.root, ignore_errors=True)


def typed_overrides() -> list[str]:
    """Return what was typed, secrets masked and interpolations (`${oc.env:KEY}`) as they were."""
    if not HydraConfig.initialized():
        return []
    typed = OmegaConf.to_container(cast(ListConfig, HydraConfig.get().overrides.task), resolve=False)
    return mask_arguments(cast("list[str]", typed))


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
