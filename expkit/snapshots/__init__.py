"""Snapshots: what a run was when something went wrong, or better than ever, kept beside its checkpoints.

`creating` makes one, `taking` says when, `reading` finds and verifies them, `cleaning` removes those that nobody needs
any more. Nothing here imports torch, but for the export of weights: a watcher beside a run makes snapshots as well.
"""

from expkit.snapshots.cleaning import Retention, freed_by, remove, size_on_disk
from expkit.snapshots.creating import Observed, Trigger, create
from expkit.snapshots.reading import Snapshot, is_snapshot, list_snapshots, load_snapshot, quick_problem, verify
from expkit.snapshots.taking import Snapshots

__all__ = [
    "Observed",
    "Retention",
    "Snapshot",
    "Snapshots",
    "Trigger",
    "create",
    "freed_by",
    "is_snapshot",
    "list_snapshots",
    "load_snapshot",
    "quick_problem",
    "remove",
    "size_on_disk",
    "verify",
]
