"""`expkit watch` as people type it: what they see, what is on the disk then, and what it costs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from expkit.cli.main import main
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.snapshots import list_snapshots, verify
from expkit.watch.selecting import settings_of
from tests.conftest import ended
from tests.expkit.snapshots.making import save
from tests.expkit.trackers.conftest import takes_ctrl_c
from tests.expkit.watch.runs import records, told, write


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    made = RunDir(tmp_path / "outputs" / "a")
    write(made, records(1, 60))
    return made


def test_once(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--once", "--loss-spike-threshold", "0.5", "--min-steps-between-saves", "20"]) == 0
    said = capsys.readouterr().out
    assert "watching outputs/a with loss_spike, accuracy_drop, best_model, divergence, nonfinite, stalled" in said
    assert "ALERT step 17: loss_spike: train_loss" in said and "ended by" not in said
    assert re.search(r"Noted step \d+: best_model: ", said) and not re.search(r"ALERT step \d+: best_model", said)
    (log,) = run.logs.glob("smart_monitor_*.log")
    assert "] Monitoring: Step 60 | loss " in log.read_text()
    assert "ALERT step 34" not in log.read_text() and "ALERT step 51" in log.read_text()  # 20 steps between two
    kinds = [(each.step, each.reason.partition("_")[0]) for each in list_snapshots(run)]
    assert (17, "loss") in kinds and all(verify(each) is None for each in list_snapshots(run))
    assert not run.events.exists()
    assert main(["watch", "a", "--once", "--loss-spike-threshold", "0.5", "--min-steps-between-saves", "20"]) == 0
    assert "0 record(s) read, 0 new event(s)" in capsys.readouterr().out


def test_what_is_typed_of_a_detector_wins(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--min-steps-between-saves", "500", "--loss-spike-threshold", "9", "detectors=loss_spike"]
    assert main(["watch", "a", "--dry-run", *words]) == 0
    assert capsys.readouterr().out == "60 records of 1 run: loss_spike 0; 0 snapshots\n"
    words += ["detectors.loss_spike.cooldown=5", "detectors.loss_spike.threshold=0.3"]
    assert main(["watch", "a", "--dry-run", *words]) == 0
    assert capsys.readouterr().out.endswith("loss_spike 3; 1 snapshot\n")


def test_a_run_that_has_the_same_detector_acts_itself(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    detectors = settings_of(["detectors=loss_spike,accuracy_drop"], "")
    run.config.write_text(json.dumps({"config": {"detectors": detectors}}))
    assert main(["watch", "a", "--once", "detectors=loss_spike,nonfinite"]) == 0
    assert "loss_spike: the run has the same and acts itself" in capsys.readouterr().out
    assert told(run.logs / "watch_events.jsonl")[0]["kind"] == "loss_spike" and list_snapshots(run) == []
    other = RunDir(run.root.parent / "b")
    write(other, records(1, 40))
    other.config.write_text(run.config.read_text())
    assert main(["watch", "b", "--once", "detectors=loss_spike", "detectors.loss_spike.window=9"]) == 0
    assert [snapshot.step for snapshot in list_snapshots(other)] == [17]  # it is not the same


def test_dry_run_writes_nothing(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    other = RunDir(run.root.parent / "b")
    write(other, records(1, 40, seed=1))
    before = sorted(path for path in run.root.parent.rglob("*"))
    words = ["detectors=loss_spike", "detectors.loss_spike.cooldown=5"]
    assert main(["watch", "outputs/*", "--dry-run", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "step", "severity", "kind", "would", "what"]
    steps = {"outputs/a": ["17", "34", "51"], "outputs/b": ["17", "34"]}
    expected = [[name, step] for name, found in steps.items() for step in found]
    assert [line.split()[:2] for line in lines[1:-1]] == expected
    assert lines[-1] == "100 records of 2 runs: loss_spike 5; 2 snapshots"
    assert main(["watch", "a", "b", "--dry-run", "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["totals"] == {"loss_spike": 5} and [each["records"] for each in said["runs"]] == [60, 40]
    assert [each["responses"] for each in said["runs"][0]["events"]] == [["snapshot", "alert"], ["alert"], ["alert"]]
    assert sorted(path for path in run.root.parent.rglob("*")) == before


@pytest.mark.parametrize("steps", ["0", "20", "45"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_dry_run_counts_the_snapshots_that_a_watch_makes(
    run: RunDir, seed: int, steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several events of a record make one; a best model that came too soon gets its own later."""
    made = RunDir(run.root.parent / "b")
    write(made, records(1, 130, seed))
    words = [
        "--min-steps-between-saves",
        steps,
        "--accuracy-drop-threshold",
        "1",
        "detectors=moderate,nonfinite,threshold",
    ]
    words += [
        "detectors.threshold.metric=train_loss",
        "detectors.threshold.threshold=3",
        "detectors.threshold.records=1",
    ]
    words += ["detectors.threshold.cooldown=10", "detectors.best_model.cooldown=7"]
    assert main(["watch", "b", "--dry-run", "--json", *words]) == 0
    (said,) = json.loads(capsys.readouterr().out)["runs"]
    assert main(["watch", "b", "--once", *words]) == 0
    found = list_snapshots(made)
    assert said["snapshots"] == len(found) > 0
    asked = {each["step"] for each in said["events"] if "snapshot" in each["responses"]}
    assert asked <= {each.step for each in found}


