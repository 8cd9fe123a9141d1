"""How a run stands: whether it runs, is stalled, has crashed or ended, and what its machine does."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from expkit.machine.vitals import boot_id
from expkit.monitor import TrainingMonitor
from tests.expkit.monitor.test_screen import look, make, write

__all__ = ["make"]  # a fixture


def say(run: Path, **status: Any) -> None:
    usual = {
        "state": "running",
        "step": 9,
        "total_steps": 100,
        "heartbeat": 1,
        "heartbeat_time": time.time(),
        "pid": os.getpid(),
        "host": platform.node(),
        "machine": {"boot_id": boot_id()},
    }
    (run / "status.json").write_bytes(orjson.dumps(usual | status))


def ago(seconds: float) -> str:
    """Return a time as a status.json has it."""
    return (datetime.now().astimezone() - timedelta(seconds=seconds)).isoformat(timespec="seconds")


class TestState:
    """The badge: by heartbeat, by what the run said itself, by the time of its last record."""

    def test_a_run_that_writes_is_running(self, make: Callable[..., Path]) -> None:
        run = make(count=60)
        say(run, forecast={"steps_per_sec": 2.0, "remaining_seconds": 30.0, "end_time": time.time() + 30})
        (state,) = look(run).runs
        assert (state.state, state.step, state.total_steps) == ("running", 59, 100)
        assert state.steps_per_sec == pytest.approx(2.0)
        assert "ends in" in state.eta

    def test_its_speed_is_that_of_its_records_if_it_says_none(self, make: Callable[..., Path]) -> None:
        run = make(count=60)
        say(run)
        (state,) = look(run).runs
        assert state.steps_per_sec == pytest.approx(1.0, rel=0.1)
        assert state.eta_seconds == pytest.approx(41, rel=0.1)

    def test_one_that_lives_and_writes_nothing_is_stalled(self, make: Callable[..., Path]) -> None:
        run = make(began=time.time() - 52)
        say(run)
        (state,) = look(run).runs
        assert state.state == "stalled"
        assert state.text in ("last record 42 s ago", "last record 43 s ago", "last record 44 s ago")
        assert state.steps_per_sec is None

    def test_one_whose_records_are_rare_is_not(self, make: Callable[..., Path]) -> None:
        run = make(count=0)
        for step in range(5):
            write(run, range(step, step + 1), began=time.time() - 40 * (5 - step), train_loss=1.0)
        say(run)
        assert look(run).runs[0].state == "running"

    def test_one_that_has_a_single_record_is_not_if_that_took_long(self, make: Callable[..., Path]) -> None:
        run = make(count=1, began=time.time() - 40)
        say(run, started=ago(400))
        assert look(run).runs[0].state == "running"
        say(run, started=ago(41))
        assert look(run).runs[0].state == "stalled"

    def test_the_days_before_a_resume_do_not_make_its_records_rare(self, make: Callable[..., Path]) -> None:
        run = make(began=time.time() - 86_400)
        write(run, range(10, 20), began=time.time() - 52, train_loss=1.0)
        say(run)
        assert look(run).runs[0].state == "stalled"

    def test_one_whose_process_is_gone_has_crashed(self, make: Callable[..., Path]) -> None:
        run = make()
        say(run, pid=2**22 + 5)
        (state,) = look(run).runs
        assert state.state == "crashed"
        assert "SIGKILL" in state.text

    def test_a_crash_is_seen_at_the_next_look(self, make: Callable[..., Path]) -> None:
        run = make()
        with subprocess.Popen(["sleep", "60"]) as process, TrainingMonitor(run, index=False) as monitor:
            say(run, pid=process.pid)
            monitor.refresh()
            assert monitor.states()[0].state == "running"
            process.kill()
            process.wait()
            assert not monitor.refresh()
            assert monitor.states()[0].state == "crashed"

    @pytest.mark.parametrize("said", ["finished", "failed", "interrupted", "preempted"])
    def test_what_it_said_at_its_end(self, make: Callable[..., Path], said: str) -> None:
        run = make()
        say(run, state=said, error="ValueError: it broke")
        (state,) = look(run).runs
        assert state.state == said
        assert ("it broke" in state.text) == (said == "failed")

    def test_without_a_status_its_records_tell(self, make: Callable[..., Path]) -> None:
        assert look(make("now")).runs[0].state == "running"
        assert look(make("then", began=time.time() - 1000)).runs[0].state == "unknown"
        assert look(make("never", count=0)).runs[0].text == "no record yet"

    def test_a_directory_that_is_removed_is_gone(self, make: Callable[..., Path]) -> None:
        run = make()
        with TrainingMonitor(run, index=False) as monitor:
            monitor.refresh()
            (run / "logs" / "metrics.jsonl").unlink()
            (run / "logs").rmdir()
            run.rmdir()
            monitor.refresh()
            assert monitor.states()[0].state == "gone"
            assert len(monitor.screen().panels) == 1

    def test_gauges_of_each_gpu_and_of_the_host(self, make: Callable[..., Path]) -> None:
        metrics = {"gpu/0/compute_util": 50.0, "gpu/0/memory_used_pct": 75.0, "gpu/0/memory_used_gb": 60.0}
        more = {"gpu/10/compute_util": 110.0, "gpu/2/compute_util": math.nan, "memory/percent": 41.6}
        (state,) = look(make(**metrics, **more, **{"process/rss_gb": 1.25})).runs
        assert [(gauge.name, gauge.fraction, gauge.text) for gauge in state.gauges] == [
            ("gpu 0", 0.5, "50 %"),
            ("gpu 0 memory", 0.75, "75 %, 60.0 GB"),
            ("gpu 10", 1.0, "110 %"),
            ("memory", pytest.approx(0.416), "42 %, this process 1.2 GB"),
        ]

    def test_it_is_plain_json(self, make: Callable[..., Path]) -> None:
        run = make(train_loss=math.nan)
        say(run)
        state = orjson.loads(orjson.dumps(look(run).runs[0].to_json()))
        assert state["last"] == {"train_loss": None}
