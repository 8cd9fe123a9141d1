"""The replay of `expkit bisect-nan`, in a process of its own: nothing that it does to torch or Hydra stays."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.errors import UserError

__all__ = ["bisect", "launch", "main"]

#: Leaves the parent's folder out of the module search path: a train.py of the user's own would be found there.
_CHILD = f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); from train.cause.scratch import main; "


def launch(orders: dict[str, Any]) -> dict[str, Any]:
    """Start `main` in a process of its own, and return what it has found.

    Raises:
        UserError: what it has refused.
    """
    with tempfile.TemporaryDirectory(prefix="expkit-bisect-") as folder:
        answer = Path(folder) / "found.json"
        code, given = f"{_CHILD}main(sys.argv[1:])", orjson.dumps(orders).decode()
        command = [sys.executable, "-P", "-c", code, given, str(answer)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 - this interpreter
        if not answer.exists():
            raise UserError(f"the replay has ended with exit code {done.returncode}; see what it has said above")
        found: dict[str, Any] = orjson.loads(answer.read_bytes())
    if "error" in found:
        raise UserError(found["error"])
    return found


def main(arguments: Sequence[str]) -> None:
    """Do what the orders (JSON) say, and write what is found to a file. `arguments`: the two."""
    orders, answer = orjson.loads(arguments[0]), Path(arguments[1])
    try:
        found = bisect(**orders)
    except UserError as error:
        found = {"error": str(error)}
    answer.write_bytes(orjson.dumps(found))


def bisect(
    run: str, step: int | None, typed: Sequence[str], config_dir: str | None, rewind: int | None = None
) -> dict[str, Any]:
    """Replay a run and return what was found, as plain values: the fields of `expkit bisect-nan --json`.

    Args:
        run: its directory.
        step: at which it was seen, or None for the first that the journal tells of.
        typed: overrides that win over the run's.
        config_dir: a folder with options of one's own.
        rewind: as the run was before this of its rewinds, from 1; None: as it is, or if all is finite there as it was
            before the first rewind from what was not.

    Raises:
        UserError: the run cannot be built again.
    """
    import torch

    from expkit.experiment import RunDir
    from train.cause.batches import start_before
    from train.cause.causes import likely_cause
    from train.cause.journalled import first_nonfinite, seen_at
    from train.cause.replay import replay
    from train.cause.stored import before_rewind, rebuilt, stored_run

    origin = stored_run(run)
    files, seen = RunDir(origin.run), f"--step {step}"
    scaled = str(origin.stored["config"].get("trainer", {}).get("precision")) == "fp16"
    if step is None and rewind is None:
        # The gradient scaler of fp16 looks for the largest scale without overflow, and skips the updates that have one.
        first = first_nonfinite(files, ("train_loss",) if scaled else ("train_loss", "gradient_norm"))
        kinds = [each["rewind"].get("kind") for each in origin.stored.get("resumes") or [] if "rewind" in each]
        if first is None and "nonfinite" in kinds:
            rewind = kinds.index("nonfinite") + 1
        elif first is None:
            return {"run": str(origin.run), "found": False, "steps": seen_at(files, 0)[1], "replayed": None}
        else:
            step, seen = first
    if rewind is not None:
        origin, undone = before_rewind(origin, rewind)
        if step is None:
            step, seen = undone["seen"], undone["why"]
        seen = f"{seen}, before rewind {rewind}"
    assert step is not None
    start, state = start_before(origin, step)
    with rebuilt(origin, step, typed, None if config_dir is None else Path(config_dir)) as (config, parts):
        if parts.trainer.threads:
            torch.set_num_threads(parts.trainer.threads)
        accident = replay(origin, config, parts, step, state)
    about = {"run": str(origin.run), "seen": seen, "seen_at": step, "replayed": start}
    if accident is None:
        return {**about, "found": False}
    word, cause, cure = likely_cause(accident)
    given, before = accident.given, accident.given_before
    return {
        **about,
        "found": True,
        "step": accident.step,
        "epoch": accident.epoch,
        "batch": accident.number,
        "module": accident.module,
        "kind": accident.kind,
        "where": accident.where,
        "input_range": None if given is None else str(given),
        "input_range_before": None if before is None else str(before),
        "indices": accident.indices,
        "bad_samples": accident.bad_samples,
        "update_ratios": accident.ratios,
        "weight_norms": dict(zip(("at first", "at the checkpoint", "before this step"), accident.weights, strict=True)),
        "learning_rate": accident.learning_rate,
        "cause": word,
        "likely_cause": cause,
        "what_to_do": cure,
    }
