"""Options of a multi-select group that hold the same part with other values: which of them count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from train.cli.typed import parse_override
from train.config.build import MULTI_SELECT, group_folders, preset

__all__ = ["overlaps", "say_overlaps"]

log = logging.getLogger("expkit")


def say_overlaps(overrides: Sequence[str]) -> None:
    """Warn of each overlap, one line."""
    for each in overlaps(overrides):
        log.warning("%s", each)


def overlaps(overrides: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of `detectors=[standard,loss_spike_robust]`; nothing if both say the same.

    Args:
        overrides: as Hydra gets them. What one of them sets itself is no overlap.
    """
    for each in overrides:
        override = parse_override(each)
        chosen: Any = override.value() if override is not None and override.key_or_group in MULTI_SELECT else None
        if override is None or not isinstance(chosen, list):
            continue
        group, options = override.key_or_group, [str(option) for option in chosen]
        held: dict[str, tuple[str, dict[str, Any]]] = {}
        for option in options:
            for part, values in _parts(group, option).items():
                first, before = held.get(part, (option, values))
                changed = ", ".join(
                    f"{key}={'null' if value is None else value}"
                    for key, value in values.items()
                    if value != before.get(key) and not any(f"{group}.{part}.{key}=" in other for other in overrides)
                )
                if changed:
                    both = f"{first} and {option} both hold {part}"
                    yield f"{group}=[{','.join(options)}]: {both}; the later one's values count: {changed}"
                held[part] = option, values


def _parts(group: str, option: str) -> dict[str, dict[str, Any]]:
    """Return the parts that an option holds, with their values; {} for one that is not there."""
    file = next((file for folder in group_folders(group) if (file := folder / f"{option}.yaml").is_file()), None)
    node = OmegaConf.load(file) if file is not None else None
    if not isinstance(node, DictConfig):
        return {}
    values: Any = OmegaConf.to_container(node, resolve=False)
    if "defaults" not in values:
        return {option: values}
    parts = {part: held for name in preset(group, option) for part, held in _parts(group, name).items()}
    for part, held in values.items():
        if part in parts:
            parts[part] = {**parts[part], **held}
    return parts
