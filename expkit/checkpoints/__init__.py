"""Checkpoints that survive kills, full disks and flipped bits.

`state` is what goes into a checkpoint, `storage` is one file, `folder` is all files of a run and which of
them stay, `manager` is what people call.
"""

from expkit.checkpoints.manager import CheckpointInfo, CheckpointManager
from expkit.checkpoints.state import StateError, load_model_state, unwrap
from expkit.checkpoints.storage import checkpoint_error, read_checkpoint, write_checkpoint

__all__ = [
    "CheckpointInfo",
    "CheckpointManager",
    "StateError",
    "checkpoint_error",
    "load_model_state",
    "read_checkpoint",
    "unwrap",
    "write_checkpoint",
]
