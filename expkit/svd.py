"""The modes of an adaptive layer, and the rules by which it switches. Nothing here looks at a model, or needs torch."""

from __future__ import annotations

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
            principal, minor: alignments of the gradient.
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
