"""In which order a run writes: nothing has a name before it is on the disk, no checkpoint is ahead of the journal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from expkit.checkpoints.storage import step_of
from tests.faults.injector import Operation
from tests.faults.runs import Whole, recorded

_STEP = re.compile(rb'"step":(\d+),')


def violations(operations: Sequence[Operation]) -> list[str]:
    """Return what is wrong with the order of operations of a run, whichever thread has done which.

    For each checkpoint: write, fsync of the file, rename, fsync of the folder; every journal line up to its step is
    fsynced before the rename; and no other checkpoint goes before the folder is fsynced.
    """
    found = []
    for at, operation in enumerate(operations):
        step = step_of(operation.path) if operation.kind == "replace" else None
        if step is None:
            continue
        before, after = operations[:at], operations[at + 1 :]
        wrote = _last(before, "write", operation.source)
        synced = _last(before, "fsync", operation.source)
        if wrote < 0 or synced < wrote:
            found.append(f"step {step} is renamed before what was written is fsynced")
        folder = next((n for n, op in enumerate(after) if (op.kind, op.path) == ("fsync", operation.path.parent)), None)
        if folder is None:
            found.append(f"step {step}: the folder is not fsynced after the rename")
        if any(op.kind in ("unlink", "replace") and step_of(op.path) is not None for op in after[:folder]):
            found.append(f"step {step}: another checkpoint goes or comes before the folder is fsynced")
        lines = [n for n, op in enumerate(before) if _is_line_until(step, op)]
        if not lines or _last(before, "fsync", before[lines[-1]].path) < lines[-1]:
            found.append(f"step {step} is renamed before its journal is fsynced")
    return found


def _last(operations: Sequence[Operation], kind: str, path: Path | None) -> int:
    return max((n for n, op in enumerate(operations) if (op.kind, op.path) == (kind, path)), default=-1)


def _is_line_until(step: int, operation: Operation) -> bool:
    if operation.kind != "append" or operation.path.name != "metrics.jsonl":
        return False
    return any(int(found) <= step for found in _STEP.findall(operation.data))


@pytest.mark.parametrize("beside", [False, True])
def test_every_save_of_a_run_is_in_order(tmp_path: Path, whole: Whole, beside: bool) -> None:
    operations = recorded(tmp_path / "run", beside=True) if beside else whole.operations
    saved = [op.path.name for op in operations if op.kind == "replace" and step_of(op.path) is not None]
    assert len(saved) >= 5
    assert violations(operations) == []


@pytest.mark.parametrize("name", [".checkpoint_step_6.", "metrics.jsonl", "checkpoints"])
def test_a_missing_fsync_would_be_noticed(whole: Whole, name: str) -> None:
    without = [op for op in whole.operations if not (op.kind == "fsync" and op.path.name.startswith(name))]
    assert len(without) < len(whole.operations)
    assert violations(without)


def test_a_rename_that_comes_too_early_would_be_noticed(whole: Whole) -> None:
    operations = list(whole.operations)
    rename = operations.pop(whole.index("replace", "checkpoint_step_6.pt"))
    operations.insert(whole.index("create", ".checkpoint_step_6.") + 1, rename)
    assert violations(operations) == [
        "step 6 is renamed before what was written is fsynced",
        "step 6 is renamed before its journal is fsynced",
    ]
