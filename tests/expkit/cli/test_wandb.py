"""`expkit wandb` on files of this machine: what a user types and sees, without network or account."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import main
from tests.expkit.trackers.conftest import REPOSITORY, clean_environment
from tests.expkit.wandb_data import log_writer
from tests.expkit.wandb_data.log_writer import gpu_system

Ask = Callable[..., str]


def make_run(
    folder: Path,
    run_id: str,
    history: Sequence[Mapping[str, Any]] = (),
    system: Sequence[Mapping[str, Any]] = (),
    day: int = 1,
    **about: Any,
) -> Path:
    """A run directory with an offline run in it, whose rows are at steps 10, 20, ... and every 15 seconds."""
    started = 1.7e9 + day * 86400
    records = [
        log_writer.run(run_id, started=started, **about),
        *(log_writer.history(10 * index, row) for index, row in enumerate(history, 1)),
        *(log_writer.system(started + 15 * index, row) for index, row in enumerate(system)),
        log_writer.end(),
    ]
    log_writer.write_log(
        folder / "wandb" / f"offline-run-2026010{day}_000000-{run_id}" / f"run-{run_id}.wandb", records
    )
    return folder


def of_gpu(gpu: int, used_gb: float, used_pct: float, util: float) -> dict[str, float]:
    names = ("memory_used_gb", "memory_used_pct", "compute_util")
    return {f"gpu/{gpu}/{name}": value for name, value in zip(names, (used_gb, used_pct, util), strict=True)}


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """What `expkit wandb ...` prints; `ask.said` on stderr."""

    def asked(*arguments: object, code: int = 0) -> str:
        assert main(["wandb", *map(str, arguments)]) == code
        out, asked.said = capsys.readouterr()
        return out

    asked.said = ""
    return asked


TWO_GPUS = [
    of_gpu(0, 8.0, 33.4, 60.0) | of_gpu(1, 2.0, 8.0, 10.0) | {"train_loss": 1.0},
    of_gpu(0, 2.0, 8.0, 94.25) | of_gpu(1, 9.0, 37.5, 20.0) | {"train_loss": 0.5},
]

HISTORY_TEXT = """\
Run: shown (abc)
State: finished
Path: {path}
--------------------------------------------------------------------------------

GPU 0:
  Memory Used:
    Current:  2048.0 MB (2.00 GB)
    Average:  5120.0 MB (5.00 GB)
    Maximum:  8192.0 MB (8.00 GB)
  Memory Allocated (%):
    Current:  8.0%
    Average:  20.7%
    Maximum:  33.4%
  GPU Utilization (%):
    Current:  94.2%
    Average:  77.1%
    Maximum:  94.2%

GPU 1:
  Memory Used:
    Current:  9216.0 MB (9.00 GB)
    Average:  5632.0 MB (5.50 GB)
    Maximum:  9216.0 MB (9.00 GB)
  Memory Allocated (%):
    Current:  37.5%
    Average:  22.8%
    Maximum:  37.5%
  GPU Utilization (%):
    Current:  20.0%
    Average:  15.0%
    Maximum:  20.0%

TOTAL ACROSS ALL 2 GPUs:
  Current Total Memory:  11.0 GB
  Average Total Memory:  10.5 GB
  Maximum Total Memory:  11.0 GB
