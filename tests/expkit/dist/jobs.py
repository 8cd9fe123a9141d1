"""A job of three processes, as a program: rank 0 starts the others, and they do several jobs one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from expkit.dist import Control, Dist, Place
from expkit.dist.children import Children
from expkit.dist.group import join
from expkit.dist.meeting import expect, say_over
from expkit.errors import RankFailed

COMMAND = [sys.executable, __file__]


def work(dist: Dist) -> dict[str, Any]:
    import torch

    control = Control(dist)
    if dist.rank == 1:
        control.request(Control.SAVE)
    return {
        "sum": dist.sum(torch.tensor([1.0, dist.rank])).tolist(),
        "broadcast": dist.broadcast({"from": dist.rank}),
        "gather": dist.gather({"rank": dist.rank}),
        "gather_all": dist.gather_all((dist.rank, dist.local_rank, dist.node, dist.is_first_of_node)),
        "threads": dist.gather(os.environ.get("OMP_NUM_THREADS")),
        "backend": torch.distributed.get_backend(),
        "actions": [control.poll(step) for step in range(1, 30)],
    }


def lead() -> None:
    answer: dict[str, Any] = {"jobs": []}
    with Children(3, COMMAND) as children:
        for _ in range(2):
            with join(children.place, 20, dead=children.dead) as dist:
                answer["jobs"].append(work(dist))
        say_over(children.place, 0)
    answer["codes"] = children.dead()

    with Children(3, COMMAND, {**os.environ, "DIES": "1"}) as children:
        dist = join(children.place, 20, dead=children.dead)
        assert dist.watch is not None
        try:
            work(dist)
        except RuntimeError as error:
            answer["blamed"] = dist.watch.blame(error)
        dist.close()
        say_over(children.place, 1)
    answer["codes after a death"] = children.dead()

    with Children(2, COMMAND) as children:  # rank 0 finds a mistake before there is a job
        say_over(children.place, 2)
    answer["codes after a mistake"] = children.dead()

    failing = "import os, time; os.environ['RANK'] == '2' and exit(7); time.sleep(600)"
    with Children(3, [sys.executable, "-c", failing], grace=0.2) as children:
        try:
            join(children.place, 20, dead=children.dead)
        except RankFailed as error:
            answer["failed"] = str(error)
    answer["codes after a failure"] = children.dead()

    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('{}', 'w'); time.sleep(600)"
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        with Children(2, [sys.executable, "-c", stubborn.format(ready)], grace=0.5) as children:
            while not ready.exists():
                time.sleep(0.05)
    answer["codes of the stubborn"] = children.dead()
    print(json.dumps(answer))


def follow(place: Place) -> int:
    while (code := expect(place, 60)) is None:
        try:
            with join(place, 20) as dist:
                if os.environ.get("DIES") == str(place.rank):
                    os.kill(os.getpid(), signal.SIGKILL)
                work(dist)
        except RuntimeError:  # the others are told why
            return 1
    return code


if __name__ == "__main__":
    here = Place.current()
    sys.exit(lead() if here is None else follow(here))
