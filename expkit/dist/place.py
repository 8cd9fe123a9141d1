"""Where this process stands among those of its job, from what its launcher left in the environment: without torch."""

from __future__ import annotations

import os
import re
import socket
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from expkit.errors import UserError
from expkit.jobstate import node_address

__all__ = ["Place", "is_main_process"]

#: The ports of SLURM jobs, between those of services and those that Linux gives to any connection: each step of a job
#: has one of its own.
_PORTS = range(20000, 32768)


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process. Asks no other rank, and does not import torch.

    The process group knows; before there is one, what torchrun or srun left in the environment.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() == 0)
    if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1" or os.environ.get("SLURM_PROCID", "0") == "0"


@dataclass(frozen=True)
class Place:
    """One process of several.

    Attributes:
        rank: its number among all, from 0.
        world_size: how many there are, at least 2.
        local_rank: its number among those of its node.
        local_size: how many of them its node has.
        node: the number of its node, from 0.
        host: what its node is called.
        launcher: who started it: "torchrun" (or whatever else sets RANK and WORLD_SIZE), "slurm" (a task of srun), or
            "processes" (`expkit.dist.children`).
        address: of the store by which the processes find each other.
        port: of that store.
        store_is_there: whether the launcher has that store. Rank 0 opens it otherwise.
        name: of this attempt of the job, so that processes of an earlier one are not taken for its own.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    node: int
    host: str
    launcher: Literal["torchrun", "slurm", "processes"]
    address: str
    port: int
    store_is_there: bool = False
    name: str = "0"

    @classmethod
    def current(cls, environ: Mapping[str, str] = os.environ) -> Place | None:
        """Return the place that the environment gives to this process, or None if it is alone.

        A python that a batch script of SLURM runs without srun is alone, however many tasks the job has.

        Raises:
            UserError: the variables contradict each other, or one is missing.
        """
        tasks = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
        world = _number(environ, "WORLD_SIZE", 1)
        if world > 1 and "RANK" in environ:
            place = _launched(environ, world)
            own = place.launcher == "processes" or "TORCHELASTIC_RUN_ID" in environ
            if not own and tasks == world and _number(environ, "SLURM_PROCID") != place.rank:
                raise UserError(
                    f"RANK={place.rank} in task {environ['SLURM_PROCID']} of {tasks} of srun: all tasks have got the "
                    "same RANK; unset it, and srun's own numbers are used"
                )
        elif tasks > 1:
            if "WORLD_SIZE" in environ and world != tasks:
                raise UserError(f"WORLD_SIZE={world}, but srun has started {tasks} tasks: unset WORLD_SIZE")
            place = _task(environ, tasks)
        elif world > 1:
            raise UserError(f"WORLD_SIZE={world} without RANK: start this with torchrun or srun, or unset WORLD_SIZE")
        else:
            return None
        for name, value, size in (
            ("rank", place.rank, place.world_size),
            ("local rank", place.local_rank, place.local_size),
        ):
            if not 0 <= value < size:
                raise UserError(
                    f"{name} {value} of {size} processes: the variables that {place.launcher} sets contradict each "
                    "other; unset those that were set by hand (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE)"
                )
        return place


def _launched(environ: Mapping[str, str], world: int) -> Place:
    """Return the place of a process that torchrun started, `expkit.dist.children`, or anything else like them."""
    if not environ.get("MASTER_ADDR") or "MASTER_PORT" not in environ:
        raise UserError(f"WORLD_SIZE={world} without MASTER_ADDR and MASTER_PORT: start this with torchrun or srun")
    rank, local_size = _number(environ, "RANK"), _number(environ, "LOCAL_WORLD_SIZE", 1)
    return Place(
        rank=rank,
        world_size=world,
        local_rank=_number(environ, "LOCAL_RANK", 0),
        local_size=local_size,
        node=_number(environ, "GROUP_RANK", rank // max(local_size, 1)),
        host=socket.gethostname(),
        launcher="processes" if environ.get("EXPKIT_LAUNCHER") == "processes" else "torchrun",
        address=environ["MASTER_ADDR"],
        port=_number(environ, "MASTER_PORT"),
        store_is_there=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        name=environ.get("TORCHELASTIC_RESTART_COUNT", "0"),  # torchrun's store outlives its restarts
    )


def _task(environ: Mapping[str, str], tasks: int) -> Place:
    """Return the place of a task of srun."""
    node = _number(environ, "SLURM_NODEID")
    name = "{}.{}.{}".format(
        environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", "0"), environ.get("SLURM_RESTART_COUNT", "0")
    )
    sizes = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if sum(sizes) != tasks or not 0 <= node < len(sizes):
        raise UserError(
            f"SLURM_STEP_TASKS_PER_NODE={environ.get('SLURM_STEP_TASKS_PER_NODE')} does not fit SLURM_NODEID={node} "
            f"and SLURM_STEP_NUM_TASKS={tasks}: start this with srun, in an environment as srun makes it"
        )
    return Place(
        rank=_number(environ, "SLURM_PROCID"),
        world_size=tasks,
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_size=sizes[node],
        node=node,
        host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
        launcher="slurm",
        address=environ.get("MASTER_ADDR") or _address(_first_node(environ.get("SLURM_STEP_NODELIST", ""))),
        port=_number(environ, "MASTER_PORT", _PORTS[zlib.crc32(name.encode()) % len(_PORTS)]),
        name=name,
    )


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UserError(f"{name}={text}: a whole number is needed, as torchrun and srun set it")
    return int(text)


def _tasks_per_node(text: str) -> list[int]:
    """Return the number of tasks of each node: `2(x2),1` is two nodes of two, and one of one."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(size) for size, times in found for _ in range(int(times or 1))]


def _first_node(nodes: str) -> str:
    """Return the first of a list of nodes as SLURM writes it: `n[02-04,7],m1` begins with `n02`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "")


def _address(node: str) -> str:
    """Return where to reach a node: its name, or what SLURM knows of it where no name server does."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        found = node_address(node)
        if found is None:
            raise UserError(
                f"the address of {node or 'the first node'} cannot be found: set MASTER_ADDR to that of the node "
                "with rank 0"
            ) from None
        return found
    return node
