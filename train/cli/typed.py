"""What is typed, before Hydra sees it: what it would take in silence, or answer with pages, is refused in one line."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from expkit.errors import UserError
from expkit.opening import read_whole
from expkit.yaml_text import check_aliases
from train.config.build import CONF_DIR, MULTI_SELECT, group_folders, group_options
from train.config.keys import meant, no_option, selected
from train.program import shadow

__all__ = ["FlagError", "check_typed", "config_folders", "parse_override", "quoted_option"]

#: Groups of which a run needs exactly one option. (Of experiment and debug it may have several, or none.)
_ONE = ("task", "optimizer", "scheduler", "checkpoint")
#: Flags that other trainers have for trackers -> what is written here.
_FLAGS = {
    "tracker_project": "run.project={}",
    "tracker_run_name": "run.name={}",
    "tracker_tags": "run.tags=[{}]",
    "tracker_group": "run.group={}",
}


#: Flags beside which no run is trained in this process.
_NOT_TRAINING_HERE = frozenset(("-m", "--multirun", "--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help"))
#: Choices that hold for sweeps alone, of one job perhaps: Hydra passes over them otherwise.
_OF_SWEEPS = ("hydra/launcher=", "hydra/sweeper=")


class FlagError(UserError):
    """A wrong flag: exit code 2, as for other programs."""


def check_typed(arguments: Sequence[str]) -> None:
    """Check the arguments of `python -m train`.

    Raises:
        FlagError: a flag that there is not, or that is used wrongly.
        UserError: an override that Hydra would misunderstand.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    flags, others = parser.parse_known_args(list(arguments))
    if flags.shell_completion or flags.help or flags.hydra_help:
        return
    for argument in others:
        if argument.startswith("-"):
            raise FlagError(_unknown_flag(argument, arguments))
    for folder in config_folders(arguments):
        if not folder.is_dir():
            raise FlagError(f"--config-dir {folder}: there is no such folder; it is the one that holds task/ and so on")
        for file in sorted(folder.rglob("*.yaml")):
            with contextlib.suppress(OSError):  # Hydra says what is wrong with it, if it is one that counts
                check_aliases(read_whole(file).decode(errors="replace"), str(file))
    if flags.multirun and (flags.cfg or flags.run or flags.info):
        raise FlagError("-m runs jobs, and --cfg, --info and --run do something else: give one of them")
    if flags.resolve and not flags.cfg:
        raise FlagError("--resolve belongs to --cfg: --cfg job --resolve")
    overrides = {*flags.overrides, *others}
    for position, argument in enumerate(arguments):
        if argument in overrides:
            if argument.startswith("~") and argument[1:] in _ONE:
                raise UserError(f"{argument}: a run needs one: choose from {_listed(argument[1:])}")
            if "=" not in argument and not argument.startswith("~"):
                raise UserError(_without_value(arguments, position))
            override = parse_override(quoted_option(argument))
            if override is not None:
                _check_override(argument, override, arguments)


