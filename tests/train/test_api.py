"""`train.api`: the guide's workflow, what a run in this process leaves as it was, and finding results again."""

from __future__ import annotations

import copy
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from omegaconf import OmegaConf

from expkit.errors import ConfigError, UserError
from tests.conftest import Train
from tests.train.once import compose_once
from train.api import analyze_experiment, create_config, load_results, run_experiment
from train.cli.main import rewrite

#: What the guide's results.json says of blobs before there are any, and the mean over the clusters besides.
BLOB_ENTRY = {
    "weight_correlation": float,
    "encoder_std": float,
    "decoder_std": float,
    "encoder_mean": float,
    "decoder_mean": float,
    "n_clusters_dbscan": int,
    "silhouette_score": type(None),
    "silhouette_macro": type(None),
    "cluster_centers": list,
    "n_noise_points": int,
    "computation_time_ms": float,
    "n_pairs_analyzed": int,
}

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose_once(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config() -> dict[str, Any]:
    """The default task for one step."""
    made = create_config()
    made["training"]["max_steps"] = 1
    made["tracker"] = []
    made["save_plots"] = False
    return made


def make_run(outputs: Path, run_id: str, results: dict[str, Any] | None = None) -> None:
    """A run directory with as much in it as finding it takes."""
    (outputs / run_id).mkdir(parents=True)
    (outputs / run_id / "config.json").write_text("{}")
    if results is not None:
        (outputs / run_id / "results.json").write_text(json.dumps(results))


def test_the_workflow_of_the_guide(folder: Path, train: Train) -> None:
    config = create_config("reference_3blob")
    config["training"]["batch_size"] = 1024
    config["training"]["epochs"] = 5
    config["training"]["enable_diagnostics"] = True
    config["training"]["diagnostic_sample_size"] = 500
    config["save_plots"] = False
    config["tracker"] = []
    config["task"]["data"] = {"d": 32, "n_train": 2048, "n_val": 64}
    config["task"]["model"] = {"hidden": 16}
    with (folder / "optimized_3blob.json").open("w") as file:
        json.dump(config, file, indent=2)
    train("config_file=optimized_3blob.json", "run.outputs=outputs", cwd=folder)
    results = load_results("optimized_3blob")
    assert [h["epoch"] for h in results["training_history"]] == [1, 2, 3, 4, 5]
    for history in results["training_history"]:
        assert {"loss", "scaled_loss"} <= history["train"].keys() & history["test"].keys()
        assert {key: type(value) for key, value in history["diagnostics"].items()} == BLOB_ENTRY
        assert history["diagnostics"]["n_pairs_analyzed"] == 500
        (centre,) = history["diagnostics"]["cluster_centers"]
        assert [type(coordinate) for coordinate in centre] == [float, float]
    assert not list(folder.glob("outputs/*/visualizations/*"))

    analysis = analyze_experiment("optimized_3blob")
    assert [entry["epoch"] for entry in analysis["timeline"]] == [1, 2, 3, 4, 5], "the experiment keeps every epoch"
    assert [entry["n_pairs_analyzed"] for entry in analysis["timeline"]] == [512] * 5
    assert analysis == analyze_experiment(next(folder.glob("outputs/*")) / "checkpoints") | {
        "timeline": [ANY] * 5,
        "final": ANY,
    }


def test_the_page_says_what_works(folder: Path, train: Train) -> None:
    exec("".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), {})
    commands = re.findall(r"^python -m train (.*config_file.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    train(*commands[0].split(), "run.outputs=outputs", "trainer.max_steps=1", "tracker=[]", cwd=folder)
    stored = json.loads(next(folder.glob("outputs/wide_*/config.json")).read_text())["config"]
    assert (stored["task"]["model"]["hidden"], stored["trainer"]["batch_size"]) == (512, 128)
    assert "optimizer.lr=0.001,0.003" in rewrite(commands[1].split())
    (folder / "form.json").write_text(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    assert "lr: 0.01" in train("config_file=form.json", "--cfg", "job", cwd=folder).stdout


def test_a_run_from_python_is_a_run_like_any_other(folder: Path, config: dict[str, Any], train: Train) -> None:
    before = copy.deepcopy(config)
    outcome = run_experiment(config, "it's mine", outputs=folder / "here", overrides=["trainer.batch_size=32"])
    assert config == before
    assert re.fullmatch(r"it-s-mine_\d{8}_\d{6}_\w{4}", outcome.dir.name)
    assert (outcome.dir.parent, outcome.state) == (folder / "here", "finished")
    assert load_results("it's mine", folder / "here")["final_metrics"]["best_val_loss"] == outcome.best_val_loss
    train(f"resume={outcome.dir}", "trainer.max_steps=2", cwd=folder)
    stored = json.loads((outcome.dir / "config.json").read_text())
    assert stored["config"]["trainer"]["batch_size"] == 32
    assert json.loads((outcome.dir / "status.json").read_text())["step"] == 2
    resumed = run_experiment({}, overrides=[f"resume={outcome.dir}", "trainer.max_steps=3"])
    assert (resumed.dir, json.loads((outcome.dir / "status.json").read_text())["step"]) == (outcome.dir, 3)


def test_a_program_that_uses_hydra_finds_it_as_it_was(folder: Path, config: dict[str, Any]) -> None:
    import hydra
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    (folder / "conf").mkdir()
    (folder / "conf" / "mine.yaml").write_text("a: 1\n")
    log = logging.getLogger("expkit")
    logging_before = list(log.handlers), log.level, log.propagate
    with hydra.initialize_config_dir(str(folder / "conf"), version_base="1.2"):
        HydraConfig.instance().set_config(hydra.compose("mine", return_hydra_config=True))
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, version.getbase()
        run_experiment(config)
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, version.getbase()) == before
        with pytest.raises(ConfigError):
            run_experiment({"training": {"batch_size": "many"}})
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, version.getbase()) == before
        assert hydra.compose("mine", ["a=2"]).a == 2
    HydraConfig.instance().cfg = None
    assert (list(log.handlers), log.level, log.propagate) == logging_before
    assert len(list(folder.glob("outputs/*"))) == 1