"""


def test_gpu_figures_come_in_the_guides_layout_with_the_maximum_of_the_sum(tmp_path: Path, ask: Ask) -> None:
    make_run(tmp_path, "abc", TWO_GPUS, name="shown")
    (path,) = tmp_path.glob("wandb/*/*")
    assert ask("gpu", tmp_path) == HISTORY_TEXT.format(path=path)


def test_what_was_not_measured_is_not_a_zero(tmp_path: Path, ask: Ask) -> None:
    rows = [{"gpu/0/memory_used_gb": 4.0, "gpu/0/compute_util": math.nan, "gpu/1/compute_util": 0.0}, *TWO_GPUS[:1]]
    lines = ask("gpu", make_run(tmp_path, "abc", rows[:1])).splitlines()
    first, second = lines.index("GPU 0:"), lines.index("GPU 1:")
    values = [line.split(":  ")[1] for line in lines[first:] if ":  " in line]
    assert values[:9] == ["4096.0 MB (4.00 GB)"] * 3 + ["n/a"] * 6
    assert values[9:18] == ["n/a"] * 6 + ["0.0%"] * 3 and second > first
    assert values[18:] == ["n/a"] * 3, "one GPU's memory is not the total of two"
    shown = json.loads(ask("gpu", tmp_path, "--json"))
    assert "compute_util" not in shown["gpus"]["0"] and shown["total_memory_gb"] is None


def test_the_total_is_of_moments_at_which_every_gpu_answered(tmp_path: Path, ask: Ask) -> None:
    lost = [*TWO_GPUS, {"gpu/0/memory_used_gb": 20.0}]
    total = json.loads(ask("gpu", make_run(tmp_path, "abc", lost), "--json"))["total_memory_gb"]
    assert total == {"current": 11.0, "average": 10.5, "maximum": 11.0}


def test_the_total_that_the_training_logged_is_taken_as_it_is(tmp_path: Path, ask: Ask) -> None:
    rows = [{**row, "gpu/memory_used_total_gb": total} for row, total in zip(TWO_GPUS, (30.0, 20.0), strict=True)]
    total = json.loads(ask("gpu", make_run(tmp_path, "abc", rows), "--json"))["total_memory_gb"]
    assert total == {"current": 20.0, "average": 25.0, "maximum": 30.0}


def test_averages_over_gpus_are_shown_when_single_ones_were_not_logged(tmp_path: Path, ask: Ask) -> None:
    row = {"gpu/compute_util_avg": 70.0, "gpu/memory_used_avg_gb": 4.0, "gpu/memory_used_total_gb": 8.0}
    run = make_run(tmp_path, "abc", [{**row, "gpu/memory_total_gb": 32.0, "gpu/memory_util_avg": 30.0}])
    text = ask("gpu", run)
    assert "AVERAGE PER GPU (the run logged no values of single GPUs):" in text
    assert "Maximum:  4096.0 MB (4.00 GB)" in text and "Current:  25.0%" in text and "Current:  70.0%" in text
    assert text.endswith("TOTAL ACROSS ALL GPUs:\n" + "".join(
        f"  {which} Total Memory:  8.0 GB\n" for which in ("Current", "Average", "Maximum")
    ))  # fmt: skip


SYSTEM_TEXT = """\
Detected 1 active GPU

GPU 1:
  Memory Allocated:
    Current:  6.00 GB (25.0%)
    Average:  9.00 GB (37.5%)
    Maximum:  12.00 GB (50.0%)
  GPU Utilization:
    Current:  50.0%
    Average:  50.0%
    Maximum:  50.0%
  Power:
    Current:  210.0 W
    Average:  205.0 W
    Maximum:  210.0 W
  Temperature:
    Current:  76°C
    Average:  68°C
    Maximum:  76°C

TOTAL ACROSS ALL 1 GPU:
  Current Total Memory:  6.0 GB
  Average Total Memory:  9.0 GB
  Maximum Total Memory:  12.0 GB
