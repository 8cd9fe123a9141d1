"""Hydra's, OmegaConf's and torch's errors as one line: what was wrong, where, and what to do instead."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence

from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from expkit.errors import ConfigError, UserError
from expkit.place import short_path
from expkit.secrets import mask_arguments
from train.config.blame import unresolved
from train.config.build import group_folders, group_options
from train.config.keys import no_key, no_option, selected

__all__ = ["MISTAKES", "explain", "is_mistake", "one_line"]

#: What is raised for a mistake of the user's, always. See `is_mistake`.
MISTAKES = (UserError, HydraException, OmegaConfBaseException, YAMLError)

_NO_OPTION = re.compile(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'")
_IN_FILE = re.compile(r"In '([\w/]+)': (.*)")
_NO_KEY = re.compile(r"Could not (?:override|delete from config\.) '([^']+)'")
_COMMA = re.compile(r"Ambiguous value for argument '([^=]+)=(.*)'")
_SIZE = re.compile(r"size mismatch for (\S+): .*?\[([\d, ]*)\]\) from checkpoint.*?\[([\d, ]*)\]\)", re.DOTALL)
_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: (.*?)\. ")
_ARGUMENT = re.compile(r"^([a-z]+(?:\.\w+)*): (\w+) must be (.*), not (.*)$")
_SETTING = re.compile(r"([a-z]\w*(?:\.[a-z]\w*)+)=(?:\S*|\[.*\]): ")
_NOISE = ("full_key:", "object_type=", "Set the environment", "reference_type=", "Config search path", "provider=")


def is_mistake(error: BaseException) -> bool:
    """Whether `error` is a mistake of the user's, which `explain` can tell, and not a bug."""
    if isinstance(error, MISTAKES):
        return True
    hydras = ["/hydra/" in frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError):  # as it makes the folder of a sweep
        return any(hydras)
    return isinstance(error, ValueError) and any(hydras[-4:])


@contextlib.contextmanager
def one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Let every mistake in this context be a UserError of one line. Where Hydra is set up."""
    try:
        yield
    except Exception as error:  # whatever Hydra makes of a mistake; anything else goes on up
        if not is_mistake(error):
            raise
        kind = type(error) if isinstance(error, UserError) else ConfigError
        raise kind(explain(error, overrides)) from error


def explain(error: BaseException, arguments: Sequence[str] = (), typed: Sequence[str] | None = None) -> str:
    """Return `error` as one line.

    Args:
        error: one that `is_mistake`.
        arguments: the command line as Hydra has got it, which says which keys there are.
        typed: the command line as it was typed, without what a run that is resumed has brought along.
    """
    text = str(error)
    if isinstance(error, UserError):
        told = _ARGUMENT.sub(r"\1.\2=\4: it must be \3", _misfit(text))
        return " ".join(told.split()) + _default(told, arguments)
    if isinstance(error, OverrideParseException):
        return _no_override(error.override)
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{short_path(mark.name)}, line {mark.line + 1}, is no valid YAML: {error.problem}"
    if isinstance(error, OmegaConfBaseException) or isinstance(error.__cause__, OmegaConfBaseException):
        value = _no_value(error if isinstance(error, OmegaConfBaseException) else error.__cause__)
        if value:
            return value
    comma = _COMMA.search(text)
    if comma:
        return _comma(*comma.groups())
    option = _NO_OPTION.search(text)
    if option:
        chosen = "=".join(option.groups())
        told = no_option(*option.groups())
        if chosen in arguments and typed is not None and chosen not in typed:
            return f"{told}; the run to resume was started with it: give its --config-dir again"
        return told + ("" if chosen in arguments else _origin(text))
    key = _NO_KEY.search(text)
    if key and "defaults list" in text:
        return f"there is no group {key[1]} to override{_origin(text)}"
    if key:
        brought = [each for each in arguments if typed is not None and each not in typed]
        own = [each for each in brought if each.lstrip("+~").startswith(f"{key[1]}=")]
        return _not_beside(own[0], typed or ()) if own else no_key(key[1], arguments)
    if isinstance(error, UnicodeDecodeError):
        return f"a configuration file is no text in UTF-8 ({text})"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}): choose another folder for runs (run.outputs)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(_NOISE)) or type(error).__name__


def _default(told: str, arguments: Sequence[str]) -> str:
    """Return what the setting that a mistake is about is by default, if it is about one."""
    setting = _SETTING.match(told)
    known = OmegaConf.to_container(selected(arguments), resolve=False) if setting else None
    for name in setting[1].split(".") if setting else ():
        if not isinstance(known, dict) or name not in known:
            return ""
        known = known[name]
    if known is None or isinstance(known, dict) or "${" in str(known) or str(known) in ("", "???"):
        return ""
    shown = str(known).lower() if isinstance(known, bool) else str(known)
    chosen, _, wanted = told.partition(": ")
    return "" if shown in wanted or chosen.endswith(f"={shown}") else f" (default: {shown})"


def _origin(text: str) -> str:
    """Return the configuration file in which a choice stands that cannot be made, if it is not the main one."""
    where = _IN_FILE.search(text)
    return f" (in {where[1]}.yaml)" if where and where[1] != "config" else ""


def _comma(key: str, value: str) -> str:
    if group_folders(key):
        return f"{key}={value}: one option at a time, from {', '.join(group_options(key))}; for one run for each add -m"
    return (
        f"{key}={value} has a comma: for one run for each value add -m, for a list write {key}=[{value}], "
        f"for a text '{key}=\"{value}\"'"
    )


def _not_beside(own: str, typed: Sequence[str]) -> str:
    """Return what to say of a resumed run's own setting that has no place beside an option typed now."""
    chosen = [each for each in typed if group_folders(each.partition("=")[0])]
    beside = " ".join(chosen) or "what is typed now"
    return (
        f"{own}, which the run to resume was started with, has no place beside {beside}: leave {beside} out, "
        "or start a fresh run"
    )


