"""Where records come from beside a run: one file for each kind of thing that a trainer writes."""

from expkit.watch.sources.base import Source

__all__ = ["Source"]
