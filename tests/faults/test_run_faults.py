"""One file operation of a whole run, or of a resume, fails: once, or from then on. Nothing dies, nothing is lost."""

from __future__ import annotations

import errno
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from expkit.files import read_json
from tests.faults.injector import KILL, SHORT, FaultInjector, Operation
from tests.faults.runs import (
    INCOMPLETE,
    REFUSED,
    STEPS,
    Whole,
    assert_ends_like,
    assert_one_line,
    lines,
    newest,
    recorded,
    status,
    train,
)

_SHARDS = 16


class Case(NamedTuple):
    """A fault at operation `at`."""

    at: int
    fault: int | str
    lasting: bool = False

    def on(self, run: Path) -> FaultInjector:
        return FaultInjector(run, self.at, self.fault, self.lasting)


def cases(operations: Sequence[Operation], kill: bool = False) -> list[Case]:
    """Return all faults of all operations; of the many writes in a row to one checkpoint the first two and the last."""
    made = []
    for at, operation in enumerate(operations):
        around = [each[:2] for each in operations[max(0, at - 2) : at + 2]]
        if operation.kind == "write" and around == [operation[:2]] * 4:
            continue
        made += [Case(at, code, lasting) for code in (errno.ENOSPC, errno.EIO) for lasting in (False, True)]
        if operation.kind == "append":
            made.append(Case(at, SHORT))
        if kill:
            made.append(Case(at, KILL))
    return made


def check_a_run(folder: Path, whole: Whole, case: Case) -> None:
    run, said = folder / "run", folder / "said"
    code = train(run, faults=case.on(run), said=said)
    assert_one_line(said, error=code == REFUSED)
    if code == REFUSED:
        assert case.at <= whole.index("open", "metrics.jsonl"), "it was training already"
        assert not run.exists()
        assert train(run, said=said) == 0
    else:
        # A fault that passes costs something at the end only if it concerns the end itself.
        may_miss = case.lasting or case.at >= whole.index("create", f".checkpoint_step_{STEPS}.")
        assert code == 0 or (code == INCOMPLETE and may_miss), said.read_text()
        assert newest(run) >= (whole.committed(case.at) if may_miss else STEPS)
        assert train(run, resume=run, said=said) == 0, said.read_text()
    assert_ends_like(whole.path, run)
    shutil.rmtree(folder)


def test_a_fault_at_any_operation_of_a_run_ends_neither_the_run_nor_its_exactness(tmp_path: Path, whole: Whole) -> None:
    for number, case in enumerate(random.Random(1).sample(cases(whole.operations), 12)):
        (tmp_path / str(number)).mkdir()
        check_a_run(tmp_path / str(number), whole, case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(_SHARDS))
def test_a_fault_at_every_operation_of_a_run(tmp_path: Path, whole: Whole, shard: int) -> None:
    for number, case in enumerate(cases(whole.operations)[shard::_SHARDS]):
        (tmp_path / str(number)).mkdir()
        check_a_run(tmp_path / str(number), whole, case)


class Resume:
    """A run to go on with.

    Args:
        path: the run directory, which is copied for each trial.
        checkpoint: the name of the one to go on from; None for the newest.
    """

    def __init__(self, path: Path, checkpoint: str | None = None) -> None:
        self.path, self.checkpoint = path, checkpoint
        trial = self.copy(path.with_name("recorded"))
        operations = recorded(trial, self.what(trial))
        journal = next(at for at, op in enumerate(operations) if op.kind == "append" and op.path.suffix == ".jsonl")
        self.operations = operations[: journal + 1]  # from here on it is a run like another

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.path, to, symlinks=True)
        return to

    def what(self, run: Path) -> Path:
        return run if self.checkpoint is None else run / "checkpoints" / self.checkpoint


@pytest.fixture(scope="module", params=["killed", "older checkpoint"])
def resume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, whole: Whole) -> Resume:
    """A run that was killed two records after a checkpoint; and a finished one that goes back to a checkpoint."""
    run = tmp_path_factory.mktemp("resume") / "run"
    if request.param == "older checkpoint":
        shutil.copytree(whole.path, run, symlinks=True)
        older = sorted((run / "checkpoints").glob("checkpoint_step_*.pt"), key=lambda path: path.stat().st_mtime)[0]
        return Resume(run, older.name)
    after = whole.index("replace", "checkpoint_step_6.pt")
    appends = [at for at, op in enumerate(whole.operations) if op.path.name == "metrics.jsonl" and op.kind == "append"]
    at = [at for at in appends if at > after][2]
    assert train(run, faults=FaultInjector(run, at, KILL)) == -signal.SIGKILL
    return Resume(run)


