"""The command line: commas, mistakes, help, sweeps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Train
from tests.train.forked import Forked
from train.cli.main import rewrite

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
    ("typed", "line"),
    [
        ("hydra/launcher=slurm", "hydra/launcher=slurm: without -m this would train here and now"),
        ("hydra/launcher=local", "hydra/launcher=local: without -m"),
        ("sweeps=seeds", "there is no sweeps: did you mean sweep=...?"),
        ("cluster=nobodys", "yours is a copy of conf/cluster/example.yaml"),
    ],
)
def test_what_is_meant_for_sweeps_is_not_passed_over(train: Train, outputs: Path, typed: str, line: str) -> None:
    done = train(typed, check=False)
    assert done.returncode == 1 and line in done.stderr and done.stderr.count("\n") == 1
    assert not outputs.exists() or not [*outputs.iterdir()]


def test_a_setting_of_ones_own_may_be_called_like_a_group(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "conf" / "task" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: my_package.MyTask\nmodel: resnet18\n")
    arguments = ("--cfg", "job", "--config-dir", str(tmp_path / "conf"), "task=mine")
    assert "model: resnet50" in train(*arguments, "task.model=resnet50").stdout


def test_the_traceback_is_there_for_those_who_want_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = train("optimizer.lr=-1", check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: optimizer.lr=-1: Invalid learning rate: -1" in done.stderr


def test_a_mistake_needs_neither_a_traceback_nor_a_zero_exit_code(train_process: Train) -> None:
    done = train_process("optimizer.lr=-1", check=False)
    said = "error: optimizer.lr=-1: Invalid learning rate: -1 (default: 0.003)\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_flags_may_stand_anywhere(train: Train) -> None:
    assert "lr: 0.5" in train("optimizer=sgd", "--cfg", "job", "optimizer.lr=0.5").stdout


def test_help_lists_groups_values_and_examples(train: Train) -> None:
    text = train("--help").stdout
    example = "tracker=wandb,trackio diagnostics=blob"
    for words in (
        "trackio, wandb\n",
        "max_epochs: 50",
        example,
        "resume=latest",
        "local, slurm, slurm_requeue",
    ):
        assert words in text


def test_help_says_what_keys_mean_with_the_comments_of_their_files(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "conf" / "optimizer" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1  # of every layer\nnesterov: false\n")
    text = train("--help", "--config-dir", str(tmp_path / "conf"), "optimizer=mine", "tracker=wandb").stdout
    said = {line.split("#")[0].strip(): line.partition("# ")[2] for line in text.splitlines()}
    assert said["clip_grad_norm: null"] == "largest norm of the gradient; logs gradient_norm"
    assert said["lr: 0.1"] == "of every layer"
    assert said["nesterov: false"] == ""
    assert said["entity: null"] == "user or team; null: your default"
    assert "_target_" not in text


def test_the_composed_configuration_can_be_printed(train: Train) -> None:
    text = train("--cfg", "job", "tracker=wandb,trackio").stdout
    assert text.index("  wandb:\n") < text.index("  trackio:\n"), "in the order selected"


def test_completion_offers_the_options_of_a_group(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "expkit-train optimizer=")
    words = train("-sc", "query=bash").stdout.split()
    assert {"optimizer=adam", "optimizer=adamw", "optimizer=sgd", "optimizer=sgld"} <= set(words)
    assert "complete" in train("-sc", "install=bash").stdout


def test_completion_offers_what_can_be_resumed(
    train: Train, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        return [word.removeprefix("resume=") for word in train("-sc", "query=bash").stdout.split()]

    for name in ("one", "two"):
        (outputs / name / "checkpoints").mkdir(parents=True)
        (outputs / name / "config.json").write_text("{}")
    (outputs / "no_run").mkdir()
    (outputs / "two" / "checkpoints" / "checkpoint_step_9.pt").touch()
    assert offered("python -m train resume=") == ["ask", "auto", "latest", "never", "outputs/one", "outputs/two"]
    assert offered("expkit-train trainer.seed=1 resume=l") == ["latest"]
    assert offered("expkit-train resume=outputs/two/") == ["outputs/two/checkpoints/checkpoint_step_9.pt"]
    snapshot = outputs / "two" / "snapshots" / "anomaly_20251112_143022_divergence_detected"
    snapshot.mkdir(parents=True)
    assert offered("expkit-train resume=outputs/two/sn") == [str(snapshot.relative_to(tmp_path))]
    assert offered(f"expkit-train run.outputs={outputs} resume={outputs}/o") == [f"{outputs}/one"]
    monkeypatch.setenv("COMP_LINE", "expkit-train resume=latest optimizer=sgl")
    monkeypatch.delenv("COMP_POINT")
    assert train("-sc", "query=bash").stdout.split() == ["optimizer=sgld"]


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
    assert "error: job 0: optimizer.lr=-1: Invalid learning rate: -1" in done.stderr
    assert [json.loads(file.read_text())["state"] for file in outputs.glob("*/status.json")] == ["finished"]


def test_an_experiment_with_a_comma_in_a_multi_select_group_gets_a_hint(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "both.yaml").write_text("# @package _global_\ndefaults:\n  - override /tracker: wandb,trackio\n")
    done = train("--config-dir", str(folder.parent), "experiment=both", check=False)
    assert done.returncode == 1
    assert "[wandb,trackio]" in done.stderr


def test_local_launcher_runs_each_job_in_a_process_of_its_own(train: Train, outputs: Path) -> None:
    train(*FAST, "tracker=[]", "-m", "hydra/launcher=local", "optimizer.lr=0.001,0.003")
    status = [json.loads(file.read_text()) for file in outputs.glob("*/status.json")]
    assert [each["state"] for each in status] == ["finished", "finished"]
    assert len({each["pid"] for each in status}) == 2


def test_a_signal_stops_the_whole_sweep(outputs: Path, tmp_path: Path) -> None:
    process = Forked(outputs, "-m", "trainer.seed=1,2", "trainer.max_epochs=100000", "tracker=[]", "plots=[]")
    while not list(outputs.glob("*/checkpoints/*.pt")):
        assert process.read(0.005), process.said
    process.send(signal.SIGTERM)
    assert process.end() == 143, process.said
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


def test_ctrl_c_is_not_lost_while_torch_is_imported() -> None:
    """torch imports NumPy in C++ and swallows what that raises, unless it is there by then."""
    program = """
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "torch":
            print("numpy" in sys.modules)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from train.__main__ import main
print(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "130"]
