"""One process or many: the same calls, and decisions that all ranks take at the same step."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.dist import Control, Dist
from expkit.series import StepSeries


def test_with_one_process_every_call_is_the_identity() -> None:
    dist = Dist.current()
    assert (dist.rank, dist.world_size, dist.is_main) == (0, 1, True)
    tensor = torch.ones(2)
    assert dist.sum(tensor) is tensor
    assert dist.max(tensor) is tensor
    assert dist.any_bits(5) == 5
    value = object()
    assert dist.broadcast(value) is value
    dist.barrier()


def test_nothing_was_asked_for() -> None:
    control = Control()
    assert [control.poll(step) for step in range(1, 100)] == [0] * 99


def test_a_request_is_seen_once_at_the_next_step() -> None:
    control = Control()
    for step in range(1, 50):
        control.poll(step)
    control.request(Control.SAVE)
    control.request(Control.STOP)
    assert control.poll(50) == Control.SAVE | Control.STOP
    assert control.poll(51) == 0


def test_a_request_from_a_signal_handler_is_never_lost() -> None:
    control = Control()
    before = signal.signal(signal.SIGUSR1, lambda *_: control.request(Control.SAVE))
    try:
        seen = 0
        for step in itertools.count(1):
            if step % 50 == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
            seen += bool(control.poll(step))
            if step == 5000:
                break
        assert seen == 100
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_elapsed_goes_on_from_before_a_resume() -> None:
    control = Control(elapsed=1000.0)
    time.sleep(0.01)
    control.poll(1)
    assert 1000.01 <= control.elapsed < 1005


def test_the_clock_is_read_about_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 1 / 200)  # each look at it takes 5 ms of a run with fast steps
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    control = Control()
    looks = []
    for step in range(1, 2001):
        now = next(clock)
        before = control.elapsed
        control.poll(step)
        if control.elapsed != before:
            looks.append(now)
    gaps = [after - before for before, after in itertools.pairwise(looks)]
    assert max(gaps) < 1.5
    assert sum(gap > 0.9 for gap in gaps) >= 7


def _rank(rank: int, folder: Path, answers: Any) -> None:
    """What each of two processes does; the tests below look at what they answer."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'ranks'}", rank=rank, world_size=2)
    dist = Dist.current()
    answer: dict[str, Any] = {
        "rank": dist.rank,
        "is_main": dist.is_main,
        "sum": dist.sum(torch.tensor([1.0, 10.0]) * (rank + 1)).tolist(),
        "max": dist.max(torch.tensor([float(rank), -float(rank)])).tolist(),
        "bits": dist.any_bits(1 << rank),
        "no bits": dist.any_bits(0),
        "broadcast": dist.broadcast({"from": rank, "interval": 7}),
    }

    control = Control(dist)
    signal.signal(signal.SIGUSR1, lambda *_: control.request(Control.SAVE))
    seen = []
    for step in range(1, 3001):
        if rank == 1 and step == 1000:
            control.request(Control.STOP)
        if rank == 0 and step == 1500:
            os.kill(os.getpid(), signal.SIGUSR1)
        actions = control.poll(step)
        if actions:
            seen.append((step, actions))
        if rank == 0 and step % 3 == 0:
            time.sleep(0.0005)  # ranks are never equally fast
    answer["control"] = seen
    answer["elapsed"] = control.elapsed

    series = StepSeries(["loss", "correct"], torch.device("cpu"), averaged=["loss"])
    for loss, correct, count in ([(1.0, 2.0, 3), (2.0, 1.0, 2)], [(5.0, 1.0, 1), (4.0, 0.0, 6)])[rank]:
        series.push([torch.tensor(loss), torch.tensor(correct)], count)
    state = series.state_dict()
    answer["drain"] = series.drain(dist)
    answer["empty drain"] = series.drain(dist)
    series.load_state_dict(state)
    answer["drain again"] = series.drain(dist)

    dist.barrier()
    answers.put(answer)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes of one job saw, rank 0 first."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    folder = tmp_path_factory.mktemp("ranks")
    processes = [context.Process(target=_rank, args=(rank, folder, answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        found = sorted((answers.get(timeout=60) for _ in processes), key=lambda answer: answer["rank"])
        for process in processes:
            process.join(timeout=30)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return found


def test_reductions_are_the_same_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for answer in ranks:
        assert answer["sum"] == [3.0, 30.0]
        assert answer["max"] == [1.0, 0.0]
        assert answer["bits"] == 3
        assert answer["no bits"] == 0
        assert answer["broadcast"] == {"from": 0, "interval": 7}
    assert [answer["is_main"] for answer in ranks] == [True, False]


def test_all_ranks_see_a_request_at_the_same_step_and_once(ranks: list[dict[str, Any]]) -> None:
    first, second = (answer["control"] for answer in ranks)
    assert first == second
    (stopped,) = (step for step, actions in first if actions & Control.STOP)
    (saved,) = (step for step, actions in first if actions & Control.SAVE)
    assert 1000 <= stopped <= 2000
    assert 1500 <= saved <= 2500


def test_all_ranks_agree_on_the_time(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["elapsed"] == ranks[1]["elapsed"] > 0


def test_a_drain_gives_the_mean_over_the_samples_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    losses = [(1.0 * 3 + 5.0 * 1) / 4, (2.0 * 2 + 4.0 * 6) / 8]
    for answer in ranks:
        table, counts = answer["drain"]
        assert table["loss"] == pytest.approx(losses)
        assert table["correct"] == [3.0, 1.0]
        assert counts == [4, 8]
        assert answer["empty drain"] == ({"loss": [], "correct": []}, [])
        assert answer["drain again"] == answer["drain"]
