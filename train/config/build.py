"""The one place that turns configuration nodes into objects, and says in one line what was wrong with one."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra.utils
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, resolvers
from omegaconf.errors import OmegaConfBaseException

from expkit.conf import CONF_DIR
from expkit.errors import ConfigError, UserError
from expkit.place import short_path
from expkit.secrets import mask_secrets
from train.config.blame import told, typed_keys, unresolved
from train.config.signature import check_values, locate

__all__ = ["CONF_DIR", "MULTI_SELECT", "build", "build_named", "call_with_known", "group_folders", "group_options"]
__all__ += ["plain", "plain_masked", "preset", "without_target"]

T = TypeVar("T")

#: Groups in which several options can be selected at once; a comma means both.
MULTI_SELECT = ("tracker", "diagnostics", "detectors", "plots")
#: Of a part's methods it has to have one, or it does nothing at all.
_METHODS = {
    "Tracker": ("log", "image", "alert"),
    "Diagnostic": ("measure",),
    "Detector": ("observe",),
    "Plot": ("draw",),
}
#: What was given with --config-dir, for the time after Hydra.
extra_folders: list[Path] = []


def build(config: DictConfig, key: str, expected: type[T]) -> T:
    """Return the object that the node `key` of `config` describes.

    Args:
        config: the whole configuration, so that interpolations resolve.
        key: dotted path of a node with a `_target_`.
        expected: the protocol's base class, or `Callable` for a node that is `_partial_`.

    Raises:
        ConfigError: naming the key and the real cause.
    """
    try:
        node = OmegaConf.select(config, key)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            selected = [str(name) for name in OmegaConf.select(config, key.partition(".")[0]) or {}]
            raise ConfigError(without_target(key, node, selected))
        if not isinstance(node._target_, str):
            raise ConfigError(f"{key}._target_={node._target_}: name what makes this, package.module.Name")
        _check_class(locate(node._target_, key), key, node, expected)
        check_values(node, key)
        made = hydra.utils.instantiate(node, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_refusal(error, key, node)) from error
    if not isinstance(made, expected):
        raise ConfigError(
            f"{key}: {node._target_} makes a {type(made).__name__}, but this group needs a {expected.__name__}"
        )
    _check_methods(made, key, expected)
    return made


def build_named(config: DictConfig, group: str, expected: type[T]) -> dict[str, T]:
    """Return name -> object for each option selected in a multi-select group, in the order of selection."""
    return {str(name): build(config, f"{group}.{name}", expected) for name in OmegaConf.select(config, group) or {}}


def call_with_known(key: str, partial: Callable[..., T], *arguments: Any, **known: Any) -> T:
    """Call a `_partial_` with `arguments`, and with those of `known` that it has a parameter for.

    So `scheduler` may be ours, which wants `total_steps`, or any of torch.optim.lr_scheduler's, which mostly do not.

    Raises:
        ConfigError: naming the key and the real cause.
    """
    accepted = inspect.signature(partial).parameters
    given = {name: value for name, value in known.items() if name in accepted}
    try:
        return partial(*arguments, **given)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor of somebody's own does
        raise ConfigError(told(error, key, getattr(partial, "keywords", None))) from error


def group_folders(group: str) -> list[Path]:
    """Return the folders, of expkit's configuration and those of `--config-dir`, that hold options of a group."""
    plain_name = re.fullmatch(r"\w+(/\w+)*", group) is not None
    return [path for folder in (CONF_DIR, *extra_folders) if plain_name and (path := folder / group).is_dir()]


def group_options(group: str) -> list[str]:
    """Return the options that a configuration group offers, those of `--config-dir` included."""
    if not GlobalHydra.instance().is_initialized():
        return sorted({file.stem for folder in group_folders(group) for file in folder.glob("*.yaml")})
    return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def _files(group: str) -> list[Path]:
    """Return the files of a group's options, those of presets aside."""
    files = [file for folder in group_folders(group) for file in sorted(folder.glob("*.yaml"))]
    return [file for file in files if not preset(group, file.stem)]


def preset(group: str, option: str) -> list[str]:
    """Return the options that an option of a multi-select group selects, if that is what it is for."""
    for folder in group_folders(group):
        file = folder / f"{option}.yaml"
        if file.is_file():
            node = OmegaConf.load(file)
            chosen = node.get("defaults", []) if isinstance(node, DictConfig) else []
            return [str(each) for each in chosen if each != "_self_"]
    return []


