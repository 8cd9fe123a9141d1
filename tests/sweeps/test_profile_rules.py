"""Which size is recommended, and why; which are tried by themselves; what a report says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expkit.errors import UserError
from sweeps.profile.choose import auto_sizes, loss_noise, recommend, with_equal_time
from sweeps.profile.report import Report, row
from sweeps.profile.result import Profile, failed
from sweeps.profile.settings import check_output, own_settings, parse_sizes
from sweeps.profile.writing import write_report


def ok(size: int, rate: float, memory: float = 1.0, loss: float = 1.0, **values: Any) -> Profile:
    """A size of which everything is known, on a GPU of 10 GB."""
    known: dict[str, Any] = {
        **{"status": "OK", "samples_per_second": rate, "step_time": size / rate, "step_time_iqr": 0.0, "samples": 8000},
        **{"gpu_memory_gb": memory, "memory_total_gb": 10.0, "final_train_loss": loss, "final_test_loss": loss},
        **{"time_per_epoch": 8000 / rate, "updates": 8000 // size, **values},
    }
    return Profile(size, **known)


def test_the_smallest_size_near_the_best_throughput_is_recommended() -> None:
    found = recommend([ok(64, 500), ok(128, 960), ok(256, 1000), ok(512, 990)])
    assert (found.batch_size, found.best) == (128, 256)


def test_a_size_that_takes_more_than_85_percent_of_the_memory_is_not_recommended() -> None:
    found = recommend([ok(64, 500, 2.0), ok(128, 800, 8.5), ok(256, 1000, 8.6)])
    assert found.batch_size == 128
    assert "no size has at least 95 % of the best throughput and at most 85 % of the memory" in found.why
    assert recommend([ok(64, 500, 8.6), ok(128, 1000, 9.5)]).batch_size == 64


def test_sizes_that_failed_do_not_count() -> None:
    failures = [failed(512, "OOM", "no memory"), failed(1024, "TIMEOUT", "hung", samples_per_second=1e9)]
    assert recommend([ok(64, 500), *failures]).batch_size == 64
    nothing = recommend(failures)
    assert nothing.batch_size is None and nothing.plain()["override"] is None


def curve(*losses: float) -> list[tuple[int, float | None, float | None]]:
    return [(800 * (place + 1), loss + 1, loss) for place, loss in enumerate(losses)]


def test_a_loss_that_is_worse_by_more_than_the_noise_is_noted() -> None:
    calm = curve(*range(10, 0, -1))
    worse = ok(256, 1000, loss=2.0, curve=calm)
    assert any("worse than the 1.0000 of 64" in note for note in recommend([ok(64, 500, curve=calm), worse]).notes)
    jumping = curve(9, 8, 7, 6, 5, 1, 5, 1, 5, 1)
    noisy = ok(256, 1000, loss=2.0, curve=jumping)
    assert not any("worse" in note for note in recommend([ok(64, 500, curve=jumping), noisy]).notes)


def test_the_noise_of_a_loss_is_what_a_straight_line_leaves() -> None:
    assert loss_noise(ok(1, 1, curve=curve(*range(10, 0, -1)))) == pytest.approx(0, abs=1e-12)
    assert loss_noise(ok(1, 1, curve=curve(0, 0, 0, 0, 0, 1, -1, 1, -1, 1))) == pytest.approx(math.sqrt(4.8 / 3))
    assert loss_noise(ok(1, 1, curve=curve(1, 2, 1))) == 0, "three points say nothing"


def test_losses_after_equal_time_are_those_of_the_samples_seen_by_then() -> None:
    slow, fast = ok(64, 500, curve=curve(*range(10, 0, -1))), ok(128, 1000, curve=curve(*range(20, 10, -1)))
    early = ok(32, 10, curve=curve(*range(10, 0, -1)))
    assert with_equal_time([slow, fast, early]) == 8.0
    assert fast.test_loss_equal_time == 11.0
    assert (slow.test_loss_equal_time, slow.train_loss_equal_time) == (6.0, 7.0), "4,000 samples: half of them"
    assert early.test_loss_equal_time is None, "before its first evaluation nothing is known"


def test_a_loss_that_is_not_finite_and_times_that_vary_are_noted() -> None:
    notes = recommend([ok(64, 100, loss=math.nan), ok(32, 1, step_time_iqr=1.0)]).notes
    assert any("not finite" in note for note in notes)
    assert any("vary" in note for note in recommend([ok(64, 64, step_time_iqr=0.5)]).notes)


def tried(rate: Any, most: int = 10**9, start: int = 8, step: int = 1) -> list[int]:
    """The sizes that are tried where `rate(size)` is the throughput, and sizes above `most` do not fit."""
    sizes: list[int] = []

    def measure(size: int) -> Profile:
        sizes.append(size)
        return ok(size, rate(size)) if size <= most else failed(size, "OOM", "no memory")

    auto_sizes(measure, start, step)
    return sizes


def test_sizes_are_doubled_until_the_gain_is_small_then_refined_below_the_knee() -> None:
    assert tried(lambda size: min(size, 100)) == [8, 16, 32, 64, 128, 256, 96, 80]
    assert tried(lambda size: 1.0) == [8, 16], "the first is as fast as any"


def test_sizes_are_doubled_until_one_does_not_fit_then_refined_below_that() -> None:
    assert tried(lambda size: size, most=100) == [8, 16, 32, 64, 128, 96, 112]
    assert tried(lambda size: size, most=4) == [8], "where the first fails nothing larger is tried"
    assert tried(lambda size: size, most=100, start=12, step=12) == [12, 24, 48, 96, 192, 144, 120]


def test_no_size_above_the_training_set_is_tried() -> None:
    assert max(tried(lambda size: size)) == 4096, "of 8,000 samples"


REPORTED = [ok(2048, 166, 4.2, 42.1), ok(10240, 360, 7.8, 41.9), failed(20480, "OOM", "CUDA out of memory")]


def test_the_report_has_the_table_and_the_recommendation(tmp_path: Path) -> None:
    report = Report("denoise", 5, REPORTED, ("experiment=reference_3blob",))
    files = write_report(report, tmp_path / "profile.md")
    assert sorted(file.name for file in files) == ["profile.json", "profile.md", "profile.png"]
    said = files[0].read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")]
    assert rows[0] == [
        *("Batch Size", "Time/Epoch", "GPU Memory", "Samples/Sec"),
        *("Final Train Loss", "Final Test Loss", "Status"),
    ]
    assert rows[2] == ["2,048", "48.2s", "4.2 GB", "166", "42.1000", "42.1000", "OK"]
    assert rows[4] == ["20,480", "OOM", "-", "-", "-", "-", "OOM"]
    assert "- 20,480: OOM: CUDA out of memory" in said
    assert "**Optimal batch size: 10,240**" in said
    assert "`python -m train experiment=reference_3blob trainer.batch_size=10240`" in said
    plain = json.loads(files[1].read_text())
    assert plain["recommendation"]["override"] == "trainer.batch_size=10240"
    assert [each["oom_error"] for each in plain["profiles"]] == [False, False, True]
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_what_a_size_showed_before_its_time_was_over_is_in_the_table() -> None:
    figures = {"samples_per_second": 50.0, "time_per_epoch": 160.0, "rss_gb": 2.0}
    assert row(failed(64, "TIMEOUT", "hung", **figures)) == ["64", "160.0s", "2.0 GB RSS", "50", "-", "-", "TIMEOUT"]
    assert row(failed(64, "TIMEOUT", "hung"))[1:] == ["-", "-", "-", "-", "-", "TIMEOUT"]


def test_a_report_of_nothing_but_failures_can_be_written(tmp_path: Path) -> None:
    report = Report("x", 1, [failed(8, "ERROR", "boom")], interrupted=True)
    said = write_report(report, tmp_path / "profile.md")[0].read_text()
    assert "None: no batch size was measured to the end" in said and "**Interrupted**" in said and not report.use


def test_sizes_are_read_as_they_are_typed() -> None:
    assert parse_sizes("[2048, 5120,10_240]") == parse_sizes([10240, 2048, 5120, 2048]) == [2048, 5120, 10240]
    assert parse_sizes("64") == [64] and parse_sizes("auto") is None
    for wrong in ("[0,5]", "[a]", "[]", "-5", "[1.5]", [True], "[64,]x"):
        with pytest.raises(UserError, match="batch_sizes="):
            parse_sizes(wrong)


def test_mistakes_in_the_settings_of_the_profile_are_one_line(tmp_path: Path) -> None:
    wrong = {
        "epoch=5": "did you mean epochs=5?",
        "trainer.batch_size=5": "batch_sizes=",
        "trainer.max_steps=5": "epochs=N",
        "resume=latest": "leave it out",
        "trainer.processes=2": "one process",
        "cluster.time=2h": "timeout_min=N",
    }
    for typed, said in wrong.items():
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            own_settings([typed])
    assert own_settings(["epochs=2", "task=gpt"]) == ({"epochs": "2"}, ["task=gpt"])
    for output in (tmp_path, tmp_path / "no" / "x.md", tmp_path / "x.json"):
        with pytest.raises(UserError, match="output="):
            check_output(output)
