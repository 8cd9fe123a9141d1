"""Checkpoints of a model that is spread over ranks: a folder that any number of processes reads, or none if damaged."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from expkit.checkpoint_folder import write_manifest
from expkit.checkpoints import CheckpointManager, checkpoint_error, peek_checkpoint, read_checkpoint
from expkit.experiment import RunDir
from expkit.files import digest
from expkit.listing.checkpoints import describe
from expkit.snapshots.creating import Observed, create
from expkit.snapshots.reading import load_snapshot, verify
from tests.expkit.checkpoints.ranks import make, run_ranks, train
from tests.expkit.checkpoints.small import assert_same

EXTRA = {"metrics": {"val_loss": 0.5}, "reason": "a test", "rng_state": torch.arange(3)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs with the checkpoints of steps 2 and 3: `sync`, `async` (two ranks each), `file` (one process)."""
    root = tmp_path_factory.mktemp("runs")

    def work(rank: int) -> dict:
        model, optimizer = make()
        train(model, optimizer, 0, 1)
        managers = [CheckpointManager(root / "sync"), CheckpointManager(root / "async", async_save=True)]
        for step in (2, 3):
            for manager in managers:
                manager.save_checkpoint(step, model, optimizer, [1.0] * step, {"lr": 0.05}, is_best=step == 2, **EXTRA)
            losses = train(model, optimizer, step)  # while the thread writes
            saved = [manager.wait() for manager in managers]
            assert saved == [step, step]
        return {"losses": [*losses, *train(model, optimizer, 4)]}

    first, second = run_ranks(2, work, root)
    model, optimizer = make(sharded=False)
    train(model, optimizer, 0, 1, 2)
    CheckpointManager(root / "file").save_checkpoint(3, model, optimizer, [1.0] * 3, {"lr": 0.05}, **EXTRA)
    losses = train(model, optimizer, 3, 4)
    assert first["losses"] == second["losses"] == pytest.approx(losses, rel=1e-5)
    torch.save({"ranks": first["losses"], "file": losses}, root / "losses.pt")
    return root


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of `sync` that a test may damage."""
    return shutil.copytree(runs / "sync", tmp_path / "run", symlinks=True)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_processes_goes_on_from_a_folder_and_from_a_file(runs, tmp_path, size):
    def work(rank: int) -> dict:
        found = {}
        for source in ("sync", "async", "file"):
            model, optimizer = make(seed=1)
            manager = CheckpointManager(runs / source)
            assert manager.restore(model, optimizer) == 3
            CheckpointManager(tmp_path / source).save_checkpoint(3, model, optimizer, [1.0] * 3, {"lr": 0.05}, **EXTRA)
            found[source] = train(model, optimizer, 3, 4)
        return found

    expected = torch.load(runs / "losses.pt", weights_only=True)
    for found in run_ranks(size, work, tmp_path):
        assert found["sync"] == found["async"] == pytest.approx(expected["ranks"], rel=1e-6)
        assert found["file"] == pytest.approx(expected["file"], rel=1e-5)
    for source in ("sync", "async", "file"):  # loaded and saved again it is the same, to the order of its keys
        (before,), (after,) = (
            [*(folder / source / "checkpoints").glob("checkpoint_step_3*")] for folder in (runs, tmp_path)
        )
        assert after.is_dir()
        left, right = read_checkpoint(before), read_checkpoint(after)
        assert left.keys() == right.keys()
        assert_same({**left, "time": 0.0}, {**right, "time": 0.0})


def test_one_process_without_a_group_goes_on_from_a_folder(runs):
    expected = torch.load(runs / "losses.pt", weights_only=True)
    manager = CheckpointManager(runs / "async")
    model, optimizer = make(sharded=False, seed=1)
    assert manager.restore(model, optimizer) == 3
    assert train(model, optimizer, 3, 4) == pytest.approx(expected["ranks"], rel=1e-5)

    checkpoint = manager.load_latest_checkpoint()
    model, optimizer = make(sharded=False, seed=1)
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    assert train(model, optimizer, 3, 4) == pytest.approx(expected["ranks"], rel=1e-5)
    assert checkpoint["metrics"] == {"val_loss": 0.5}
    assert torch.equal(checkpoint["rng_state"], torch.arange(3))


def test_what_is_in_a_folder(runs, run):
    folder = run / "checkpoints/checkpoint_step_3"
    names = {"state.pt", "manifest.json", ".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert {path.name for path in folder.iterdir()} == names
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    assert (manifest["step"], manifest["world_size"], {*manifest["files"]}) == (3, 2, names - {"manifest.json"})
    light = peek_checkpoint(folder)
    assert light["step"] == 3
    assert light["model_state_dict"]["0.weight"].device.type == "meta"
    assert light["model_state_dict"]["0.weight"].shape == (7, 5)
    links = {link.name: link.resolve().name for link in folder.parent.glob("*.pt")}
    assert links == {"checkpoint_latest.pt": "checkpoint_step_3", "checkpoint_best.pt": "checkpoint_step_2"}
    assert checkpoint_error(folder.parent / "checkpoint_latest.pt") is None
    assert read_checkpoint(folder.parent / "checkpoint_latest.pt")["step"] == 3

    (older, newer) = CheckpointManager(run).list_checkpoints()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert (newer["valid"], newer["reason"], newer["size_mb"]) == (True, "a test", size / 1024**2)
    assert (older["is_best"], newer["is_best"]) == (True, False)
    for whole in (False, True):
        listing = describe(run / "checkpoints", verify=whole)
        assert [(entry["step"], entry["uses"]) for entry in listing["checkpoints"]] == [(3, ["newest"]), (2, ["best"])]
        assert listing["checkpoints"][0]["bytes"] == size


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(orjson.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / "__0_0.distcp"), "the digest of __0_0.distcp does not match"),
        (lambda folder: flip(folder / ".metadata"), "the digest of .metadata does not match"),
        (lambda folder: flip(folder / "state.pt"), "the digest of state.pt does not match"),
        (lambda folder: os.truncate(folder / "__1_0.distcp", 100), "__1_0.distcp has 100 bytes instead of"),
        (lambda folder: (folder / "__1_0.distcp").unlink(), "__1_0.distcp is missing"),
        (lambda folder: (folder / "state.pt").unlink(), "state.pt is missing"),
        (lambda folder: (folder / ".metadata").unlink(), ".metadata is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda folder: (folder / "notes.txt").touch(), "notes.txt is in it, but not in its manifest"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "its manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "its manifest.json is damaged"),
        (lambda folder: edit_manifest(folder, format=2), "it is of format 2"),
        (lambda folder: edit_manifest(folder, files={}), "is in it, but not in its manifest"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "it has no manifest.json"),
    ],
)
def test_a_damaged_folder_is_said_set_aside_and_passed_over(run, caplog, damage, said):
    folder = run / "checkpoints/checkpoint_step_3"
    damage(folder)
    manager = CheckpointManager(run)
    assert [entry["valid"] for entry in manager.list_checkpoints()] == [True, False]
    assert manager.load_latest_checkpoint()["step"] == 2
    assert said in caplog.text
    assert "set aside as checkpoint_step_3.corrupt" in caplog.text
    assert (manager.steps(), folder.exists()) == ([2], False)
    assert "set aside: corrupt" in describe(run / "checkpoints")["checkpoints"][0]["uses"]


def test_a_name_that_lies_about_the_step_is_refused(run):
    folder = run / "checkpoints/checkpoint_step_3"
    folder.rename(folder.with_name("checkpoint_step_9"))
    assert CheckpointManager(run).load_latest_checkpoint()["step"] == 2


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def rewrite_manifest(folder: Path, step: int = 3) -> None:
    """What somebody would do who has changed a file on purpose."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    write_manifest(folder, step, 2, files)


