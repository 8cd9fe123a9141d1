"""How the measurement of a size may end, and what is made of it. Stand-ins for the measurement say so in no time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.files import process_alive
from sweeps.profile import supervise as watching
from sweeps.profile.result import Profile
from sweeps.profile.supervise import Order, supervise

TELL = """\
import json, os, signal, sys, time


def tell(**said):
    os.write(int(sys.argv[1]), json.dumps(said).encode() + b"\\n")


"""


def ended(tmp_path: Path, program: str, **order: Any) -> Profile:
    """What is made of a measurement that does what `program` says."""
    command = ("-c", TELL + program)
    return supervise(Order({}, 64, 1, **{"timeout_s": 60, "log": tmp_path / "64.log", "command": command, **order}))


def test_a_measurement_that_says_so_is_ok(tmp_path: Path) -> None:
    done = ended(tmp_path, "tell(samples_per_second=10.5, curve=[[1, 2, None]]); tell(done=True)")
    assert (done.batch_size, done.status, done.message, done.samples_per_second) == (64, "OK", "", 10.5)
    assert done.curve == [(1, 2, None)] and not done.oom_error


def test_what_was_known_when_it_hung_is_kept_with_the_place(tmp_path: Path) -> None:
    program = """
import faulthandler
faulthandler.register(signal.SIGUSR1)
def inner_loop():
    tell(updates=40, samples_per_second=7.0)
    while True: time.sleep(0.1)
inner_loop()
"""
    done = ended(tmp_path, program, timeout_s=0.6)
    assert (done.status, done.updates, done.samples_per_second) == ("TIMEOUT", 40, 7.0)
    assert "after 40 updates" in done.message and "timeout_min=0.01" in done.message and "(inner_loop)" in done.message


def test_its_own_word_that_memory_was_short_is_oom(tmp_path: Path) -> None:
    done = ended(tmp_path, "tell(rss_gb=3.0); tell(failed={'kind': 'OOM', 'message': 'no\\n memory'})")
    assert (done.status, done.oom_error, done.message, done.rss_gb) == ("OOM", True, "no memory", 3.0)


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ((4, 9), (5, 10), "OOM"),  # its cgroup counted it
        ((4, 9), (4, 10), "ERROR"),  # the kernel killed others
        ((None, 9), (None, 10), "OOM"),  # nothing counts for this cgroup, but the machine has
        ((None, None), (None, None), "ERROR"),
    ],
)
def test_the_kernels_kill_is_told_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Any, after: Any, status: str
) -> None:
    counts = iter([before, after])
    monkeypatch.setattr(watching, "_kills", lambda: next(counts))
    done = ended(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.status == status and "kill" in done.message
    assert done.rss_gb is None or done.rss_gb > 0


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("print('terminate called: std::bad_alloc'); os.kill(os.getpid(), signal.SIGABRT)", "OOM", "SIGABRT"),
        ("print('MemoryError'); sys.exit(1)", "OOM", "MemoryError"),
        (
            "print('some'); print('last words'); sys.exit(3)",
            "ERROR",
            "exit code 3 and said nothing; its last line: last",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ERROR", "SIGSEGV"),
        ("os.write(int(sys.argv[1]), b'{\"samples\": 1'); sys.exit(1)", "ERROR", "exit code 1"),  # cut off
        ("tell(failed={'kind': 'ERROR', 'message': 'boom', 'about_size': False})", "ERROR", "boom"),
    ],
)
def test_any_other_end_has_its_last_line(tmp_path: Path, program: str, status: str, said: str) -> None:
    done = ended(tmp_path, program)
    assert done.status == status and said in done.message
    assert done.about_size == ("boom" not in said)


def test_nothing_is_left_of_it_nor_of_the_processes_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"""
import subprocess
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open({str(note)!r}, 'w').write(str(child.pid))
tell(done=True)
"""
    assert ended(tmp_path, child).ok
    _gone(int(note.read_text()))


def test_it_ends_when_nobody_is_left_to_tell(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    done = ended(tmp_path, "time.sleep(600)", owner=owner.pid)
    assert done.status == "ERROR" and "gone" in done.message


def test_the_process_that_watches_loads_no_torch() -> None:
    program = (
        "import sys, sweeps.profile.supervise; print([m for m in ('torch', 'hydra', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while process_alive(pid) and Path(f"/proc/{pid}/stat").exists() and not _zombie(pid):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.01)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
