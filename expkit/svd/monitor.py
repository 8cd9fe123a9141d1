"""The monitor of layers for a program of one's own: what is known of them, and what there is to say about it."""

from __future__ import annotations

import sys
from typing import TextIO

from expkit.svd.layers import Layers
from expkit.svd.text import summary_lines

__all__ = ["SVDMonitor"]


class SVDMonitor(Layers):
    """Follows the analyses of layers, and says how far each is from a switch between FULL and LOW-RANK.

    Args:
        thresholds: of the rules, and how close to them is close.
        calibrated: thresholds on the alignments relative to chance, in layers whose `alignment_excess` is known.

    Attributes:
        layers: layer name -> what is known of it, in the order in which layers came.
    """

    def print_summary(self, file: TextIO | None = None) -> None:
        """Print the summary: of each layer mode, rank, numbers, and the distance to each threshold."""
        print("\n".join(summary_lines(self)), file=file or sys.stdout)