def _shortened(group: str, selected: Sequence[str]) -> list[str]:
    """Return `selected` with `standard` in place of what it selects: as it is by default, with its own values."""
    inside = preset(group, "standard")
    if not inside or not set(inside) <= set(selected):
        return list(selected)
    return ["standard", *(name for name in selected if name not in inside)]


def without_target(key: str, node: Any, selected: Sequence[str] = ()) -> str:
    """Return what is wrong with a node that nothing can be made of: an option that is not selected, mostly.

    Args:
        key: of the node.
        node: what is there.
        selected: the names in its group, if several can be.
    """
    group, _, name = key.partition(".")
    if group in MULTI_SELECT and name == "_target_":
        wrong = [file for file in _files(group) if f"@package {group}." not in file.read_text(errors="replace")]
        file, option = (short_path(wrong[0]), wrong[0].stem) if wrong else ("an option's YAML file", "NAME")
        return f"{group}: {file} must begin with the line `# @package {group}.{option}`, and does not"
    if group in MULTI_SELECT and name:
        options = group_options(group)
        if name not in options:
            return f"{key} is set, but there is no {group} {name!r}: choose from {', '.join(options) or 'none yet'}"
        if node is not None and not any(each.startswith(f"{group}.{name}.") for each in typed_keys()):
            return f"{key} has no _target_: the YAML file of {group}={name} needs one, package.module.Name of its class"
        if preset(group, name):
            return f"{key} is set, but {name} only selects others: set the values of {', '.join(preset(group, name))}"
        both = ",".join(dict.fromkeys([*_shortened(group, selected), name]))
        return f"{key} is set, but {name} is not selected: {group}={both} selects it"
    if node is None:
        return f"{key} is missing: select an option, {group}={' or '.join(group_options(group)) or '...'}"
    return f"{key} has no _target_: its YAML file needs one, package.module.Name of what it is made by"


def _check_class(target: Any, key: str, node: DictConfig, expected: type) -> None:
    """Refuse a class of another kind before its arguments are looked at: they would be no help."""
    if not isinstance(target, type) or node.get("_partial_") or issubclass(target, expected):
        return
    if expected.__name__ == "Callable":
        raise ConfigError(f"{key}: {node._target_} is made later on: add `_partial_: true` to its YAML file")
    raise ConfigError(f"{key}: {node._target_} is no {expected.__name__}, which this group needs: derive it from that")


def _check_methods(made: Any, key: str, expected: type) -> None:
    """Refuse a part without the method that it is for: it would be said in training only, or never."""
    methods = _METHODS.get(expected.__name__, ())
    if any(getattr(getattr(made, each), "__func__", None) is not vars(expected)[each] for each in methods):
        return
    if methods:
        own = [each for each in dir(made) if not each.startswith("_") and not hasattr(expected, each)]
        close = difflib.get_close_matches(methods[0], own, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        wanted = [f"{each}({', '.join([*inspect.signature(vars(expected)[each]).parameters][1:])})" for each in methods]
        raise ConfigError(f"{key}: {type(made).__name__} has no method {' or '.join(wanted)}{hint}")


def _refusal(error: BaseException, key: str, node: DictConfig) -> str:
    """Return why a node could not be made: the innermost cause of an error that Hydra wrapped, as one line."""
    found = re.search(r"full_key: (\S+)", str(error))
    inside = found[1] if found and found[1].startswith(f"{key}.") else key
    while error.__cause__ is not None and error.__cause__ is not error:
        error = error.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"{inside}: {unresolved(error)}"
    values = node if inside == key else OmegaConf.select(node, inside.removeprefix(f"{key}."))
    return told(error, inside, values)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain JSON values. What comes from the environment stays `${oc.env:NAME}`, however
    many interpolations lie between: it may be a secret.
    """
    return _with_environment(config, lambda name, *_: f"${{oc.env:{name}}}")


def plain_masked(config: DictConfig) -> dict[str, Any]:
    """Return `plain(config)`, secrets masked; what came from the environment is known as one by `mask_text`, too."""
    mask_secrets(_with_environment(config, lambda name, *_: os.environ.get(name, "")))
    return cast("dict[str, Any]", mask_secrets(plain(config)))


def _with_environment(config: DictConfig, variable: Callable[..., str]) -> dict[str, Any]:
    """Return a configuration as plain values; `variable` is asked for those of the environment."""
    OmegaConf.register_new_resolver("oc.env", variable, replace=True)
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    finally:
        OmegaConf.register_new_resolver("oc.env", resolvers.oc.env, replace=True)
