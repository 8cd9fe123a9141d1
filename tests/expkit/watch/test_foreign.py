"""Of another trainer's checkpoints the newest complete one is copied, and never one that is being written."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from pathlib import Path

import pytest

from expkit.watch.foreign import ForeignCheckpoints, problem_of


def tensors(path: Path, size: int = 40) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    return path


def archive(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", b"x" * 1000)
    return path


def settle(folder: Path) -> None:
    """Make all files an hour old, in the order of their names."""
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (time.time() - 3600 + number,) * 2)


def copied(tmp_path: Path, pattern: str, wait: float = 0.0) -> tuple[int | None, list[str]]:
    target = tmp_path / "snapshot"
    target.mkdir()
    step = ForeignCheckpoints(pattern, wait)(target)
    return step, sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def test_the_layout_of_the_guide(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tensors(out / "checkpoint-900" / "adapter_model.safetensors")
    tensors(out / "checkpoint-1000" / "adapter_model.safetensors")
    tensors(out / "adapter_model.safetensors")
    (out / "notes.txt").write_text("not a model")
    settle(out)
    for name in ("checkpoint-900", "checkpoint-1000"):
        (file,) = (out / name).iterdir()
        os.utime(file, (time.time() - 1000 + int(name[11:]) / 10,) * 2)
    step, files = copied(tmp_path, str(out))
    assert step == 1000
    assert files == ["adapter_model.safetensors", "checkpoint-1000/adapter_model.safetensors"]


def test_it_is_a_copy(tmp_path: Path) -> None:
    file = tensors(tmp_path / "out" / "m.safetensors")
    settle(tmp_path / "out")
    copied(tmp_path, str(file))
    file.write_bytes(b"written in place")
    assert problem_of(tmp_path / "snapshot" / "m.safetensors") is None


@pytest.mark.parametrize("how", ["cut", "grown", "young", "index", "json"])
def test_what_is_not_complete_is_passed_over_for_the_one_before(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    for step in (100, 200):
        tensors(out / f"checkpoint-{step}" / "model.safetensors")
        (out / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    newest = out / "checkpoint-200" / "model.safetensors"
    if how == "cut":
        newest.write_bytes(newest.read_bytes()[:-1])
    elif how == "grown":
        newest.write_bytes(newest.read_bytes() + b"x")
    elif how == "index":
        text = json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}})
        (out / "checkpoint-200" / "model.safetensors.index.json").write_text(text)
    elif how == "json":
        (out / "checkpoint-200" / "trainer_state.json").write_text('{"a": ')
    settle(out)
    if how == "young":
        os.utime(newest)
    step, files = copied(tmp_path, str(out / "checkpoint-*"), wait=60.0)
    assert step == 100 and files == ["checkpoint-100/model.safetensors", "checkpoint-100/trainer_state.json"]


def test_zip_archives_are_read_whole(tmp_path: Path) -> None:
    file = archive(tmp_path / "model_300.pt")
    assert problem_of(file) is None
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole[:200], whole[:100] + b"y" + whole[101:], b""):
        file.write_bytes(damaged)
        assert problem_of(file) is not None


def test_what_changes_while_it_is_copied_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tensors(tmp_path / "out" / "m.safetensors")
    settle(tmp_path / "out")
    from expkit.watch import foreign

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        tensors(source, 80)

    monkeypatch.setattr(foreign, "copy_file", copy)
    assert copied(tmp_path, str(file)) == (None, [])


def test_nothing_there(tmp_path: Path) -> None:
    assert copied(tmp_path, str(tmp_path / "no" / "*")) == (None, [])


def test_one_that_was_written_a_moment_ago_is_waited_for(tmp_path: Path) -> None:
    file = tensors(tmp_path / "out" / "checkpoint-7" / "m.safetensors")
    assert copied(tmp_path, str(file.parent), wait=0.2) == (7, ["checkpoint-7/m.safetensors"])
