"""Experiments from Python: make a configuration, change it, run it, read its results. See docs/api.md."""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.dist import Place
from expkit.errors import ConfigError, UserError
from expkit.experiment import RunDir, generate_experiment_id, is_id
from expkit.files import read_json

if TYPE_CHECKING:
    from train.config.experiment_file import Experiment
    from train.report import Outcome

__all__ = ["analyze_experiment", "create_config", "load_results", "run_experiment"]

#: What `generate_experiment_id` puts after a name.
_MOMENT = re.compile(r"_(\d{8}_\d{6})_[a-z0-9]{4}$")


def create_config(name: str = "denoise", config_dir: Path | str | None = None) -> dict[str, Any]:
    """Return an experiment or a task with everything that can be set, as plain JSON values, for changing.

    Args:
        name: an option of conf/experiment, or else of conf/task.
        config_dir: a folder with options of your own, as with --config-dir.

    Raises:
        ConfigError: there is no such option.
    """
    from train.config.build import group_options
    from train.config.compose import compose, hydra_with
    from train.config.experiment_form import defaults
    from train.config.mistakes import one_line

    with hydra_with(_folders(config_dir)):
        options = {group: group_options(group) for group in ("experiment", "task")}
        group = next((group for group, names in options.items() if name in names), None)
        if group is None:
            close = difflib.get_close_matches(str(name), [*options["experiment"], *options["task"]], n=1)
            listed = "; ".join(f"{group}s: {', '.join(names) or 'none'}" for group, names in options.items())
            guess = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"there is no experiment or task called {name!r}: {guess}{listed}")
        with one_line([f"{group}={name}"]):
            return defaults(compose([f"{group}={name}"]))


