"""A SLURM of two nodes for the tests here. Where there is none they are skipped, and what is missing is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm.jobs import ROOT, TYPED, Case, ask

SCRIPT = Path(__file__).with_name("cluster.sh")


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs, and its folder."""

    folder: Path

    def node_of(self, job: str) -> str:
        """Return the node that a job runs on."""
        return ask("squeue", "-h", "-j", job, "-o", "%N").strip()

    def lose(self, node: str) -> None:
        """Let a node die with all that runs there."""
        ask(str(SCRIPT), "lose", str(self.folder), node)

    def restore(self, node: str) -> None:
        """Let it come back."""
        ask(str(SCRIPT), "restore", str(self.folder), node)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of this test process; the tests use it through `slurm`."""
    folder = Path(tempfile.mkdtemp(prefix="expkit-slurm-"))
    environment = {**os.environ, "KILL_WAIT": "12"}
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, env=environment)
    if started.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        why = started.stderr.strip().splitlines()[-1]
        assert "missing" in why or "need root" in why, why
        pytest.skip(f"no SLURM here: {why.removeprefix('error: ')}")
    try:
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """SLURM's commands work in this test, as on a login node."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.folder / "slurm.conf"))
    return cluster


@pytest.fixture
def case(slurm: Cluster, tmp_path: Path) -> Iterator[Case]:
    """A folder to type commands in; its jobs do not outlive the test."""
    case = Case(tmp_path)
    yield case
    ask("scancel", "--user=root", "--full")


@pytest.fixture
def sbatch(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call as `sbatch("--time=2")`: submit a script with these options, and return the job's number."""
    monkeypatch.chdir(case.folder)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def submit(*options: str, more: str = "optimizer.lr=0.001", script: str = "train.sbatch") -> str:
        typed = ("--config-dir", str(case.folder / "conf"), "run.min_free_gb=0", *TYPED, more)
        path = str(ROOT / "scripts" / script)
        return ask("sbatch", "--parsable", "--cpus-per-task=1", *options, path, *typed).strip()

    return submit


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The run that nothing has disturbed."""
    case = Case(tmp_path_factory.mktemp("whole"))
    case.go.touch()
    process = case.typed()
    assert process.end(240) == 0, process.said
    return case