def test_nothing_in_a_folder_is_executed(run, tmp_path):
    folder, victim = run / "checkpoints/checkpoint_step_3", tmp_path / "victim"

    def refused(name: str, change: object) -> str:
        before = (folder / name).read_bytes()
        content = change if isinstance(change, bytes) else pickle.dumps(change)
        (folder / name).write_bytes(content)
        rewrite_manifest(folder)
        problem = checkpoint_error(folder)
        assert not victim.exists()
        with pytest.raises(Exception, match=r"refused|may run code|Weights only|points out"):
            read_checkpoint(folder)
        assert not victim.exists()
        (folder / name).write_bytes(before)
        return problem

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    name = "model_state_dict.0.weight"
    assert "its .metadata is refused: pathlib.Path.touch in it may run code" in refused(".metadata", Malicious(victim))
    bytes_instead = {**metadata.state_dict_metadata, name: BytesStorageMetadata()}
    changed = pickle.loads(pickle.dumps(metadata))
    changed.state_dict_metadata = bytes_instead  # DCP would load them with weights_only=False
    assert "BytesStorageMetadata in it may run code" in refused(".metadata", changed)
    changed = pickle.loads(pickle.dumps(metadata))
    for info in changed.storage_data.values():
        info.relative_path = "../checkpoint_step_2/__0_0.distcp"
    assert "points out of its folder" in refused(".metadata", changed)
    torch.save({"step": 3, "evil": Malicious(victim)}, tmp_path / "evil.pt")
    assert "may run code when loaded: refused" in refused("state.pt", (tmp_path / "evil.pt").read_bytes())
    rewrite_manifest(folder)
    assert checkpoint_error(folder) is None


def test_shards_that_do_not_make_up_the_whole_are_refused(run):
    folder = run / "checkpoints/checkpoint_step_3"
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata["model_state_dict.0.weight"].chunks.pop()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    rewrite_manifest(folder)
    assert checkpoint_error(folder) == "its shards do not make up the whole of model_state_dict.0.weight"


def test_a_snapshot_keeps_a_folder_by_second_names(run):
    folder, run_dir = run / "checkpoints/checkpoint_step_3", RunDir(run)
    trigger = SimpleNamespace(kind="loss_spike", reason="loss_spike")
    path = create(run_dir, [trigger], Observed(step=4, time=1e9), {})
    kept = path / "model/checkpoint_step_3"
    assert all((folder / file.name).stat().st_ino == file.stat().st_ino for file in kept.iterdir())
    snapshot = load_snapshot(path)
    assert (snapshot.checkpoint, snapshot.checkpoint_step, verify(snapshot)) == (kept, 3, None)
    assert checkpoint_error(kept) is None
    shutil.rmtree(folder)
    assert read_checkpoint(kept)["step"] == 3
    flip(kept / "__0_0.distcp")
    assert "__0_0.distcp was changed" in verify(snapshot)
