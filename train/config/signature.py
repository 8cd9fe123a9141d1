"""Constructors and what a configuration gives them: found by name, and each value held against its annotation."""

from __future__ import annotations

import collections.abc
import difflib
import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from expkit.errors import ConfigError
from expkit.place import place, short_path

__all__ = ["check_values", "locate", "parameters"]

_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "a text"),
    Path: ((str,), "a path"),
}


def locate(target: str, key: str) -> Any:
    """Return what the dotted path `target` names, imported if need be.

    Args:
        target: package.module.Name.
        key: the configuration key that asks for it, for messages.

    Raises:
        ConfigError: saying what is really wrong: a module that is not there, one that it needs, its syntax, or
            whatever was raised as it was imported, and where.
    """
    names = target.split(".")
    found: Any = None
    for count, name in enumerate(names, start=1):
        if count > 1 and hasattr(found, name):
            found = getattr(found, name)
            continue
        path = ".".join(names[:count])
        if count > 1 and not isinstance(found, types.ModuleType):
            raise ConfigError(_not_in(target, key, found, name))
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                what = "not there" if str(error.name).split(".")[0] == names[0] else "not installed"
                raise ConfigError(f"{key}: {path} imports {error.name!r}, which is {what}{_at(error)}") from error
            if found is not None:
                raise ConfigError(_not_in(target, key, found, name)) from error
            raise ConfigError(
                f"{key}: the module {name!r} of {target} is not installed or not on the path: run from the folder that "
                f"holds {name}/ or {name}.py"
            ) from error
        except SyntaxError as error:
            where = f"{short_path(error.filename)}, line {error.lineno}" if error.filename else path
            raise ConfigError(f"{key}: {type(error).__name__} in {where}: {error.msg}") from error
        except (Exception, SystemExit) as error:  # a module runs whatever it likes when it is imported
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ConfigError(f"{key}: {path} cannot be imported: {what}{_at(error)}") from error
    return found


def parameters(target: str, key: str) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of what `target` names, annotations evaluated; None where they cannot be known.

    Raises:
        ConfigError: there is no such thing; see `locate`.
    """
    found = locate(target, key)
    for evaluated in (True, False):
        try:
            return inspect.signature(found, eval_str=evaluated).parameters
        except (NameError, TypeError, ValueError, AttributeError):  # imported for type checkers only; built in C
            continue
    return None


def check_values(node: Any, key: str) -> None:
    """Check a node with a `_target_`, and those inside of it: the names of arguments, and their kinds.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(node, ListConfig):
        for index, item in enumerate(node):
            check_values(item, f"{key}[{index}]")
    if not isinstance(node, DictConfig):
        return
    for name in map(str, node):
        if not name.startswith("_") and not OmegaConf.is_missing(node, name):
            check_values(node[name], f"{key}.{name}")
    if not isinstance(node.get("_target_"), str):
        return
    found = parameters(node["_target_"], key)
    known = found or {}
    owner = node["_target_"].rpartition(".")[2]
    takes_any = found is None or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    for name in map(str, node):
        if name.startswith("_") or OmegaConf.is_missing(node, name):
            continue
        if name not in known:
            if takes_any:
                continue
            raise ConfigError(f"{key}.{name}: {owner} takes no {name}{_hint(key, name, list(known))}")
        if node[name] is None and OmegaConf.is_interpolation(node, name):
            continue  # what it follows is not there, in another task's data say: who needs it speaks for itself
        _check_kind(f"{key}.{name}", node[name], known[name])


def _at(error: BaseException) -> str:
    where = place(error)
    return f" ({where})" if where else ""


def _not_in(target: str, key: str, found: Any, name: str) -> str:
    where = getattr(found, "__name__", type(found).__name__)
    inside = isinstance(found, types.ModuleType)  # what it imports from elsewhere is hardly meant
    own = [each for each in dir(found) if not inside or _module(getattr(found, each)).startswith(where)]
    own += [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
    close = difflib.get_close_matches(name, own, n=1)
    public = [each for each in own if not each.startswith("_")]
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(public[:8]) or 'nothing of its own'}"
    return f"{key}._target_={target}: {where} has no {name}; {hint}"


def _module(value: Any) -> str:
    return str(getattr(value, "__module__", ""))


def _hint(key: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {key}.{close[0]}?" if close else f"; it takes {', '.join(known) or 'nothing'}"


def _check_kind(key: str, value: Any, parameter: inspect.Parameter) -> None:
    auto = value == "auto" and key.endswith("_interval")  # the runner's word, which it replaces
    default = type(value) is type(parameter.default) and value == parameter.default
    if auto or default or isinstance(value, DictConfig):
        return
    kinds = list(_kinds(parameter.annotation))
    if any(_fits(value, kind) for kind in kinds):
        return
    wanted = " or ".join(dict.fromkeys(filter(None, map(_described, kinds))))
    if wanted:
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        raise ConfigError(f"{key}={shown}: it must be {wanted}")


def _kinds(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _kinds(each)
    else:
        yield annotation


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a configuration may be meant where `kind` is annotated. In doubt it may."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return value in get_args(kind)
    if kind is None or kind is type(None):
        return value is None
    if isinstance(kind, type) and kind in _SCALARS:
        if isinstance(value, float) and kind is int:
            return value.is_integer()  # 1e4 in YAML
        return isinstance(value, _SCALARS[kind][0]) and (not isinstance(value, bool) or kind is bool)
    if isinstance(kind, type) and issubclass(kind, torch.Tensor):
        return False  # no YAML file holds one
    if origin in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, ListConfig | list)
    return origin not in (dict, collections.abc.Mapping)  # a mapping has been let through before


def _described(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if kind is None or kind is type(None):
        return "null"
    if isinstance(kind, type) and kind in _SCALARS:
        return _SCALARS[kind][1]
    if origin in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable):
        inside = [each for each in get_args(kind) if each is not ...]
        kinds = dict.fromkeys(described for each in inside for one in _kinds(each) if (described := _described(one)))
        what = f" of {len(inside)}" if origin is tuple and ... not in get_args(kind) and inside else ""
        return f"a list{what}, each {' or '.join(kinds)}" if kinds else f"a list{what}"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    return ""
