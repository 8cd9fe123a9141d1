"""`cluster=...`: what jobs ask SLURM for, checked before anything is submitted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from expkit.errors import ConfigError
from tests.conftest import CONF, Train, options
from train.config.cluster import check_cluster, enter_cluster, minutes, setup_lines
from train.config.compose import compose, hydra_with


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *(("90min", 90), ("90 m", 90), ("1.5h", 90), ("2d", 2880), ("30:00", 30), ("2:30:00", 150), ("1-00", 1440)),
        *(("1-12:30", 2190), ("1-12:00:00", 2160), ("0:00:01", 1)),
    ],
)
def test_a_time_limit_is_written_with_a_unit_or_as_for_sbatch(written: str, expected: int) -> None:
    assert minutes(written) == expected


@pytest.mark.parametrize("written", [86400, 24, True, None, "24", "0h", "soon", "-1h", "1:2:3:4", ""])
def test_a_time_limit_that_can_be_misread_is_refused(written: object) -> None:
    with pytest.raises(ConfigError, match=r"^cluster\.time=.*(24h)"):
        minutes(written)


def test_what_a_cluster_file_says_reaches_the_launcher() -> None:
    typed = ["hydra/launcher=slurm", "cluster=example", "cluster.time=90min", "cluster.modules=[gcc]"]
    typed += ["+cluster.options.reservation=friday", "cluster.max_jobs=7", "hydra.launcher.partition=other"]
    with hydra_with():
        config = compose(typed)
    launcher = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    asked = {key: config.hydra.launcher[key] for key in launcher if key not in ("name", "submitit_folder")}
    assert asked["timeout_min"] == 90
    assert asked["partition"] == "other", "what is typed for the launcher wins"
    assert (asked["gpus_per_node"], asked["cpus_per_task"], asked["mem_gb"]) == (1, 8, 64)
    assert asked["array_parallelism"] == 7
    assert asked["additional_parameters"] == {"reservation": "friday"}
    assert any("module load gcc" in line for line in asked["setup"])
    assert asked["account"] is None


def test_jobs_that_may_be_requeued_ask_for_it_and_for_what_the_file_says() -> None:
    typed = ["hydra/launcher=slurm_requeue", "cluster=example", "+cluster.options.reservation=friday"]
    with hydra_with():
        launcher = compose([*typed, "cluster.signal_delay=60"]).hydra.launcher
        assert launcher.additional_parameters == {"reservation": "friday", "requeue": True}
        assert (launcher.partition, launcher.signal_delay_s) == ("gpu", 60)


def test_a_module_that_is_missing_ends_the_job_there_and_says_so() -> None:
    lines = "\n".join([*setup_lines(["cuda/12.6"], []), "echo trained"])
    without = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert without.returncode == 1
    assert "cluster.modules: module load cuda/12.6 failed on this node" in without.stderr
    assert "trained" not in without.stdout
    there = subprocess.run(
        ["bash", "-c", f"module() {{ echo loaded $2; }}\n{lines}"], capture_output=True, text=True, check=True
    )
    assert there.stdout == "loaded cuda/12.6\ntrained\n"


@pytest.mark.parametrize("option", options("cluster"))
def test_every_cluster_file_is_in_order(option: str) -> None:
    with hydra_with():
        check_cluster(compose([f"cluster={option}"]).cluster)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nodes": 0}, r"cluster\.nodes=0: it must be a whole number, at least 1"),
        ({"gpus_per_node": "two"}, r"cluster\.gpus_per_node=two: .*, or null for none"),
        ({"mem_gb": 0}, r"cluster\.mem_gb=0: .*, or null for the cluster's default"),
        ({"partition": ""}, r"cluster\.partition="),
        ({"partion": "gpu"}, r"there is no cluster\.partion: did you mean cluster\.partition\?"),
        ({"modules": "cuda"}, r"cluster\.modules=cuda: it must be a list of texts"),
        ({"env": "A=1"}, r"cluster\.env=A=1: it must be a mapping"),
        ({"env": {"A B": 1}}, r"cluster\.env: 'A B' is no name"),
        ({"env": {"DEBUG": True}}, r"cluster\.env\.DEBUG=true: it must be a text or a number"),
        ({"env": {"WANDB_API_KEY": "0123456789"}}, r"cluster\.env\.WANDB_API_KEY: keys and passwords do not belong"),
        ({"stage": ["task.data.path"]}, r"cluster\.stage names what is copied to cluster\.scratch, which is null"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_one_line(changed: dict[str, Any], says: str) -> None:
    section = OmegaConf.load(CONF / "cluster" / "default.yaml")
    for key, value in changed.items():
        section[key] = value
    with pytest.raises(ConfigError, match=says) as refused:
        check_cluster(section)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_built_on_nothing_is_told_what_to_build_on(train: Train, tmp_path: Path) -> None:
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    (tmp_path / "conf" / "cluster" / "on_nothing.yaml").write_text("partition: gpu\n")
    done = train("--config-dir", "conf", "cluster=on_nothing", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: cluster has no account: its file should begin with the line `defaults: [default]`\n"


def test_variables_of_the_cluster_are_set_for_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "elsewhere")
    section = OmegaConf.merge(OmegaConf.load(CONF / "cluster" / "default.yaml"), {"env": {"HF_HOME": "/scratch/hf"}})
    enter_cluster(section)
    assert os.environ["HF_HOME"] == "/scratch/hf"
