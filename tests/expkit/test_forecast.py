"""When a run ends, how often its job is requeued, when its disk is full: with clocks that the tests set."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from expkit import forecast as module
from expkit.forecast import Forecast, fall, folder_gb, forecast_text

HOUR = 3600.0


class World:
    """A run that is watched every 5 s, on clocks and a disk of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, span: Any = None) -> None:
        self.now, self.free, self.size = 0.0, 100.0, 1.0
        self.asked = 0

        class Thread:
            """One that is done at once."""

            def __init__(self, target: Callable[[], None], **_: Any) -> None:
                self.start = target

        def job() -> Any:
            self.asked += 1
            return span

        monkeypatch.setattr(module.threading, "Thread", Thread)
        self.forecast = Forecast(
            folder,
            free=lambda _: self.free,
            size=lambda _: self.size,
            job=job if span is not None else None,
            clock=lambda: self.now,
            wall=lambda: 1e9 + self.now,
        )

    def watch(
        self,
        seconds: float,
        step: Callable[[float], int] = int,
        total: int | None = None,
        free: Callable[[float], float] = lambda _: 100.0,
    ) -> dict[str, Any]:
        """Let time pass and return what the last heartbeat says."""
        said: dict[str, Any] = {}
        end = self.now + seconds
        while self.now < end:
            self.now += 5
            self.free = free(self.now)
            said = self.forecast.take(step(self.now), total)
        return said


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    return lambda **arguments: World(tmp_path, monkeypatch, **arguments)


def test_the_end_is_what_is_left_at_the_speed_of_the_last_half_hour(world: Callable[..., World]) -> None:
    one = world()
    said = one.watch(600, step=lambda now: int(2 * now), total=4800)
    assert said["steps_per_sec"] == 2
    assert said["remaining_seconds"] == 1800
    assert said["end_time"] == 1e9 + 600 + 1800
    # From now on half as fast: half an hour later nothing else counts any more.
    said = one.watch(1900, step=lambda now: 1200 + int(now - 600), total=4800)
    assert said["steps_per_sec"] == 1


