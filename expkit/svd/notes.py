"""What the literal rules cannot tell in these layers, so that an alert is not taken for more than it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

from expkit.svd.monitor import SVDMonitor

__all__ = ["rule_notes"]

#: Of an error so many times the threshold it is said that it does not come near.
_FAR = 10.0


def rule_notes(monitor: SVDMonitor) -> Iterator[tuple[str, str]]:
    """Yield (rule, one line) for each of the literal rules that cannot fire here, or fires by chance."""
    layers, limits, of = monitor.layers, monitor.thresholds, f"of {len(monitor.layers)} layers"
    danger = limits.principal_danger
    known = {name: history.chance for name, history in layers.items() if history.chance is not None}
    by_chance = [chance for chance in known.values() if math.sqrt(chance) >= danger]
    if by_chance and not monitor.calibrated:
        least, most = math.sqrt(min(by_chance)), math.sqrt(max(by_chance))
        p = f"{most:.2g}" if f"{least:.2g}" == f"{most:.2g}" else f"{least:.2g} to {most:.2g}"
        yield (
            "clobbering",
            f"principal_alignment > {danger:g} fires by chance in {len(by_chance)} {of}: a gradient without preference "
            f"has {p} there; --calibrated",
        )
    if monitor.calibrated and len(known) < len(layers):
        yield (
            "calibrated",
            f"{len(layers) - len(known)} {of} have no alignment_excess, which tells what chance gives: their "
            "thresholds are the literal ones",
        )
    pairs = [(each.latest.principal_alignment, each.latest.minor_alignment) for each in layers.values()]
    pairs = [(p, m) for p, m in pairs if math.isfinite(p) and math.isfinite(m)]
    complementary = pairs and all(abs(p * p + m * m - 1) < 1e-3 for p, m in pairs)
    if complementary and not monitor.calibrated and limits.minor_safe <= math.sqrt(max(1 - danger * danger, 0)):
        yield (
            "minor",
            f"minor_alignment > {limits.minor_safe:g} tells nothing: the alignments are complementary, so it holds "
            f"whenever principal_alignment <= {danger:g}",
        )
    errors = [each.least_error for each in layers.values() if math.isfinite(each.least_error)]
    far = [error for error in errors if error >= _FAR * limits.recon_safe]
    if far:
        yield (
            "optimal",
            f"optimal conditions cannot be met in {len(far)} {of} as they are: reconstruction_error was never below "
            f"{min(far):.2g}, and below {limits.recon_safe:g} means {1 - limits.recon_safe**2:.6g} of the squared "
            "weight in k directions",
        )
