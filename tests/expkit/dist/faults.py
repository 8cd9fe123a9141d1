"""Jobs of four ranks with a fault in each: run as a program, which says in JSON what every rank was told.

One program imports torch once, and forks all ranks of all jobs, which mostly wait.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from expkit.dist import Dist, Place
from expkit.dist.group import join

SIZE = 4
TIMEOUT = 6.0
FAULTS = ("killed", "stopped", "raises", "loading", "computing", "main_killed", "main_stopped", "silent_end", "late")


def fault(kind: str, rank: int, step: int) -> None:
    """Do to this rank what `kind` is called after, in the middle of its third step."""
    if step != 3:
        return
    if kind in ("killed", "stopped") and rank == 2:
        os.kill(os.getpid(), signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
    if kind in ("main_killed", "main_stopped") and rank == 0:
        os.kill(os.getpid(), signal.SIGKILL if kind == "main_killed" else signal.SIGSTOP)
    if kind == "raises" and rank == 1:
        raise ValueError("boom")
    if kind == "silent_end" and rank == 1:
        os._exit(3)
    if kind == "late" and rank == 3:
        time.sleep(TIMEOUT / 2)  # that is allowed


def train(dist: Dist, kind: str) -> None:
    for step in range(1, 6):
        dist.at(step, "loading data")
        if kind == "loading" and dist.rank == 2 and step == 3:
            time.sleep(1000)
        dist.at(step, "computing")
        if kind == "computing" and dist.rank == 2 and step == 3:
            time.sleep(1000)
        fault(kind, dist.rank, step)
        dist.sum(torch.ones(2))
        dist.any_bits(0)


def run(kind: str, rank: int, port: int, folder: Path) -> None:
    place = Place(rank, SIZE, rank % 2, 2, rank // 2, f"node{rank // 2}", "processes", "127.0.0.1", port)
    dist = join(place, TIMEOUT)
    answer: dict[str, Any] = {}
    assert dist.watch is not None
    dist.watch.on_verdict = lambda text: write(folder, kind, rank, {"ended": text})
    try:
        train(dist, kind)
    except Exception as error:
        answer["error"] = str(error)[:200]
        answer["blamed"] = dist.watch.blame(error)
        answer["verdict"] = dist.watch.verdict
    dist.close()
    write(folder, kind, rank, answer)


def write(folder: Path, kind: str, rank: int, answer: dict[str, Any]) -> None:
    path = folder / f"{kind}.{rank}"
    path.with_suffix(".new").write_text(json.dumps({**answer, "at": time.monotonic()}))
    os.replace(path.with_suffix(".new"), path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(folder: Path, kinds: list[str]) -> None:
    pids: dict[int, tuple[str, int]] = {}
    began = time.monotonic()
    for kind in kinds:
        port = free_port()
        for rank in range(SIZE):
            pid = os.fork()
            if pid == 0:
                code = 9
                try:
                    run(kind, rank, port, folder)
                    code = 0
                finally:
                    os._exit(code)
            pids[pid] = kind, rank
    codes: dict[str, dict[int, int]] = {kind: {} for kind in kinds}
    stopped = {"stopped": 2, "main_stopped": 0}
    while pids:
        pid, status = os.waitpid(-1, 0)
        kind, rank = pids.pop(pid)
        codes[kind][rank] = os.waitstatus_to_exitcode(status)
        if kind in stopped and len(codes[kind]) == SIZE - 1:
            (left,) = (other for other, key in pids.items() if key == (kind, stopped[kind]))
            os.kill(left, signal.SIGKILL)
    answers = {kind: {} for kind in kinds}  # type: ignore[var-annotated]
    for path in folder.iterdir():
        kind, _, number = path.name.partition(".")
        answers[kind][number] = json.loads(path.read_text())
        answers[kind][number]["at"] -= began
    print(json.dumps({kind: {"codes": codes[kind], "answers": answers[kind]} for kind in kinds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(FAULTS))
