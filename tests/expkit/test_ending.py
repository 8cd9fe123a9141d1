"""Why a run ended: real processes that end in real ways, and machines and schedulers that say the rest."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expkit import ending as module
from expkit.ending import Ending, ending
from expkit.experiment import RunDir
from tests.conftest import ended
from tests.expkit.machine.test_vitals import V1, V2, plant

HERE = platform.node()
NOBODY = 2**22 + 1  # above the largest pid that Linux gives

#: What the runner does around training: a heartbeat, and a reason for its end.
CHILD = """
import os, sys, time
from pathlib import Path
from expkit.status import StatusFile
from expkit.stopping import StopSignals
step = iter(range(10**9))
status = StatusFile(Path(sys.argv[1]) / "status.json", lambda: {"step": 17}, interval=0.05)
with StopSignals(lambda: None) as signals:
    status.start()
    status.set("running")
    print("running", flush=True)
    try:
        if sys.argv[2] == "raise":
            raise RuntimeError("api_key=hunter2 was refused\\nby the server")
        if sys.argv[2] == "eat":
            hoard = [bytearray(b"1" * (1 << 20)) for _ in range(400)]
        while signals.received is None:
            time.sleep(0.01)
    except RuntimeError:
        status.stop("failed")
        raise
    status.stop(signals.state)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.logs.mkdir(parents=True)
    return run


