"""Each event is once in the watcher's file: over kills, resumes that cut the journal, rotations and other settings."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.journal import Journal, cut_journal
from expkit.lock import file_lock
from expkit.record import Record
from expkit.snapshots import list_snapshots
from tests.expkit.watch.runs import WORDS, in_process, records, told, watcher, write


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def events(run: RunDir) -> list[dict[str, object]]:
    return told(run.logs / "watch_events.jsonl")


def test_the_events_are_those_of_the_run_itself(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 300))
    watching = watcher(run)
    assert watching.catch_up() == 300
    assert events(run) == in_process(tmp_path / "events.jsonl", records(1, 300))
    assert len(events(run)) > 20


def test_records_are_taken_as_they_come(run: RunDir, tmp_path: Path) -> None:
    watching = watcher(run)
    assert watching.catch_up() == 0
    for first in range(1, 200, 20):
        write(run, records(first, first + 19))
        assert watching.catch_up() == 20
        watching.save(force=True)
    assert events(run) == in_process(tmp_path / "events.jsonl", records(1, 200))


@pytest.mark.parametrize("saved", [0, 40, 99, 150])
def test_a_watcher_that_was_killed_goes_on(run: RunDir, tmp_path: Path, saved: int) -> None:
    write(run, records(1, saved))
    first = watcher(run)
    first.catch_up()
    first.save(force=True)
    write(run, records(saved + 1, 150))
    first.catch_up()  # and then it is killed, after it has written events, before it has saved
    write(run, records(151, 200))
    second = watcher(run)
    assert second.catch_up() == 200 - saved  # only what came after the state is read again
    assert events(run) == in_process(tmp_path / "events.jsonl", records(1, 200))


def test_a_torn_line_of_a_killed_watcher_is_completed(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 200))
    watcher(run).catch_up()
    file = run.logs / "watch_events.jsonl"
    whole = file.read_bytes()
    for cut in (1, 30, 400, len(whole) - 1):
        file.write_bytes(whole[:-cut])
        watcher(run).catch_up()
        lines = [line for line in file.read_text().splitlines() if line.endswith("}")]
        assert [json.loads(line)["step"] for line in lines] == [each["step"] for each in events_of(whole)]


def events_of(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("alive", [True, False], ids=["watching", "killed before"])
def test_a_resume_that_cuts_the_journal_sets_later_events_aside(run: RunDir, tmp_path: Path, alive: bool) -> None:
    write(run, records(1, 200))
    watching = watcher(run)
    watching.catch_up()
    watching.save(force=True)
    cut_journal(run.metrics, 100)
    if not alive:
        watching = watcher(run)
    watching.catch_up()
    assert events(run) == in_process(tmp_path / "100.jsonl", records(1, 100))
    write(run, records(101, 250, seed=1))  # other data: it was no exact resume
    watching.catch_up()
    other = [*records(1, 100), *records(101, 250, seed=1)]
    assert events(run) == in_process(tmp_path / "250.jsonl", iter(other))
    aside = (run.logs / "watch_events.cut-1.jsonl").read_text().splitlines()
    assert min(json.loads(line)["step"] for line in aside) > 100


def test_a_journal_that_was_cut_and_has_gone_on_before_anybody_looked(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 200))
    watching = watcher(run)
    watching.catch_up()
    cut_journal(run.metrics, 100)
    write(run, records(101, 250, seed=1))
    watching.catch_up()
    other = [*records(1, 100), *records(101, 250, seed=1)]
    assert events(run) == in_process(tmp_path / "events.jsonl", iter(other))


@pytest.mark.parametrize("alive", [True, False], ids=["watching", "killed before"])
@pytest.mark.parametrize("moved", [True, False], ids=["moved away", "rotated"])
def test_a_journal_that_goes_on_in_a_new_file_begins_nothing_anew(
    run: RunDir, tmp_path: Path, alive: bool, moved: bool
) -> None:
    write(run, records(1, 100))
    watching = watcher(run)
    watching.catch_up()
    watching.save(force=True)
    if moved:
        run.metrics.rename(tmp_path / "elsewhere.jsonl")
    else:
        with Journal(run.metrics) as journal:
            journal.rotate()
    write(run, records(101, 200))
    if not alive:
        watching = watcher(run)
    assert watching.catch_up() == 100
    assert events(run) == in_process(tmp_path / "events.jsonl", records(1, 200))


def test_other_settings_read_all_again(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 200))
    first = watcher(run)
    first.catch_up()
    first.save(force=True)
    words = (*WORDS, "detectors.loss_spike.cooldown=50")
    watcher(run, words).catch_up()
    assert events(run) == in_process(tmp_path / "events.jsonl", records(1, 200), words)
    assert (run.logs / "watch_events.cut-1.jsonl").exists()


def test_a_damaged_state_costs_time_only(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 200))
    first = watcher(run)
    first.catch_up()
    first.save(force=True)
    state = run.logs / "watch_state.json"
    for text in ("", "{", "[]", '{"version": 1}', state.read_text().replace('"offset"', '"x"')):
        state.write_text(text)
        watcher(run).catch_up()
        assert events(run) == in_process(tmp_path / f"{random.random()}.jsonl", records(1, 200))


def test_a_full_disk_is_tried_again(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, records(1, 200))
    watching = watcher(run)
    import os

    real, left = os.write, [3]

    def full(descriptor: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] == 0:
            return real(descriptor, data[:10])  # it takes a part of a line, then nothing more
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr("os.write", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                watching.catch_up()
    watching.catch_up()
    found = [line for line in (run.logs / "watch_events.jsonl").read_text().splitlines() if line.endswith("}")]
    expected = in_process(tmp_path / "events.jsonl", records(1, 200))
    assert [json.loads(line)["step"] for line in found] == [each["step"] for each in expected]


def test_what_was_long_before_the_first_watcher_is_written_but_not_acted_upon(
    run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    write(run, records(1, 100, age=3600))
    write(run, records(101, 140))
    watcher(run, ("detectors=loss_spike", "detectors.loss_spike.cooldown=5")).catch_up()
    steps = [int(each.getMessage().split()[2].rstrip(":")) for each in caplog.records if "ALERT" in each.getMessage()]
    assert steps and min(steps) > 100
    assert min(each["step"] for each in events(run)) < 100  # type: ignore[type-var]
    assert [snapshot.step for snapshot in list_snapshots(run)] == steps[:1]


def test_a_kill_makes_no_second_snapshot(run: RunDir) -> None:
    write(run, records(1, 100))
    words = ("detectors=loss_spike", "detectors.loss_spike.cooldown=5")
    for _ in range(3):  # no state is left, and all events come again
        watcher(run, words).catch_up()
    assert [snapshot.step for snapshot in list_snapshots(run)] == [17]


def test_a_fork_begins_with_what_its_parent_knew(run: RunDir, tmp_path: Path) -> None:
    write(run, records(1, 100))
    fork = RunDir(run.root.parent / "fork")
    write(fork, records(81, 150))
    fork.config.write_text(json.dumps({"parent": {"run": "run", "snapshot": "x", "step": 80}}))
    watcher(fork).catch_up()
    whole = in_process(tmp_path / "events.jsonl", records(1, 150))
    assert events(fork) == [event for event in whole if event["step"] > 80]


def test_one_watcher_at_a_time(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom expkit.lock import file_lock\n"
        "with file_lock(Path(sys.argv[1]), 'RUN is watched already'):\n print('locked', flush=True)\n input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        refused = pytest.raises(
            UserError, match=rf"RUN is watched already \(process {other.pid} on .*\): end that first"
        )
        with refused, file_lock(tmp_path / "lock", "RUN is watched already"):
            pass
        other.stdin.write("\n")
    with file_lock(tmp_path / "lock", "RUN is watched already"):
        pass


def test_it_says_stalled_once_by_the_clock(run: RunDir) -> None:
    write(run, (Record(step, 1, 1000.0 + step, {"loss": 1.0}) for step in range(1, 50)))
    words = ("detectors=stalled",)
    watching = watcher(run, words)
    watching.catch_up()
    watching.look(1060.0)
    watching.save(force=True)
    for now in (1200.0, 1300.0):
        again = watcher(run, words)  # each time another one, which does not know what the one before has seen
        again.catch_up()
        again.look(now)
        again.look(now + 50)
    kinds = [json.loads(line)["kind"] for line in (run.logs / "watch_events.jsonl").read_text().splitlines()]
    assert kinds == ["stalled"]


def test_a_stall_gets_the_snapshot_that_it_is_to_have(run: RunDir) -> None:
    write(run, (Record(step, 1, 1000.0 + step, {"loss": 1.0}) for step in range(1, 50)))
    watching = watcher(run, ("detectors=stalled", "detectors.stalled.respond=[snapshot]"))
    watching.catch_up()
    for now in (1200.0, 1300.0):
        watching.look(now)
    (snapshot,) = list_snapshots(run)
    assert (snapshot.step, snapshot.reason) == (49, "stalled")
    assert json.loads((snapshot.path / "metadata.json").read_text())["loss_history"] == [1.0] * 49


def test_the_time_over_a_resume_is_no_stall(run: RunDir) -> None:
    write(run, (Record(step, 1, 1000.0 + step, {"loss": 1.0}) for step in range(1, 50)))
    run.config.write_text(json.dumps({"resumes": [{"timestamp": "1970-01-01T01:00:00+00:00"}]}))  # 3600
    words = ("detectors=stalled",)
    watching = watcher(run, words)
    watching.catch_up()
    watching.look(3700.0)  # it has been resumed, and has not logged yet
    write(run, (Record(step, 1, 3700.0 + step, {"loss": 1.0}) for step in range(50, 60)))
    watching.catch_up()
    assert watching.events == 0
    write(run, iter([Record(60, 1, 5000.0, {"loss": 1.0})]))
    watching.catch_up()
    assert watching.events == 1  # that is one


def test_a_stall_stays_in_the_file_when_the_journal_is_cut(run: RunDir) -> None:
    write(run, (Record(step, 1, 1000.0 + step, {"loss": math.nan if step == 45 else 1.0}) for step in range(1, 50)))
    words = ("detectors=stalled,nonfinite",)
    watching = watcher(run, words)
    watching.catch_up()
    watching.look(1200.0)
    cut_journal(run.metrics, 40)
    write(run, (Record(step, 1, 1000.0 + step, {"loss": 1.0}) for step in range(41, 50)))
    watching.catch_up()
    kinds = [json.loads(line)["kind"] for line in (run.logs / "watch_events.jsonl").read_text().splitlines()]
    assert kinds == ["stalled"]
