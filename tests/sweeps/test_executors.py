"""submitit's executors as the presets describe them, and one line for what SLURM would refuse."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from expkit.errors import ConfigError, UserError
from sweeps.executors import check_executor, make_executor

PARTITIONS = "debug*|1:00:00\ngpu|2-00:00:00\nlong|infinite"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for SLURM's commands: sbatch accepts everything, and keeps the script that it was asked about."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder, "srun", "true")
    command(folder, "sbatch", f"cat > {tmp_path}/script")
    command(folder, "sinfo", f"printf '%s\\n' '{PARTITIONS}'")
    command(folder, "sacctmgr", "echo vision; echo audio")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def refuse(folder: Path, said: str) -> None:
    command(folder, "sbatch", f"cat > /dev/null; echo '{said}' >&2; exit 1")


def test_parameters_of_the_presets_reach_sbatch(slurm: Path, tmp_path: Path) -> None:
    params = {
        "_target_": "x", "submitit_folder": "y", "name": "train", "partition": "gpu", "timeout_min": 90, "nodes": 2,
        "tasks_per_node": 4, "gpus_per_node": 4, "cpus_per_task": 8, "mem_gb": None, "setup": ["module load cuda"],
        "additional_parameters": {"reservation": "friday"}, "array_parallelism": 7, "max_num_timeout": 5,
        "signal_delay_s": 60,
    }  # fmt: skip
    executor = make_executor("slurm", params, tmp_path / "%j")
    text = executor._executor._make_submission_file_text("true", "x")
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=4", "--reservation=friday", "--signal=USR2@60"):
        assert f"#SBATCH {line}\n" in text
    assert "module load cuda" in text and "--mem" not in text
    assert executor._executor.max_num_timeout == 5
    assert executor._executor.parameters["array_parallelism"] == 7


def test_a_local_job_sees_the_gpus_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    executor = make_executor("local", {"timeout_min": 1, "partition": "ignored", "cpus_per_task": 2}, tmp_path)
    job = executor.submit(os.environ.get, "CUDA_VISIBLE_DEVICES")
    assert job.result() == "1,3"


def test_the_test_asks_with_the_very_parameters(slurm: Path, tmp_path: Path) -> None:
    check_executor("slurm", {"partition": "gpu", "timeout_min": 30, "account": "vision", "qos": "high"})
    script = (tmp_path / "script").read_text()
    assert all(f"#SBATCH --{each}\n" in script for each in ("partition=gpu", "account=vision", "qos=high", "time=30"))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "allocation failure: Invalid partition name specified",
            "cluster.partition=gpux: SLURM says: Invalid partition name specified; there are: debug, gpu, long",
        ),
        (
            "sbatch: error: allocation failure: Invalid account or account/partition combination specified",
            "cluster.account=nobody: SLURM says: Invalid account or account/partition combination specified; "
            "there are: audio, vision",
        ),
        ("sbatch: error: Invalid qos specification", "cluster.qos=high: SLURM says: Invalid qos specification"),
        ("sbatch: error: Memory specification can not be satisfied", "cluster.mem_gb=640: SLURM says: Memory"),
        ("sbatch: error: Invalid generic resource (gres) specification", "specification; null asks for none"),
        ("sbatch: error: Invalid --signal specification", "cluster.signal_delay: SLURM says: Invalid --signal"),
        ("sbatch: error: Job violates a rule", "SLURM would refuse these jobs: Job violates a rule"),
        ("sbatch: fatal: Could not establish a configuration source", "no cluster answers here (Could not"),
    ],
)
def test_what_sbatch_refuses_is_one_line(slurm: Path, said: str, line: str) -> None:
    refuse(slurm, said)
    with pytest.raises(UserError) as caught:
        asked = {"partition": "gpux", "account": "nobody", "qos": "high", "timeout_min": 5, "mem_gb": 640}
        check_executor("slurm", asked)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "fits"),
    [
        ({"timeout_min": 61}, False),
        ({"timeout_min": 60}, True),
        ({"timeout_min": 2881, "partition": "gpu"}, False),
        ({"timeout_min": 2880, "partition": "gpu"}, True),
        ({"timeout_min": 99999, "partition": "long"}, True),
        ({"timeout_min": 99999, "partition": "gpu,long"}, True),
        ({"timeout_min": 99999, "additional_parameters": {"time": "10"}}, True),
    ],
)
def test_a_time_limit_above_the_partitions_is_refused(slurm: Path, params: dict[str, object], fits: bool) -> None:
    if fits:
        check_executor("slurm", params)
        return
    with pytest.raises(ConfigError, match=r"cluster\.time=\d+min: partition \w+ ends jobs after (60|2880) minutes"):
        check_executor("slurm", params)


def test_without_sbatch_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"hydra/launcher=slurm: there is no sbatch here: .*hydra/launcher=local"):
        check_executor("slurm", {})


@pytest.mark.parametrize(
    ("kind", "params", "line"),
    [
        ("local", {"nodes": 2}, r"hydra\.launcher\.nodes=2: hydra/launcher=local has one node"),
        ("local", {"tasks_per_node": 2}, r"hydra\.launcher\.tasks_per_node=2: .* trainer\.processes=2$"),
        ("local", {"partitoin": "x"}, r"hydra\.launcher\.partitoin: .* did you mean partition\?"),
        ("local", {"timeout_min": "x"}, r"hydra\.launcher: .*timeout_min"),
    ],
)
def test_parameters_that_cannot_be_are_refused(kind: str, params: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        check_executor(kind, params)  # type: ignore[arg-type]