def run_experiment(
    config: Mapping[str, Any] | Path | str,
    name: str | None = None,
    outputs: Path | str | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> Outcome:
    """Train in this process, as `python -m train` would, and return how it ended.

    Ctrl-C saves and ends the run; its outcome's state is then `interrupted`.

    Args:
        config: an object as `create_config` makes it, of which any part may be left out; the path of a JSON file that
            holds one; or the name of an experiment or a task.
        name: what the run is called: its directory is {name}_{date}_{time}_{4 characters}. Without, what the
            configuration says in `run.name`, the file's name, or {task}_{model}_{optimizer}.
        outputs: where run directories go, instead of where the configuration says.
        overrides: more of what can be typed after `python -m train`; they win.
        config_dir: a folder with options of your own, as with --config-dir.

    Returns:
        dir, the run directory; state; best_val_loss; signal; complete.

    Raises:
        UserError: a configuration that cannot work. Nothing is left behind. Likewise under torchrun, and in one of
            several tasks of srun.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from train.cli.main import rewrite
    from train.cli.overlaps import say_overlaps
    from train.cli.typed import check_typed
    from train.config.build import extra_folders
    from train.config.cluster import enter_cluster
    from train.config.compose import compose, hydra_with, literal
    from train.config.mistakes import one_line
    from train.config.trainer import check_run
    from train.display import console_logging
    from train.job import run

    place = Place.current()
    if place is not None:
        raise ConfigError(
            f"run_experiment: {place.launcher} has started this program {place.world_size} times: start it once, with "
            f"overrides=['trainer.processes={place.world_size}'], or let {place.launcher} start python -m train"
        )
    experiment = _experiment(config, config_dir)
    typed = [overrides] if isinstance(overrides, str) else list(overrides)
    check_typed(typed)
    for each in typed:
        if each.startswith("-") or each.lstrip("+").startswith("config_file="):
            raise ConfigError(f"overrides={each!r}: give KEY=VALUE; sweeps, flags and files belong on the command line")
    if name is not None:
        typed.insert(0, f"run.name={literal(name)}")
    if outputs is not None:
        typed.insert(0, f"run.outputs={literal(os.fspath(outputs))}")
    before = list(extra_folders)
    extra_folders[:] = [Path(folder) for folder in _folders(config_dir)]
    try:
        arguments = rewrite(typed, experiment)
        with hydra_with(extra_folders), one_line(arguments), _own_logging():
            composed = compose(arguments)
            with open_dict(composed):
                composed.hydra.mode = RunMode.RUN
            HydraConfig.instance().set_config(composed)
            described = copy.deepcopy(composed)
            with open_dict(described):
                del described["hydra"]
            check_run(described.run)
            enter_cluster(described.cluster)
            console = console_logging()
            say_overlaps(arguments)
            return run(described, console)
    finally:
        extra_folders[:] = before


def load_results(run: Path | str, outputs: Path | str = "outputs") -> dict[str, Any]:
    """Return the content of a run's results.json.

    Args:
        run: what runs are called, of which the newest is taken; a run's id; or the path of a run directory or of a
            results.json.
        outputs: where runs are.

    Raises:
        UserError: there is no such run, or it has no results yet.
    """
    path = Path(run).expanduser()
    if path.suffix == ".json":
        return read_json(path)
    files = _find(run, outputs)
    if not files.results.exists():
        raise UserError(f"{files.root} has no results.json yet: it is written as the run goes on")
    return read_json(files.results)


def analyze_experiment(
    run: Path | str, outputs: Path | str = "outputs", encoder: str | None = None, decoder: str | None = None
) -> dict[str, Any]:
    """Return how blobs formed in a run, from its checkpoints alone: see docs/blob.md.

    Args:
        run: as for `load_results`: what runs are called, of which the newest is taken; a run's id; the path of a run
            directory; or of a folder of checkpoints.
        outputs: where runs are.
        encoder: the name of the first weight matrix in a checkpoint, where it is not found by itself.
        decoder: the name of the second, likewise.

    Returns:
        `timeline`, one entry for each checkpoint; `final`, the last one in full; and more, as
        `expkit.diagnostics.analysis.analyze_experiment` says.

    Raises:
        UserError: there is no such run, it has no checkpoint that is intact, or its model no such pair of weights.
    """
    from expkit.diagnostics.analysis import analyze_experiment as analyze

    path = Path(run).expanduser()
    return analyze(path if path.is_dir() else _find(run, outputs).root, encoder, decoder)


def _find(run: Path | str, outputs: Path | str) -> RunDir:
    """Return the run that is at the path `run`, of one's own loop too, or the newest one that is called so."""
    path = Path(run).expanduser()
    return RunDir(path) if RunDir(path).has_something() else _newest(str(run), Path(outputs))


def _experiment(config: Mapping[str, Any] | Path | str, config_dir: Path | str | None) -> Experiment:
    from train.config.experiment_file import Experiment, read_experiment

    if isinstance(config, str) and not config.endswith(".json") and not Path(config).exists():
        return Experiment(create_config(config, config_dir), "config", config)
    if isinstance(config, str | os.PathLike):
        return read_experiment(config)
    return Experiment(config, "config")


def _folders(config_dir: Path | str | None) -> list[Path | str]:
    return [] if config_dir is None else [config_dir]


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Let a run set up the log of its own; the program finds it as it was."""
    log = logging.getLogger("expkit")
    before = log.handlers, log.level, log.propagate
    try:
        yield
    finally:
        log.handlers, log.level, log.propagate = before


def _newest(name: str, outputs: Path) -> RunDir:
    """Return the newest of the runs in `outputs` that are called `name`, or have it for an id."""
    called = _MOMENT.sub("", generate_experiment_id(name))  # as it stands in a folder's name
    runs: dict[str, list[RunDir]] = {}
    for file in outputs.glob("*/config.json"):
        runs.setdefault(_MOMENT.sub("", file.parent.name), []).append(RunDir(file.parent))
    if is_id(name) and RunDir(outputs / name).exists():
        return RunDir(outputs / name)
    if called not in runs:
        close = difflib.get_close_matches(called, runs, n=3)
        there = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(runs)) or 'none'}"
        raise UserError(f"there is no run called {name!r} in {outputs.absolute()}: {there}")
    return max(runs[called], key=_started)


def _started(run: RunDir) -> tuple[str, float]:
    """Return when a run began; of two that began in one second, the one that was active last counts as the later."""
    moment = _MOMENT.search(run.root.name)
    latest = run.status if run.status.exists() else run.config
    return moment[1] if moment else "", latest.stat().st_mtime
