"""The command line around Hydra: both trackers for a comma, a resumed run's own overrides, and mistakes in one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy  # noqa: F401 - before torch, which imports it in C++ and would swallow a Ctrl-C meanwhile
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from expkit.errors import UserError
from expkit.importing import importing
from expkit.secrets import mask_text
from train.cli.completion import answer
from train.cli.help import commented_values
from train.cli.mode import mode_by_flags
from train.cli.overlaps import say_overlaps
from train.cli.resumed import with_resumed
from train.cli.typed import FlagError, check_launched, check_typed, config_folders, quoted_option
from train.cli.typed import parse_override as _parse
from train.config.build import CONF_DIR, MULTI_SELECT, extra_folders, group_options
from train.config.cluster import enter_cluster
from train.config.experiment_file import Experiment, take_config_file
from train.config.mistakes import explain, is_mistake
from train.config.trainer import check_run
from train.processes import lead_or_follow

__all__ = ["job", "main", "note_failure", "rewrite"]

log = logging.getLogger("expkit")

#: Flags of Hydra's whose value is the next argument.
_VALUE_FLAGS = (
    *("--cfg", "-c", "--package", "-p", "--info", "-i"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
)

#: Flags beside which `sweep=NAME` alone starts no sweep: they say themselves what is to be done.
_NOT_SWEEPING = frozenset(
    ("-m", "--multirun", "--run", "-r", "--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help")
)

_failures: list[int] = []
_full_error = False


def main(argv: Sequence[str]) -> int:
    """Run `python -m train` with `argv` (the program's name first) and return the exit code.

    0: finished. 1: a mistake, or an end that could not be saved, said in one line. 2: wrong flags. 128 + n: stopped by
    signal n, and saved. Of several processes that were started with the same `argv` one reads it, and says anything.
    """
    try:
        return lead_or_follow(lambda: _main(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _main(argv: Sequence[str]) -> int:
    global _full_error
    _full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    _failures.clear()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `expkit-train` finds the user's own package as `python -m train` does
    arguments = list(argv[1:])
    try:
        completion = answer(arguments)
        if completion is not None:
            print(completion)
            return 0
        extra_folders[:] = config_folders(arguments)
        check_typed(arguments)
        arguments = rewrite(arguments)
        check_launched(arguments)
        sys.argv = [Path(argv[0]).name.replace("__main__.py", "train"), *arguments]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and here an error becomes one line
        with mode_by_flags(arguments, [CONF_DIR, *extra_folders]):
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(job)()
    except Exception as error:  # whatever Hydra makes of a mistake; anything else goes on up
        if not is_mistake(error):
            raise
        _say(error, "", arguments, argv[1:])
        return 2 if isinstance(error, FlagError) else 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted: no run was going on", file=sys.stderr)
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
    with importing("torch._dynamo"):
        import torch._dynamo  # noqa: F401 - every optimizer imports it, and would do so in the midst of the run

        from train.directory import mask_multirun
        from train.display import console_logging
        from train.job import run
        from train.report import say_next
        from train.sweeping import told

    console = console_logging()
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        mask_multirun(Path(HydraConfig.get().sweep.dir) / "multirun.yaml")
    try:
        with told(config) as tell:
            check_run(config.run)
            enter_cluster(config.cluster)
            typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
            say_overlaps(typed)
            outcome = run(config, console)
            tell(outcome)
    except Exception as error:  # told here, whatever it is: the other jobs of a sweep go on
        if "SUBMITIT_EXECUTOR" in os.environ:
            log.error("%s", error, exc_info=not isinstance(error, UserError))  # the launcher leaves the log empty
            raise
        number = f"job {HydraConfig.get().job.num}: " if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        _say(error, number, HydraConfig.get().overrides.task)
        _failures.append(1)
        return None
    if not outcome.complete:
        _failures.append(1)
    elif outcome.state == "finished" and HydraConfig.get().mode == RunMode.RUN:
        say_next(outcome, config)
    if outcome.signal:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # Hydra's own launchers go on with the next job after anything less.
            raise SystemExit(128 + outcome.signal)
        _failures.append(128 + outcome.signal)
    return outcome.best_val_loss


def note_failure(code: int = 1) -> None:
    """Let `main` return at least this exit code: jobs of a sweep have failed elsewhere."""
    _failures.append(code)


def rewrite(arguments: list[str], experiment: Experiment | None = None) -> list[str]:
    """Return the arguments that Hydra gets.

    A comma in a multi-select group means both, with and without -m: `tracker=wandb,trackio` becomes
    `tracker=[wandb,trackio]`. `sweep=seeds` means -m, too. With `resume=`, the resumed run's own overrides come first.
    Those of `experiment`, or of the file that `config_file=` names, come next, before those typed.
    """
    found, arguments = take_config_file(arguments)
    experiment = experiment or found
    typed = _flags_first(_sweeping([_both(quoted_option(argument)) for argument in arguments]))
    merged = with_resumed(typed, experiment)
    return merged if experiment is None else _flags_first(experiment.merge(merged, typed))


def _sweeping(arguments: list[str]) -> list[str]:
    """Return the arguments with the -m that `sweep=NAME` is meant with, unless a flag or `resume=` says otherwise."""
    keys = {each.partition("=")[0]: each.partition("=")[2] for each in arguments}
    named = keys.get("sweep", "null") not in ("null", "") and "resume" not in keys
    return ["-m", *arguments] if named and _NOT_SWEEPING.isdisjoint(keys) else arguments


def _flags_first(arguments: list[str]) -> list[str]:
    """Return flags before overrides: Hydra's parser refuses `a=1 -m b=2`, and people type it."""
    flags: list[str] = []
    overrides: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        value_of_flag = previous in _VALUE_FLAGS
        (flags if argument.startswith("-") or value_of_flag else overrides).append(argument)
    if flags and flags[-1] in ("--info", "-i"):  # its value may be left out, and must not be an override
        flags.append("all")
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


def _say(error: BaseException, where: str, arguments: Sequence[str], typed: Sequence[str] | None = None) -> None:
    """Print a mistake as one line; anything else, and everything with HYDRA_FULL_ERROR=1, with its traceback."""
    mistake = is_mistake(error)
    if not mistake or _full_error:
        print(mask_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if mistake:
        print(mask_text(f"error: {where}{explain(error, arguments, typed)}"), file=sys.stderr)


def _choice(group: str) -> str:
    return str(HydraConfig.get().runtime.choices.get(group) or "")


def _run_name(variant: str | None) -> str:
    parts = [_choice("task"), _choice("task/model"), _choice("optimizer"), variant or ""]
    return "_".join(part for part in parts if part)


def _help_values(*, _root_: DictConfig) -> str:
    return commented_values(_root_).replace("$", "$$")  # Hydra's help is a string.Template


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
OmegaConf.register_new_resolver("help_values", _help_values, replace=True)
OmegaConf.register_new_resolver("help_options", lambda group: ", ".join(group_options(group)), replace=True)
