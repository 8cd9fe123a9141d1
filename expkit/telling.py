"""What the name of a metric tells: whether more of it is better, and how much it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from expkit.journal import is_volatile

__all__ = ["DULL", "Direction", "direction_of", "telling_rank"]

Direction = Literal["min", "max"]

#: Endings of names of metrics that say less than their neighbours.
DULL = ("loss_on", "loss_off", "scaled_loss", "coder_mean", "n_noise_points")

_ORDER = ("val_", "best_val_", "train_", "loss")
_LAST = ("final/", "samples", "learning_rate", "time", "total_time", "best_step")
_MORE = ("accuracy", "acc", "psnr", "f1", "auc", "bleu", "score", "r2", "precision", "recall", "per_sec", "per_second")
_LESS = ("loss", "perplexity", "error", "mse", "mae", "rmse", "nll", "seconds", "time_ms", "bits_per_character")


def direction_of(name: str, config: Mapping[str, Any] | None = None) -> Direction | None:
    """Return whether the least or the greatest value of a metric is its best; None where its name does not tell.

    Args:
        name: of the metric.
        config: flat, of a run: of the metric by which its checkpoints are compared, `checkpoint.mode` says it.
    """
    if config and config.get("checkpoint.monitor") == name and config.get("checkpoint.mode") in ("min", "max"):
        mode: Direction = config["checkpoint.mode"]
        return mode
    last = name.rpartition("/")[2].lower()
    for endings, direction in ((_MORE, "max"), (_LESS, "min")):
        if any(last == ending or last.endswith(f"_{ending}") for ending in endings):
            return "max" if direction == "max" else "min"
    return None


def telling_rank(name: str) -> int:
    """Return a place in the order in which metrics are shown: what is validated, what is trained, the rest."""
    if name.startswith(_LAST) or name.endswith(DULL) or is_volatile(name):
        return len(_ORDER) + 1
    return next((place for place, prefix in enumerate(_ORDER) if name.startswith(prefix)), len(_ORDER))
