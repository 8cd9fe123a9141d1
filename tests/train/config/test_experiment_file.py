"""`config_file=x.json`: every key counts, what is typed wins, and a mistake is one line."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.conftest import Train
from tests.train.once import compose_once, composed
from train.api import create_config
from train.cli.main import rewrite
from train.config.build import CONF_DIR, MULTI_SELECT
from train.config.compose import hydra_with

#: Holds everything that means something in an override.
ODD = 'it\'s "a, b" {c: [d]} (=) ~/$é ü\\'

Write = Callable[..., str]


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


SETTINGS = [(group, name) for group in ("experiment", "task") for name in options(group)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Call as `write(content)`: the argument that names such a file."""

    def written(content: Any, name: str = "x.json") -> str:
        (tmp_path / name).write_text(json.dumps(content))
        return f"config_file={tmp_path / name}"

    return written


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_once(monkeypatch)


def configuration(*arguments: str) -> dict[str, Any]:
    """What such a command line composes, interpolations as they are."""
    overrides = rewrite(list(arguments))
    with hydra_with():
        made = OmegaConf.to_container(composed(overrides), resolve=False)
    return {key: value for key, value in made.items() if key != "hydra"}  # type: ignore[union-attr, misc]


def leaves(content: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value, and how to get to it."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def put(content: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def another(value: Any) -> Any:
    """A value that is no default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value + (1.5e-07 if isinstance(value, float) else 1)
    return [1, [ODD, None], True] if isinstance(value, list) else ODD


def place(path: tuple[str, ...]) -> str:
    """Where a configuration holds a value of the form."""
    if path[0] != "training":
        return ".".join(path)
    renamed = {"epochs": "trainer.max_epochs", "diagnostic_sample_size": "diagnostics.blob.n_samples"}
    return renamed.get(path[1], f"trainer.{path[1]}")


@pytest.mark.parametrize(("group", "name"), SETTINGS)
def test_an_unchanged_configuration_is_the_setting_itself(write: Write, group: str, name: str) -> None:
    assert configuration(write(create_config(name))) == configuration(f"{group}={name}", "run.name=x")


@pytest.mark.parametrize(("group", "name"), SETTINGS)
def test_every_value_counts(write: Write, group: str, name: str) -> None:
    config = create_config(name)
    config["training"]["enable_diagnostics"] = True
    switches = ("experiment", "option", "enable_diagnostics", "save_plots")
    changed = {path: another(value) for path, value in leaves(config) if path[-1] not in switches}
    changed["training", "diagnostic_sample_size"] = 7
    for path, value in changed.items():
        put(config, path, value)
    made = configuration(write(config))
    for path, value in changed.items():
        assert functools.reduce(dict.__getitem__, place(path).split("."), made) == value, path
    assert made["diagnostics"]["blob"]["method"] == "reference"
    assert len(changed) > 30


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "checkpoint", "task/data", *filter(options, MULTI_SELECT)])
def test_every_option_counts(write: Write, group: str) -> None:
    option = [name for name in options(group) if name not in ("adam", "constant", "standard", "digits")][-1]
    outer, _, inner = group.partition("/")
    override = f"{group}=[{option}]" if group in MULTI_SELECT else f"{group}={option}"
    for said in (option, {option: {}} if group in MULTI_SELECT else {"option": option}):
        assert rewrite([write({outer: {inner: said} if inner else said})]) == [override, "run.name='x'"]


def test_the_options_of_a_task_and_of_its_parts_are_chosen_together(write: Write) -> None:
    said = {"optimizer": "sgd", "task": {"option": "classify", "data": "two_hot"}}
    assert rewrite([write(said)])[:3] == ["optimizer=sgd", "task=classify", "task/data=two_hot"]


@pytest.mark.parametrize(
    ("said", "overrides"),
    [
        ({}, []),
        ({"training": {"enable_diagnostics": True}}, ["diagnostics=[blob]"]),
        (
            {"training": {"enable_diagnostics": True, "diagnostic_sample_size": 5000}},
            ["diagnostics=[blob]", "diagnostics.blob.method=reference", "diagnostics.blob.n_samples=5000"],
        ),
        ({"training": {"enable_diagnostics": True, "diagnostic_sample_size": None}}, ["diagnostics=[blob]"]),
        (
            {"experiment": "reference_3blob", "training": {"enable_diagnostics": False}},
            ["experiment=reference_3blob", "diagnostics=[]"],
        ),
        ({"save_plots": False, "plots": {"training": {"viz_interval": 3}}}, ["plots=[]"]),
        ({"save_plots": True}, []),
        ({"tracker": []}, ["tracker=[]"]),
        ({"tracker": None}, ["tracker=[]"]),
        ({"tracker": "wandb, trackio"}, ["tracker=[wandb,trackio]"]),
        ({"tracker": {"wandb": {"mode": "online"}, "trackio": None}}, ["tracker=[wandb,trackio]"]),
        ({"training": {"batch_size": 64, "epochs": 3}}, ["trainer.max_epochs=3"]),
        ({"optimizer": {"lr": 1e-05}}, ["optimizer.lr=1e-05"]),
        ({"task": {"model": {"d": 64}}}, ["task.model.d=64"]),
        ({"task": {"data": {"seed": 3}}}, ["task.data.seed=3"]),
        ({"run": {"notes": "${oc.env:HOME}"}}, ["run.notes='${oc.env:HOME}'"]),
        ({"run": {"tags": ["a,b", [None, True]]}}, ["run.tags=['a,b',[null,true]]"]),
    ],
    ids=str,
)
def test_what_a_file_says_is_what_would_be_typed(write: Write, said: Any, overrides: list[str]) -> None:
    given = rewrite([write(said)])
    assert [each for each in given if "tracker.wandb.mode" not in each] == [*overrides, "run.name='x'"]


def test_a_value_that_follows_another_goes_on_following_it(write: Write) -> None:
    config = create_config("denoise")
    config["task"]["data"]["d"] = 32
    assert "task.data.d" in configuration(write(config))["task"]["model"]["d"]


def test_a_mapping_of_numbers_is_one_value(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "detectors").mkdir()
    text = "# @package detectors.high\n_target_: my.High\nthreshold: {0: 0.5, 5000: 0.3}\nother: 1\n"
    (tmp_path / "detectors" / "high.yaml").write_text(text)
    monkeypatch.setattr("train.config.build.extra_folders", [tmp_path])
    monkeypatch.setattr("train.config.experiment_file.extra_folders", [tmp_path])
    same = {"detectors": {"high": {"threshold": {"0": 0.5, "5000": 0.3}}}}
    assert rewrite([write(same)]) == ["detectors=[high]", "run.name='x'"]
    overrides = rewrite([write({"detectors": {"high": {"threshold": {"0": 0.4}, "other": {"7": 1}}}})])
    with hydra_with([tmp_path]):
        assert composed(overrides).detectors.high == {"_target_": "my.High", "threshold": {0: 0.4}, "other": {7: 1}}


@pytest.mark.parametrize(
    ("said", "typed", "overrides"),
    [
        ({"training": {"epochs": 3}}, ["trainer.max_epochs=4"], ["trainer.max_epochs=4"]),
        ({"optimizer": {"option": "sgd", "lr": 0.5}}, ["optimizer=sgd"], ["optimizer.lr=0.5", "optimizer=sgd"]),
        ({"optimizer": {"option": "sgd", "lr": 0.5}}, ["optimizer=adam"], ["optimizer=adam"]),
        ({"task": {"data": "two_hot", "lambda_on": 3.0}}, ["task=classify"], ["task=classify"]),
        ({"tracker": ["wandb", "trackio"]}, ["tracker=wandb,trackio"], ["tracker=[wandb,trackio]"]),
        ({"tracker": {"trackio": {"dir": "d"}}}, ["tracker=wandb"], ["tracker=wandb"]),
        (
            {"training": {"enable_diagnostics": True, "diagnostic_sample_size": 9}},
            ["diagnostics=[]"],
            ["diagnostics=[]"],
        ),
        ({"experiment": "reference_3blob"}, ["experiment=reference_3blob"], ["experiment=reference_3blob"]),
    ],
    ids=str,
)
def test_what_is_typed_wins(write: Write, said: Any, typed: list[str], overrides: list[str]) -> None:
    assert rewrite([*typed, write(said), "run.name=y"]) == [*overrides, "run.name=y"]


def test_values_that_go_with_an_option_are_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("expkit").propagate = True
    rewrite([write({"optimizer": {"lr": 0.5, "betas": [0.8, 0.9]}}), "optimizer=sgd"])
    assert "x.json: optimizer.lr, optimizer.betas: left out, optimizer=sgd was typed" in caplog.text


def test_a_sample_size_without_diagnostics_is_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("expkit").propagate = True
    assert rewrite([write({"training": {"diagnostic_sample_size": 9}})]) == ["run.name='x'"]
    assert "training.diagnostic_sample_size=9 has no effect: training.enable_diagnostics is not true" in caplog.text


def test_a_path_may_be_quoted_hold_blanks_and_begin_at_home(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write({}, "my, 'file'.json")
    for path in ("~/my, 'file'.json", f"\"{tmp_path}/my, 'file'.json\"", f"'{tmp_path}/my, 'file'.json'"):
        assert rewrite([f"config_file={path}"]) == [r"run.name='my, \'file\''"]


SMALL = {"training": {"epochs": 1}, "tracker": [], "save_plots": False}


def test_a_resumed_run_needs_no_file_and_takes_another(train: Train, outputs: Path, write: Write) -> None:
    train(write({**SMALL, "optimizer": {"lr": 0.5}}), "run.id=run")
    (outputs.parent / "x.json").unlink()
    done = train("resume=run", "trainer.max_epochs=2")
    assert "resumed at step 23" in done.stderr
    done = train(write({"training": {"epochs": 3}}, "y.json"), "resume=auto", "run.id=run", "trainer.batch_size=32")
    assert "changed: trainer.max_epochs: 2 -> 3" in done.stderr
    stored = json.loads((outputs / "run" / "config.json").read_text())
    assert stored["config"]["optimizer"]["lr"] == 0.5
    assert stored["config"]["run"]["name"] == "x"
    assert stored["config"]["trainer"]["batch_size"] == 32
    overrides = rewrite([write({"training": {"epochs": 3}}, "y.json"), f"resume={outputs / 'run'}"])
    assert set(stored["overrides"]) - set(overrides) <= {"run.id=run", *stored["overrides"][-1:]}


def test_a_sweep_runs_the_file_with_each_value(train: Train, outputs: Path, write: Write) -> None:
    said = {**SMALL, "run": {"notes": ODD, "tags": [ODD, "b"]}, "training": {"max_steps": 1}}
    train("-m", write(said), "optimizer.lr=0.001,0.003")
    configs = [json.loads(file.read_text())["config"] for file in outputs.glob("x_*/config.json")]
    assert sorted(config["optimizer"]["lr"] for config in configs) == [0.001, 0.003]
    assert all(config["run"]["notes"] == ODD and config["run"]["tags"] == [ODD, "b"] for config in configs)
