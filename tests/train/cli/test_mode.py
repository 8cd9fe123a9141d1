"""A sweep that an experiment file asks for is one, and the configuration is composed once where nothing can ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

from tests.conftest import CONF, SMALL, Train
from train.cli.mode import mode_by_flags

QUICK = (*SMALL["denoise"], "trainer.max_steps=1", "checkpoint=none", "plots=[]")


@pytest.mark.parametrize(
    ("arguments", "text", "by_flags"),
    [
        (["trainer.max_steps=1"], "trainer: {mode: 3}", True),
        (["-m", "trainer.seed=1,2"], "", True),
        (["hydra.mode=MULTIRUN"], "", False),
        (["-cp", "elsewhere"], "", False),
        (["--config-path=elsewhere"], "", False),
        ([], "hydra:\n  mode: MULTIRUN\n", False),
        ([], "hydra: {mode: MULTIRUN}\n", False),
        ([], "hydra:\n  mode: 2\n", False),
        ([], "hydra.mode: 2\n", False),
        ([], "hydra:\n  searchpath: [file:///elsewhere]\n", False),
    ],
)
def test_only_what_can_decide_makes_hydra_look(arguments: list[str], text: str, by_flags: bool, tmp_path: Path) -> None:
    original = Hydra.get_mode
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with mode_by_flags(arguments, [CONF, tmp_path]):
        assert (Hydra.get_mode is not original) == by_flags
    assert Hydra.get_mode is original


def test_an_experiment_that_asks_for_a_sweep_gets_one(train: Train, outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {trainer.seed: '1,2'}}}\n"
    (tmp_path / "more" / "experiment" / "both.yaml").write_text(text)
    train("--config-dir", str(tmp_path / "more"), "experiment=both", *QUICK)
    assert len(list(outputs.glob("*/config.json"))) == 2
