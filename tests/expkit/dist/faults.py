"""Jobs of four ranks with a fault in each: run as a program, which says in JSON what every rank was told.

One program imports torch once, and forks all ranks of all jobs, which mostly wait.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from expkit.dist import Dist, Place
from expkit.dist.group import join

SIZE = 4
TIMEOUT = 5.0
FAULTS = (
    *("killed", "stopped", "raises", "loading", "computing", "main_killed", "main_stopped", "silent_end"),
    *("unnoticed", "late", "suspended"),
)


def fault(kind: str, rank: int, step: int, folder: Path) -> None:
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
    if kind == "unnoticed":  # nobody talks to the one that is killed
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)
    if kind == "suspended":
        (folder / f"ready.{rank}").touch()
        while not (folder / "resumed").exists():
            time.sleep(0.05)
    if kind == "late" and rank == 3:
        time.sleep(TIMEOUT / 2)  # that is allowed


def train(dist: Dist, kind: str, folder: Path) -> None:
    for step in range(1, 6):
        dist.at(step, "loading data")
        if kind == "loading" and dist.rank == 2 and step == 3:
            time.sleep(1000)
        dist.at(step, "computing")
        if kind == "computing" and dist.rank == 2 and step == 3:
            time.sleep(1000)
        fault(kind, dist.rank, step, folder)
        dist.sum(torch.ones(2))
        dist.any_bits(0)


def run(kind: str, rank: int, port: int, folder: Path) -> None:
    place = Place(rank, SIZE, rank % 2, 2, rank // 2, f"node{rank // 2}", "processes", "127.0.0.1", port)
    dist = join(place, TIMEOUT)
    (folder / f"{kind}.{rank}.joined").touch()
    answer: dict[str, Any] = {}
    assert dist.watch is not None
    dist.watch.on_verdict = lambda text: write(folder, kind, rank, {"ended": text})
    try:
        train(dist, kind, folder)
    except Exception as error:
        answer["error"] = str(error)[:200]
        answer["blamed"] = dist.watch.blame(error)
        answer["verdict"] = dist.watch.verdict
    dist.close()
    write(folder, kind, rank, answer)


def suspend(pids: list[int], folder: Path) -> None:
    """Stop all ranks for longer than they wait for each other, as a scheduler does, and let them go on one by one."""
    while not all((folder / f"ready.{rank}").exists() for rank in range(SIZE)):
        time.sleep(0.05)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
            time.sleep(0.3)
        if number == signal.SIGSTOP:
            time.sleep(TIMEOUT + 2)
    time.sleep(1)  # in which a false verdict would be given
    (folder / "resumed").touch()


def write(folder: Path, kind: str, rank: int, answer: dict[str, Any]) -> None:
    path = folder / f"{kind}.{rank}"
    Path(f"{path}.new").write_text(json.dumps(answer))
    os.replace(f"{path}.new", path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(folder: Path, kinds: list[str]) -> None:
    pids: dict[int, tuple[str, int]] = {}
    for kind in kinds:
        port = free_port()
        for rank in range(SIZE):
            pid = os.fork()
            if pid == 0:
                code = 9
                try:
                    run(kind, rank, port, folder)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids[pid] = kind, rank
        end = time.monotonic() + 30
        while len([*folder.glob(f"{kind}.?.joined")]) < SIZE and time.monotonic() < end:
            time.sleep(0.05)  # one job joins at a time: it is all that takes the processor
    if "suspended" in kinds:
        own = [pid for pid, (kind, _) in pids.items() if kind == "suspended"]
        threading.Thread(target=suspend, args=(own, folder), daemon=True).start()
    codes: dict[str, dict[int, int]] = {kind: {} for kind in kinds}
    stopped = {"stopped": 2, "main_stopped": 0}
    while pids:
        pid, status = os.waitpid(-1, 0)
        kind, rank = pids.pop(pid)
        codes[kind][rank] = os.waitstatus_to_exitcode(status)
        if kind in stopped and len(codes[kind]) == SIZE - 1:
            (left,) = (other for other, key in pids.items() if key == (kind, stopped[kind]))
            os.kill(left, signal.SIGKILL)
    answers: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for kind in kinds:
        for path in folder.glob(f"{kind}.?"):
            answers[kind][path.suffix[1:]] = json.loads(path.read_text())
    print(json.dumps({kind: {"codes": codes[kind], "answers": answers[kind]} for kind in kinds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(FAULTS))
