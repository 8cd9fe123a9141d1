"""What the table of messages in docs/library.md says is what is really said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from expkit import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    check_disk_space,
    create_experiment_directory,
)
from expkit.files import write_bytes

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
TABLE = re.findall(r"^\| (`.*?`(?: in config\.json)?) \|", PAGE, re.MULTILINE)


class Trouble:
    """Small things that go wrong, in a run directory of their own. Each returns what a user sees of it."""

    def __init__(self, folder: Path) -> None:
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.root = folder / "run"
        self.checkpoints = CheckpointManager(self.root)

    def save(self, step: int, model: nn.Module | None = None) -> Path | None:
        return self.checkpoints.save_checkpoint(step, model or self.model, self.optimizer, [], {})

    def exists_already(self) -> None:
        for _ in range(2):
            create_experiment_directory(self.root, "one")

    def is_no_valid_checkpoint(self) -> None:
        self.save(1)
        path = self.save(2)
        assert path
        write_bytes(path, path.read_bytes()[:-50])
        checkpoint = self.checkpoints.load_latest_checkpoint()
        assert checkpoint
        assert checkpoint["step"] == 1

    def checkpoint_of_step(self) -> None:
        self.root.write_text("a file where the folder should be")
        assert self.save(1) is None

    def lines_wait_in_memory(self) -> None:
        logger = MetricsLogger(self.root)
        shutil.rmtree(self.root)
        self.root.write_text("a file where the folder should be")
        logger.log_metrics(1, {"loss": 0.5})
        self.root.unlink()
        logger.log_metrics(2, {"loss": 0.5})
        assert [entry["loss"] for entry in logger.load_metrics()] == [0.5, 0.5]

    def holds_checkpoints_of(self) -> None:
        self.save(200)
        self.save(100)

    def missing_keys(self) -> None:
        self.save(1, nn.DataParallel(self.model))
        checkpoint = self.checkpoints.load_latest_checkpoint()
        assert checkpoint
        nn.DataParallel(self.model).load_state_dict(checkpoint["model_state_dict"])

    def metric_has_shape(self) -> None:
        MetricsLogger(self.root).log_metrics(1, {"loss": torch.ones(3)})

    def skipped_broken(self) -> None:
        self.root.mkdir()
        (self.root / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
        assert len(MetricsLogger(self.root).load_metrics()) == 1

    def failed_to_generate(self) -> None:
        VisualizationManager(self.root).generate_training_plots(1, "not losses", {})

    def no_wave_tensors(self) -> None:
        VisualizationManager(self.root).generate_model_plots(1, self.model)

    def only_free(self) -> None:
        assert check_disk_space(self.root / "not" / "there", min_gb=1e9) is False

    def git_hash(self) -> str:
        return ConfigTracker(self.root).save_config({}).read_text()

    def gpu_model(self) -> str:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
        return self.git_hash()


TROUBLES = [name for name in vars(Trouble) if name[0] != "_" and name != "save"]


@pytest.mark.parametrize(("row", "trouble"), list(zip(TABLE, TROUBLES, strict=True)))
def test_what_one_sees_is_what_the_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, row: str, trouble: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    try:
        text = getattr(Trouble(tmp_path), trouble)()
    except (RuntimeError, TypeError, ValueError) as error:
        text = str(error)
    text = text or caplog.text
    position = 0
    for piece in re.findall(r"`(.*?)`", row)[0].split("..."):
        position = text.find(piece.strip(), position)
        assert position >= 0, f"{piece!r} is not in {text!r}"
        position += len(piece.strip())