STOPPING = """
import os, signal
from train.tasks.denoise import DenoiseTask

class StoppingTask(DenoiseTask):
    def step(self, model, batch):
        if model.training:  # not for the checkpoint's probe
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(model, batch)
"""


@pytest.fixture
def own_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration folder with a task that presses Ctrl-C."""
    (folder / "stopping_task.py").write_text(STOPPING)
    (folder / "my_conf" / "task").mkdir(parents=True)
    text = "_target_: stopping_task.StoppingTask\ndefaults: [{data: digits}, {model: two_layer_net}]\n"
    (folder / "my_conf" / "task" / "stopping.yaml").write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder / "my_conf"
    sys.modules.pop("stopping_task", None)


def test_ctrl_c_saves_and_says_so(own_task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = create_config("stopping", config_dir=own_task)
    config |= {"tracker": [], "plots": []}
    outcome = run_experiment(config, config_dir=own_task)
    assert (outcome.state, outcome.signal) == ("interrupted", 2)
    assert (outcome.dir / "checkpoints" / "checkpoint_step_1.pt").exists()
    assert f"--config-dir {own_task} resume={outcome.dir}" in capfd.readouterr().err


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_experiment` returns the configuration that it would train."""
    monkeypatch.setattr("train.job.run", lambda config, console: OmegaConf.to_container(config, resolve=True))


def test_what_to_run_may_be_a_name_or_a_file(folder: Path, no_training: None) -> None:
    def name(*arguments: Any) -> Any:
        return run_experiment(*arguments)["run"]["name"]  # type: ignore[index]

    (folder / "a file.json").write_text("{}")
    assert name("reference_3blob") == "reference_3blob"
    assert name({}) == "denoise_two_layer_net_adam"
    assert name("a file.json") == "a file"
    assert name(folder / "a file.json", "b") == "b"


