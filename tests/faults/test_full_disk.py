"""A disk that is full for real, or can only be read: a small file system, and the limit on the size of files."""

from __future__ import annotations

import errno
import re
import resource
import subprocess
from pathlib import Path

import pytest

from tests.conftest import train_command, train_environment
from tests.faults.runs import REFUSED, STEPS, Whole, assert_ends_like, assert_one_line, newest, status, train


def fill(disk: Path) -> None:
    """Leave not a byte free."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2


@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_that_is_full_for_a_time_costs_checkpoints_only(
    small_disk: Path, tmp_path: Path, whole: Whole, beside: bool
) -> None:
    run, said = small_disk / "run", tmp_path / "said"

    def at_step(step: int) -> None:
        if step == 4:
            fill(small_disk)
        if step == 10:
            (small_disk / "ballast").unlink()

    assert train(run, said=said, at_step=at_step, beside=beside) == 0, said.read_text()
    assert_one_line(said, error=False)
    assert_ends_like(whole.path, run)
    text = said.read_text()
    assert text.count("not saved") == 1, "of step 5, the best; that of step 6 failed too, which is not said again"
    assert f"{run / 'checkpoints'} can be written again" in text
    sizes = re.search(r"([\d,]+) bytes needed, ([\d,]+) bytes free", text)
    assert sizes is not None, text
    needed, free = (int(number.replace(",", "")) for number in sizes.groups())
    assert free < needed  # mostly 0; a file that is just being replaced may free some
    assert text.count("results.json cannot be written") <= 1
    assert status(run)["state"] == "finished"


def test_a_disk_that_stays_full_ends_with_one_line_and_is_gone_on_with_later(
    small_disk: Path, tmp_path: Path, whole: Whole
) -> None:
    run, said = small_disk / "run", tmp_path / "said"
    code = train(run, said=said, at_step=lambda step: step == 4 and fill(small_disk))
    assert code != 0
    assert_one_line(said, error=False)
    assert f"the newest checkpoint is that of step 3, not of step {STEPS}" in said.read_text()

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train(run, resume=run, said=said) == REFUSED, "the disk is still full"
    assert_one_line(said, error=True)
    assert "No space left on device" in said.read_text().splitlines()[-1]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    (small_disk / "ballast").unlink()
    assert train(run, resume=run, said=said) == 0, said.read_text()
    assert_ends_like(whole.path, run)


def test_a_fresh_run_on_a_full_disk_is_refused_and_leaves_nothing(
    small_disk: Path, tmp_path: Path, whole: Whole
) -> None:
    fill(small_disk)
    said = tmp_path / "said"
    assert train(small_disk / "run", said=said) == REFUSED
    assert_one_line(said, error=True)
    assert "free some space, or choose another folder" in said.read_text()
    assert not (small_disk / "run").exists()


def test_where_files_can_only_be_read_a_resume_is_refused_and_works_later(
    small_disk: Path, tmp_path: Path, whole: Whole
) -> None:
    run, said = small_disk / "run", tmp_path / "said"
    assert train(run, said=said) == 0
    older = sorted((run / "checkpoints").glob("checkpoint_step_*.pt"), key=lambda path: path.stat().st_mtime)[0]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        assert train(run, resume=older, said=said) == REFUSED
        assert_one_line(said, error=True)
        assert "Read-only file system" in said.read_text()
        assert train(small_disk / "other", said=said) == REFUSED
        assert_one_line(said, error=True)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert train(run, resume=older, said=said) == 0
    assert_ends_like(whole.path, run)


@pytest.mark.parametrize("until", [10, None])
def test_a_limit_on_the_size_of_files_is_a_disk_that_refuses(tmp_path: Path, whole: Whole, until: int | None) -> None:
    """The system itself refuses (EFBIG), and no right to mount anything is needed."""
    run = tmp_path / "run"

    def at_step(step: int) -> None:
        if step == 4:
            size = (run / "logs" / "metrics.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        if step == until:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    code = train(run, said=tmp_path / "said", at_step=at_step)
    if until is None:
        assert code != 0
        assert newest(run) == 3
        assert train(run, resume=run) == 0
    else:
        assert code == 0
        trouble = status(run)["unwritten"]["logs/metrics.jsonl"]
        assert (trouble["last_error"], trouble["lost"], trouble["failing"]) == ("File too large", 0, False)
    assert_ends_like(whole.path, run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_goes_to_a_full_disk_is_not_missed(outputs: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = train_command(outputs, "debug=smoke", "tracker=[]", "plots=[]", "run.id=run")
        done = subprocess.run(
            command, cwd=tmp_path, env=train_environment(tmp_path), stdout=full, stderr=full, timeout=240
        )
    assert done.returncode == 0
    assert status(outputs / "run")["state"] == "finished"
