"""MetricsLogger, as the guide on run monitoring has it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expkit import MetricsLogger


@pytest.fixture
def logger(tmp_path: Path) -> MetricsLogger:
    return MetricsLogger(log_dir=tmp_path / "logs", log_interval=10)


def test_three_lines_in_a_training_loop(logger: MetricsLogger) -> None:
    for step in range(30):
        if logger.should_log(step):
            logger.log_metrics(step, {"loss": 1.0 / (step + 1), "learning_rate": 0.1})
    entries = logger.load_metrics()
    assert [entry["step"] for entry in entries] == [0, 10, 20]
    assert entries[0]["loss"] == 1.0
    assert logger.get_latest_step() == 20


def test_lines_are_flat_and_on_disk_at_once(logger: MetricsLogger, tmp_path: Path) -> None:
    logger.log_metrics(5, {"loss": 0.5, "epoch": 2})
    (line,) = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry.pop("time") > 1.7e9
    assert entry == {"step": 5, "epoch": 2, "loss": 0.5}


def test_training_log_is_for_people(logger: MetricsLogger, tmp_path: Path) -> None:
    logger.log_metrics(5, {"loss": 0.123456789, "perplexity": math.nan, "größe": 1})
    assert (
        (tmp_path / "logs" / "training.log")
        .read_text(encoding="utf-8")
        .endswith(" step 5 | loss 0.123457 | perplexity nan | größe 1\n")
    )


def test_without_flush_lines_wait_but_are_not_forgotten(logger: MetricsLogger, tmp_path: Path) -> None:
    logger.log_metrics(1, {"loss": 0.5}, flush=False)
    assert (tmp_path / "logs" / "metrics.jsonl").read_bytes() == b""
    assert logger.get_latest_step() == 1
    logger.log_metrics(2, {"loss": 0.5}, flush=False)
    logger.close()
    assert len((tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "logs" / "training.log").read_text().splitlines()) == 2


def test_tensors_and_arrays_of_one_element_are_numbers(logger: MetricsLogger) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    logger.log_metrics(
        torch.tensor(1), {"loss": torch.tensor([0.5], requires_grad=True), "gradient_norm": norm, "x": np.float32(2)}
    )
    (entry,) = logger.load_metrics()
    assert entry["step"] == 1
    assert entry["loss"] == 0.5
    assert entry["gradient_norm"] == pytest.approx(3**0.5)
    assert entry["x"] == 2.0


def test_a_shape_error_names_the_metric_and_writes_nothing(logger: MetricsLogger) -> None:
    with pytest.raises(TypeError, match=r"metric 'loss_per_sample' has shape \(4,\)"):
        logger.log_metrics(1, {"loss": 0.5, "loss_per_sample": torch.zeros(4)})
    assert logger.load_metrics() == []


@pytest.mark.parametrize("arguments", [(1, 0.5), ({"loss": 0.5}, 1)])
def test_metrics_without_names_are_refused(logger: MetricsLogger, arguments: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"but it must be names and numbers: log_metrics\(step, \{'loss': 0.5\}\)"):
        logger.log_metrics(*arguments)


@pytest.mark.parametrize("name", ["step", "time", "details", "series", "nonfinite"])
def test_names_that_lines_use_are_refused(logger: MetricsLogger, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        logger.log_metrics(1, {name: 1.0})


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_is_never_due_is_refused(tmp_path: Path, interval: int) -> None:
    with pytest.raises(ValueError, match="log_interval must be at least 1"):
        MetricsLogger(tmp_path, log_interval=interval)


def test_nan_and_infinities_come_back(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    (entry,) = logger.load_metrics()
    assert math.isnan(entry["a"])
    assert (entry["b"], entry["c"]) == (math.inf, -math.inf)


def test_the_summary_has_these_keys(logger: MetricsLogger) -> None:
    for step, loss in enumerate([4.0, 1.0, 3.0, 2.0]):
        logger.log_metrics(step, {"loss": loss})
    logger.log_metrics(4, {"accuracy": 90})
    assert logger.get_metrics_summary() == {
        "total_steps": 5,
        "loss_final": 2.0,
        "loss_min": 1.0,
        "loss_max": 4.0,
        "loss_mean": 2.5,
        "accuracy_final": 90,
        "accuracy_min": 90,
        "accuracy_max": 90,
        "accuracy_mean": 90,
    }


def test_nan_stays_out_of_every_statistic_but_the_final_value(logger: MetricsLogger) -> None:
    for step, loss in enumerate([math.nan, 1.0, math.inf, 3.0, math.nan]):
        logger.log_metrics(step, {"loss": loss, "never": math.nan})
    summary = logger.get_metrics_summary()
    assert (summary["loss_min"], summary["loss_max"], summary["loss_mean"]) == (1.0, 3.0, 2.0)
    assert math.isnan(summary["loss_final"])
    assert math.isnan(summary["never_final"])
    assert summary.keys() == {
        "total_steps", "loss_final", "loss_min", "loss_max", "loss_mean", "never_final",
    }  # fmt: skip


def test_an_empty_log_has_no_step_and_an_empty_summary(logger: MetricsLogger) -> None:
    assert logger.load_metrics() == []
    assert logger.get_latest_step() is None
    assert logger.get_metrics_summary() == {"total_steps": 0}


def test_archiving_by_moving_the_file_away(logger: MetricsLogger, tmp_path: Path) -> None:
    logger.log_metrics(1, {"loss": 0.5})
    shutil.move(tmp_path / "logs" / "metrics.jsonl", tmp_path / "logs" / "metrics_archive_20241209.jsonl")
    assert logger.load_metrics() == []
    assert logger.get_latest_step() is None
    assert logger.get_metrics_summary() == {"total_steps": 0}
    logger.log_metrics(2, {"loss": 0.4})
    assert [entry["step"] for entry in logger.load_metrics()] == [2]
    assert len((tmp_path / "logs" / "metrics_archive_20241209.jsonl").read_text().splitlines()) == 1


def test_rotated_parts_are_joined(logger: MetricsLogger, tmp_path: Path) -> None:
    for step in range(1, 4):
        logger.log_metrics(step, {"loss": float(step)})
        assert logger.rotate() == tmp_path / "logs" / f"metrics.{step:04d}.jsonl"
        assert logger.get_latest_step() == step
    assert [entry["step"] for entry in logger.load_metrics()] == [1, 2, 3]
    assert logger.get_metrics_summary()["total_steps"] == 3


def test_going_on_after_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log_metrics(1, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    with MetricsLogger(tmp_path) as logger:
        assert logger.get_latest_step() == 1
        logger.log_metrics(2, {"loss": 0.4})
        assert [entry["loss"] for entry in logger.load_metrics()] == [0.5, 0.4]
    assert "skipped 1 broken line" in caplog.text


@pytest.mark.parametrize("end", [b"", b'{"step": 99999, "lo', b"\x00" * 100, b'{"nonfinite": 3, "step": 1}\n'])
def test_the_latest_step_of_a_big_file_with_a_torn_end(tmp_path: Path, end: bytes) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        for step in range(20_000):
            file.write(b'{"step": %d, "epoch": 1, "time": 1.5, "loss": 0.25, "learning_rate": 0.001}\n' % step)
        file.write(end)
    assert MetricsLogger(tmp_path).get_latest_step() == 19_999


def test_the_latest_step_when_the_last_line_is_very_long(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"loss": 0.5})
    logger.log_metrics(2, {f"layer{number}/norm": 1.0 for number in range(10_000)})
    assert logger.get_latest_step() == 2


def test_files_of_older_tools_with_bare_nan_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 7, "loss": math.nan, "timestamp": "now"}) + "\n")
    (entry,) = MetricsLogger(tmp_path).load_metrics()
    assert math.isnan(entry["loss"])
    assert MetricsLogger(tmp_path).get_metrics_summary()["total_steps"] == 1
    assert not caplog.records


@pytest.mark.parametrize("name", ["metrics.jsonl", "training.log"])
def test_a_full_disk_does_not_stop_training(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / name).symlink_to("/dev/full")
    logger = MetricsLogger(tmp_path)
    for step in range(3):
        logger.log_metrics(step, {"loss": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / name} cannot be written (No space left on device): its lines wait in memory"
    ]
    logger.close()
    assert "3 line(s) are lost" in caplog.text
