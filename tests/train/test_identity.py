"""One run, one identity: what a run is called, the same in every tool, and one run for all that belongs to it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expkit.importing import importing
from tests.conftest import Train, train_environment
from tests.expkit.trackers.conftest import WandbFile

FAST = (
    *("task.model.hidden=16", "trainer.max_steps=4", "trainer.log_interval=1", "plots=[]", "checkpoint=none"),
    "tracker=wandb,trackio,tensorboard",
)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    (database,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        return connection.execute(sql).fetchall()


def about(run: Path) -> dict[str, str]:
    """Return the text `about/run` of a run's event files: name -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    (event,) = events.Tensors("about/run")
    text = event.tensor_proto.string_val[0].decode()
    return dict(re.findall(r"^\* (\w+): `(.*)`$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a sweep over two optimizers was run."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "train", "run.min_free_gb=0", *FAST, "-m", "optimizer=adam,sgd", "run.tags=[a,7]"]
    done = subprocess.run(command, cwd=folder, env=train_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_jobs_of_a_sweep_are_runs_of_their_own_named_after_their_configuration(sweep: Path) -> None:
    runs = {file.parent.name: json.loads(file.read_text()) for file in sweep.glob("outputs/*/config.json")}
    names = {run_id: stored["config"]["run"]["name"] for run_id, stored in runs.items()}
    assert sorted(names.values()) == ["denoise_two_layer_net_adam", "denoise_two_layer_net_sgd"]
    for run_id, name in names.items():
        assert run_id.startswith(f"{name}_")
        (file,) = (sweep / "outputs" / run_id).glob("wandb/offline-run-*/*.wandb")
        (begun,) = WandbFile(file).of_type("run")
        assert (begun["run_id"], begun["display_name"]) == (run_id, name)
        assert about(sweep / "outputs" / run_id)["name"] == name
    steps = rows(sweep, "SELECT run_id, run_name, step FROM metrics GROUP BY 1, 2, 3 ORDER BY 1, 3")
    assert steps == [(run_id, run_id, step) for run_id in sorted(names) for step in range(1, 5)]


def test_the_runs_of_a_sweep_are_one_group_in_every_tracker_called_as_its_folder(sweep: Path) -> None:
    (folder,) = (sweep / "outputs" / "multirun").iterdir()
    groups = [json.loads(config)["_Group"] for (config,) in rows(sweep, "SELECT config FROM configs")]
    assert groups == [folder.name] * 2
    for run in {file.parent for file in sweep.glob("outputs/*/config.json")}:
        (file,) = run.glob("wandb/offline-run-*/*.wandb")
        (begun,) = WandbFile(file).of_type("run")
        assert (begun["run_group"], begun["tags"]) == (folder.name, ["a", "7"])
        assert about(run)["group"] == folder.name


def test_no_tracker_has_trouble_with_a_tag_that_is_a_number(sweep: Path) -> None:
    assert [json.loads(file.read_text())["trackers"] for file in sweep.glob("outputs/*/status.json")] == [{}, {}]


def test_a_name_and_a_group_of_ones_own_win(train: Train, outputs: Path) -> None:
    train(*FAST, "tracker=[]", "-m", "optimizer=sgd", "run.group=mine", "run.name=my run")
    (stored,) = [json.loads(file.read_text()) for file in outputs.glob("*/config.json")]
    assert (stored["config"]["run"]["name"], stored["config"]["run"]["group"]) == ("my run", "mine")
    assert stored["experiment_id"].startswith("my-run_")


def test_tags_without_brackets_are_one_line_that_shows_them(train: Train) -> None:
    done = train("run.tags=a,b", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "for a list write run.tags=[a,b]" in done.stderr
    done = train("run.tags=a", check=False)
    assert done.stderr == "error: run.tags=a: it must be a list, run.tags=[one,two], or [] for none\n"


@pytest.fixture
def my_conf(tmp_path: Path) -> Path:
    """The folder with the experiment file that docs/trackers.md shows."""
    page = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text()
    (text,) = re.findall(r"<!-- experiment file -->\n```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment" / "baseline.yaml").write_text(text)
    return tmp_path / "my_conf"


def test_defaults_from_a_file_are_as_the_page_says_and_what_is_typed_wins(
    train: Train, outputs: Path, my_conf: Path
) -> None:
    small = ("task.model.hidden=16", "trainer.max_steps=2", "plots=[]", "checkpoint=none", "run.id=one")
    train("--config-dir", str(my_conf), "experiment=baseline", "run.name=again", "tracker=trackio", *small)
    config = json.loads((outputs / "one" / "config.json").read_text())["config"]
    run = {key: config["run"][key] for key in ("project", "name", "group", "tags")}
    assert run == {
        "project": "ratio-study",
        "name": "again",
        "group": "ratio-ablation",
        "tags": ["ablation", "step-05"],
    }
    assert list(config["tracker"]) == ["trackio"] and config["tracker"]["trackio"]["project"] == "ratio-study"
    shown = train("--config-dir", str(my_conf), "experiment=baseline", "--cfg", "job", "--package", "tracker").stdout
    assert re.findall(r"^(\w+):$", shown, re.MULTILINE) == ["wandb", "trackio"]
    typed = ("run.project=ratio-study", "run.name=baseline-adamw", "run.group=ratio-ablation")
    typed += ("tracker=wandb,trackio", "optimizer=adamw", "run.tags=[ablation,step-05]")
    as_typed = train(*typed, "--cfg", "job").stdout
    from_file = train("--config-dir", str(my_conf), "experiment=baseline", "--cfg", "job").stdout
    assert from_file == as_typed, "the columns of the table mean the same"


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--tracker=wandb,trackio", "tracker=wandb,trackio"),
        ("--tracker-project=p", "run.project=p"),
        ("--tracker-run-name=n", "run.name=n"),
        ("--tracker-tags=a,b", "run.tags=[a,b]"),
        ("--tracker-group=g", "run.group=g"),
    ],
)
def test_a_flag_of_another_trainer_is_answered_with_what_is_written_here(flag: str, instead: str, train: Train) -> None:
    for typed in ([flag], flag.split("=")):
        done = train(*typed, check=False)
        assert done.returncode == 2
        assert f"without dashes: {instead}; " in done.stderr and done.stderr.count("\n") == 1


def _rank(rank: int, folder: Path, group: bool) -> None:
    """Deliver the records of a run, as each of two processes that train together would."""
    os.chdir(folder)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "TRACKIO_DIR": str(folder / "trackio")}
    if group:
        with importing():
            import torch

        del os.environ["RANK"], os.environ["WORLD_SIZE"]  # as where processes were not started by torchrun
        where = f"file://{folder / 'ranks'}"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    from expkit.record import Record
    from expkit.trackers import Delivery, RunInfo
    from expkit.trackers.trackio import TrackioTracker

    delivery = Delivery({"trackio": TrackioTracker()}, start_timeout=30)
    run = RunInfo(id="toy_1", dir=folder / "run", project="test")
    delivery.start(run)
    for step in range(1, 6):
        delivery.log(Record(step, 0, 1.7e9 + step, {"train_loss": 1 / step}))
    delivery.finish()
    assert delivery.failures() == {}
    assert len(delivery.where(run)) == (1 if rank == 0 else 0)


@pytest.mark.parametrize("group", [True, False], ids=["gloo", "before there is a group"])
def test_of_two_processes_that_train_together_one_logs(group: bool, tmp_path: Path) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_rank, args=(rank, tmp_path, group)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert rows(tmp_path, "SELECT run_id, step FROM metrics ORDER BY id") == [("toy_1", step) for step in range(1, 6)]


ENVIRONMENTS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"RANK": "0", "WORLD_SIZE": "2"}, True),
    ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    ({"RANK": "3"}, True),
]


@pytest.mark.parametrize(("environment", "logs"), ENVIRONMENTS)
def test_rank_0_is_the_main_process(environment: dict[str, str], logs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from expkit.dist import is_main_process

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() == logs
