"""Whatever happens to a byte of a snapshot is found, and nothing in one leads out of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from expkit.experiment import RunDir
from expkit.snapshots import list_snapshots, load_snapshot, quick_problem, verify
from tests.expkit.snapshots.making import make_run, take


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with checkpoints of steps 1 to 3."""
    return make_run(tmp_path / "mine", 1, 2, 3)


def test_200_damages_are_found(run: RunDir, tmp_path: Path) -> None:
    made = take(run)
    assert made is not None
    folder = tmp_path / "copy" / made.name
    shutil.copytree(made, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    random_ = random.Random(7)
    for number in range(200):
        file = files[number % len(files)]
        whole = file.read_bytes()
        how = random_.choice(["flip", "flip", "flip", "truncate", "missing", "longer"])
        at = random_.randrange(len(whole))
        content = bytearray(whole)
        if how == "flip":
            content[at] ^= 1 << random_.randrange(8)
        elif how == "truncate":
            del content[at:]
        elif how == "longer":
            content += b"\n"
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes(content)
        assert verify(load_snapshot(folder)) is not None, f"{how} at {at} of {file.name}"
        if how != "flip":
            assert quick_problem(load_snapshot(folder)) is not None, f"{how} at {at} of {file.name}"
        file.write_bytes(whole)
        assert verify(load_snapshot(folder)) is None


def test_nothing_in_it_may_lead_out(run: RunDir, tmp_path: Path) -> None:
    made = take(run)
    assert made is not None
    kept = made / "model" / "checkpoint_step_3.pt"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(made / "model", elsewhere / "model")
    (made / "model").symlink_to(elsewhere / "model")
    assert verify(load_snapshot(made)) == "model/checkpoint_step_3.pt is not in the snapshot itself"
    (made / "model").unlink()
    (made / "model").mkdir()
    kept.symlink_to(elsewhere / "model" / kept.name)
    assert verify(load_snapshot(made)) == "model/checkpoint_step_3.pt is not in the snapshot itself"
    made.rename(elsewhere / made.name)
    made.symlink_to(elsewhere / made.name)
    assert list_snapshots(run) == []


def test_a_checkpoint_put_there_later_is_no_part_of_it(run: RunDir) -> None:
    made = take(run)
    assert made is not None
    shutil.copy(run.checkpoints / "checkpoint_step_1.pt", made / "model" / "checkpoint_step_1.pt")
    assert verify(load_snapshot(made)) == "checkpoint_step_1.pt was put there later"


@pytest.mark.parametrize(
    "metadata",
    [b"[]", b"{}", b"\xff", b'{"sha256": 1, "files": {}}', b'{"files": {"../x": 1}, "sha256": "%s"}' % (b"0" * 64)],
)
def test_any_metadata_is_read_safely(run: RunDir, metadata: bytes) -> None:
    made = take(run)
    assert made is not None
    (made / "metadata.json").write_bytes(metadata)
    (snapshot,) = list_snapshots(run)
    assert (snapshot.reason, snapshot.step) == ("loss_spike_37.8pct", None)
    assert verify(snapshot) is not None
