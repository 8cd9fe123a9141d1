"""Hydra from Python: composing a configuration, in a program that may use Hydra itself, and writing overrides."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

import train.config.cluster  # noqa: F401 - resolvers of the launchers' presets
from expkit.errors import ConfigError
from train.config.build import CONF_DIR

__all__ = ["compose", "hydra_with", "literal"]


@contextlib.contextmanager
def hydra_with(folders: Sequence[Path | str] = ()) -> Iterator[None]:
    """Let Hydra find expkit's options and those in `folders` (as with --config-dir) in this context.

    Afterwards Hydra is as it was, whoever uses it.

    Raises:
        ConfigError: one of `folders` is not there.
    """
    search = create_config_search_path(str(CONF_DIR))
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder}: there is no such folder of configuration files")
        # Where hydra.main puts the folder of --config-dir: before expkit's own.
        search.prepend("command-line", f"file://{Path(folder).absolute()}", SearchPathQuery(provider="schema"))
    known, current, base = GlobalHydra.instance(), HydraConfig.instance(), version.VersionBase.instance()
    before = known.hydra, current.cfg, base.version_base
    try:
        known.hydra = current.cfg = None
        version.setbase("1.3")
        Hydra.create_main_hydra2("train", search)
        yield
    finally:
        known.hydra, current.cfg, base.version_base = before


def compose(overrides: Sequence[str]) -> DictConfig:
    """Return what `python -m train` composes for `overrides`, with its `hydra` section. Within `hydra_with`.

    Raises:
        HydraException, OmegaConfBaseException: it cannot be composed; `train.config.mistakes.one_line` says why.
    """
    config: DictConfig = hydra.compose("config", list(overrides), return_hydra_config=True)
    return config


def literal(value: Any) -> str:
    """Return a plain value (null, a boolean, number, text, list or mapping) as the right side of an override.

    Raises:
        ConfigError: the key of a mapping that overrides cannot express.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        quoted: str = QuotedString(value, Quote.single).with_quotes()
        return quoted
    if isinstance(value, Mapping):
        for key in value:
            if not re.fullmatch(r"[\w.+-]+", key):
                raise ConfigError(f"{key!r} cannot be a key here: use letters, digits and . _ + - only")
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    return repr(value)
