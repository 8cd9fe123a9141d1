"""The ranks of a job, forked from the tests' own process, which has everything imported already."""

from __future__ import annotations

import inspect
import json
import os
import socket
from pathlib import Path

import torch._dynamo
import torch.distributed.checkpoint  # noqa: F401

import train.following
import train.job
import train.strategies.fsdp  # noqa: F401
from tests.train.forked import Forked
from train.tasks.base import Task

__all__ = ["free_port", "launched", "task_option"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def launched(outputs: Path, *arguments: str, count: int = 2) -> list[Forked]:
    """Start `count` ranks of `python -m train`, as torchrun does, and return them when they have ended."""
    port = free_port()

    def started(rank: int) -> Forked:
        environ = {
            **{"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        }
        return Forked(outputs, *arguments, setup=lambda: os.environ.update({k: str(v) for k, v in environ.items()}))

    ranks = [started(rank) for rank in range(count)]
    for each in ranks:
        each.end()
    return ranks


def task_option(folder: Path, name: str, kind: type[Task]) -> tuple[str, ...]:
    """Make `kind` an option of the group `task`, with all its arguments; return what is to be typed for it."""
    (folder / "conf" / "task").mkdir(parents=True, exist_ok=True)
    arguments = {key: each.default for key, each in inspect.signature(kind).parameters.items()}
    option = {"_target_": f"{kind.__module__}.{kind.__name__}", **arguments}
    (folder / "conf" / "task" / f"{name}.yaml").write_text(json.dumps(option))
    return "--config-dir", str(folder / "conf"), f"task={name}"
