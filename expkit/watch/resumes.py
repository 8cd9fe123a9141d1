"""The time over a resume is no stall: what the runner does when it restores a detector is done beside it, too."""

from __future__ import annotations

from collections.abc import Mapping

from expkit.detectors.base import Detector
from expkit.detectors.stalled import Stalled
from expkit.watch.sources.base import Source

__all__ = ["pass_over_resume"]

#: Seconds: shorter gaps are not looked at. There is a detector for longer ones only.
_LONG = 1.0


def pass_over_resume(source: Source, detectors: Mapping[str, Detector], after: float | None, until: float) -> None:
    """Let detectors that go by the clock forget the last record, if the trainer was started again since.

    Args:
        source: knows of resumes.
        detectors: name -> detector.
        after: the time of the last record, seconds since 1970; None before the first.
        until: that of the next, or now.
    """
    if after is None or until - after < _LONG:
        return
    clocked = [each for each in detectors.values() if isinstance(each, Stalled)]
    if clocked and source.resumed(after, until):
        for each in clocked:
            each.load_state_dict(each.state_dict())
