"""What is typed for a profile, checked: sizes, other settings of its own, and what `train` composes of the rest."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.errors import ConfigError, UserError
from expkit.files import is_there
from expkit.secrets import mask_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sweeps.executors import Kind

__all__ = ["KEYS", "Setup", "check_output", "compose_setup", "own_settings", "parse_sizes", "positive"]

#: Settings of the profile itself -> what they are.
KEYS = {
    "batch_sizes": "the sizes to try, [2048,5120,10240,20480], or auto",
    "epochs": "over the training data, for each size",
    "output": "the report, a Markdown file; JSON and a picture go beside it",
    "timeout_min": "minutes that a size may take",
    "memory_limit_gb": "GB that a size may take: less than there are",
}
#: Settings of training that the profile makes itself.
_TAKEN = {
    "resume": "a profile trains anew: leave it out",
    "sweep": "a profile tries batch sizes, and nothing else: leave it out",
    "trainer.batch_size": "batch_sizes=[...] says which are tried",
    "trainer.max_epochs": "epochs=N says how long each size is trained",
    "trainer.max_steps": "epochs=N says how long each size is trained, 0.1 of an epoch too",
    "trainer.processes": "a profile measures one process; trainer.batch_size of n processes is n times what it finds",
    "cluster.time": "timeout_min=N says how long a size may take; a job gets some minutes more",
    "hydra.launcher.timeout_min": "timeout_min=N says how long a size may take; a job gets some minutes more",
}
#: Sections of a configuration that a measurement has no use for.
_NOT_NEEDED = ("hydra", "run", "sweep", "tracker", "plots")
#: Minutes that a job has beyond `timeout_min`, for its start and its end.
_MORE_MINUTES = 5


@dataclass(frozen=True)
class Setup:
    """What is measured, and by which jobs.

    Attributes:
        config: the composed configuration as plain values, without Hydra's section.
        title: what is trained, in a few words.
        kind, params: of the jobs' executor.
        folders: of options of one's own.
        typed: what to type for the same configuration; None where it cannot be typed.
    """

    config: Mapping[str, Any]
    title: str
    kind: Kind
    params: Mapping[str, Any]
    folders: tuple[str, ...] = ()
    typed: tuple[str, ...] | None = ()

    @property
    def pieces(self) -> int:
        """What every size must be a multiple of."""
        pieces = self.config.get("trainer", {}).get("grad_accumulation", 1)
        return pieces if isinstance(pieces, int) and pieces > 0 else 1

    @property
    def batch_size(self) -> int:
        """The size that the configuration has."""
        size = self.config.get("trainer", {}).get("batch_size", 64)
        return size if isinstance(size, int) and size > 0 else 64


def own_settings(typed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the profile's own settings among what is typed, and the rest, which is for training.

    Raises:
        UserError: a setting is there twice, or is the profile's to make.
    """
    own: dict[str, str] = {}
    others = []
    for argument in typed:
        key, _, value = argument.partition("=")
        name = key.lstrip("+~")
        if name in _TAKEN:
            raise UserError(f"{argument}: {_TAKEN[name]}")
        if key in KEYS:
            if key in own:
                raise UserError(f"{argument}: {key}={own[key]} is there already")
            own[key] = value
            continue
        close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75)
        if close and "." not in key:
            raise UserError(f"{argument}: did you mean {close[0]}={value}? A profile has {', '.join(KEYS)}")
        others.append(argument)
    return own, others


def parse_sizes(value: Any) -> list[int] | None:
    """Return batch sizes, each once and rising, or None for `auto`.

    Raises:
        UserError: they are no positive integers.
    """
    if value == "auto":
        return None
    parts: list[Any] = list(value) if isinstance(value, list | tuple | range) else [value]
    if isinstance(value, str):
        parts = [part for part in re.split(r"[,\s]+", value.strip().strip("[]()")) if part]
    sizes = []
    for part in parts:
        text = str(part).replace("_", "")
        if isinstance(part, bool) or not text.isdecimal() or int(text) < 1:
            raise UserError(f"batch_sizes={_shown(value)}: {part} is no batch size: whole numbers from 1, or auto")
        sizes.append(int(text))
    if not sizes:
        raise UserError("batch_sizes=[]: name at least one size, or auto")
    return sorted(set(sizes))


def positive(key: str, value: Any, unit: str) -> float:
    """Return a setting as a number above 0.

    Raises:
        UserError: it is none.
    """
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{key}={value}: it must be a number of {unit}, more than 0")
    return number


def check_output(output: Path | str) -> Path:
    """Return the path of the report.

    Raises:
        UserError: nothing can be written there.
    """
    path = Path(output).expanduser()
    shown = f"output={output}"
    if path.is_dir() or str(output).endswith(os.sep):
        raise UserError(f"{shown}: this is a folder; name a file in it, output={path / 'batch_profile.md'}")
    if path.suffix in (".json", ".png"):
        raise UserError(
            f"{shown}: the report is Markdown, JSON and a picture go beside it: output={path.with_suffix('.md')}"
        )
    if not is_there(path.parent):
        raise UserError(f"{shown}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{shown}: the folder {path.parent.absolute()} cannot be written to")
    return path


