"""Composing each configuration once: most tests of experiment objects start from the same few, and it takes 0.2 s."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from train.config.compose import compose


def compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `train.api` and `train.config.experiment_file` keep what they compose until the process ends."""
    for user in ("train.config.compose", "train.config.experiment_file"):
        monkeypatch.setattr(f"{user}.compose", composed)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The same as `train.compose.compose`."""
    return copy.deepcopy(_composed(tuple(overrides), str(GlobalHydra.instance().config_loader().get_search_path())))


@functools.cache
def _composed(overrides: tuple[str, ...], search_path: str) -> DictConfig:
    return compose(overrides)
