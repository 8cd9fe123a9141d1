"""Linear layers that change between training all of their weight and a low-rank part of it, in mid-training."""

from expkit.lowrank.layer import AdaptiveLinear
from expkit.lowrank.switching import convert, restore_modes, switch

__all__ = ["AdaptiveLinear", "convert", "restore_modes", "switch"]