def check_a_resume(folder: Path, whole: Whole, resume: Resume, case: Case) -> None:
    run, said = resume.copy(folder / "run"), folder / "said"
    before = lines(run)
    code = train(run, resume=resume.what(run), faults=case.on(run), said=said)
    if code != -signal.SIGKILL:
        assert code in (0, REFUSED, INCOMPLETE), said.read_text()
        assert code != INCOMPLETE or case.lasting
        assert_one_line(said, error=code == REFUSED)
    assert lines(run) >= before
    assert newest(run) > 0
    assert train(run, resume=run, said=said) == 0, said.read_text()
    assert_ends_like(whole.path, run)
    assert lines(run) >= before
    assert not list(run.rglob("*.tmp"))
    shutil.rmtree(folder)


def test_a_fault_at_any_operation_of_a_resume_leaves_a_run_to_resume(
    tmp_path: Path, whole: Whole, resume: Resume
) -> None:
    for number, case in enumerate(random.Random(2).sample(cases(resume.operations, kill=True), 6)):
        (tmp_path / str(number)).mkdir()
        check_a_resume(tmp_path / str(number), whole, resume, case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(_SHARDS // 4))
def test_a_fault_at_every_operation_of_a_resume(tmp_path: Path, whole: Whole, resume: Resume, shard: int) -> None:
    for number, case in enumerate(cases(resume.operations, kill=True)[shard :: _SHARDS // 4]):
        (tmp_path / str(number)).mkdir()
        check_a_resume(tmp_path / str(number), whole, resume, case)


def test_an_end_that_cannot_be_saved_is_one_line_with_the_newest_checkpoint_and_what_to_do(
    tmp_path: Path, whole: Whole
) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    at = whole.index("create", ".checkpoint_step_9.")
    assert train(run, faults=FaultInjector(run, at, errno.ENOSPC, lasting=True), said=said) == INCOMPLETE
    text = said.read_text()
    (last,) = [line for line in text.splitlines() if "not all was saved" in line]
    newest_step = newest(run)
    assert 0 < newest_step < 9
    assert f"the newest checkpoint is that of step {newest_step}, not of step {STEPS}" in last
    assert "line(s) of logs/metrics.jsonl could not be written (No space left on device)" in last
    assert f"resume={run}" in last
    for name in ("status.json", "results.json", "metrics.jsonl", "training.log"):
        assert text.count(f"{name} cannot be written (No space left on device)") == 1, text


def test_what_could_not_be_written_for_a_time_stands_in_status_json(tmp_path: Path, whole: Whole) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    injector = FaultInjector(run, whole.index("append", "metrics.jsonl"), errno.EDQUOT, lasting=True)
    assert train(run, faults=injector, said=said, at_step=lambda step: step == 5 and injector.lift()) == 0
    assert_ends_like(whole.path, run)
    trouble = status(run)["unwritten"]["logs/metrics.jsonl"]
    assert trouble.pop("failures") >= 4  # each line, and each checkpoint that wants it durable
    assert trouble == {"last_error": "Disk quota exceeded", "failing": False, "waiting": 0, "lost": 0}
    assert f"{run}/logs/metrics.jsonl can be written again: nothing was lost" in said.read_text()


def test_what_config_json_is_to_say_is_added_once_there_is_room(tmp_path: Path, whole: Whole) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    writes = [at for at, op in enumerate(whole.operations) if op.kind == "create" and "config.json" in op.path.name]
    assert train(run, faults=FaultInjector(run, writes[1], errno.ENOSPC), said=said) == 0
    assert read_json(run / "config.json")["dataset"]["train"]["samples"] == 20
    assert said.read_text().count("config.json cannot be written (No space left on device)") == 1
    assert said.read_text().count("config.json can be written again") == 1
    assert_ends_like(whole.path, run)


@pytest.mark.parametrize("what", ["logs", "."])
def test_a_folder_that_is_deleted_while_it_trains_costs_what_was_in_it(tmp_path: Path, whole: Whole, what: str) -> None:
    run, said = tmp_path / "run", tmp_path / "said"
    code = train(run, said=said, at_step=lambda step: step == 4 and shutil.rmtree(run / what))
    assert code == 0, said.read_text()
    assert_one_line(said, error=False)
    assert read_json(run / "config.json")["experiment_id"] == "run"
    assert status(run)["state"] == "finished"
    assert {f"'step': {step}," in "".join(lines(run)) for step in range(5, STEPS + 1)} == {True}
    assert train(run, resume=run, said=said) == 0
