"""Checkpoints that survive kills, full disks and flipped bits.

`state` is what goes into a checkpoint, `storage` is one file, `folder` is all files of a run; `saving` says when to
save and `keeping` what to keep; `staging` lets training go on meanwhile; `manager` is what people call.
"""

from expkit.checkpoints.keeping import BestN, EveryNHours, EveryNSteps, KeepAny, KeepPolicy, LatestN, Saved, keep_also
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
from expkit.checkpoints.storage import checkpoint_error, read_checkpoint, write_checkpoint

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
    "load_model_state",
    "read_checkpoint",
    "save_when",
    "unwrap",
    "write_checkpoint",
]