@pytest.fixture
def start(run: RunDir) -> Iterator[Start]:
    """Start CHILD in `run`, and wait until it says that it runs."""
    made: list[subprocess.Popen[str]] = []

    def begin(what: str = "wait", *prefix: str) -> subprocess.Popen[str]:
        command = [*prefix, sys.executable, "-c", CHILD, str(run.root), what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        return process

    yield begin
    for process in made:
        with ended(process):
            assert process.stdout is not None
            process.stdout.close()


def write_status(run: RunDir, **fields: Any) -> None:
    status = {"state": "running", "step": 17, "host": HERE, "pid": NOBODY, "heartbeat_time": time.time() - 5, **fields}
    run.status.write_text(json.dumps(status))


def note_event(run: RunDir, step: int, message: str) -> None:
    with run.events.open("a") as file:
        entry = {"step": step, "kind": "loss_spike", "severity": "WARNING", "message": message}
        file.write(json.dumps(entry) + "\n")


def found(run: RunDir, **arguments: Any) -> Ending:
    answer = ending(run, **arguments)
    assert answer is not None
    return answer


def test_a_real_sigkill_is_said_to_be_one_and_no_more_than_is_known(run: RunDir, start: Start) -> None:
    process = start()
    assert ending(run) is None, "it lives"
    note_event(run, 12, "an earlier one")
    note_event(run, 15, "train_loss rose by 40 %")
    process.kill()
    process.wait()
    answer = found(run)
    assert (answer.state, answer.certain, answer.step, answer.clean) == ("killed", False, 17, False)
    assert answer.why.startswith("without a word: SIGKILL, or a crash in native code; ")
    assert str(answer).endswith(", last seen at step 17; last event: loss_spike at step 15: train_loss rose by 40 %")


def test_a_killed_process_that_nobody_has_waited_for_is_dead_all_the_same(run: RunDir, start: Start) -> None:
    process = start()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert found(run).state == "killed"


@pytest.mark.parametrize(("number", "state"), [("SIGTERM", "preempted"), ("SIGINT", "interrupted")])
def test_a_real_signal_is_named(run: RunDir, start: Start, number: str, state: str) -> None:
    process = start()
    process.send_signal(signal.Signals[number])
    process.wait()
    answer = found(run)
    assert (answer.text, answer.certain, answer.last_event) == (f"{state} ({number}), at step 17", True, None)


def test_a_real_exception_is_one_line_without_secrets(run: RunDir, start: Start) -> None:
    note_event(run, 15, "train_loss rose by 40 %")
    start("raise").wait()
    answer = found(run)
    assert answer.text == "failed (RuntimeError: api_key=*** was refused by the server), at step 17"
    assert answer.event_text == "loss_spike at step 15: train_loss rose by 40 %"


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A real cgroup of 96 MiB, where this process may make one."""
    name = f"expkit-test-{os.getpid()}"
    for top, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(top) / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(96 << 20))
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0")
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no cgroup can be made here")


def test_a_real_out_of_memory_kill_is_told_from_any_other(run: RunDir, start: Start, small_cgroup: Path) -> None:
    enter = ("sh", "-c", f'echo 0 > {small_cgroup}/cgroup.procs && exec "$@"', "sh")
    assert start("eat", *enter).wait() == -signal.SIGKILL
    why = "SIGKILL, most likely for memory: its cgroup counted one out-of-memory kill since the last heartbeat"
    assert found(run).why.startswith(f"{why}; memory at the last heartbeat: ")
    assert found(run).why.endswith(" of 0.094 GB")


def machine(root: Path, cgroup: str, **more: Any) -> dict[str, Any]:
    number = (root / cgroup.lstrip("/")).stat().st_ino
    known = {"boot_id": "11111111-2222", "cgroup": cgroup, "cgroup_id": number}
    return {**known, "memory_used_gb": 3.96, "memory_limit_gb": 4.0, **more}


@pytest.mark.parametrize(
    ("files", "cgroup", "kills"),
    [(V2, "/sys/fs/cgroup/slurm/job_7/step_0/task_0", 2), (V1, "/sys/fs/cgroup/memory", 5)],
    ids=["v2", "v1"],
)
def test_the_cgroups_counter_tells_whether_it_was_memory(
    run: RunDir, tmp_path: Path, files: dict[str, str], cgroup: str, kills: int
) -> None:
    root = plant(tmp_path / "root", files)
    hint = "; memory at the last heartbeat: 3.96 of 4 GB"
    told = "SIGKILL, most likely for memory: its cgroup counted"
    for before, why in (
        (kills - 1, f"{told} one out-of-memory kill since the last heartbeat"),
        (kills - 2, f"{told} 2 out-of-memory kills since the last heartbeat"),
        (kills, "without a word: SIGKILL, or a crash in native code; its cgroup counted no out-of-memory kill"),
    ):
        write_status(run, machine=machine(root, cgroup, oom_kills=before))
        assert found(run, root=root).why == why + hint
    unsure = "without a word: SIGKILL, or a crash in native code; whether for memory is not known, as "
    for changed, reason in (
        ({"oom_kills": kills - 1, "cgroup": "/sys/fs/cgroup/gone"}, "its cgroup is gone"),
        ({"oom_kills": kills - 1, "cgroup_id": 1}, "its cgroup is gone"),
        ({"oom_kills": kills + 1}, "its cgroup is gone"),
        ({}, "nothing counts such kills here"),
    ):
        write_status(run, machine=machine(root, cgroup) | changed)
        assert found(run, root=root).why == unsure + reason + hint


def test_memory_that_was_not_full_is_no_hint_where_no_kill_was_counted(run: RunDir, tmp_path: Path) -> None:
    root = plant(tmp_path / "root", V1)
    write_status(run, machine=machine(root, "/sys/fs/cgroup/memory", oom_kills=5, memory_used_gb=1.0))
    assert "memory at" not in found(run, root=root).why


def test_a_machine_that_was_restarted_took_the_run_with_it_or_does_not_know(run: RunDir, tmp_path: Path) -> None:
    root = plant(tmp_path / "root", V1)  # booted at 1700000000
    then = {"boot_id": "another", "oom_kills": 0}
    write_status(run, pid=os.getpid(), machine=then, heartbeat_time=1700000000 - 40)
    assert found(run, root=root).why.endswith("with its machine, which was restarted 40 s after the last heartbeat")
    write_status(run, pid=os.getpid(), machine=then, heartbeat_time=1700000000 - 36_000)
    assert "its machine was restarted only 10.0 h later, and no longer knows why" in found(run, root=root).why


def test_a_pid_that_is_somebody_elses_by_now_does_not_keep_it_alive(run: RunDir) -> None:
    write_status(run, pid=os.getpid(), heartbeat_time=time.time() - 10**6)  # before this process began
    assert found(run).state == "killed"


def test_a_process_that_is_there_but_says_nothing_is_silent(
    run: RunDir, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    process.send_signal(signal.SIGSTOP)
    later = time.time() + 40
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: later))
    answer = found(run)
    assert (answer.state, answer.certain) == ("silent", False)
    assert answer.why.startswith(f"process {process.pid} is there, but has said nothing for 4")
    assert answer.why.endswith(" s: it is suspended, hangs, or cannot write here")


def test_of_another_host_only_the_heartbeat_is_known(run: RunDir) -> None:
    write_status(run, host="elsewhere")
    assert ending(run) is None, "the heartbeat is fresh"
    assert found(run, locked=True).state == "killed", "nobody holds the lock"
    write_status(run, host="elsewhere", heartbeat_time=time.time() - 100)
    assert found(run).why.endswith("; whether for memory can be seen on elsewhere only")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"host": "elsewhere"}, "SLURM says OUT_OF_MEMORY"),
        ({"state": "preempted", "signal": "SIGTERM"}, "SIGTERM; SLURM says OUT_OF_MEMORY"),
        ({"state": "interrupted", "signal": "SIGINT"}, "SIGINT"),
        ({}, "SLURM says OUT_OF_MEMORY; memory at the last heartbeat: 3.96 of 4 GB"),
    ],
)
def test_what_slurm_says_is_believed(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], why: str
) -> None:
    sacct = tmp_path / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text("#!/bin/sh\necho '7|OUT_OF_MEMORY|0:125|2026-01-01T00:00:00'\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(sacct.parent))
    write_status(run, slurm={"job_id": "7"}, machine={"memory_used_gb": 3.96, "memory_limit_gb": 4.0}, **fields)
    answer = found(run, locked=True)
    assert (answer.why, answer.certain) == (why, True)


def test_a_process_of_its_own_that_was_killed_explains_a_failure(run: RunDir) -> None:
    error = "RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed."
    write_status(run, state="failed", error=error, machine={"oom_kills": 1, "oom_kills_before": 0})
    assert found(run).why == f"{error}; its cgroup counted one out-of-memory kill while it ran"


def test_the_journal_may_know_a_later_step(run: RunDir) -> None:
    write_status(run)
    run.metrics.write_text('{"step":20,"loss":1}\n{"step":30,"loss":1}\n{"step":4')
    assert found(run).step == 30


def test_a_run_that_finished_did(run: RunDir) -> None:
    write_status(run, state="finished")
    assert (found(run).clean, str(found(run))) == (True, "finished, at step 17")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"state": "running", "heartbeat_time": "now", "pid": "x", "step": "y", "machine": 5, "slurm": [1]}',
        f'{{"state": "running", "host": "{HERE}", "pid": -1, "machine": {{"cgroup": 7, "oom_kills": 1}}}}',
        f'{{"state": "running", "host": "{HERE}", "machine": {{"cgroup": "/a\\u0000b", "oom_kills": 1}}}}',
        '{"state": "failed", "error": 5}',
        '{"state": "preempted", "signal": null, "slurm": {"job_id": "7"}}',
        '{"state": ["running"]}',
    ],
)
def test_a_status_of_any_kind_is_no_error(run: RunDir, content: str) -> None:
    run.status.write_text(content)
    answer = ending(run)
    assert answer is None or isinstance(str(answer), str)
