"""How blobs formed in a run that has been trained: a timeline from its checkpoints alone, no model built."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from expkit.checkpoints.folder import CheckpointFolder
from expkit.checkpoints.listing import problem_of
from expkit.checkpoints.storage import read_checkpoint
from expkit.diagnostics._clusters import load_sklearn
from expkit.diagnostics._weights import find_weights_in_state
from expkit.diagnostics.blob import BlobDiagnostic, analyse_pair, jsonable
from expkit.errors import UserError
from expkit.experiment import RunDir

__all__ = ["analyze_experiment"]

log = logging.getLogger("expkit")


def analyze_experiment(run: Path | str, encoder: str | None = None, decoder: str | None = None) -> dict[str, Any]:
    """Measure the blobs in every checkpoint of a run, by the exact method, and analyse the last one at leisure.

    It only reads. Nothing in a checkpoint is executed; one that is damaged is said, and left out.

    Args:
        run: a run directory, or a folder of checkpoints.
        encoder, decoder: names in the model's state dict of W1 (hidden x d) and W2 (d x hidden), with or without
            `.weight`. Without: those that the run's own blob diagnostic was given, else `encoder` and `decoder`, else
            `fc1` and `fc2`, else the first and the last matrix called `weight`.

    Returns:
        Plain JSON values:

        experiment_id: the name of the run's folder.
        encoder, decoder: the keys that were found.
        timeline: per checkpoint, oldest first, `step`, `epoch` (that it belongs to, from 1; None where the checkpoint
            does not say) and what `BlobDiagnostic.measure` returns, None in place of NaN.
        final: the last entry, and what `full_blob_analysis` adds: cluster sizes and silhouettes, Gaussian mixture.
        skipped: `step` and `problem` of each checkpoint that could not be read.

    Raises:
        UserError: there is no run, no checkpoint that is intact, or no such pair of weights in one.
    """
    if (encoder is None) != (decoder is None):
        raise UserError("encoder and decoder: name both, or neither")
    folder = _folder(Path(run).expanduser())
    timeline: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    last: tuple[Tensor, Tensor] | None = None
    keys = ("", "")
    load_sklearn()
    for step, path in reversed(folder.files().items()):
        problem = problem_of(path)
        if problem is not None:
            if path.exists():  # not one that a run which still goes on has deleted meanwhile
                log.warning("%s is left out: %s", path, problem)
                skipped.append({"step": step, "problem": problem})
            continue
        checkpoint = read_checkpoint(path, mmap=True)
        state = checkpoint["model_state_dict"]
        try:
            keys = find_weights_in_state(state, *_names(checkpoint, encoder, decoder))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        last = state[keys[0]], state[keys[1]]
        metrics = BlobDiagnostic().measure_pair(*last)[0]
        timeline.append({"step": step, "epoch": _epoch(checkpoint), **jsonable(metrics)})
    if last is None:
        if skipped:
            raise UserError(f"{folder.path} has no checkpoint that is intact: {skipped[-1]['problem']}")
        raise UserError(f"{folder.path} holds no checkpoint: train with checkpoint=every_epoch, which keeps them all")
    return {
        "experiment_id": RunDir(folder.path.parent).id,
        "encoder": keys[0],
        "decoder": keys[1],
        "timeline": timeline,
        "final": {"step": timeline[-1]["step"], "epoch": timeline[-1]["epoch"], **analyse_pair(*last)},
        "skipped": skipped,
    }


def _folder(path: Path) -> CheckpointFolder:
    """Return the checkpoints of a run directory, or those in a folder itself."""
    if not path.is_dir():
        raise UserError(f"{path} is no run directory, nor a folder of checkpoints")
    inside = RunDir(path).checkpoints
    return CheckpointFolder(inside if inside.is_dir() else path)


def _names(checkpoint: Mapping[str, Any], encoder: str | None, decoder: str | None) -> tuple[str | None, str | None]:
    """Return the names given, or those that the run's own configuration gives."""
    if encoder is not None:
        return encoder, decoder
    blob = checkpoint["config"]
    for key in ("diagnostics", "blob"):
        blob = blob.get(key) if isinstance(blob, Mapping) else None
    if not isinstance(blob, Mapping):
        return None, None
    said = blob.get("encoder"), blob.get("decoder")
    return said if all(isinstance(name, str) for name in said) else (None, None)


def _epoch(checkpoint: Mapping[str, Any]) -> int | None:
    """Return the epoch, from 1, that the last update belongs to: of the runner's state, or an `epoch` of one's own."""
    runner = checkpoint.get("sampler_state")
    if isinstance(runner, Mapping) and isinstance(cursor := runner.get("cursor"), Mapping):
        done = cursor.get("epoch")
        return done + (0 if runner.get("epoch_ended") else 1) if isinstance(done, int) else None
    own = checkpoint.get("epoch")
    return own if isinstance(own, int) else None
