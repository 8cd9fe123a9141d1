"""Where a process stands, from the environments of torchrun and srun, as they really are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expkit.dist import Place, is_main_process
from expkit.dist import place as place_module
from expkit.errors import UserError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_RANK": "3",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_RUN_ID": "none",
}

#: Of `sbatch -N2 --ntasks-per-node=2`, in the batch script itself.
BATCH = {
    "SLURM_JOB_ID": "17",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURMD_NODENAME": "n1",
}

#: Of the last of its tasks, as srun starts it.
TASK = {
    **BATCH,
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURMD_NODENAME": "n2",
}


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has an address here."""
    monkeypatch.setattr(place_module.socket, "getaddrinfo", lambda *_: [])


def test_torchrun_says_everything() -> None:
    place = Place.current(TORCHRUN)
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.local_size, place.node) == (3, 4, 1, 2, 1)
    assert (place.launcher, place.address, place.port, place.store_is_there) == ("torchrun", "node1", 29500, True)


def test_a_restart_by_torchrun_is_not_mixed_up_with_the_attempt_before() -> None:
    first, second = (Place.current({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": count}) for count in "01")
    assert first is not None and second is not None and first.name != second.name


def test_other_launchers_set_no_more_than_rank_world_and_address() -> None:
    place = Place.current({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1234"})
    assert place is not None
    assert (place.rank, place.local_rank, place.local_size, place.node, place.store_is_there) == (1, 0, 1, 1, False)


def test_a_task_of_srun() -> None:
    place = Place.current(TASK)
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.local_size, place.node) == (3, 4, 1, 2, 1)
    assert (place.launcher, place.host, place.address, place.store_is_there) == ("slurm", "n2", "n1", False)
    assert 20000 <= place.port < 32768


def test_all_tasks_of_a_step_meet_at_one_port_and_other_steps_at_another() -> None:
    def port(**changes: str) -> int:
        place = Place.current({**TASK, **changes})
        assert place is not None
        return place.port

    assert port() == port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURMD_NODENAME="n1")
    others = [port(), port(SLURM_JOB_ID="18"), port(SLURM_STEP_ID="1"), port(SLURM_RESTART_COUNT="1")]
    assert len(set(others)) == 4


def test_what_is_set_by_hand_wins_over_slurm() -> None:
    place = Place.current({**TASK, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4711", "WORLD_SIZE": "4"})
    assert place is not None
    assert (place.rank, place.launcher, place.address, place.port) == (3, "slurm", "10.0.0.7", 4711)


def test_torchrun_in_tasks_of_srun_is_torchrun() -> None:
    one_each = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}
    place = Place.current({**TASK, **one_each, **TORCHRUN})
    assert place is not None
    assert (place.rank, place.launcher, place.local_size) == (3, "torchrun", 2)


@pytest.mark.parametrize(
    ("tasks", "node", "size"), [("2(x2)", "1", 2), ("3,1", "0", 3), ("3,1", "1", 1), ("1(x2),2", "2", 2)]
)
def test_nodes_may_have_different_numbers_of_tasks(tasks: str, node: str, size: int) -> None:
    task = {**TASK, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": node, "SLURM_LOCALID": "0"}
    place = Place.current(task)
    assert place is not None
    assert place.local_size == size


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n[1-2]", "n1"),
        ("n[02-04,7],m1", "n02"),
        ("login", "login"),
        ("b,a[1-2]", "b"),
        ("rack[0-1]n[3,5]-ib,x", "rack0n3-ib"),
    ],
)
def test_rank_0_is_on_the_first_node_of_the_step(nodes: str, first: str) -> None:
    place = Place.current({**TASK, "SLURM_STEP_NODELIST": nodes})
    assert place is not None
    assert place.address == first


def test_a_node_without_a_name_server_has_the_address_that_slurm_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(place_module.socket, "getaddrinfo", unknown)
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "NodeName=$4 CPUs=8 NodeAddr=10.1.2.3 NodeHostName=vm State=IDLE"\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = Place.current(TASK)
    assert place is not None
    assert place.address == "10.1.2.3"
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match="address of n1 cannot be found: set MASTER_ADDR"):
        Place.current(TASK)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},  # torchrun --nproc-per-node=1
        {"RANK": "2"},
        BATCH,  # python in a batch script of 4 tasks, without srun
        {**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"},
    ],
)
def test_a_process_alone(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place.current(environ) is None
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert is_main_process()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 without RANK"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4 processes"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "local rank 2 of 2 processes"),
        ({**TORCHRUN, "RANK": "first"}, "RANK=first: a whole number is needed"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 without MASTER_ADDR and MASTER_PORT"),
        ({**TASK, "WORLD_SIZE": "8"}, "WORLD_SIZE=8, but srun has started 4 tasks"),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "2"}, "SLURM_STEP_TASKS_PER_NODE=2 does not fit"),
        (
            {**TASK, "RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "1"},
            "RANK=0 in task 3 of 4 of srun",
        ),
    ],
)
def test_variables_that_contradict_each_other_are_refused_in_one_line(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Place.current(environ)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environ", [TORCHRUN, TASK])
def test_another_rank_is_not_the_main_process(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert not is_main_process()
    monkeypatch.setenv("RANK" if "RANK" in environ else "SLURM_PROCID", "0")
    assert is_main_process()


def test_asking_where_one_stands_does_not_import_torch() -> None:
    code = "import sys; from expkit.dist import Place, is_main_process; Place.current(); is_main_process()"
    check = "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
