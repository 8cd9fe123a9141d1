"""`resume=` on the command line: the run that it means, whose own overrides come before those typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from expkit.errors import ResumeError, UserError
from train.cli.typed import parse_override
from train.config.build import extra_folders
from train.config.compose import compose, hydra_with
from train.config.experiment_file import Experiment
from train.config.mistakes import is_mistake

__all__ = ["with_resumed"]

#: Flags with which nothing is run, so that there is nothing to ask either.
_SHOWS_ONLY = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help")


def with_resumed(arguments: list[str], experiment: Experiment | None) -> list[str]:
    """Return the arguments with the overrides of the run that they go on with, if they do.

    Args:
        arguments: what was typed.
        experiment: overrides that come between a run's own and those typed.

    Raises:
        UserError: there is no such run, or one cannot be asked for here.
    """
    overrides = [argument for argument in arguments if parse_override(argument) is not None]
    values = dict(argument.partition("=")[::2] for argument in overrides)
    resume = values.get("resume", "never").strip("'\"")
    if resume == "never":
        return arguments
    if any(argument in ("-m", "--multirun") for argument in arguments):
        if resume == "auto":
            return arguments  # each job finds its own run, which an unchanged command line describes
        raise UserError("resume goes on with one run: leave out -m, or resume each run on its own")
    from train.resume import find_origin, merge_overrides

    if resume in ("auto", "ask"):
        if any(argument in _SHOWS_ONLY for argument in arguments):
            return arguments
        whole = overrides if experiment is None else experiment.merge(overrides, overrides)
        section = _run_section(whole)
        if section is None:
            return arguments  # Hydra says what is wrong
        outputs, run_id, name = section
        if resume == "ask":
            resume = _ask(outputs, run_id, name, whole)
        origin = find_origin(resume, outputs, run_id, whole)
    else:
        origin = find_origin(resume, values.get("run.outputs", "outputs"), values.get("run.id"))
    typed = [argument for argument in overrides if not argument.startswith("resume=")]
    others = [argument for argument in arguments if argument not in overrides]
    if origin is None:
        return [*others, *typed, "resume=never"]
    quoted = str(origin.place).replace("\\", "\\\\").replace("'", "\\'")
    return [*others, *merge_overrides(origin, typed), f"resume='{quoted}'"]


def _ask(outputs: Path, run_id: object, name: str, overrides: Sequence[str]) -> str:
    """Return what to resume: the path of a run, or never."""
    from train.unfinished import confirm, find_same, find_same_name, unfinished_runs

    if sys.stdin is None or not sys.stdin.isatty():
        raise ResumeError("resume=ask needs a terminal: use resume=auto, resume=latest or a path")
    if run_id is not None:
        found = next((each for each in unfinished_runs(outputs) if each.run.root.name == str(run_id)), None)
    else:
        found = find_same(outputs, overrides)[0] or find_same_name(outputs, name)
    if found is None:
        print(f"resume=ask: a fresh run, as no run called {name} in {outputs} is unfinished", file=sys.stderr)
        return "never"
    return str(found.run.root) if confirm(found) else "never"


def _run_section(overrides: Sequence[str]) -> tuple[Path, object, str] | None:
    """Return run.outputs, run.id and run.name as they will be, or None if there is a mistake in the configuration."""
    try:
        with hydra_with(extra_folders):
            config = compose(overrides)
            HydraConfig.instance().set_config(config)
            return Path(config.run.outputs), config.run.id, str(config.run.name)
    except Exception as error:  # whatever Hydra makes of a mistake; anything else goes on up
        if not is_mistake(error):
            raise
        return None