"""


def test_the_system_stream_has_power_and_temperature_too(tmp_path: Path, ask: Ask) -> None:
    rows = [gpu_system(1, 12.0) | {"cpu": 3.0}, gpu_system(1, 6.0, temp=76.0, powerWatts=210.0)]
    assert ask("gpu", make_run(tmp_path, "abc", (), rows), "--system").endswith(SYSTEM_TEXT)


def test_programs_get_the_same_figures_as_csv_and_json(tmp_path: Path, ask: Ask) -> None:
    make_run(tmp_path, "abc", TWO_GPUS, [gpu_system(0, 12.0) | gpu_system(1, 1.0)])
    rows = list(csv.DictReader(io.StringIO(ask("gpu", tmp_path, "--csv"))))
    assert rows[0] == {
        **{"gpu": "0", "metric": "memory_used_gb", "unit": "GB"},
        **{"current": "2.0", "average": "5.0", "maximum": "8.0"},
    }
    assert [row["gpu"] for row in rows] == ["0"] * 3 + ["1"] * 3 + ["total"]
    shown = json.loads(ask("gpu", tmp_path, "--json", "--system"))
    assert shown["run"]["id"] == "abc" and shown["run"]["url"] is None and shown["source"] == "system"
    assert shown["gpus"]["1"]["power_w"] == {"current": 200.0, "average": 200.0, "maximum": 200.0}


@pytest.mark.parametrize(
    ("options", "history", "system", "said"),
    [
        ((), [{"train_loss": 1.0, "a": 2}], [], "in the training history of abc (abc); it has a, train_loss"),
        ((), [{"loss": 1.0}], [gpu_system(0, 1.0)], "it has loss; the system stream has some: --system"),
        (("--system",), TWO_GPUS, [{"cpu": 1.0}], "has system.cpu; the training history has some: leave out --system"),
        (("--system",), [], [], "in the system stream of abc (abc); it has nothing"),
        ((), [{f"m{index:02}": 1 for index in range(30)}], [], "m10, m11 and 18 more"),
    ],
)
def test_without_gpu_metrics_it_says_what_there_is(
    options: tuple[str, ...], history: Any, system: Any, said: str, tmp_path: Path, ask: Ask
) -> None:
    assert ask("gpu", make_run(tmp_path, "abc", history, system), *options, code=1) == ""
    assert ask.said.startswith("error: no GPU metrics ") and said in ask.said and ask.said.count("\n") == 1


def test_keys_are_listed_by_group(tmp_path: Path, ask: Ask) -> None:
    row = {"learning_rate": 0.1, "val_psnr": 1, "final/best_val_loss": 1, "process/rss_gb": 1, "mine": 1}
    media = {"samples._type": "image-file", "samples.path": "media/x.png"}
    run = make_run(tmp_path, "abc", [{**row, **media, "gpu/compute_util_avg": 2}], [gpu_system(0, 1.0) | {"cpu": 1}])
    text = ask("keys", run)
    head, *groups = text.split("\n\n")
    assert head.splitlines()[:2] == ["Run: abc (abc)", "State: finished"]
    assert groups[0] == "Total unique keys: 16"
    listed = {group.splitlines()[0]: group.split("\n  - ")[1:] for group in groups[1:]}
    assert [*listed] == ["GPU-related keys:", "Training metrics keys:", "System metrics keys:", "Other keys:"]
    assert listed["GPU-related keys:"][:2] == ["gpu/compute_util_avg", "system.gpu.0.enforcedPowerLimitWatts"]
    assert listed["Training metrics keys:"] == ["final/best_val_loss", "learning_rate", "val_psnr"]
    assert listed["System metrics keys:"] == ["process/rss_gb", "system.cpu"]
    assert [key.strip() for key in listed["Other keys:"]] == ["_step", "mine", "samples"]
    assert json.loads(ask("keys", run, "--json"))["count"] == 16
    assert ask("keys", run, "--csv").splitlines()[:2] == ["group,key", "gpu,gpu/compute_util_avg"]


def test_a_torn_end_is_said_beside_the_figures(tmp_path: Path, ask: Ask) -> None:
    (file,) = make_run(tmp_path, "abc", TWO_GPUS * 4).glob("wandb/*/*")
    file.write_bytes(file.read_bytes()[:-30])
    assert "State: unfinished" in ask("gpu", tmp_path)
    assert ask.said.startswith("note: 1 record(s) ") and "cannot be read" in ask.said


@pytest.mark.parametrize(
    ("script", "arguments", "begins"),
    [
        ("inspect_wandb_keys", (), "Total unique keys"),
        ("query_wandb_gpu", ("--run-name", "shown"), "  Memory Used:"),
        ("query_wandb_gpu_full", ("--run-id", "abc"), "Detected 1 active GPU"),
    ],
)
def test_the_old_names_work_from_a_clone(script: str, arguments: tuple[str, ...], begins: str, tmp_path: Path) -> None:
    make_run(tmp_path, "abc", TWO_GPUS, [gpu_system(0, 1.0)], name="shown")
    environment = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{script}.py"), ".", *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert begins in done.stdout


def test_a_query_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    make_run(tmp_path, "abc", TWO_GPUS)
    code = (
        "import sys; from expkit.cli.main import main; main(['wandb', 'gpu', '.']); "
        "assert not {'torch', 'pandas', 'matplotlib'} & {*sys.modules}"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