def _no_override(override: str) -> str:
    override = mask_arguments([override])[0]  # an address with a key in it ends up here for its =
    key, _, value = override.partition("=")
    for opening, closing in ("[]", "{}"):
        if value.startswith(opening) and value.count(opening) != value.count(closing):
            return f"{override}: a {closing} is missing; in the shell a list with spaces needs quotes: '{key}=[a, b]'"
    if "=" not in override:
        return f"{override}: a setting is written KEY=VALUE"
    if value.endswith(",") and value.strip(","):
        return f"{override}: nothing stands behind the last comma: {key}={value.rstrip(',')}"
    shown = value.strip("'\"") or "a, b"
    return f"{override}: a value with = , ( [ {{ ~ : or a space needs quotes, twice: '{key}=\"{shown}\"'"


def _no_value(error: BaseException | None) -> str:
    """Return what to say of a value that is taken from elsewhere, or has to be given, and is not there."""
    key = str(getattr(error, "full_key", None) or "")
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value yet: set {key}=..."
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {unresolved(error)}" if key else unresolved(error)
    return ""


def _misfit(text: str) -> str:
    """Shorten what torch says of weights that do not fit a model: the tensors and their shapes."""
    sizes = [f"{name} was {_shape(then)} and is {_shape(now)}" for name, then, now in _SIZE.findall(text)]
    names = [f"{_few(keys)} {'is new' if kind == 'Missing' else 'is gone'}" for kind, keys in _KEYS.findall(text)]
    if not sizes and not names:
        return text
    before = text.partition("Error(s) in loading")[0]
    before = before.replace("what is configured now: the checkpoint does not fit the model", "the model configured now")
    more = f"; {len(sizes) - 3} more" if len(sizes) > 3 else ""
    return f"{before}{'; '.join([*names, *sizes[:3]])}{more}; set the model back, or start a fresh run"


def _shape(text: str) -> str:
    return text.replace(", ", " x ") or "a number"


def _few(keys: str) -> str:
    names = keys.replace('"', "").split(", ")
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
