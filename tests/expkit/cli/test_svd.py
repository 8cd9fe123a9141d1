"""`expkit svd` on what is on this machine: what a user types and sees."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

import expkit.cli.svd as command
from expkit.cli.main import main
from expkit.journal import encode
from expkit.record import Record
from tests.expkit.trackers.conftest import REPOSITORY, clean_environment
from tests.expkit.wandb_data import log_writer

Ask = Callable[..., str]
LAYERS = ("block0.attn.c_q", "block0.mlp.c_fc")


def row(p: float = 0.3, angle: float = 0.3, error: float = 0.5, mode: float = 0.0, **others: float) -> dict[str, float]:
    """The metrics of both layers."""
    one = {
        "principal_alignment": p,
        "minor_alignment": (1 - p * p) ** 0.5,
        "alignment_excess": p * p / (10 / 64),
        "subspace_angle": angle,
        "reconstruction_error": error,
        "mode": mode,
        "r": 54,
        **others,
    }
    return {f"svd/{layer}/{name}": value for layer in LAYERS for name, value in one.items()}


def line(step: int, metrics: Mapping[str, float]) -> bytes:
    return encode(Record(step, 1, 0.0, {"train_loss": 1.0, **metrics}))


def make_run(folder: Path, rows: Sequence[Mapping[str, float]] = (), state: str = "finished") -> Path:
    """A run directory with an analysis every 20 steps."""
    (folder / "logs").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    alive = {"host": platform.node(), "pid": os.getpid(), "heartbeat_time": time.time()}
    (folder / "status.json").write_text(json.dumps({"state": state, **alive}))
    (folder / "logs" / "metrics.jsonl").write_bytes(b"".join(line(20 * at, each) for at, each in enumerate(rows, 1)))
    return folder


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """What `expkit svd ...` prints; `ask.said` on stderr."""

    def asked(*arguments: object, code: int = 0) -> str:
        assert main(["svd", *map(str, arguments)]) == code
        out, asked.said = capsys.readouterr()
        return out

    asked.said = ""
    return asked


def test_a_finished_run_is_summed_up(tmp_path: Path, ask: Ask) -> None:
    run = make_run(tmp_path / "run", [row(), row(0.45), row(0.3, mode=1.0)])
    out = ask(run)
    assert out.startswith(
        "=" * 80 + "\nSVD MONITORING SUMMARY\n" + "=" * 80 + "\n\nblock0.attn.c_q\n  Latest step: 60\n"
    )
    assert "  Step 60: SWITCHED TO LOW-RANK (r=54)\n" in out
    assert out.splitlines()[-2:] == [f"  {layer}  [{'#' * 20}] 100%  LOW-RANK" for layer in LAYERS]
    assert f"{run}: the run has finished\n" in ask.said
    assert "minor_alignment > 0.6 tells nothing" in ask.said
    assert "nothing switches layers in this run (detectors=svd_switch" in ask.said
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80


def test_layers_can_be_chosen(tmp_path: Path, ask: Ask) -> None:
    run = make_run(tmp_path / "run", [row()])
    assert LAYERS[1] not in ask(run, "--layers", "*.attn.*")
    out = ask(run, "--layers", "block7.*", "--once", code=1)
    assert "No metrics collected yet" in out
    assert "--layers: no layer matches; there are block0.attn.c_q, block0.mlp.c_fc" in ask.said


def test_the_newest_of_several_runs_is_taken(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make_run(tmp_path / "outputs" / "old", [row()]), make_run(tmp_path / "outputs" / "new", [row(), row()])
    os.utime(old / "status.json", (1e9, 1e9))
    monkeypatch.chdir(tmp_path)
    for names in ([], ["new"], ["outputs/*"], ["outputs/old", "outputs/new"], ["outputs"], ["latest"], [new]):
        assert "Latest step: 40" in ask(*names), names
    assert "Latest step: 20" in ask("old")


def test_json_is_one_object(tmp_path: Path, ask: Ask) -> None:
    rows = [row(0.38, 0.5 - 0.02 * at) for at in range(8)]
    shown = json.loads(ask(make_run(tmp_path / "run", rows), "--once", "--json"))
    layer = shown["layers"][LAYERS[0]]
    assert (layer["step"], layer["mode"], layer["criteria_met"], layer["switches"]) == (160, "FULL", 1, [])
    assert layer["distances"]["principal_alignment"] == pytest.approx(0.02)
    assert [alert["level"] for alert in layer["alerts"]] == ["WARNING", "INFO"]
    assert [(each["metric"], round(each["steps"])) for each in layer["trends"]] == [("subspace_angle", 260)]
    assert layer["chance"] == pytest.approx(10 / 64)


def test_calibrated_thresholds_are_shown(tmp_path: Path, ask: Ask) -> None:
    run = make_run(tmp_path / "run", [row(0.45)])
    assert "-0.0500 🔴 DANGER" in ask(run)
    assert "+0.0897 🟢 SAFE" in ask(run, "--calibrated"), "sqrt(10/64 + 54/64 0.16) = 0.5397"


def test_thresholds_can_be_set(tmp_path: Path, ask: Ask) -> None:
    run = make_run(tmp_path / "run", [row(0.45)])
    flags = ("--principal-danger", 0.5, "--warn-margin", 0.02, "--angle-stable", 0.4, "--recon-safe", 0.6)
    out = ask(run, *flags, "--minor-safe", 0.65)
    assert "+0.0500 🟢 SAFE" in out and "3/3 met" in out and "vs >0.65" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "nope is no run: name a run directory, or the id of a run in"),
        ([], "there is no run in"),
        (["--layers", ","], "--layers ',': names no layer; '*' stands for all of them"),
        (["--minor-safe", "1.5"], "--minor-safe 1.5: it must be above 0, and at most 1"),
        (["--angle-stable", "nan"], "--angle-stable nan: it must be above 0, and at most 1.571"),
        (["--key-pattern", "("], "--key-pattern (: it is no regular expression"),
        (["--log-file", "x.log"], "--log-file x.log: there is no such file; with --follow it may come later"),
        (["--log-file", "."], "--log-file .: it is a folder; a run directory is named without --log-file"),
        (["--follow"], "--follow belongs to --log-file; a run is always followed"),
        (["a", "--log-file", "x.log"], "name one of RUN, --wandb-run and --log-file"),
        (["--project", "p"], "--project and --entity belong to --wandb-run ID"),
        (["."], ". is no run: name a run directory"),
        (["text.txt"], "text.txt is a file: --log-file text.txt reads it"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], said: str, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("x\n")
    assert ask(*arguments, code=1) == ""
    assert ask.said.startswith(f"error: {said}") and ask.said.count("\n") == 1


def test_a_log_file_is_parsed(tmp_path: Path, ask: Ask) -> None:
    log = tmp_path / "output.log"
    shown = "".join(f"{name}: {value}\n" for name, value in row(0.45).items())
    log.write_text(f"hello\nepoch 1\x1b[0m  step 20/200\r 10%|#\r\n{shown}bye")
    assert "-0.0500 🔴 DANGER" in ask("--log-file", log)
    assert f"{log}: the file was read\n" in ask.said
    assert "note: 18 lines read, 3 of them without anything that the parser knows\n" in ask.said
    log.write_text("hello\n")
    assert "No metrics collected yet" in ask("--log-file", log, code=1)
    assert "--key-pattern reads other names" in ask.said


def test_an_offline_wandb_run_is_read(tmp_path: Path, ask: Ask) -> None:
    run = tmp_path / "run"
    records = [log_writer.run("abc"), *(log_writer.history(20 * at, row(0.4 + at / 100)) for at in (1, 2, 3))]
    folder = run / "wandb" / "offline-run-20260101_000000-abc"
    log_writer.write_log(folder / "run-abc.wandb", [*records, log_writer.end()])
    for arguments in ([run], [folder], [folder / "run-abc.wandb"], ["--wandb-run", folder]):
        out = ask(*arguments)
        assert "Latest step: 60" in out and "-0.0300 🔴 DANGER" in out
    assert "abc (abc), " in ask.said


def test_the_old_name_works_from_a_clone_and_gives_the_classes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row()])
    environment = {key: value for key, value in clean_environment().items() if key != "PYTHONPATH"}
    script = REPOSITORY / "scripts" / "monitor_svd_metrics.py"
    for arguments in (
        [str(script), "--log-file", str(run / "logs" / "metrics.jsonl"), "--warn-margin", "0.08"],
        ["-c", "from scripts.monitor_svd_metrics import SVDMonitor, SwitchThresholds; SVDMonitor().print_summary()"],
    ):
        environment["PYTHONPATH"] = str(REPOSITORY) if arguments[0] == "-c" else ""
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert "SVD MONITORING SUMMARY" in done.stdout, done.stderr


class Stepwise:
    """Does what a training does, one thing before each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *deeds: Callable[[], Any]) -> None:
        self.left, self.waited = list(deeds), list[float]()
        monkeypatch.setattr(command, "watch", lambda *given: watch(*given, sleep=self))

    def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)
        if not self.left:
            raise KeyboardInterrupt
        self.left.pop(0)()


