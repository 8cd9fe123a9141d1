"""Which options and configuration keys there are, and which one somebody meant who typed another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expkit.errors import UserError
from train.config.build import CONF_DIR, MULTI_SELECT, extra_folders, group_folders, group_options, without_target
from train.config.compose import compose, hydra_with
from train.config.signature import parameters

__all__ = ["meant", "no_key", "no_option", "selected"]


def no_option(group: str, option: str) -> str:
    """Return what to say of an option that does not exist."""
    options = group_options(group)
    close = difflib.get_close_matches(option, options, n=1)
    hint = f"did you mean {close[0]}? There are" if close else "choose from"
    listed = f" (several are a list: [{option}])" if "," in option else ""
    none = f"; {group}=[] is none" if group in MULTI_SELECT else ""
    own = "; yours is a copy of conf/cluster/example.yaml under this name" if group == "cluster" and not close else ""
    return f"{group}={option}: there is no such option{listed}; {hint} {', '.join(options) or 'none yet'}{none}{own}"


def no_key(key: str, arguments: Sequence[str]) -> str:
    """Return what to say of a `key` that does not exist in what `arguments` select."""
    config = selected(arguments)
    group, _, rest = key.partition(".")
    name = rest.split(".")[0]
    if group in MULTI_SELECT and rest and name not in (config.get(group) or {}):
        return without_target(f"{group}.{name}", None, list(config.get(group) or {}))
    if key.startswith("hydra.launcher."):
        return f"there is no {key}: choose a launcher that has it, -m hydra/launcher=slurm or hydra/launcher=local"
    what = f"there is no {key}"
    target = _taker(config, key)
    close = meant(key, config)
    if group in MULTI_SELECT and rest:  # what other parts have is no help
        close = [each for each in close if each.startswith(f"{group}.{name}.")]
    owner = _owner(key)
    if owner:
        return f"{what} among the options selected: {owner} has it"
    if target:
        return f"{what} in the configuration, but {target} takes it: add it with a plus, +{key}=..."
    if close:
        return f"{what}: did you mean {' or '.join(close)}? --cfg job shows all keys"
    section = key.rpartition(".")[0]
    alike = [] if section else difflib.get_close_matches(key, [str(each) for each in config], n=1, cutoff=0.75)
    if alike:
        return f"{what}: did you mean {alike[0]}={'...' if group_folders(alike[0]) else ''}? --cfg job shows all keys"
    node = _node(config, section)
    while section and not isinstance(node, DictConfig):
        section = section.rpartition(".")[0]
        node = _node(config, section)
    names = ", ".join(str(each) for each in node if not str(each).startswith("_"))
    return f"{what}: {section or 'the configuration'} has {names or 'no keys'}"


def selected(arguments: Sequence[str]) -> DictConfig:
    """Return the configuration that the options chosen in `arguments` make, with no other value than theirs."""
    try:
        with hydra_with(extra_folders):
            config = compose([choice for argument in arguments for choice in _choice(argument)])
        return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    except Exception:  # noqa: BLE001 - a hint is not worth an error of its own
        loaded = OmegaConf.load(CONF_DIR / "config.yaml")
        assert isinstance(loaded, DictConfig)
        return OmegaConf.masked_copy(loaded, [str(key) for key in loaded if key not in ("defaults", "hydra")])


def meant(key: str, config: DictConfig) -> list[str]:
    """Return the keys of `config` that `key` may have been meant to be, the likeliest first; at most three."""
    known = list(_leaves(config))
    section, _, last = key.rpartition(".")
    beside = {each.rpartition(".")[2]: each for each in known if each.rpartition(".")[0] == section}
    close = difflib.get_close_matches(last, beside, n=1, cutoff=0.7)
    if close:
        return [beside[close[0]]]
    same = [each for each in known if each.rpartition(".")[2] == last]
    if same:
        return same[:3]
    anywhere = {each.rpartition(".")[2]: each for each in reversed(known)}
    close = difflib.get_close_matches(last, anywhere, n=1, cutoff=0.75)
    return [anywhere[close[0]]] if close else []


def _choice(argument: str) -> list[str]:
    """Return the choice of an option that `argument` makes, if it does; of a sweep the first."""
    key, equals, value = argument.partition("=")
    if not equals or not group_folders(key.lstrip("+")):
        return []
    return [argument if value.startswith("[") else f"{key}={value.split(',')[0]}"]


def _owner(key: str) -> str:
    """Return the option, not selected, whose file has `key`: `optimizer=sgd` for optimizer.momentum."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        group, inside = "/".join(parts[:length]), ".".join(parts[length:])
        for folder in group_folders(group) if group not in MULTI_SELECT else ():
            for file in sorted(folder.glob("*.yaml")):
                try:
                    node = OmegaConf.load(file)
                    found = inside in _leaves(node) and re.search("@package", file.read_text()) is None
                except (OSError, OmegaConfBaseException, ValueError):
                    continue
                if found:
                    return f"{group}={file.stem}"
    return ""


def _taker(config: DictConfig, key: str) -> str:
    """Return what takes `key` though its YAML file leaves it out, or "": torch.optim.Adam for optimizer.amsgrad."""
    section, _, name = key.rpartition(".")
    node = _node(config, section)
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if not isinstance(target, str):
        return ""
    try:
        return target if name in (parameters(target, section) or {}) else ""
    except UserError:
        return ""


def _node(config: DictConfig, section: str) -> Any:
    return OmegaConf.select(config, section, throw_on_resolution_failure=False) if section else config


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of values; those of constructors (`_target_`) aside."""
    if isinstance(node, DictConfig):
        for key in node:
            if not str(key).startswith("_"):
                yield from _leaves(node._get_node(key), f"{prefix}.{key!s}" if prefix else str(key))
    if prefix and not (isinstance(node, DictConfig) and len(node)):
        yield prefix