def test_a_larger_loss_window_hears_less(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's advice against too many snapshots."""
    made = RunDir(run.root.parent / "b")
    losses = [1.0] * 30 + [0.7] * 5 + [1.0]  # 43 % above the last 5, 18 % above the last 10
    write(made, (Record(step, 1, time.time(), {"train_loss": loss}) for step, loss in enumerate(losses, 1)))
    for more, found in (([], 1), (["--loss-window", "10"], 1), (["--loss-window", "20"], 0)):
        assert main(["watch", "b", "--dry-run", "detectors=loss_spike", *more]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"36 records of 1 run: loss_spike {found};")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "nope is no run: name a run directory"),
        (["x*"], "x*: no run matches this"),
        (["--base-dir", "nope"], "--base-dir nope: there is no such folder"),
        (["detectors=nope"], "detectors=nope: there is no such option"),
        (["detectors=nonfinite", "--loss-window", "5"], "--loss-window is for loss_spike, which is not selected"),
        (["--poll-interval", "0"], "--interval 0: it must be more than 0 seconds"),
        (["--poll-interval", "nan"], "--interval nan: it must be more than 0 seconds"),
        (["--poll-interval", "1e12"], "--interval 1e+12: it must be more than 0 seconds, at most a day"),
        (["--json"], "--json belongs to --dry-run"),
        (["a", "--wait"], "--wait is for a run that is to be watched as it goes on"),
        (["--wait", "--log-file", "b"], "--wait is for a run"),
        (["--fields", "loss=x"], "--fields belongs to"),
        (["--pattern", "x"], "--pattern belongs to --log-file"),
        (["--status-file", "a", "--log-file", "b"], "one source at a time: --status-file or --log-file"),
        (["a", "--log-file", "b"], "a: name a run or another trainer's file, not both"),
        (["--log-file", "no/b"], "--log-file no/b: there is no folder"),
        (["--log-file", "outputs"], "--log-file outputs: this is a folder"),
        (["--trackio-run", "a"], "--trackio-run: which project? Say --project"),
        (["--webhook", "ftp://x"], "webhook needs an address"),
        (["--min-steps-between-saves", "-1"], "loss_spike.cooldown=-1: it must be a whole number"),
    ],
)
def test_mistakes(run: RunDir, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *arguments, "--once"]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (run.logs / "watch_events.jsonl").exists()