def test_evaluation_and_saving_belong_to_the_time(world: Callable[..., World]) -> None:
    def half_the_time(now: float) -> int:
        return int(now // 100) * 50 + min(int(now % 100), 50)

    assert world().watch(1800, step=half_the_time, total=10_000)["steps_per_sec"] == pytest.approx(0.5, rel=0.05)


def test_the_time_before_the_first_step_does_not_count(world: Callable[..., World]) -> None:
    one = world()
    assert "remaining_seconds" not in one.watch(600, step=lambda _: 0, total=1000), "it compiles"
    assert one.watch(100, step=lambda now: int(now - 600), total=1000)["steps_per_sec"] == 1


def test_nothing_is_said_that_is_not_known(world: Callable[..., World]) -> None:
    assert world().watch(600, step=lambda _: 5, total=10) == {}, "it stalls"
    said = world().watch(600, total=None)
    assert said == {"steps_per_sec": 1}, "only a loader of unknown length knows the end"
    assert world().forecast.take(None, None) == {}
    one = world()
    one.watch(600, total=10_000)
    assert "steps_per_sec" not in one.watch(10, step=lambda _: 7, total=10_000), "it was taken back to an earlier step"


@pytest.mark.parametrize(("total", "requeues"), [(1000, 0), (3600, 0), (3602, 1), (7200, 1), (7300, 2), (36_000, 9)])
def test_requeues_are_what_does_not_fit_into_this_job(world: Callable[..., World], total: int, requeues: int) -> None:
    one = world(span=(1e9, 1e9 + HOUR))  # one step a second, one hour for each job
    said = one.watch(600, total=total)
    assert said["requeues"] == requeues
    assert (said["job_end_time"], said["job_seconds"]) == (1e9 + HOUR, HOUR)


def test_a_limit_is_asked_for_again_now_and_then(world: Callable[..., World]) -> None:
    one = world(span=(None, None))
    assert "requeues" not in one.watch(1795, total=1000)
    assert one.asked == 3, "it may be extended"


def line(hours: float, slope: float, noise: float = 0.0, every: float = 15.0) -> list[tuple[float, float]]:
    draw = random.Random(1)
    times = [number * every for number in range(int(hours * HOUR / every))]
    return [(at, 100 + slope * at / HOUR + draw.gauss(0, noise)) for at in times]


@pytest.mark.parametrize(
    ("samples", "per_hour"),
    [
        (line(1, -8), 8),
        (line(1, -8, noise=0.5), 8),
        (line(1, 8), None),
        (line(1, 0), None),
        (line(1, 0, noise=5), None),
        (line(1, -0.2, noise=5), None),
        (line(0.02, -8), None),
        ([(i * 15.0, 100.0 if i < 120 else 50.0) for i in range(240)], None),  # one large file
        ([(i * 15.0, 100.0 - 5 * (i // 20 % 3)) for i in range(240)], None),  # checkpoints that come and go
        ([(i * 15.0, 100.0 - i // 40) for i in range(240)], 6),  # checkpoints that only come
    ],
)
def test_a_disk_falls_only_if_it_does_so_significantly(
    samples: list[tuple[float, float]], per_hour: float | None
) -> None:
    slope = fall(samples)
    assert (slope is None) == (per_hour is None)
    if slope is not None and per_hour is not None:
        assert slope * HOUR == pytest.approx(per_hour, rel=0.1)


def falling(per_hour: float) -> Callable[[float], float]:
    return lambda now: 100 - per_hour * now / HOUR


def test_a_disk_that_will_be_full_before_the_end_is_said_and_warned_of_once(
    world: Callable[..., World], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    one = world()
    one.watch(60, total=10**6, free=falling(10))
    one.size = 1 + 6 * 3540 / HOUR
    said = one.watch(3540, total=10**6, free=falling(10))
    assert said["disk_full_seconds"] == pytest.approx(9 * HOUR, rel=0.01)
    assert said["disk_free_gb"] == pytest.approx(90, rel=0.01)
    assert said["disk_falls_gb_per_hour"] == pytest.approx(10)
    assert said["run_grows_gb_per_hour"] == pytest.approx(6, rel=0.05)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: the disk is full in ")
    assert message.endswith(", before the run ends (in 277.4 h); free some space, or keep fewer checkpoints")


@pytest.mark.parametrize(
    ("per_hour", "total", "said", "warned"),
    [
        (10, 10_000, True, False),  # within a day, but the run ends before
        (3, 10_000, False, False),  # in more than a day, after the end
        (3, 10**6, True, True),  # in more than a day, before the end
        (10, None, True, True),  # nobody knows when it ends
        (0, 10**6, False, False),
    ],
)
def test_it_matters_within_a_day_or_before_the_end(
    world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    per_hour: float,
    total: int | None,
    said: bool,
    warned: bool,
) -> None:
    assert ("disk_full_seconds" in world().watch(HOUR + 60, total=total, free=falling(per_hour))) == said
    assert bool(caplog.messages) == warned


def test_a_short_look_says_nothing_about_a_far_future(world: Callable[..., World]) -> None:
    assert "disk_full_seconds" not in world().watch(300, total=10**6, free=falling(10)), "10 h, seen for 5 min"
    assert "disk_full_seconds" in world().watch(300, total=10**6, free=falling(100)), "1 h"


def test_a_disk_that_cannot_be_asked_is_no_reason_to_say_nothing(tmp_path: Path) -> None:
    def gone(_: Path) -> float:
        raise OSError(116, "Stale file handle")

    times: Iterable[float] = iter((0.0, 5.0, 20.0))
    forecast = Forecast(tmp_path, free=gone, clock=lambda: next(times))
    assert [forecast.take(step, 100).get("steps_per_sec") for step in (0, 10, 40)] == [None, None, 2]


def test_a_folder_is_measured_with_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "large").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "below" / "large", tmp_path / "linked")
    (tmp_path / "latest").symlink_to("linked")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert folder_gb(tmp_path) == pytest.approx(1 / 1024, rel=0.1)
    monkeypatch.setattr(module, "_MOST_FILES", 2)
    assert folder_gb(tmp_path) is None
    assert folder_gb(tmp_path / "nowhere") == 0


def test_it_is_one_line_for_people() -> None:
    known = {"end_time": 1e9, "disk_full_seconds": 1800.0, "disk_free_gb": 12.0, "disk_falls_gb_per_hour": 24.0}
    text = forecast_text({**known, "requeues": 3, "run_grows_gb_per_hour": 20.0}, now=1e9 - 9000)
    assert text.startswith("ends in 2.5 h, without the time between jobs, at 2001-09-0")
    assert text.endswith("; 3 requeues needed; disk is full in 30 min (12 GB free, 24 GB/h less, 20 of it by this run)")
    assert "; no requeue needed" in forecast_text({"end_time": 1e9, "requeues": 0}, now=1e9 - 9000)
    assert forecast_text({"end_time": 1e9}, now=1e9 - 30).startswith("ends in less than 1 min, at ")
    assert forecast_text({"steps_per_sec": 3.0}) == ""
    assert forecast_text({"end_time": "soon", "disk_full_seconds": None}) == ""
