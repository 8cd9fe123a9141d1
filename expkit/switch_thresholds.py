"""The modes of an adaptive layer, and the rules by which it switches. Nothing here looks at a model, or needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["FULL", "LOW_RANK", "SwitchThresholds"]

#: All of the weight is trained; the minor part of it is.
FULL, LOW_RANK = "FULL", "LOW-RANK"


@dataclass(frozen=True, slots=True)
class SwitchThresholds:
    """The thresholds of the rules, and the rules.

    Attributes:
        warn_margin: who watches a run warns so close to a threshold.
        principal_danger: more of the gradient in the principal directions is dangerous.
        minor_safe: more of it in the minor directions is safe.
        angle_stable: radians; a smaller subspace angle is stable.
        recon_safe: a smaller reconstruction error is safe.
    """

    warn_margin: float = 0.05
    principal_danger: float = 0.4
    minor_safe: float = 0.6
    angle_stable: float = 0.1
    recon_safe: float = 0.01

    def decide(self, principal: float, minor: float, angle: float, error: float) -> tuple[str, str] | None:
        """Return (mode, rule) by the first rule that holds, or None to keep the mode; NaN holds in no rule.

        Args:
            principal: alignment of the gradient with the principal subspace.
            minor: alignment of the gradient with the minor one.
            angle: subspace angle in radians.
            error: reconstruction error.
        """
        if principal > self.principal_danger:
            return LOW_RANK, "clobbering"
        if angle < self.angle_stable and minor > self.minor_safe and error < self.recon_safe:
            return LOW_RANK, "optimal"
        if error >= self.recon_safe:
            return FULL, "recon"
        return None

    def eased(self, share: float) -> SwitchThresholds:
        """Return thresholds that LOW-RANK meets more easily, each moved by `share` of itself."""
        return replace(
            self,
            principal_danger=self.principal_danger * (1 - share),
            minor_safe=self.minor_safe * (1 - share),
            angle_stable=self.angle_stable * (1 + share),
            recon_safe=self.recon_safe * (1 + share),
        )

    def calibrated(self, chance: float) -> SwitchThresholds:
        """Return thresholds with the same meaning in a layer where chance alone puts much into the principal part.

        A gradient without preference has p^2 = c = k/g and m^2 = 1 - c. As in Cohen's kappa (Cohen 1960), what counts
        is the share beyond chance, (p^2 - c) / (1 - c), and m^2 / (1 - c): the thresholds on p and m are those at which
        these are what the literal ones would be without chance (c = 0). Angle and error are no shares of a gradient.

        Args:
            chance: c, the number of principal directions divided by that of all, from 0 to 1.
        """
        chance = min(max(chance, 0.0), 1.0)
        return replace(
            self,
            principal_danger=math.sqrt(chance + (1 - chance) * self.principal_danger**2),
            minor_safe=math.sqrt(1 - chance) * self.minor_safe,
        )

    def margin(self, threshold: float) -> float:
        """Return how close to `threshold` is close: `warn_margin`, or half the threshold where that is smaller."""
        return min(self.warn_margin, threshold / 2)
