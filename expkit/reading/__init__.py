"""What a run's files tell, read on from where the last reading ended: for faces, comparisons and reports."""

from expkit.reading.feed import RunFeed
from expkit.reading.state import RunState, StateReader

__all__ = ["RunFeed", "RunState", "StateReader"]
