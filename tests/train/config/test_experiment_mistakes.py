"""`config_file=x.json`: every mistake is one line that says what to do instead, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expkit.errors import ConfigError
from tests.conftest import Train
from tests.train.once import compose_once
from train.cli.main import rewrite

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Call as `write(content)` or `write(text)`: the argument that names such a file."""

    def written(content: Any, name: str = "x.json") -> str:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return f"config_file={tmp_path / name}"

    return written


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_once(monkeypatch)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no JSON at line 1, column 1"),
        ('{\n  "training" {}\n}', "no JSON at line 2, column 14"),
        ("[1]", "an experiment is an object"),
        ('{"run": {}, "run": {}}', "'run' is there twice"),
        ("[" * 100_000, "recursion"),
        ({"training": {"batchsize": 3}}, "x.json: training.batchsize: did you mean training.batch_size?"),
        ({"training": {"max_epochs": 3}}, "training.max_epochs: say training.epochs"),
        ({"training": {"lr": 3}}, "training.lr: did you mean optimizer.lr?"),
        ({"training": {"zzz": 3}}, "training.zzz: there is no such key; training has epochs, "),
        ({"trainer": {"batch_size": 3}}, "trainer: say training"),
        ({"batch_size": 3}, "batch_size: did you mean training.batch_size?"),
        ({"optimizer.lr": 3}, 'optimizer.lr: write sections one in another, {"optimizer": {"lr": ...}}'),
        ({"run": {"tags": {"a": 1}}}, "run.tags={'a': 1}: this is a list"),
        ({"save_plot": True}, "save_plot: did you mean save_plots?"),
        ({"task": {"model": {"hiden": 3}}}, "task.model.hiden: did you mean task.model.hidden?"),
        ({"tracker": {"trackio": {"dirr": 3}}}, "tracker.trackio.dirr: did you mean tracker.trackio.dir?"),
        (
            {"diagnostics": {"blob": {"method": "exact"}}},
            "diagnostics.blob.method: say training.diagnostic_sample_size",
        ),
        ({"run": {"variant": "x"}}, "run.variant: say run.name"),
        ({"resume": "latest"}, "resume: say it on the command line"),
        ({"hydra": {"launcher": "local"}}, "hydra: there is no such key"),
        ({"training": 3}, "training=3: this is a section"),
        ({"optimizer": 3}, "optimizer=3: "),
        ({"optimizer": {"option": 3}}, "optimizer=3: name an option"),
        ({"optimizer": None}, "optimizer=None: this is a section"),
        ({"optimizer": "adamm"}, "optimizer=adamm: there is no such option; did you mean adam?"),
        ({"experiment": "reference"}, "experiment=reference: there is no such option; did you mean reference_3blob?"),
        ({"experiment": ["x"]}, "experiment=['x']: name an option"),
        ({"tracker": 3}, "tracker: name options in a list"),
        ({"tracker": ["wandb", 3]}, "tracker: name options in a list"),
        ({"tracker": ["wand"]}, "tracker=wand: there is no such option; did you mean wandb?"),
        ({"save_plots": "no"}, "save_plots='no': it is true or false"),
        ({"training": {"enable_diagnostics": 1}}, "training.enable_diagnostics=1: it is true or false"),
        ({"training": {"enable_diagnostics": True, "diagnostic_sample_size": 0}}, "must be a whole number"),
        ({"task": {"_target_": "os.system"}}, "task._target_: code is named by an option's YAML file only"),
        ({"run": {"tags": [{"a": {"_target_": "os.system"}}]}}, "code is named by an option's YAML file only"),
        ({"run": {"notes": {"a b": 1}}}, "'a b' cannot be a key"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_mistake_says_what_to_do_instead(write: Write, content: Any, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        rewrite([write(content)])
    assert says in str(error.value)
    assert "x.json: " in str(error.value)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("config_file=bites.json", "bites.json: there is no such file; did you mean bytes.json?"),
        ("config_file=q.json", "q.json: there is no such file"),
        ("config_file=.", ".: no JSON file can be read there: Is a directory"),
        ("config_file=~nobody_/x.json", "~nobody_/x.json: "),
        ("config_file=", "config_file=: name a JSON file"),
        ("config_file=x.json/y", "x.json/y: no JSON file can be read there"),
        ("config_file=bytes.json", "it is no text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    write({})
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        rewrite([path])
    assert says in str(error.value)


def test_only_one_file_and_one_experiment(write: Write) -> None:
    with pytest.raises(ConfigError, match="name one file"):
        rewrite([write({}), write({}, "y.json")])
    with pytest.raises(ConfigError, match="experiment=other was typed: leave one out"):
        rewrite([write({"experiment": "reference_3blob"}), "experiment=other"])


def test_a_mistake_is_one_line_and_leaves_nothing_behind(train: Train, outputs: Path, write: Write) -> None:
    done = train(write({"training": {"batchsize": 3}}), check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not outputs.exists()
