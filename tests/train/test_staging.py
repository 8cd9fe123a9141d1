"""`cluster.stage`: data copied to a disk of the node before a run reads them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError
from tests.conftest import SMALL, Train
from train.staging import staged


def configured(path: Path | None, scratch: Path, *keys: str) -> DictConfig:
    return OmegaConf.create(
        {
            "cluster": {"scratch": str(scratch), "stage": list(keys or ("task.data.path",))},
            "task": {"data": {"path": None if path is None else str(path)}},
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    return folder


def test_a_folder_is_copied_and_the_original_is_untouched(data: Path, tmp_path: Path) -> None:
    config = configured(data, tmp_path / "scratch")
    here, copies = staged(config)
    place = Path(here.task.data.path)
    assert place.is_relative_to(tmp_path / "scratch")
    assert (place / "train" / "a.txt").read_text() == "one"
    assert copies == {str(place): str(data)}
    assert config.task.data.path == str(data)


def test_a_copy_is_made_once_and_again_when_the_original_has_changed(data: Path, tmp_path: Path) -> None:
    first, _ = staged(configured(data, tmp_path / "scratch"))
    copy = Path(first.task.data.path) / "b.txt"
    os.utime(copy, (1, 1))
    again, _ = staged(configured(data, tmp_path / "scratch"))
    assert again.task.data.path == first.task.data.path
    assert copy.stat().st_mtime == 1, "it was not copied again"
    (data / "b.txt").write_text("another")
    changed, _ = staged(configured(data, tmp_path / "scratch"))
    assert (Path(changed.task.data.path) / "b.txt").read_text() == "another"


def test_jobs_of_one_node_share_a_copy(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.staging as staging

    copied: list[Any] = []
    copytree = staging.shutil.copytree
    monkeypatch.setattr(staging.shutil, "copytree", lambda *each: (copied.append(each), copytree(*each)))
    found: list[str] = []
    jobs = [
        threading.Thread(target=lambda: found.append(staged(configured(data, tmp_path / "scratch"))[0].task.data.path))
        for _ in range(6)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert [each[0] for each in copied].count(data) == 1


def test_without_room_the_original_is_read_and_that_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import train.staging as staging

    usage = staging.shutil.disk_usage(tmp_path)._replace(free=2)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    here, copies = staged(configured(data, tmp_path / "scratch"))
    assert here.task.data.path == str(data)
    assert copies == {}
    assert "is read where it is" in caplog.text


def test_what_is_not_there_is_refused_and_what_is_not_set_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.data\.path=.*nowhere: there is no such file or folder"):
        staged(configured(tmp_path / "nowhere", tmp_path / "scratch"))
    here, copies = staged(configured(None, tmp_path / "scratch", "task.data.path", "task.images"))
    assert (here.task.data.path, copies) == (None, {})


def test_a_run_reads_the_copy_and_says_the_original(train: Train, outputs: Path, tmp_path: Path) -> None:
    text, scratch = tmp_path / "text.txt", tmp_path / "scratch"
    text.write_text("To be, or not to be, that is the question. " * 40)
    train(
        *("debug=smoke", "plots=[]", *SMALL["gpt"], f"task.data.path={text}", "trainer.max_steps=2", "run.id=run"),
        *(f"cluster.scratch={scratch}", "cluster.stage=[task.data.path]"),
    )
    stored = (outputs / "run" / "config.json").read_text()
    assert json.loads(stored)["dataset"]["path"] == str(text)
    assert json.loads(stored)["config"]["task"]["data"]["path"] == str(text)
    assert str(scratch / "expkit-data") not in stored
    assert [file.read_text() for file in scratch.rglob("text.txt")] == [text.read_text()]