def check_launched(arguments: Sequence[str]) -> None:
    """Check that a launcher or a sweeper has something to do, in the arguments that Hydra gets.

    Raises:
        UserError: it would be passed over.
    """
    if not _NOT_TRAINING_HERE.isdisjoint(each.partition("=")[0] for each in arguments):
        return
    for argument in arguments:
        if argument.startswith(_OF_SWEEPS) and not argument.endswith("=basic"):
            raise UserError(f"{argument}: without -m this would train here and now, in this process: add -m")


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folder given with --config-dir, if there is one."""
    flags = ("--config-dir", "-cd")
    pairs = [argument.partition("=")[::2] for argument in arguments]
    return [Path(value) for flag, value in (*pairs, *itertools.pairwise(arguments)) if flag in flags and value]


def quoted_option(argument: str) -> str:
    """Return GROUP=OPTION with quotes around an option whose name Hydra would take for a number: debug=nan."""
    key, equals, value = argument.partition("=")
    if not equals or not group_folders(key.lstrip("+")):
        return argument
    for name in {"nan", "inf"}.intersection(group_options(key.lstrip("+"))):
        value = re.sub(rf"(?<![\w'\"./-]){name}(?![\w'\"./-])", f"'{name}'", value)
    return f"{key}={value}"


def parse_override(argument: str) -> Override | None:
    """Return a KEY=VALUE as Hydra reads it, or None for what it cannot read: it says itself what is wrong.

    Raises:
        UserError: it is what Hydra fails at: lists in lists without end, a number of thousands of digits.
    """
    if argument.startswith("-") or "=" not in argument:
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
    except (ValueError, RecursionError):
        key = argument.partition("=")[0]
        raise UserError(f"{key}: its value cannot be read: it is nested too deeply, or a number has no end") from None


def _check_override(argument: str, override: Override, arguments: Sequence[str]) -> None:
    key, values = override.key_or_group, list(_values(override))
    if key in ("hydra.run.dir", "run.dir"):
        raise UserError(f"{argument} has no effect: a run's folder is run.outputs/run.id, so set these two")
    group = key.replace(".", "/")
    whole = "." in key and group_folders(group) and any(isinstance(value, str) for value in values)
    if whole and (key.startswith("hydra.") or isinstance(OmegaConf.select(selected(arguments), key), DictConfig)):
        raise UserError(f"{argument}: {group} is a group: choose with a slash, {group}=, from {_listed(group)}")
    if not group_folders(key):
        return
    if override.is_add() and (CONF_DIR / key).is_dir():
        raise UserError(f"{argument}: this group has its place already: leave out the plus, {argument.lstrip('+')}")
    one = key.split("/")[0] in _ONE or key == "trainer"
    if one and any(isinstance(value, list) for value in values):
        raise UserError(f"{argument}: choose one of {_listed(key)}; for one run for each add -m and write a comma")
    for value in values:
        _check_option(key, value, one)
    hidden_by = shadow() if key == "hydra/launcher" and values != ["basic"] else None
    if hidden_by is not None:  # jobs of such a launcher are processes that look for modules in this folder first
        raise UserError(
            f"{argument}: the jobs would find {hidden_by} in place of expkit's own `train`: "
            "rename that, start from another folder, or leave the launcher out"
        )


def _check_option(group: str, value: Any, one: bool) -> None:
    """Refuse what no option is called; of what might be one Hydra knows best, except in `trainer`."""
    if group in MULTI_SELECT or isinstance(value, list):
        return
    if group == "trainer" and isinstance(value, str) and value not in group_options(group):
        # A task need not have an option of this group, so Hydra passes over those that there are not.
        raise UserError(f"{no_option(group, value)}; single settings are trainer.KEY=VALUE")
    if value == "" or not (isinstance(value, str) or (value is None and not one)):
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        raise UserError(f"{group}={shown}: {group} is a group: choose from {_listed(group)}")


def _listed(group: str) -> str:
    return ", ".join(group_options(group)) or "none yet"


def _values(override: Override) -> Iterator[Any]:
    """Yield the value, or each one of a sweep."""
    value = override.value() if override.value_type is not None else None
    if not isinstance(value, ChoiceSweep):
        yield value
        return
    for each in value.list:
        yield getattr(each, "text", each)  # a quoted text


def _refuse_flag(message: str) -> NoReturn:
    raise FlagError(f"{message}; --help shows examples")


def _unknown_flag(argument: str, arguments: Sequence[str]) -> str:
    name, _, value = argument.lstrip("-").partition("=")
    following = [*arguments[list(arguments).index(argument) + 1 :], ""][0]
    if "=" not in following and not following.startswith("-"):
        value = value or following
    hint = _instead(name.replace("-", "_"), value)
    return f"{argument} is no flag: a setting is written KEY=VALUE, without dashes{hint}; --help lists keys and flags"


def _without_value(arguments: Sequence[str], position: int) -> str:
    argument, before = arguments[position], arguments[position - 1] if position else ""
    for start, each in enumerate(arguments[:position]):
        if re.search(r"=[\[{]", each) and not each.endswith(("]", "}")):
            whole = " ".join(arguments[start : position + 1])
            return f"{whole}: in the shell, what holds spaces needs quotes: '{whole}'"
    if before.endswith("="):  # KEY= VALUE
        return f"{before} {argument}: a setting is written without spaces: {before}{argument}"
    if argument.endswith(".json"):
        return f"{argument}: a setting is written KEY=VALUE: config_file={argument}"
    for group in ("task", "optimizer", "scheduler", "experiment", "debug", *MULTI_SELECT):
        if argument in group_options(group):
            return f"{argument}: a setting is written KEY=VALUE: {group}={argument}"
    value = ""
    for following in arguments[position + 1 : position + 3]:  # KEY VALUE, KEY =VALUE, KEY = VALUE
        if "=" in following.lstrip("=") or following.startswith("-"):
            break
        value = value or following.lstrip("=")
    return f"{argument}: a setting is written KEY=VALUE, without spaces{_instead(argument, value)}"


def _instead(name: str, value: str) -> str:
    """Return `: KEY=VALUE` as it should have been typed, or nothing where no key is like `name`."""
    if name in _FLAGS:
        return f": {_FLAGS[name].format(value or '...')}"
    if group_folders(name) and name != "trainer":
        return f": {name}={value or [*group_options(name), '...'][0]}"
    close = [name] if name == "resume" else meant(name, selected(()))
    return f": {close[0]}={value or ('latest' if name == 'resume' else '...')}" if close else ""
