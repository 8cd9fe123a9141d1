"""The smart monitor: detectors beside a run, fed with what it writes, whoever trains it. Nothing here imports torch.

`selecting` makes the detectors, `sources` read what a trainer writes, `watcher` shows one to the other, `written` keeps
the file of events, so that each is there once whatever was killed, and `acting` alerts and takes snapshots.
"""

from expkit.watch.selecting import select_detectors
from expkit.watch.watcher import Watcher

__all__ = ["Watcher", "select_detectors"]
