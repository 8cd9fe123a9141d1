"""A snapshot is there whole or not at all, costs next to nothing, and outlives the checkpoint that it was made of."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.checkpoints import CheckpointManager, checkpoint_error
from expkit.errors import ConfigError
from expkit.experiment import RunDir
from expkit.snapshots import Observed, create, freed_by, list_snapshots, load_snapshot, verify
from expkit.snapshots import creating as creating_module
from tests.expkit.snapshots.making import MOMENT, Event, best, leftovers, make_run, save, take


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with checkpoints of steps 1 to 3."""
    return make_run(tmp_path / "mine", 1, 2, 3)


def test_it_is_laid_out_as_the_guide_says(run: RunDir) -> None:
    made = take(run, Event(), Event("accuracy_drop", "accuracy_drop_13.0pct"), Event())
    assert made == run.snapshots / "anomaly_20251112_143022_loss_spike_37.8pct"
    metadata = json.loads((made / "metadata.json").read_text())
    files = metadata.pop("files")
    assert len(metadata.pop("sha256")) == 64
    assert metadata == {
        "timestamp": "20251112_143022",
        "reason": "loss_spike_37.8pct",
        "step": 17500,
        "loss": 1.0234,
        "accuracy": 58.3,
        "triggers": ["loss_spike_37.8pct", "accuracy_drop_13.0pct"],
        "loss_history": [0.74, 0.73, 0.72, 0.71, 1.0234],
        "best_loss": 0.6987,
        "best_loss_step": 16800,
        "kinds": ["loss_spike", "accuracy_drop"],
        "run": "mine",
        "checkpoint_step": 3,
    }
    there = {path.relative_to(made).as_posix(): path.stat().st_size for path in made.rglob("*") if path.is_file()}
    assert {name: entry["size"] for name, entry in files.items()} | {"metadata.json": there["metadata.json"]} == there
    assert json.loads((made / "training_status.json").read_text()) == {"state": "running"}
    assert (made / "run_config.json").read_bytes() == run.config.read_bytes()
    assert checkpoint_error(made / "model" / "checkpoint_step_3.pt") is None


def test_the_checkpoint_is_shared_not_copied(run: RunDir) -> None:
    made = take(run)
    assert made is not None
    assert (made / "model" / "checkpoint_step_3.pt").samefile(run.checkpoints / "checkpoint_step_3.pt")
    small = sum(path.stat().st_size for path in made.glob("*.json"))
    assert freed_by([load_snapshot(made)]) == small


