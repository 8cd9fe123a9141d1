"""The command line: commas, mistakes, help, sweeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Train, train_command, train_environment
from train.cli import rewrite

FAST = ("debug=smoke", "plots=[]")


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("tracker=wandb,trackio", "tracker=[wandb,trackio]"),
        ("diagnostics=blob,blob", "diagnostics=[blob,blob]"),
        ("tracker=null", "tracker=[]"),
        ("tracker=wandb", "tracker=wandb"),
        ("tracker=[wandb]", "tracker=[wandb]"),
        ("tracker=[wandb],[trackio]", "tracker=[wandb],[trackio]"),
        ("tracker=choice(wandb,trackio)", "tracker=choice(wandb,trackio)"),
        ("optimizer=adam,sgd", "optimizer=adam,sgd"),
        ("optimizer.lr=0.1,0.2", "optimizer.lr=0.1,0.2"),
        ("--cfg=job", "--cfg=job"),
        ("tracker=(", "tracker=("),
    ],
)
def test_a_comma_means_both_in_multi_select_groups_only(typed: str, given: str) -> None:
    assert rewrite(["-m", typed]) == ["-m", given]
    assert rewrite([typed]) == [given]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tracker=wandb,nope"], ["tracker=nope", "trackio", "tracker=[] is none"]),
        (["optimizer=adamm"], ["optimizer=adamm", "did you mean adam"]),
        (["trainer.max_epoch=3"], ["did you mean trainer.max_epochs"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs=0", "more than 0"]),
        (["trainer.max_steps=null"], ["trainer.max_epochs", "trainer.max_steps", "null"]),
        (["trainer.batch_size=abc"], ["trainer.batch_size=abc", "whole number"]),
        (["trainer.grad_accumulation=3"], ["trainer.batch_size=64", "try 63"]),
        (["trainer.device=cuda:99"], ["trainer.device=cuda:99", "trainer.device=auto"]),
        (["trainer.precision=16"], ["trainer.precision=16", "bf16"]),
        (["trainer=null"], ["trainer", "whole section"]),
        (["optimizer.lr=-1"], ["optimizer", "Invalid learning rate"]),
        (["optimizer.leraning_rate=1"], ["optimizer.leraning_rate"]),
        (["scheduler=cosine", "scheduler.warmup=-1"], ["scheduler.warmup=-1"]),
        (["tracker.wandb.project=x"], ["tracker.wandb is set", "not selected"]),
        (["+tracker.wandb.project=x"], ["tracker.wandb is set", "not selected"]),
        (["tracker=wandb", "tracker.wandb.mode=oflin"], ["tracker.wandb.mode", "oflin", "offline"]),
        (["task.data.noise_variance=-1"], ["task.data.noise_variance=-1"]),
        (["task._target_=nope.Task"], ["task", "nope", "not installed"]),
        (["task._target_=train.models.two_layer_net.TwoLayerNet"], ["task"]),
        (["checkpoint.keep_last_n=0"], ["keep_last_n", "0"]),
        (["plots=training", "plots.training.viz_interval=0"], ["plots.training", "viz_interval=0"]),
        (["diagnostics=blob", "diagnostics.blob.method=magic"], ["diagnostics.blob", "magic"]),
        (["run.notes=a,b"], ["run.notes=a,b", "-m"]),
        (["run.notes=a=b"], ["quotes"]),
        (["run.min_free_gb=1e9"], ["GB free", "run.min_free_gb"]),
        (["resume=latest"], ["resume=latest", "no run"]),
        (["resume=nowhere"], ["resume=nowhere", "no run there"]),
        (["resume=auto"], ["resume=auto", "run.id"]),
        (["run.id=../elsewhere"], ["run.id=../elsewhere", "folder's name"]),
        (["task.model.hidden=-3"], ["build_model failed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_clear_line_and_leaves_nothing_behind(
    train: Train, outputs: Path, arguments: list[str], says: list[str]
) -> None:
    done = train(*FAST, *arguments, check=False)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for words in says:
        assert words in lines[0]
    assert not list(outputs.glob("*/config.json"))


def test_the_traceback_is_there_for_those_who_want_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = train("optimizer.lr=-1", check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: optimizer: Invalid learning rate" in done.stderr


def test_a_mistake_needs_neither_a_traceback_nor_a_zero_exit_code(train_process: Train) -> None:
    done = train_process("optimizer.lr=-1", check=False)
    assert (done.returncode, done.stderr) == (1, "error: optimizer: Invalid learning rate: -1\n")


def test_flags_may_stand_anywhere(train: Train) -> None:
    assert "lr: 0.5" in train("optimizer=sgd", "--cfg", "job", "optimizer.lr=0.5").stdout


def test_help_lists_groups_values_and_examples(train: Train) -> None:
    text = train("--help").stdout
    example = "tracker=wandb,trackio diagnostics=blob"
    for words in ("tracker: trackio, wandb", "max_epochs: 50", example, "resume=latest"):
        assert words in text


def test_the_composed_configuration_can_be_printed(train: Train) -> None:
    text = train("--cfg", "job", "tracker=wandb,trackio").stdout
    assert text.index("  wandb:\n") < text.index("  trackio:\n"), "in the order selected"


def test_completion_offers_the_options_of_a_group(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "expkit-train optimizer=")
    words = train("-sc", "query=bash").stdout.split()
    assert {"optimizer=adam", "optimizer=adamw", "optimizer=sgd", "optimizer=sgld"} <= set(words)
    assert "complete" in train("-sc", "install=bash").stdout


def test_a_sweep_runs_every_value_with_both_trackers_as_one_group(train: Train, outputs: Path) -> None:
    train(*FAST, "-m", "optimizer.lr=0.001,0.003", "tracker=wandb,trackio")
    configs = [json.loads(file.read_text()) for file in outputs.glob("*/config.json")]
    assert sorted(each["config"]["optimizer"]["lr"] for each in configs) == [0.001, 0.003]
    assert all(list(each["config"]["tracker"]) == ["wandb", "trackio"] for each in configs)
    groups = {each["config"]["run"]["group"] for each in configs}
    assert len(groups) == 1
    assert None not in groups
    assert len(list(outputs.glob("*/wandb/offline-run-*/*.wandb"))) == 2


def test_a_failing_job_of_a_sweep_costs_only_itself(train: Train, outputs: Path) -> None:
    done = train(*FAST, "-m", "optimizer.lr=-1,0.003", check=False)
    assert done.returncode == 1
    assert "error: job 0: optimizer: Invalid learning rate: -1" in done.stderr
    assert [json.loads(file.read_text())["state"] for file in outputs.glob("*/status.json")] == ["finished"]


def test_an_experiment_with_a_comma_in_a_multi_select_group_gets_a_hint(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "both.yaml").write_text("# @package _global_\ndefaults:\n  - override /tracker: wandb,trackio\n")
    done = train("--config-dir", str(folder.parent), "experiment=both", check=False)
    assert done.returncode == 1
    assert "[wandb,trackio]" in done.stderr


def test_local_launcher_runs_each_job_in_a_process_of_its_own(train: Train, outputs: Path) -> None:
    train(*FAST, "-m", "hydra/launcher=local", "optimizer.lr=0.001,0.003")
    status = [json.loads(file.read_text()) for file in outputs.glob("*/status.json")]
    assert [each["state"] for each in status] == ["finished", "finished"]
    assert len({each["pid"] for each in status}) == 2


def test_a_signal_stops_the_whole_sweep(outputs: Path, tmp_path: Path) -> None:
    command = train_command(outputs, "-m", "trainer.seed=1,2", "trainer.max_epochs=100000", "tracker=[]", "plots=[]")
    process = subprocess.Popen(command, cwd=tmp_path, env=train_environment(tmp_path), stderr=subprocess.DEVNULL)
    while not list(outputs.glob("*/checkpoints/*.pt")):
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert [json.loads(file.read_text())["state"] for file in outputs.glob("*/status.json")] == ["preempted"]


def test_a_sweep_writes_no_secret_either(train: Train, outputs: Path) -> None:
    train(*FAST, "-m", "+my.api_token=hunter2", "trainer.seed=1")
    text = next(outputs.glob("multirun/*/multirun.yaml")).read_text()
    assert "hunter2" not in text
    assert "my.api_token=***" in text


@pytest.mark.parametrize("words", ["expkit-train optimizer=a", "python -m train optimizer=a"])
def test_completion_works_in_bash(train: Train, tmp_path: Path, words: str) -> None:
    (tmp_path / "complete.sh").write_text(
        f"PATH={Path(sys.executable).parent}:$PATH\n"
        + train("-sc", "install=bash").stdout
        + f"\nCOMP_LINE='{words}' COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1}\n"
        + '_expkit_train\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", tmp_path / "complete.sh"], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["optimizer=adam", "optimizer=adamw"], done.stderr
