"""Sweeps whose jobs SLURM would run: here a stand-in for its executor calls them, at once or when a test says so."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from expkit.cli.sweep import find_sweep
from expkit.errors import ConfigError
from expkit.sweep.folder import SweepDir
from expkit.sweep.report import SweepReport
from sweeps import launching, local
from sweeps.resubmit import main as resubmit
from sweeps.resubmit import must_be_typed
from sweeps.settings import settings_of
from sweeps.sweeper import covering
from tests.conftest import Train
from tests.sweeps.conftest import Executor

TINY = ("debug=smoke", "plots=[]", "task.model.hidden=8", "checkpoint.save_interval=10")
SWEEP = (*TINY, "-m", "hydra/launcher=slurm")


def states(outputs: Path) -> dict[int, str]:
    folder = find_sweep(None, outputs)
    return {number: job.state for number in folder.numbers() if (job := folder.job(number)) is not None}


def runs(outputs: Path) -> list[Path]:
    return sorted(path.parent for path in outputs.glob("*/config.json"))


def test_a_job_that_fails_hides_no_other_and_each_has_its_own_value(
    train: Train, executor: Executor, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[Any] = []
    launch = launching.launch
    monkeypatch.setattr(launching, "launch", lambda *all_: returned.extend(launch(*all_)) or returned)
    done = train(*SWEEP, "optimizer.lr=0.01,oops,0.02", check=False)
    folder = find_sweep(None, outputs)
    assert done.returncode == 1
    assert states(outputs) == {0: "done", 1: "failed", 2: "done"}
    assert "2 done, 1 failed; the table: expkit sweep " in done.stdout
    assert "job 1 failed: optimizer.lr=oops: it must be a number" in done.stderr
    assert "job 2 done (optimizer.lr=0.02), best val_loss " in done.stderr
    suffix = folder.read()["suffix"]
    assert [run.name for run in runs(outputs)] == [f"denoise_two_layer_net_adam_smoke_{suffix}-{n}" for n in (0, 2)]
    report = SweepReport.read(folder)
    assert report.metric == "best_val_loss" and report.best is not None
    assert report.value(report.best) == report.best.file.value
    best = [json.loads((run / "results.json").read_text())["final_metrics"]["best_val_loss"] for run in runs(outputs)]
    assert [each.return_value for each in returned] == [pytest.approx(best[0]), None, pytest.approx(best[1])]


def test_submitted_and_not_waited_for(train: Train, executor: Executor, outputs: Path) -> None:
    executor.at_once = False
    done = train(*SWEEP, "optimizer.lr=0.01,0.02", "sweep.wait=false", "task.lambda_on=2.0")
    folder = find_sweep(None, outputs)
    assert "submitted 2 jobs to SLURM: 7; how they stand: expkit sweep " in done.stdout
    assert states(outputs) == {0: "queued", 1: "queued"} and runs(outputs) == []
    promised = [folder.run_of(job) for n in (0, 1) if (job := folder.job(n)) is not None]
    executor.call(1)
    assert states(outputs) == {0: "queued", 1: "done"}
    assert [run.resolve() for run in runs(outputs)] == [promised[1] and promised[1].resolve()]
    assert folder.submitted()[0].jobs == {0: "7_0", 1: "7_1"}


def test_a_job_that_is_requeued_goes_on_in_its_own_directory(train: Train, executor: Executor, outputs: Path) -> None:
    executor.at_once = False
    train(*SWEEP, "optimizer=adam,sgd", "sweep.wait=false")
    folder = find_sweep(None, outputs)
    assert {job.run for n in (0, 1) if (job := folder.job(n)) is not None} == {None}  # its name depends on the job
    for number in (0, 0, 1):
        executor.call(number)
    names = [
        f"denoise_two_layer_net_{name}_smoke_{folder.read()['suffix']}-{n}" for n, name in enumerate(("adam", "sgd"))
    ]
    restarts = {run.name: json.loads((run / "status.json").read_text())["restarts"] for run in runs(outputs)}
    assert restarts == dict(zip(names, (1, 0), strict=True))
    assert pickle.loads(executor.jobs[0]).checkpoint().function == pickle.loads(executor.jobs[0])


def test_names_that_are_made_of_values_are_known_when_the_jobs_start(
    train: Train, executor: Executor, outputs: Path
) -> None:
    executor.at_once = False
    train(*SWEEP, "optimizer.lr=0.1,0.2", "run.variant='lr${optimizer.lr}'", "sweep.wait=false")
    folder = find_sweep(None, outputs)
    assert [job.run for n in (0, 1) if (job := folder.job(n)) is not None] == [None, None]


def test_failed_jobs_are_run_again_with_another_setting(train: Train, executor: Executor, outputs: Path) -> None:
    train(*SWEEP, "optimizer.lr=0.01,oops", check=False)
    folder = find_sweep(None, outputs)
    assert resubmit([str(folder.root), "1", "optimizer.lr=0.02"]) == 0
    assert states(outputs) == {0: "done", 1: "done"}
    assert len(runs(outputs)) == 2 and len(list((outputs / "multirun").iterdir())) == 1
    again = folder.job(1)
    assert again is not None and "optimizer.lr=0.02" in again.overrides


def test_nothing_from_a_sweeps_folder_is_executed(
    train: Train, executor: Executor, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    executor.at_once = False
    train(*SWEEP, "trainer.seed=1,2", "sweep.wait=false")
    folder = find_sweep(None, outputs)
    job = json.loads(folder.file(1).read_text())
    folder.file(1).write_text(json.dumps({**job, "overrides": ["task._target_=os.system"]}))
    capfd.readouterr()
    assert resubmit([str(folder.root), "1"]) == 1
    assert "task._target_=os.system is not taken from the sweep's folder: type it again" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("override", "typed"),
    [
        ("task._target_=os.system", True),
        ("+task.data={_target_:os.system}", True),
        ("hydra.launcher.setup=[x]", True),
        ("+hydra.launcher.python=x", True),
        ("cluster.env.LD_PRELOAD=x", True),
        ("hydra.job.env_set.A=x", True),
        ("hydra.searchpath=[file:///x]", True),
        ("tracker.wandb.api_key=***", True),
        ("optimizer.lr=0.1", False),
        ("hydra.launcher.timeout_min=60", False),
        ("hydra/launcher=slurm", False),
        ("task.environment=x", False),
    ],
)
def test_what_could_make_something_run_is_typed_again(override: str, typed: bool) -> None:
    assert must_be_typed(override) is typed


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"wait": "maybe"}, "sweep.wait=maybe: it must be true or false"),
        ({"parallel": 0}, "sweep.parallel=0: it must be auto, or a number of jobs from 1"),
        ({"paralel": 2}, "there is no sweep.paralel: sweep has wait, parallel"),
    ],
)
def test_settings_that_cannot_be_are_refused(section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        settings_of(OmegaConf.create({"sweep": section}))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("cluster.nodes=0",), "cluster.nodes=0: it must be a whole number"),
        (("sweep=seedss",), "sweep=seedss: there is no such option; did you mean seeds?"),
        (("optimizer=adam,nope",), "optimizer=nope: there is no such option"),
        (("hydra/launcher=basic", "sweep.wait=false"), "sweep.wait=false: jobs go on by themselves with"),
        (("hydra/launcher=local", "hydra.launcher.gpus_per_node=999"), "gpus_per_node=999: this machine has"),
        (
            ("hydra/launcher=local", "sweep.wait=false", "responses.webhook=https://user:password@example.org"),
            "the overrides of job 0 hold what looks like a secret",
        ),
    ],
)
def test_a_sweep_that_cannot_be_leaves_nothing(
    train: Train, executor: Executor, outputs: Path, overrides: Sequence[str], line: str
) -> None:
    done = train(*SWEEP, *overrides, check=False)
    assert done.returncode == 1 and line in done.stderr and "Traceback" not in done.stderr
    assert [*outputs.glob("multirun/*")] == []


def test_two_sweeps_do_not_share_a_folder(train: Train, executor: Executor, outputs: Path) -> None:
    executor.at_once = False
    sweep = (*SWEEP, "trainer.seed=1,2", "hydra.sweep.dir=mine", "sweep.wait=false")
    train(*sweep)
    done = train(*sweep, check=False)
    assert done.returncode == 1 and "hydra.sweep.dir=mine: another sweep is there" in done.stderr
    assert len(executor.jobs) == 2


def test_a_sweep_without_a_launcher_of_ours_has_its_folder_too(train: Train, outputs: Path) -> None:
    done = train(*TINY, "-m", "optimizer.lr=0.01,oops", check=False)
    assert done.returncode == 1
    assert states(outputs) == {0: "done", 1: "failed"}
    job = find_sweep(None, outputs).job(0)
    assert job is not None and find_sweep(None, outputs).run_of(job) is not None
    assert "1 done, 1 failed; the table: expkit sweep " in done.stdout


def test_as_many_jobs_are_composed_as_tell_of_all() -> None:
    batch = [[f"optimizer={name}", f"trainer.seed={seed}"] for name in ("adam", "sgd") for seed in range(50)]
    assert covering(batch) == [batch[0], batch[50]]


@pytest.mark.parametrize(
    ("params", "parallel", "gpus", "seen"),
    [
        ({}, None, [], ["-"]),
        ({}, 3, [], ["-", "-", "-"]),
        ({}, None, ["0", "1"], ["0", "1"]),
        ({"gpus_per_node": 2}, None, ["0", "1", "2", "3"], ["0,1", "2,3"]),
        ({"gpus_per_node": 1}, 3, ["5", "7"], ["5", "7", "5"]),
        ({}, 1, ["0", "1"], ["-"]),  # one job at a time sees all of them
        ({"gpus_per_node": 0}, 2, ["0"], ["-", "-"]),
    ],
)
def test_local_jobs_share_the_gpus(
    monkeypatch: pytest.MonkeyPatch, params: dict[str, int], parallel: int | None, gpus: list[str], seen: list[str]
) -> None:
    monkeypatch.setattr(local, "_gpus", lambda: gpus)
    slots = local.slots_for(params, parallel)
    python = [str(slot.get("python", "CUDA_VISIBLE_DEVICES=- ")) for slot in slots]
    assert [each.partition("DEVICES=")[2].split(" ")[0].strip("'") for each in python] == seen


def test_a_thousand_jobs_take_no_more_memory_or_files_than_they_need(
    train: Train, executor: Executor, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.at_once = False
    composed: list[int] = []
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *a, **k: composed.append(1) or load(*a, **k))
    train(*SWEEP, "trainer.seed=range(60)", "sweep.wait=false")
    assert len(composed) == 1 and len(executor.jobs) == 60
    folder = SweepDir(find_sweep(None, outputs).root)
    assert len(folder.numbers()) == 60 and len(folder.submitted()) == 1
    # What they share is pickled once. (A pickle begins with its length.)
    assert len({job.split(b"trainer.seed=")[0][16:] for job in executor.jobs}) == 1


@pytest.mark.slow
def test_joblib_of_hydra_works(train_process: Train, outputs: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = train_process(*TINY, "-m", *joblib, "optimizer.lr=0.01,oops,0.02", check=False)
    assert done.returncode == 1 and states(outputs) == {0: "done", 1: "failed", 2: "done"}
    assert "2 done, 1 failed" in done.stdout