@pytest.mark.parametrize("where", [["--base-dir", "."], []], ids=["named", "here"])
def test_the_guides_folder_with_a_status_file(
    tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "status").mkdir()
    assert main(["watch", *where, "--once"]) == 0, "the trainer may not have written its file yet"
    assert "0 record(s) read" in capsys.readouterr().out
    (tmp_path / "status" / "training_status.json").write_text('{"step": 5, "loss": NaN, "accuracy": 50}')
    assert main(["watch", *where, "--once"]) == 0
    assert "ALERT step 5: nonfinite: loss is nan" in capsys.readouterr().out
    assert [each["step"] for each in told(tmp_path / "logs" / "watch_events.jsonl")] == [5]
    (snapshot,) = list_snapshots(RunDir(tmp_path))
    assert json.loads((snapshot.path / "training_status.json").read_text()) == {"step": 5, "loss": None, "accuracy": 50}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_follows_a_run_until_it_is_told_to_end(run: RunDir, number: signal.Signals) -> None:
    """And has neither torch nor much memory."""
    code = (
        "import sys\nfrom expkit.cli.main import main\ncode = main(sys.argv[1:])\n"
        "peak = next(each for each in open('/proc/self/status') if 'VmHWM' in each)\n"
        "print('torch' in sys.modules, peak)\nsys.exit(code)"
    )
    words = ["detectors=moderate", "detectors.loss_spike.cooldown=5"]
    command = [sys.executable, "-c", code, "watch", "a", "--poll-interval", "60", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=takes_ctrl_c
    )
    with process, ended(process):
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while "snapshot" not in lines[-1]:
            lines.append(process.stdout.readline())
        deadline, last = time.monotonic() + 50, 60  # polling would take a minute
        while time.monotonic() < deadline and last_event(run) <= 60:
            write(run, records(last + 1, last + 20))
            last += 20
            time.sleep(0.05)
        process.send_signal(number)
        lines += process.stdout.readlines()
        assert process.wait() == 0, lines
    assert time.monotonic() < deadline
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert any(f"ALERT step {last_event(run)}" in line for line in lines)
    assert f"ended by {name} at step " in "".join(lines) and "Traceback" not in "".join(lines)
    if Path("/proc/self/status").exists():
        imported, _, kilobytes, _ = next(line for line in lines if "VmHWM" in line).split()
        assert imported == "False" and int(kilobytes) < 50 * 1024


def waiting(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "expkit", "watch", *words, "--wait", "--interval", "0.2"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=takes_ctrl_c
    )


def test_it_waits_for_a_run_whose_job_has_not_begun(run: RunDir) -> None:
    late = RunDir(run.root.parent / "late")
    with waiting("late") as process, ended(process):
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting for late, in outputs\n"
        late.logs.mkdir(parents=True)  # no run yet
        time.sleep(0.5)
        write(late, records(1, 20))
        lines = [process.stdout.readline()]
        while "ALERT step 17" not in lines[-1]:
            lines.append(process.stdout.readline())
        assert "watching outputs/late" in lines[0]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_what_it_waits_for_may_be_there_or_never_come(run: RunDir) -> None:
    with waiting() as there, waiting("never") as never, ended(there), ended(never):
        assert there.stdout is not None and never.stdout is not None
        assert "watching outputs/a" in there.stdout.readline()
        there.send_signal(signal.SIGTERM)
        assert there.wait() == 0
        assert never.stdout.readline() == "waiting for never, in outputs\n"
        never.send_signal(signal.SIGTERM)
        assert never.stdout.read() == "ended by SIGTERM before it was there\n"
        assert never.wait() == 0
    assert not (run.root.parent / "never").exists()


def last_event(run: RunDir) -> int:
    return max((each["step"] for each in told(run.logs / "watch_events.jsonl")), default=0)


def test_a_snapshot_has_the_checkpoint_from_before_the_trouble(run: RunDir) -> None:
    save(run, 10, 17, 40)
    assert main(["watch", "a", "--once", "detectors=loss_spike"]) == 0
    (snapshot,) = list_snapshots(run)
    assert (snapshot.step, snapshot.checkpoint_step) == (17, 10)


def test_under_the_guides_name(run: RunDir) -> None:
    script = Path(__file__).parents[3] / "scripts" / "smart_monitor.py"
    for command in ([sys.executable, str(script)], [sys.executable, "-m", "expkit.watch"]):
        done = subprocess.run([*command, "a", "--dry-run"], capture_output=True, text=True, check=True)
        assert "60 records of 1 run" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_trouble(run: RunDir) -> None:
    command = f"{sys.executable} -m expkit watch a --once | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "watching" in done.stdout and done.stderr == ""
    assert "read all, at step 60" in next(run.logs.glob("smart_monitor_*.log")).read_text()
