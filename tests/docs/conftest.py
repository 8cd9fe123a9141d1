"""What the tests of the pages share: a folder with short runs, and with what the pages take for given."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import CONF, SMALL, Trained
from tests.docs.commands import PAGES, ROOT, Command, Shell, blocks
from tests.expkit.cli.test_wandb import make_run
from tests.expkit.wandb_data.log_writer import gpu_system
from train.api import create_config

#: The first is the newest.
RUNS = (
    "gpt_demo_20261120_101500_k3xq",
    "gpt_demo_20261120_101600_o27w",
    "denoise_two_layer_net_adam_20260101_120000_abcd",
)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, _trained: Trained) -> Path:
    """A folder with three short runs, with every file that the pages show, and with what they take for given."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("matplotlib.figure", "plotly.offline", "scipy.stats", "sklearn.cluster", "trackio", "wandb"):
        importlib.import_module(name)  # once, for all processes
    best = ("detectors=best_model", "detectors.best_model.warmup=0", "detectors.best_model.cooldown=1")
    every = ("trainer.max_steps=12", "trainer.log_interval=2", "trainer.eval_interval=4", "checkpoint.save_interval=4")
    for number, run in reversed(list(enumerate(RUNS))):
        kind = ("gpt", "diagnostics=svd", "diagnostics.svd.interval=4") if run.startswith("gpt") else ("denoise",)
        typed = (*SMALL[kind[0]], *kind[1:], *best, *every, f"trainer.seed={number}", "tracker=[]", "plots=[]")
        shutil.copytree(_trained(*typed, f"run.id={run}"), folder / "outputs" / run, symlinks=True)
    code, said = Shell(folder).run(Command("", 0, f"expkit replay outputs/{RUNS[0]} --to wandb"))
    assert code == 0, said
    make_run(folder / "with_gpus", "abc", system=[gpu_system(0, used_gb) for used_gb in (8.0, 4.0)])
    for path, content in shown_files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    (folder / "wide.json").write_text(json.dumps(create_config("denoise")))
    (folder / "status").mkdir()
    (folder / "status" / "training_status.json").write_text('{"step": 10, "loss": 2.5}')
    shutil.copytree(CONF, folder / "conf")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "denoised.png", folder / "picture.png")
    return folder


@pytest.fixture
def workplace(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(template, tmp_path / "own", symlinks=True))


def shown_files() -> dict[str, str]:
    """Return path -> content of every file that the pages show: its path stands in a comment on top."""
    found: dict[str, str] = {}
    for page in PAGES:
        for _, language, content in blocks(page):
            path = re.match(r"(?:# @package \S+\n)?# (my_\w+/\S+)\n", content)
            if path and language in ("python", "yaml"):
                assert found.setdefault(path[1], content) == content, f"two pages show another {path[1]}"
    return found
