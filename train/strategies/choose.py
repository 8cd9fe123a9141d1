"""The strategy that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from expkit.dist import Dist
from expkit.errors import ConfigError
from train.config.trainer import TrainerConfig
from train.strategies.base import Strategy

__all__ = ["make_strategy"]


def make_strategy(trainer: TrainerConfig, dist: Dist, build: Callable[[], nn.Module]) -> Strategy:
    """Return the strategy of `trainer.strategy`; of one process it is none, whatever is asked for.

    Args:
        trainer: the trainer section.
        dist: the ranks.
        build: returns a model of the same shape, on the CPU.

    Raises:
        ConfigError: it cannot be had on this device.
    """
    if dist.world_size == 1:
        return Strategy(dist)
    device = trainer.torch_device(dist.local_rank)
    if device.type == "mps":
        raise ConfigError(f"trainer.device={trainer.device}: several processes need cpu or cuda, MPS has no way for it")
    if trainer.strategy == "fsdp":
        from train.strategies.fsdp import Sharded

        return Sharded(dist, device.type, build, trainer.fsdp_blocks)
    from train.strategies.ddp import Replicated

    return Replicated(dist, trainer.seed, trainer.find_unused_parameters)
