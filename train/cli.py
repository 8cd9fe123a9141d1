"""The command line around Hydra: both trackers for a comma, a resumed run's own overrides, and mistakes in one line."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expkit.errors import UserError
from train.build import CONF_DIR, MULTI_SELECT, extra_folders
from train.completion import BASH
from train.mistakes import explain

__all__ = ["job", "main", "rewrite"]

log = logging.getLogger("expkit")

#: Flags of Hydra's whose value is the next argument.
_VALUE_FLAGS = (
    *("--cfg", "-c", "--package", "-p", "--info", "-i"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)

_failures: list[int] = []
_full_error = False


def main(argv: Sequence[str]) -> int:
    """Run `python -m train` with `argv` (the program's name first) and return the exit code.

    0: finished. 1: a mistake, said in one line. 2: wrong flags. 128 + n: stopped by signal n, and saved.
    """
    global _full_error
    _full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    _failures.clear()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `expkit-train` finds the user's own package as `python -m train` does
    try:
        if {"-sc", "install=bash"} <= set(argv):
            print(BASH)
            return 0
        flags = itertools.pairwise(argv)
        extra_folders[:] = [Path(folder) for flag, folder in flags if flag in ("--config-dir", "-cd")]
        sys.argv = [Path(argv[0]).name.replace("__main__.py", "train"), *rewrite(list(argv[1:]))]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and here an error becomes one line
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _say(error)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted before the run could save: go on from its last checkpoint with resume=latest",
            file=sys.stderr,
        )
        return 130
    finally:
        if not _full_error:
            os.environ.pop("HYDRA_FULL_ERROR", None)
    return max(_failures, default=0)


def job(config: DictConfig) -> float | None:
    """Hydra's task function: train, and return the best validation loss for sweepers.

    A mistake in one job of a sweep is said in one line, and the others go on. In a job of submitit's it is raised:
    that is how its launcher hears of it.
    """
    from train.directory import mask_multirun
    from train.display import console_logging
    from train.job import run

    console = console_logging()
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        mask_multirun(Path(HydraConfig.get().sweep.dir) / "multirun.yaml")
    try:
        outcome = run(config, console)
    except Exception as error:  # told here, whatever it is: the other jobs of a sweep go on
        if "SUBMITIT_EXECUTOR" in os.environ:
            log.error("%s", error, exc_info=not isinstance(error, UserError))  # the launcher leaves the log empty
            raise
        number = f"job {HydraConfig.get().job.num}: " if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        _say(error, number)
        _failures.append(1)
        return None
    if outcome.state == "finished":
        if HydraConfig.get().mode == RunMode.RUN:
            _say_next(outcome.dir, config)
    elif outcome.signal:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # Hydra's own launchers go on with the next job after anything less.
            raise SystemExit(128 + outcome.signal)
        _failures.append(128 + outcome.signal)
    return outcome.best_val_loss


def rewrite(arguments: list[str]) -> list[str]:
    """Return the arguments that Hydra gets.

    A comma in a multi-select group means both, with and without -m: `tracker=wandb,trackio` becomes
    `tracker=[wandb,trackio]`. With `resume=`, the resumed run's own overrides come first.
    """
    return _with_resumed(_flags_first([_both(argument) for argument in arguments]))


def _flags_first(arguments: list[str]) -> list[str]:
    """Return flags before overrides: Hydra's parser refuses `a=1 -m b=2`, and people type it."""
    flags: list[str] = []
    overrides: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        value_of_flag = previous in _VALUE_FLAGS
        (flags if argument.startswith("-") or value_of_flag else overrides).append(argument)
    return flags + overrides


def _both(argument: str) -> str:
    override = _parse(argument)
    if override is None or override.key_or_group not in MULTI_SELECT or override.package is not None:
        return argument
    value = override.value()
    if value is None:
        return f"{override.key_or_group}=[]"
    if not isinstance(value, ChoiceSweep) or not value.simple_form or any(isinstance(v, list) for v in value.list):
        return argument
    names = ",".join(str(name) for name in value.list)
    return f"{override.key_or_group}=[{names}]"


def _parse(argument: str) -> Override | None:
    if argument.startswith("-") or "=" not in argument:
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None  # Hydra itself says what is wrong with it


def _with_resumed(arguments: list[str]) -> list[str]:
    overrides = [argument for argument in arguments if _parse(argument) is not None]
    values = dict(argument.partition("=")[::2] for argument in overrides)
    resume = values.get("resume", "never")
    if resume == "never":
        return arguments
    if any(argument in ("-m", "--multirun") for argument in arguments):
        if resume == "auto":
            return arguments  # each job finds its own run, which an unchanged command line describes
        raise UserError("resume goes on with one run: leave out -m, or resume each run on its own")
    from train.resume import find_origin, merge_overrides

    origin = find_origin(resume.strip("'\""), values.get("run.outputs", "outputs"), values.get("run.id"))
    if origin is None:
        return arguments
    typed = [argument for argument in overrides if not argument.startswith("resume=")]
    others = [argument for argument in arguments if argument not in overrides]
    place = origin.run if origin.step is None else origin.run / "checkpoints" / f"checkpoint_step_{origin.step}.pt"
    quoted = str(place).replace("\\", "\\\\").replace("'", "\\'")
    return [*others, *merge_overrides(origin, typed), f"resume='{quoted}'"]


def _say(error: BaseException, where: str = "") -> None:
    """Print a mistake as one line; anything else, and everything with HYDRA_FULL_ERROR=1, with its traceback."""
    mistake = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    if not mistake or _full_error:
        traceback.print_exception(error)
    if mistake:
        print(f"error: {where}{explain(error)}", file=sys.stderr)


def _say_next(directory: Path, config: DictConfig) -> None:
    from train.report import resume_command

    pictures = sorted(directory.glob("visualizations/*.png"), key=lambda path: path.stat().st_mtime)
    lines = [f"  {path}" for path in pictures[-2:]]
    lines += [f"  {directory}/results.json", f"  {directory}/logs/metrics.jsonl"]
    if "trackio" in config.tracker:
        lines.append(f'  trackio show --project "{config.tracker.trackio.project}"')
    if "wandb" in config.tracker:
        lines.append(f"  wandb leet inspect --summary {directory}/wandb/offline-run-*/run-*.wandb")
    if sys.prefix != sys.base_prefix and "VIRTUAL_ENV" not in os.environ:
        print(f"\nFirst, once for each terminal\n  source {os.path.relpath(sys.prefix)}/bin/activate")
    print("\nLook at", *lines, sep="\n", flush=True)
    print(f"Go on with it\n  {resume_command(directory)} trainer.max_epochs=...", flush=True)


def _choice(group: str) -> str:
    return str(HydraConfig.get().runtime.choices.get(group) or "")


def _run_name(variant: str | None) -> str:
    parts = [_choice("task"), _choice("task/model"), _choice("optimizer"), variant or ""]
    return "_".join(part for part in parts if part)


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