def compose_setup(config: Any, typed: Sequence[str], config_dir: Path | str | None, timeout_min: float) -> Setup:
    """Return what to measure.

    Args:
        config: None for what is typed alone; a composed configuration; or what `train.api.run_experiment` takes: an
            experiment's mapping, the path of a JSON file that holds one, or the name of an experiment or a task.
        typed: overrides of training, hydra/launcher among them.
        config_dir: a folder with options of one's own.
        timeout_min: minutes that a size may take.

    Raises:
        UserError: a configuration, or a cluster's setting, that cannot work.
    """
    from omegaconf import DictConfig

    from sweeps.executors import check_executor
    from train.cli.main import rewrite
    from train.cli.typed import check_typed
    from train.config.build import extra_folders

    typed = [*typed]
    composed = config if isinstance(config, DictConfig) else None
    experiment, named = None, list[str]()
    before = list(extra_folders)
    extra_folders[:] = [] if config_dir is None else [Path(config_dir)]
    try:
        check_typed(typed)
        if composed is None and config is not None:
            experiment, named = _experiment(config)
        launcher = [] if any(each.startswith("hydra/launcher=") for each in typed) else ["hydra/launcher=local"]
        whole, title, node = _compose(rewrite([*named, *typed, *launcher], experiment))
        folders = tuple(str(folder.absolute()) for folder in extra_folders)
    finally:
        extra_folders[:] = before
    kind, params = _jobs(node, timeout_min)
    if kind == "slurm":
        check_executor(kind, params)
    shown = (*named, *(each for each in mask_arguments(typed) if not re.match(r"hydra|cluster[=.]", each)))
    if composed is not None:
        if shown:
            raise ConfigError(f"{shown[0]}: a configuration that is composed is used as it is: change it itself")
        whole, title = _plain(composed), _title(composed)
    if composed is not None or experiment is not None:
        return Setup(whole, title, kind, params, folders, None)
    if config_dir is not None:
        shown = ("--config-dir", str(config_dir), *shown)
    return Setup(whole, title, kind, params, folders, shown)


def _experiment(config: Any) -> tuple[Any, list[str]]:
    """Return an experiment as `train` reads one, and what to type for it instead where that can be typed."""
    from train.config.build import extra_folders, group_options
    from train.config.compose import hydra_with
    from train.config.experiment_file import Experiment, read_experiment

    if isinstance(config, str | os.PathLike):
        name = os.fspath(config)
        with hydra_with(extra_folders):  # whoever asks may use Hydra, too
            groups = [group for group in ("experiment", "task") if name in group_options(group)]
        if groups:
            return None, [f"{groups[0]}={name}"]
        if not name.endswith(".json") and not Path(name).exists():
            from train.api import create_config

            create_config(name, next(iter(extra_folders), None))  # says which there are
        read_experiment(name)  # says what is wrong with it
        return None, [f"config_file={name}"]
    if not isinstance(config, Mapping):
        raise ConfigError(f"config={config!r}: give a configuration, an experiment's mapping, its file, or its name")
    return Experiment(config, "config"), []


def _compose(arguments: list[str]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return the configuration, what it is called, and the launcher's part of it."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from train.config.build import extra_folders
    from train.config.compose import compose, hydra_with
    from train.config.mistakes import one_line

    with hydra_with(extra_folders), one_line(arguments):
        config = compose(arguments)
        HydraConfig.instance().set_config(config)
        node = config.hydra.launcher
        named = {key: node[key] for key in node if key != "submitit_folder"}  # which is where `train -m` puts its own
        launcher: Any = OmegaConf.to_container(OmegaConf.create(named), resolve=True)
        return _plain(config), _title(config), launcher


def _plain(config: DictConfig) -> dict[str, Any]:
    """Return what training needs of a configuration as plain values; what trackers have for secrets stays here."""
    from omegaconf import DictConfig

    from train.config.build import plain

    return {
        str(key): plain(config[key]) for key in config if key not in _NOT_NEEDED and isinstance(config[key], DictConfig)
    }


def _jobs(launcher: Mapping[str, Any], timeout_min: float) -> tuple[Kind, dict[str, Any]]:
    """Return kind and parameters of the executor that a launcher's configuration asks for."""
    target = str(launcher.get("_target_", "")).rpartition(".")[2]
    kinds: dict[str, Kind] = {"LocalLauncher": "local", "SlurmLauncher": "slurm"}
    if target not in kinds:
        raise ConfigError(
            f"hydra/launcher: {target} cannot measure each size in a process of its own: use local or slurm"
        )
    params = {key: value for key, value in launcher.items() if key != "_target_"}
    return kinds[target], {**params, "timeout_min": math.ceil(timeout_min) + _MORE_MINUTES}


def _title(config: DictConfig) -> str:
    """Return the run's name, and the sizes of its model."""
    from omegaconf import OmegaConf

    sizes = {
        key: value
        for part in ("task.data", "task.model")
        for key in ("d", "hidden", "d_model", "num_layers")
        if isinstance(value := OmegaConf.select(config, f"{part}.{key}"), int)
    }
    try:
        name = str(OmegaConf.select(config, "run.name"))
    except Exception:  # noqa: BLE001 - composed by somebody whose Hydra is over: it cannot say what was chosen
        name = ""
    return ", ".join(filter(None, (name, *(f"{key}={value}" for key, value in sizes.items())))) or "a configuration"


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