watch = command.watch


def test_a_run_is_followed_until_ctrl_c(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", state="running")
    journal = run / "logs" / "metrics.jsonl"

    def add(*lines: bytes) -> None:
        with journal.open("ab") as file:
            file.writelines(lines)

    def resumed() -> None:
        journal.unlink()
        journal.write_bytes(line(20, row()) + line(40, row(0.5)) + line(60, row(0.3)))

    steps = Stepwise(
        monkeypatch,
        lambda: add(line(20, row())),
        lambda: add(line(40, row(0.5)), line(60, row(0.5))),
        lambda: add(line(80, row(0.3, mode=1.0))[:30]),
        lambda: add(line(80, row(0.3, mode=1.0))[30:]),
        resumed,
        lambda: add(line(80, row(0.5))),
    )
    out = ask(run, "--refresh-interval", "7", "--layers", LAYERS[0])
    heads = [text.splitlines()[0] for text in out.split("SVD MONITORING SUMMARY")[0].split("\nStep ")[1:]]
    assert heads == [f"{step} | {LAYERS[0]}" for step in (40, 80, 80)], "what lasts is said once"
    assert f"🚨 CRITICAL: [{LAYERS[0]}] SWITCHED TO LOW-RANK (r=54)" in out
    assert "  Mode: FULL\n" in out.split("SVD MONITORING SUMMARY")[1], "the switch was before the resume's step"
    assert steps.waited == [7.0] * 7
    assert f"No metrics collected yet of {run}: waiting for the first analysis\n" in ask.said
    assert f"{run}: began anew: 3 analyses of 1 layer(s) up to step 60" in ask.said


def test_json_lines_are_read_back_from_a_log(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", [row()], "running")
    journal = run / "logs" / "metrics.jsonl"
    Stepwise(monkeypatch, lambda: journal.write_bytes(journal.read_bytes() + line(40, row(0.45))))
    lines = ask(run, "--json").splitlines()
    assert [orjson.loads(each).get("layer_name") for each in lines] == [*LAYERS, None]
    log = tmp_path / "said.jsonl"
    log.write_text("\n".join(lines))
    read = orjson.loads(ask("--log-file", log, "--json"))
    assert [read["layers"][layer]["principal_alignment"] for layer in LAYERS] == [0.45, 0.45]


def test_an_offline_wandb_run_is_followed(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wandb" / "offline-run-20260101_000000-abc" / "run-abc.wandb"

    def written(*principal: float, ended: bool = False) -> None:
        rows = [log_writer.history(20 * at, row(p)) for at, p in enumerate(principal, 1)]
        log_writer.write_log(file, [log_writer.run("abc"), *rows, *([log_writer.end()] if ended else [])])

    written(0.3)
    Stepwise(monkeypatch, lambda: None, lambda: written(0.3, 0.45), lambda: written(0.3, 0.45, 0.5, 0.3, ended=True))
    out = ask(tmp_path, "--layers", LAYERS[0])
    assert [text.split(" ")[0] for text in out.split("\nStep ")[1:]] == ["40"], "each step once, what lasts once"
    assert "Latest step: 80" in out and "the run has finished" in ask.said


def test_a_file_that_cannot_be_read_now_is_tried_again(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", [row()], "running")
    journal = run / "logs" / "metrics.jsonl"
    content = journal.read_bytes()
    journal.unlink()
    journal.symlink_to(journal)  # whoever opens it gets an error

    def repaired() -> None:
        journal.unlink()
        journal.write_bytes(content)

    assert ask(run, "--once", code=1) == ""
    assert ask.said == f"error: {journal} cannot be read: Too many levels of symbolic links\n"
    steps = Stepwise(monkeypatch, lambda: None, repaired)
    assert "Latest step: 20" in ask(run, "--refresh-interval", "7")
    assert steps.waited == [7.0] * 3 and ask.said.count("cannot be read:") == 1 and "it can be read again\n" in ask.said


def test_a_log_that_is_followed_may_come_later_and_be_rotated(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "train.log"

    def text(step: int, p: float) -> str:
        return f"step {step} " + " ".join(f"{name}={value}" for name, value in row(p).items()) + "\n"

    def rotated() -> None:
        log.rename(tmp_path / "train.log.1")
        log.write_text(text(60, 0.5))

    Stepwise(monkeypatch, lambda: log.write_text(text(20, 0.3)), rotated, lambda: log.write_text("step 80 x\n"))
    out = ask("--log-file", log, "--follow")
    assert f"Step 60 | {LAYERS[0]}" in out and "Latest step: 60" in out
