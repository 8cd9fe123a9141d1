"""Sections of the configuration, checked: gpu, delivery, responses, snapshots; and what detectors respond with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from expkit.detectors.base import RESPONSES, Detector
from expkit.detectors.svd_switch import SVDSwitch
from expkit.errors import ConfigError, UserError
from expkit.experiment import RunDir
from expkit.guards import Guard
from expkit.machine import GPUSampler
from expkit.snapshots import Retention, Snapshots
from expkit.snapshots.cleaning import parse_age, parse_size
from expkit.trackers import Delivery, Tracker
from train.config.responses import ResponseSettings

__all__ = ["make_delivery", "make_guards", "make_responses", "make_sampler", "make_snapshots"]


def make_sampler(section: Any) -> Callable[..., GPUSampler] | None:
    """Return what makes the sampler of the machine, of a function that takes a sample; None if none is wanted.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    values = _values("gpu", section, ("enabled", "interval"), "gpu.enabled=false switches it off")
    enabled = values.pop("enabled", True)
    if not isinstance(enabled, bool):
        raise ConfigError(f"gpu.enabled={enabled}: it must be true or false")
    make = functools.partial(GPUSampler, **values)
    _try("gpu", make)
    return make if enabled else None


def make_delivery(section: Any, trackers: Mapping[str, Tracker]) -> Delivery:
    """Return what brings records to `trackers`, not started yet.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    keys = ("queue_size", "start_timeout", "finish_timeout")
    values = _values("delivery", section, keys, "set delivery.KEY=... in it")
    made: Delivery = _try("delivery", functools.partial(Delivery, trackers, **values))
    return made


def make_responses(section: Any) -> ResponseSettings:
    """Return how events are responded to.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    keys = [field.name for field in dataclasses.fields(ResponseSettings)]
    values = _values("responses", section, keys, "set responses.KEY=... in it")
    made: ResponseSettings = _try("responses", functools.partial(ResponseSettings, **values))
    return made


def make_snapshots(section: Any) -> Callable[[RunDir], Snapshots]:
    """Return what makes the taker of snapshots of a run directory.

    Raises:
        ConfigError: a value that cannot work, or a key that does not exist.
    """
    keys = ("min_steps_between_saves", "safetensors", "history", "older_than", "max_size")
    values = _values("snapshots", section, keys, "set snapshots.KEY=... in it")
    age, size = values.pop("older_than", None), values.pop("max_size", None)
    try:
        oldest = None if age is None else parse_age(str(age))
        retention = Retention(oldest, max_size=None if size is None else parse_size(str(size)))
    except UserError as error:
        raise ConfigError(f"snapshots: {error}") from error
    values["retention"] = retention if (age, size) != (None, None) else None
    make = functools.partial(Snapshots, async_save=True, **values)
    make(run=RunDir("."))  # says what cannot work
    return lambda run: make(run=run)


def make_guards(detectors: Mapping[str, Detector]) -> list[Guard]:
    """Return the guards of the detectors that are to skip updates.

    Raises:
        ConfigError: a detector is to respond with what does not exist, or what it cannot.
    """
    guards = []
    for name, detector in detectors.items():
        words: object = detector.respond
        if isinstance(words, str):  # each of its letters would be taken for a word
            raise ConfigError(f"detectors.{name}.respond={words}: it must be a list, [{words}]")
        unknown = [each for each in detector.respond if each not in RESPONSES]
        if unknown:
            raise ConfigError(f"detectors.{name}.respond: there is no {unknown[0]}; choose from {', '.join(RESPONSES)}")
        if "switch" in detector.respond and not isinstance(detector, SVDSwitch):
            raise ConfigError(f"detectors.{name}.respond: switch is what svd_switch responds with")
        guard = detector.guard() if "skip" in detector.respond else None
        if guard is not None:
            guards.append(guard)
        elif "skip" in detector.respond:
            raise ConfigError(
                f"detectors.{name}.respond: it cannot skip an update, since what it watches is not known before it; "
                "nonfinite, gradient_spike and the loss spikes can"
            )
    return guards


def _values(name: str, section: Any, keys: Sequence[str], instead: str) -> dict[str, Any]:
    if not isinstance(section, DictConfig):
        shown = {None: "null", True: "true", False: "false"}.get(section, section)
        raise ConfigError(f"{name}={shown}: this is a whole section; {instead}")
    values = cast("dict[str, Any]", OmegaConf.to_container(section, resolve=True))
    for key in values:
        if key not in keys:
            raise ConfigError(f"there is no {name}.{key}: {name} has {', '.join(keys)}")
    return values


def _try(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        raise ConfigError(f"{name}.{error}".replace("=None:", "=null:")) from error
