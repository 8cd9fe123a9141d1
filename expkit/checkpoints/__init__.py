"""Checkpoints that survive kills, full disks and flipped bits.

`state` is what goes into a checkpoint, `storage` is one of them, `folder` is all of a run; `sharded` (with `shards` and
`dcp`) is one that many processes write, `loading` brings either back; `saving` says when to save and `keeping` what to
keep; `staging` lets training go on meanwhile; `manager` is what people call.
"""

from expkit.checkpoints.keeping import BestN, EveryNHours, EveryNSteps, KeepAny, KeepPolicy, LatestN, Saved, keep_also
from expkit.checkpoints.loading import load_into
from expkit.checkpoints.manager import CheckpointInfo, CheckpointManager
from expkit.checkpoints.saving import (
    AnyOf,
    AtEnd,
    AtSteps,
    EveryEpochs,
    EveryMinutes,
    EverySteps,
    Moment,
    OnBest,
    OnPreemption,
    SavePolicy,
    save_when,
)
from expkit.checkpoints.state import StateError, load_model_state, unwrap
from expkit.checkpoints.storage import checkpoint_error, peek_checkpoint, read_checkpoint, write_checkpoint

__all__ = [
    "AnyOf",
    "AtEnd",
    "AtSteps",
    "BestN",
    "CheckpointInfo",
    "CheckpointManager",
    "EveryEpochs",
    "EveryMinutes",
    "EveryNHours",
    "EveryNSteps",
    "EverySteps",
    "KeepAny",
    "KeepPolicy",
    "LatestN",
    "Moment",
    "OnBest",
    "OnPreemption",
    "SavePolicy",
    "Saved",
    "StateError",
    "checkpoint_error",
    "keep_also",
    "load_into",
    "load_model_state",
    "peek_checkpoint",
    "read_checkpoint",
    "save_when",
    "unwrap",
    "write_checkpoint",
]
