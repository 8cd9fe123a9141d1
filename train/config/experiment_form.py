"""The form of an experiment object: which sections and keys it may have, and which values they take."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError
from train.config.build import MULTI_SELECT

__all__ = ["OPTION", "TRAINER", "chosen_options", "defaults", "differences", "form", "normal", "section_of"]

#: The key of a section that names the option it is made of.
OPTION = "option"
#: Keys of `training` that the trainer section has another name for.
TRAINER = {"epochs": "max_epochs"}
#: Keys of the configuration that an experiment says in another way.
_ELSEWHERE = {
    "resume": "say it on the command line",
    "trainer": "say training",
    "training.max_epochs": "say training.epochs",
    "run.variant": "say run.name",
    "diagnostics.blob.method": "say training.diagnostic_sample_size, a number to sample or null for all pairs",
    "diagnostics.blob.n_samples": "say training.diagnostic_sample_size",
}
#: Groups whose option is no section of an experiment.
_NO_SECTION = ("experiment", "trainer", "debug")


def form(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration (with its `hydra` section) as an experiment, interpolations as they are."""
    options = {section_of(group): option for group, option in chosen_options(config).items()}
    content = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    trainer, run = content.pop("trainer"), content.pop("run")
    parts = {group: _arguments(content.pop(group), group, {}) for group in MULTI_SELECT}
    blob = parts["diagnostics"].get("blob", {})
    method, n_samples = blob.pop("method", None), blob.pop("n_samples", None)
    names = {key: name for name, key in TRAINER.items()}
    return {
        "experiment": config.hydra.runtime.choices.get("experiment"),
        **{key: _arguments(value, key, options) for key, value in content.items() if key not in ("hydra", "resume")},
        "training": {
            **{names.get(key, key): value for key, value in trainer.items()},
            "enable_diagnostics": "blob" in parts["diagnostics"],
            "diagnostic_sample_size": n_samples if method == "reference" else None,
        },
        **parts,
        "save_plots": bool(parts["plots"]),
        "run": {key: value for key, value in run.items() if key not in ("dir", "variant")},
    }


def defaults(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as an experiment for a person to change.

    Values that follow others by interpolation are left out: to write one down would cut it loose.
    """
    shown = {key: _fixed(value) for key, value in form(config).items()}
    return {**shown, "run": {"name": None, **shown["run"]}}


def chosen_options(config: DictConfig) -> dict[str, str]:
    """Return group -> option of every section of a composed configuration that one option fills."""
    choices = config.hydra.runtime.choices
    return {
        group: option
        for group, option in choices.items()
        if group not in _NO_SECTION and not group.startswith("hydra/")
    }


def section_of(group: str) -> str:
    """Return the dotted path of the section that an option of `group` fills."""
    return group.rpartition("@")[2].replace("/", ".")


def normal(content: Any) -> dict[str, Any]:
    """Return what somebody wrote as plain JSON values, each section as a mapping.

    Raises:
        ConfigError: it is no mapping, names code, or holds what is no JSON value.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f'an experiment is an object, {{"training": {{...}}, ...}}, but this is {_kind(content)}')
    said = cast("dict[str, Any]", _plain(content, ""))
    for group in MULTI_SELECT:
        if group in said:
            said[group] = _selection(said[group], group)
    return said


def differences(
    said: Mapping[str, Any], base: Mapping[str, Any], path: tuple[str, ...] = (), top: Mapping[str, Any] | None = None
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the path, the value and the value before of all that `said` has and `base`, a whole form, has not.

    Raises:
        ConfigError: a key that `base` does not know, or a value in the place of a section or list.
    """
    top = base if top is None else top
    for key, value in said.items():
        where = (*path, key)
        if key not in base:
            raise ConfigError(_unknown(where, base, top))
        inner = base[key]
        if _is_section(inner, where):
            if isinstance(value, str) and OPTION in inner:
                value = {OPTION: value}
            if not isinstance(value, Mapping):
                raise ConfigError(f"{'.'.join(where)}={value!r}: this is a section, an object with {', '.join(inner)}")
            yield from differences(value, inner, where, top)
        elif isinstance(inner, list) and isinstance(value, Mapping):
            raise ConfigError(f"{'.'.join(where)}={value!r}: this is a list")
        elif value != inner or isinstance(value, bool) != isinstance(inner, bool):
            yield where, value, inner


def _is_section(value: Any, path: tuple[str, ...]) -> bool:
    """Whether a value of a form has keys of its own: others, by step say (`{0: 0.5, 5000: 0.3}`), are one value."""
    if not isinstance(value, Mapping) or any(re.fullmatch(r"-?[\d.]+", key) for key in value):
        return False
    return bool(value) or path[0] in MULTI_SELECT


def _arguments(node: Any, path: str, options: Mapping[str, str]) -> Any:
    """Return a node without Hydra's own keys (`_target_` and such), and with the options that it is made of."""
    if not isinstance(node, dict):
        return node
    chosen = {OPTION: options[path]} if path in options else {}
    return chosen | {
        str(key): _arguments(value, f"{path}.{key}", options) for key, value in node.items() if not _is_hydras(key)
    }


def _fixed(value: Any) -> Any:
    """Return a value without what is interpolated in it, or names code."""
    if isinstance(value, dict):
        return {key: _fixed(item) for key, item in value.items() if isinstance(item, dict) or not _refers(item)}
    return value


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_hydras(key) or _refers(item) for key, item in value.items())
    return any(map(_refers, value)) if isinstance(value, list) else "${" in str(value)


def _is_hydras(key: object) -> bool:
    return re.fullmatch(r"_\w+_", str(key)) is not None


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if _is_hydras(key):
                raise ConfigError(f"{path}{key}: code is named by an option's YAML file only; leave this out")
        return {str(key): _plain(item, f"{path}{key}.") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, path) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(f"{path.rstrip('.')}={value!r}: {_kind(value)} is no JSON value")


def _selection(value: Any, group: str) -> dict[str, Any]:
    """Return name -> arguments of the options selected in a multi-select group."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if isinstance(value, list):
        value = dict.fromkeys(value) if all(isinstance(name, str) for name in value) else None
    elif value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError(f'{group}: name options in a list, ["a", "b"], or with their arguments, {{"a": {{...}}}}')
    return {name: {} if arguments is None else arguments for name, arguments in value.items()}


def _unknown(path: tuple[str, ...], section: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """Return what is said of a key that `section` does not have."""
    name = ".".join(path)
    if name in _ELSEWHERE:
        return f"{name}: {_ELSEWHERE[name]}"
    if "." in path[-1]:
        return f'{name}: write sections one in another, {{"optimizer": {{"lr": ...}}}}'
    close = get_close_matches(path[-1], list(section), n=1)
    if close:
        return f"{name}: did you mean {'.'.join((*path[:-1], close[0]))}?"
    elsewhere = [other for other in _keys(top) if other.endswith(f".{path[-1]}")]
    if elsewhere:
        return f"{name}: did you mean {elsewhere[0]}?"
    return f"{name}: there is no such key; {'.'.join(path[:-1]) or 'an experiment'} has {', '.join(section)}"


def _keys(section: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in section.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{path}{key}.")


def _kind(value: Any) -> str:
    names = {"list": "a list", "str": "a text", "int": "a number", "float": "a number", "NoneType": "null"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
