"""The section `sweep` of the configuration, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError

__all__ = ["Settings", "settings_of"]


@dataclass(frozen=True)
class Settings:
    """How the jobs of a sweep are run.

    Attributes:
        wait: until all have ended.
        parallel: local jobs at once; None: one for each GPU.
    """

    wait: bool = True
    parallel: int | None = None


def settings_of(config: DictConfig) -> Settings:
    """Return the settings.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    section: Any = OmegaConf.to_container(config.get("sweep") or OmegaConf.create({}), resolve=True)
    if not isinstance(section, Mapping):
        raise ConfigError(f"sweep={section}: this is a whole section; set sweep.wait=... in it")
    for key in section:
        if key not in ("wait", "parallel"):
            raise ConfigError(f"there is no sweep.{key}: sweep has wait, parallel")
    wait, parallel = section.get("wait", True), section.get("parallel", "auto")
    if not isinstance(wait, bool):
        raise ConfigError(f"sweep.wait={wait}: it must be true or false")
    if parallel != "auto" and (type(parallel) is not int or parallel < 1):
        raise ConfigError(f"sweep.parallel={parallel}: it must be auto, or a number of jobs from 1")
    return Settings(wait, None if parallel == "auto" else parallel)