def test_it_outlives_the_checkpoint_and_the_checkpoint_outlives_it(run: RunDir) -> None:
    made = take(run, checkpoint=run.checkpoints / "checkpoint_step_1.pt")
    assert made is not None
    save(run, 4, keep=1)
    assert not (run.checkpoints / "checkpoint_step_1.pt").exists()
    assert verify(load_snapshot(made)) is None
    later = take(run, step=18000)
    assert later is not None
    shutil.rmtree(later)
    assert CheckpointManager(run.root).load_latest_checkpoint()["step"] == 4  # type: ignore[index]


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_without_hard_links_it_is_a_copy(run: RunDir, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    made = take(run)
    assert made is not None
    assert verify(load_snapshot(made)) is None
    assert not (made / "model" / "checkpoint_step_3.pt").samefile(run.checkpoints / "checkpoint_step_3.pt")


def test_the_newest_intact_checkpoint_is_taken(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    newest = run.checkpoints / "checkpoint_step_3.pt"
    content = bytearray(newest.read_bytes())
    content[content.index(b"PK", 200) - 8] ^= 1
    newest.write_bytes(content)
    made = take(run, checkpoint=run.checkpoints / "checkpoint_step_99.pt")  # which is gone
    assert made is not None
    assert load_snapshot(made).checkpoint_step == 2
    assert "checkpoint_step_3.pt is passed over" in caplog.text
    assert [path.name for path in (made / "model").iterdir()] == ["checkpoint_step_2.pt"]


def test_a_link_to_a_checkpoint_stands_for_it(run: RunDir) -> None:
    made = take(run, checkpoint=run.checkpoints / "checkpoint_latest.pt")
    assert made is not None
    kept = made / "model" / "checkpoint_step_3.pt"
    assert kept.is_file()
    assert not kept.is_symlink()


def test_a_run_without_a_checkpoint_has_snapshots_too(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "bare")
    run.root.mkdir()
    made = take(run)
    assert made is not None
    snapshot = load_snapshot(made)
    assert verify(snapshot) is None
    assert snapshot.checkpoint is None


def test_of_many_watchers_one_makes_it(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(8)
    made: list[Path | None] = []

    def watch() -> None:
        together.wait()
        made.append(take(run))

    threads = [threading.Thread(target=watch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([path for path in made if path is not None]) == 1
    assert len(list_snapshots(run)) == 1
    assert leftovers(run) == []
    assert caplog.records == []  # the others have nothing to warn of


def test_the_same_event_after_a_resume_makes_no_second_one(run: RunDir) -> None:
    assert take(run) is not None
    assert take(run, time=MOMENT + 60) is None
    assert take(run, time=MOMENT + 60, loss=2.0) is not None  # another course of training


def test_two_steps_of_one_second_make_two(run: RunDir) -> None:
    one, other = take(run, step=1000), take(run, step=1500)
    assert (one, other) == (run.snapshots / one.name, run.snapshots / f"{one.name}_step_1500")  # type: ignore[union-attr]
    assert [each.step for each in list_snapshots(run)] == [1000, 1500]


@pytest.mark.parametrize("reason", ["../../out", "a b/c", "", "x" * 300, "\n", "ä"])
def test_a_reason_stays_a_part_of_a_name(run: RunDir, reason: str) -> None:
    made = take(run, Event("own", reason))
    assert made is not None
    assert made.parent == run.snapshots
    assert verify(load_snapshot(made)) is None
    assert load_snapshot(made).reason == reason


def test_numbers_that_are_none_become_null(run: RunDir) -> None:
    made = take(run, Event("nonfinite", "nonfinite"), loss=float("nan"), history=[1.0, float("inf")])
    assert made is not None
    metadata = json.loads((made / "metadata.json").read_text())
    assert (metadata["loss"], metadata["loss_history"]) == (None, [1.0, None])
    assert verify(load_snapshot(made)) is None
    assert take(run, Event("nonfinite", "nonfinite"), loss=float("nan"), time=MOMENT + 9) is None


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())


def test_weights_are_exported(run: RunDir) -> None:
    reader: Any = pytest.importorskip("safetensors.torch")
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    CheckpointManager(run.root).save_checkpoint(4, model, optimizer, [], {})
    made = take(run, safetensors=True)
    assert made is not None
    weights = reader.load_file(made / "model" / "model.safetensors")
    state = model.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert verify(load_snapshot(made)) is None
    with (made / "model" / "model.safetensors").open("r+b") as file:
        file.truncate(40)
    assert "model.safetensors has 40 bytes" in str(verify(load_snapshot(made)))


def test_without_the_package_it_is_said_in_one_line(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "safetensors" else real(name))
    with pytest.raises(ConfigError, match=r"snapshots.safetensors=true: .* pip install 'expkit\[safetensors\]'"):
        take(run, safetensors=True)
    assert list_snapshots(run) == []


def test_an_export_that_fails_leaves_nothing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(creating_module, "check_export", lambda: None)
    monkeypatch.setattr(creating_module, "export", full)
    with caplog.at_level(logging.WARNING):
        assert take(run, safetensors=True) is None
    assert len(caplog.records) == 1
    assert list(run.snapshots.iterdir()) == []


def test_no_torch_is_needed(run: RunDir) -> None:
    code = f"""
import sys
from types import SimpleNamespace
from expkit.experiment import RunDir
from expkit.snapshots import Observed, Retention, create, list_snapshots, verify
run = RunDir({str(run.root)!r})
made = create(run, [SimpleNamespace(kind="plateau", reason="plateau")], Observed(3, 1.0), {{}})
assert [verify(each) for each in list_snapshots(run)] == [None]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_best_model_is_one_kind_among_others(run: RunDir) -> None:
    observed = Observed(7, MOMENT)
    made = create(run, [Event(), best(0.6321)], observed, {})
    assert made is not None
    assert load_snapshot(made).is_best
    assert load_snapshot(made).is_of("loss_spike")
    assert not load_snapshot(made).is_of("loss")


def test_the_page_says_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "snapshots.md").read_text()
    code = page.partition("<!-- snapshots: own loop -->\n```python\n")[2].partition("```")[0]
    (tmp_path / "my_run").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snapshots.md", "exec"), {"__name__": "page"})
    shown = capsys.readouterr().out
    assert "loss_spike_45.7pct 105" in shown
    assert "checkpoint_step_100.pt intact" in shown
