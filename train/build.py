"""The one place that turns configuration nodes into objects, and says in one line what was wrong with one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra.utils
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, resolvers
from omegaconf.errors import OmegaConfBaseException

from expkit.errors import ConfigError, UserError

__all__ = ["CONF_DIR", "MULTI_SELECT", "build", "build_named", "call_with_known", "group_options"]
__all__ += ["plain", "without_target"]

T = TypeVar("T")

#: Groups in which several options can be selected at once; a comma means both.
MULTI_SELECT = ("tracker", "diagnostics", "detectors", "plots")


def _conf_dir() -> Path:
    here = Path(__file__).resolve().parent
    installed = here / "_conf"  # where a wheel has it
    return installed if installed.is_dir() else here.parent / "conf"


#: The folder of configuration groups.
CONF_DIR = _conf_dir()
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
    node = OmegaConf.select(config, key)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(without_target(key, node))
    try:
        made = hydra.utils.instantiate(node, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        cause = _cause(error)
        raise ConfigError(cause if cause.startswith(f"{key}.") else f"{key}: {cause}") from error
    if not isinstance(made, expected):
        raise ConfigError(
            f"{key}: {node._target_} makes a {type(made).__name__}, but this group needs a {expected.__name__}"
        )
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
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{key}: {error}") from error


def group_options(group: str) -> list[str]:
    """Return the options that a configuration group offers, those of `--config-dir` included."""
    if not GlobalHydra.instance().is_initialized():
        return sorted({file.stem for folder in (CONF_DIR, *extra_folders) for file in (folder / group).glob("*.yaml")})
    return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def without_target(key: str, node: Any) -> str:
    """Return what is wrong with a node that nothing can be made of: an option that is not selected, mostly."""
    group, _, name = key.partition(".")
    if group in MULTI_SELECT and name == "_target_":
        return f"{group}: an option's YAML file must begin with the line `# @package {group}.NAME`, and one does not"
    if group in MULTI_SELECT and name:
        options = group_options(group)
        if name in options:
            return (
                f"{key} is set, but {name} is not selected: add it, {group}=...,{name} "
                "(if it is, its YAML file lacks a _target_)"
            )
        return f"{key} is set, but there is no {group} {name!r}: choose from {', '.join(options) or 'none yet'}"
    what = "is missing" if node is None else "has no _target_"
    return f"{key} {what}: select an option, {group}={'|'.join(group_options(group)) or '...'}"


def _cause(error: BaseException) -> str:
    """Return the innermost cause of an error that Hydra wrapped, as one line."""
    while error.__cause__ is not None and error.__cause__ is not error:
        error = error.__cause__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name!r} is not installed or not on the path (run from your project's folder)"
    lines = str(error).splitlines() or [type(error).__name__]
    return (
        lines[0]
        if isinstance(error, HydraException | OmegaConfBaseException)
        else f"{type(error).__name__}: {lines[0]}"
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain JSON values. What comes from the environment stays `${oc.env:NAME}`, however
    many interpolations lie between: it may be a secret.
    """

    def unresolved(name: str, *_: Any) -> str:
        return f"${{oc.env:{name}}}"

    OmegaConf.register_new_resolver("oc.env", unresolved, replace=True)
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    finally:
        OmegaConf.register_new_resolver("oc.env", resolvers.oc.env, replace=True)
