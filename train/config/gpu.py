"""The `gpu` section of the configuration, checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError, UserError
from expkit.machine import GPUSampler

__all__ = ["make_sampler"]

_KEYS = ("enabled", "interval")


def make_sampler(section: Any) -> Callable[..., GPUSampler] | None:
    """Return what makes the sampler of the machine, of a function that takes a sample; None if none is wanted.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    if not isinstance(section, DictConfig):
        shown = {None: "null", True: "true", False: "false"}.get(section, section)
        raise ConfigError(f"gpu={shown}: this is a whole section; gpu.enabled=false switches it off")
    values = cast("dict[str, Any]", OmegaConf.to_container(section, resolve=True))
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"there is no gpu.{key}: gpu has {', '.join(_KEYS)}")
    enabled = values.get("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigError(f"gpu.enabled={enabled}: it must be true or false")
    make = functools.partial(GPUSampler, interval=values.get("interval", 10))
    try:
        make()
    except UserError as error:
        raise ConfigError(f"gpu.{error}".replace("=None:", "=null:")) from error
    return make if enabled else None
