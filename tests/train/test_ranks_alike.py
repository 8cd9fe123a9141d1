"""What one rank alone knows, or has: all of them do the same nevertheless."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from omegaconf import OmegaConf

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import read_checkpoint
from expkit.errors import ConfigError
from tests.train.helpers import BACK_AND_FORTH, own_options
from tests.train.test_launched import SMALL, launched
from tests.train.uneven import UnevenTask
from train.processes import ranks

COMMON = (*SMALL[1:3], *SMALL[4:], "trainer.max_steps=null", "run.id=one")


@pytest.fixture
def conf(tmp_path: Path) -> tuple[str, str]:
    options = {
        "task/uneven": "_target_: tests.train.uneven.UnevenTask\nknown: false\nval: false\n",
        "detectors/back_and_forth": BACK_AND_FORTH,
    }
    return own_options(tmp_path / "conf", options)


@pytest.mark.parametrize("how", [("ddp", "true"), ("fsdp", "false")])
def test_ranks_with_unequal_loaders_end_their_epochs_together_and_save_when_the_first_wants_to(
    tmp_path: Path, conf: tuple[str, str], how: tuple[str, str]
) -> None:
    strategy, known = how
    first, other = launched(
        tmp_path / "outputs",
        *(*conf, "task=uneven", f"task.known={known}", f"task.val={strategy == 'fsdp'}".lower(), *COMMON),
        *(f"trainer.strategy={strategy}", "trainer.max_epochs=3"),
        *("checkpoint.save.on_best=false", "checkpoint.save_interval=null"),
        "checkpoint.save.also=[{_target_:tests.train.uneven.FirstRank}]",
    )
    assert (first.code, other.code) == (0, 0), first.said
    run = tmp_path / "outputs" / "one"
    assert orjson.loads((run / "status.json").read_bytes())["step"] == 3 * 5  # the first has no more
    manager = CheckpointManager(run)
    assert manager.steps() == [15, 14, 7]
    if strategy == "ddp":  # what was evaluated is what was saved: of the norm's means rank 0's
        task = UnevenTask()
        model = task.build_model().eval()
        path = manager.latest_path()
        assert path is not None
        saved = read_checkpoint(path)
        model.load_state_dict(saved["model_state_dict"])
        with torch.no_grad():
            loss = float(task.step(model, (task.x[:7], task.y[:7])).loss)
        assert saved["metrics"]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_layers_that_are_switched_are_trained_by_all_ranks_and_at_the_steps_of_one_process(
    tmp_path: Path, conf: tuple[str, str]
) -> None:
    first, other = launched(
        tmp_path / "outputs",
        *(*conf, "task=classify", "task/model=mlp", "task.model.hidden=16", *COMMON, "detectors=[back_and_forth]"),
        *("diagnostics=svd", "diagnostics.svd.interval=2", "trainer.max_epochs=null", "trainer.max_steps=20"),
        *("trainer.batch_size=32", "trainer.log_interval=2", "checkpoint=none"),
    )
    assert (first.code, other.code) == (0, 0), first.said
    events = (tmp_path / "outputs" / "one" / "logs" / "events.jsonl").read_bytes().splitlines()
    switched = {event["step"] for event in map(orjson.loads, events) if event["kind"] == "response"}
    assert switched == {3, 9, 15}


@pytest.mark.parametrize(("device", "gpus"), [("auto", 2), ("cuda:1", 1)])
def test_processes_that_would_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    section = OmegaConf.create({"processes": 3, "device": device})
    with pytest.raises(ConfigError, match=rf"{gpus} GPUs?, and each process needs one"), ranks(section):
        pass
