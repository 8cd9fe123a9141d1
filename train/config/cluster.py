"""The `cluster` section of the configuration: what SLURM is asked for, and the environment of a run there."""

from __future__ import annotations

import difflib
import functools
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expkit.conf import CONF_DIR
from expkit.errors import ConfigError
from expkit.secrets import MASK, mask_secrets

__all__ = ["check_cluster", "enter_cluster", "minutes", "setup_lines"]

_SECTION = "cluster: this is a whole section; set cluster.KEY=... in it, or choose a file: cluster=mine"
_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*(min|m|h|d)", re.IGNORECASE)
_UNITS = {"m": 1, "min": 1, "h": 60, "d": 1440}
#: As sbatch takes it: hours:minutes:seconds, days-hours, days-hours:minutes and so on.
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")
#: `module` is a function of the shell, which a job has only if the shell that submitted it exported it.
_MODULE = (
    "command -v module > /dev/null || for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh; "
    'do [ -r "$file" ] && . "$file"; done'
)


def check_cluster(section: Any) -> None:
    """Check the section.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    if not isinstance(section, DictConfig):
        raise ConfigError(_SECTION)
    values = cast("dict[str, Any]", OmegaConf.to_container(section, resolve=True))
    for key in values:
        if key not in _keys():
            close = difflib.get_close_matches(key, _keys(), n=1)
            hint = f"did you mean cluster.{close[0]}?" if close else f"cluster has {', '.join(_keys())}"
            raise ConfigError(f"there is no cluster.{key}: {hint}")
    missing = [key for key in _keys() if key not in values]
    if missing:
        raise ConfigError(f"cluster has no {missing[0]}: its file should begin with the line `defaults: [default]`")
    for key in ("partition", "account", "qos", "constraint", "scratch"):
        value = values.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigError(f"cluster.{key}={value}: it must be a text, or null")
    for key in ("nodes", "tasks_per_node", "cpus_per_task", "max_jobs", "signal_delay"):
        _whole(key, values.get(key))
    for key, other in (("gpus_per_node", ", or null for none"), ("mem_gb", ", or null for the cluster's default")):
        if values.get(key) is not None:
            _whole(key, values[key], other)
    for key in ("modules", "setup", "stage"):
        _texts(key, values.get(key))
    for key in ("env", "options"):
        if not isinstance(values.get(key), Mapping):
            raise ConfigError(f"cluster.{key}={_shown(values.get(key))}: it must be a mapping, {{NAME: value}}")
    minutes(values.get("time"))
    _check_environment(values["env"])
    if values.get("stage") and values.get("scratch") is None:
        raise ConfigError("cluster.stage names what is copied to cluster.scratch, which is null: name a folder there")


def minutes(time: Any) -> int:
    """Return the minutes of a time limit: `90min`, `24h`, `2d`, or as sbatch takes it, `2:30:00` or `1-12:00:00`.

    Raises:
        ConfigError: it is none of these, or not more than 0.
    """
    text = str(time).strip()
    found, clock = _WITH_UNIT.fullmatch(text), _CLOCK.fullmatch(text)
    length = 0.0
    if isinstance(time, int | float):
        # Of a bare number nobody knows the unit; YAML itself turns an unquoted 24:00:00 into the number of its seconds.
        raise ConfigError(f"cluster.time={_shown(time)}: write a unit, 90min, 24h or 2d, or quotes, '24:00:00'")
    if found:
        length = float(found[1]) * _UNITS[found[2].lower()]
    elif clock and (clock[1] or clock[3]):
        days, hours, minute, second = (int(each or 0) for each in clock.groups())
        if clock[1] is None and clock[4] is None:  # sbatch: minutes:seconds
            hours, minute, second = 0, hours, minute
        length = days * 1440 + hours * 60 + minute + second / 60
    if not length > 0:
        raise ConfigError(f"cluster.time={_shown(time)}: write 90min, 24h, 2d or, as for sbatch, '1-12:00:00'")
    return math.ceil(length)


def setup_lines(modules: Sequence[str], setup: Sequence[str]) -> list[str]:
    """Return the lines of shell that a job runs before training starts. One that cannot load a module ends there."""
    if not modules:
        return list(setup)
    loads = []
    for module in map(shlex.quote, modules):
        failed = shlex.quote(f"error: cluster.modules: module load {module} failed on this node")
        loads.append(f"module load {module} || {{ echo {failed} >&2; exit 1; }}")
    return [_MODULE, *loads, *setup]


def enter_cluster(section: Any) -> None:
    """Check the section, and set the environment variables of `cluster.env` in this process.

    Raises:
        ConfigError: as `check_cluster`.
    """
    check_cluster(section)
    values = cast("dict[str, Any]", OmegaConf.to_container(section.env, resolve=True))
    os.environ.update({name: str(value) for name, value in values.items()})


@functools.cache
def _keys() -> list[str]:
    return list(map(str, OmegaConf.load(Path(CONF_DIR) / "cluster" / "default.yaml")))


def _check_environment(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            raise ConfigError(f"cluster.env: {name!r} is no name of an environment variable")
        if value is None or isinstance(value, bool | list | dict):
            raise ConfigError(
                f"cluster.env.{name}={_shown(value)}: it must be a text or a number; in quotes if need be"
            )
        if mask_secrets(str(value), str(name)) == MASK:
            raise ConfigError(
                f"cluster.env.{name}: keys and passwords do not belong in files: export it in your shell, which sbatch "
                "passes on to jobs, or keep it in ~/.netrc"
            )


def _whole(key: str, value: Any, other: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"cluster.{key}={_shown(value)}: it must be a whole number, at least 1{other}")


def _texts(key: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ConfigError(f"cluster.{key}={_shown(value)}: it must be a list of texts, [] for none")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _requeued(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "requeue": True}


# What conf/hydra/launcher/slurm*.yaml compute of the section.
OmegaConf.register_new_resolver("cluster_minutes", minutes, replace=True)
OmegaConf.register_new_resolver("cluster_setup", setup_lines, replace=True)
OmegaConf.register_new_resolver("cluster_requeue", _requeued, replace=True)