def test_numpy_numbers_tuples_and_paths_are_taken(folder: Path, no_training: None) -> None:
    optimizer = {"lr": np.float32(0.5), "betas": (0.5, 0.75)}
    said = {"training": {"batch_size": np.int64(32)}, "optimizer": optimizer, "run": {"outputs": folder}}
    made: Any = run_experiment(said)
    assert (made["trainer"]["batch_size"], made["optimizer"]["lr"]) == (32, 0.5)
    assert made["optimizer"]["betas"] == [0.5, 0.75]
    assert made["run"]["outputs"] == str(folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"training": {"batchsize": 3}}, "config: training.batchsize: did you mean training.batch_size?"),
        ({"training": {"batch_size": 0}}, "trainer.batch_size=0: it must be"),
        ({"training": {"seed": {1, 2}}}, "training.seed={1, 2}: a set is no JSON value"),
        ({"task": {"lambda_on": "${nowhere}"}}, "nowhere"),
        ([], "an experiment is an object"),
        (3, "an experiment is an object"),
        ("nowhere.json", "nowhere.json: there is no such file"),
        ("reference", "there is no experiment or task called 'reference': did you mean reference_3blob?"),
    ],
    ids=str,
)
def test_a_mistake_is_an_error_and_leaves_nothing_behind(folder: Path, config: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        run_experiment(config)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("override", ["-m", "config_file=x.json", "trainer.max_epoch=3", "optimizer=adam,sgd"])
def test_an_override_that_cannot_work_is_refused(folder: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        run_experiment({}, overrides=override)
    assert not list(folder.iterdir())


def test_a_folder_of_options_that_is_not_there_is_told(folder: Path) -> None:
    for call in (lambda: create_config(config_dir="nope"), lambda: run_experiment({}, config_dir="nope")):
        with pytest.raises(ConfigError, match="nope: there is no such folder"):
            call()


def test_an_unknown_setting_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'denoisy': did you mean denoise\? experiments: .*; tasks: .*denoise"):
        create_config("denoisy")


def test_results_are_those_of_the_newest_run_of_exactly_that_name(folder: Path) -> None:
    outputs = folder / "outputs"
    first, second = "a_20260101_000000_zzzz", "a_20260102_000000_aaaa"
    for run in (second, first, "a_b_20260103_000000_aaaa", "a_20260104_000000", "chosen"):
        make_run(outputs, run, {"experiment_id": run})
    found = {
        "a": second,
        "a_b": "a_b_20260103_000000_aaaa",
        "chosen": "chosen",
        first: first,
        outputs / first: first,
        f"outputs/{first}/results.json": first,
    }
    for asked, run in found.items():
        assert load_results(asked)["experiment_id"] == run
    assert load_results("a", outputs=str(outputs))["experiment_id"] == second
    (outputs / second / "config.json").unlink()  # somebody's own loop needs none
    assert load_results(outputs / second)["experiment_id"] == second


def test_a_run_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run called 'a' in .*outputs: there are none"):
        load_results("a")
    make_run(folder / "outputs", "alpha_20260101_000000_zzzz")
    with pytest.raises(UserError, match=r"no run called 'alpa' in .*: did you mean alpha\?"):
        load_results("alpa")
    with pytest.raises(UserError, match="there are alpha"):
        load_results("z")
    with pytest.raises(UserError, match=r"alpha_20260101_000000_zzzz has no results\.json yet"):
        load_results("alpha")
    with pytest.raises(UserError):
        load_results("nowhere/results.json")


def test_importing_it_costs_nothing() -> None:
    heavy = "{'torch', 'hydra', 'omegaconf', 'numpy', 'rich'}"
    code = f"import train.api, sys; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_program_that_torchrun_has_started_several_times_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^run_experiment: torchrun has started this program 2 times: .*processes=2"):
        run_experiment("denoise")
