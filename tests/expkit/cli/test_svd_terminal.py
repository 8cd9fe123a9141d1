"""`expkit svd` as a process of its own: Ctrl-C, colours, what it imports, a reader that goes away."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.expkit.cli.test_svd import make_run, row
from tests.expkit.trackers.conftest import REPOSITORY, clean_environment, takes_ctrl_c


@pytest.mark.parametrize("module", [["expkit.svd"], ["expkit", "svd"]])
def test_ctrl_c_prints_the_summary_without_torch_or_traceback(module: list[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(0.45)], "running")
    code = (
        f"import runpy, sys, atexit; sys.argv[1:] = {[*module[1:], str(run)]!r}; atexit.register(lambda: "
        "print('heavy:', *(name for name in ('torch', 'wandb', 'numpy', 'matplotlib') if name in sys.modules)));"
        f"runpy.run_module({module[0]!r}, run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env=clean_environment() | {"PYTHONIOENCODING": "ascii"},
        preexec_fn=takes_ctrl_c,
    )
    assert process.stderr is not None
    for said in process.stderr:
        if b"Ctrl-C for the summary" in said:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 0 and b"Traceback" not in err
    assert b"-0.0500 ? DANGER" in out, "a terminal without emoji"
    assert out.splitlines()[-1] == b"heavy:"


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(0.45)], "running")
    shown = {}
    for name, environment in (("colour", {"TERM": "xterm"}), ("none", {"TERM": "xterm", "NO_COLOR": "1"})):
        command = f"{sys.executable} -m expkit.svd {run}"
        process = subprocess.Popen(
            ["script", "-qec", command, "/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env=clean_environment() | environment,
            preexec_fn=takes_ctrl_c,
        )
        assert process.stdin is not None and process.stdout is not None
        text = b""
        while b"r:                   54" not in text:
            chunk = process.stdout.read1()
            assert chunk, text
            text += chunk
        process.stdin.write(b"\x03")
        process.stdin.flush()
        shown[name] = text + process.communicate()[0]
    assert b"\x1b[1;31m" in shown["colour"] and b"SVD MONITORING SUMMARY" in shown["colour"]
    assert b"\x1b[" not in shown["none"]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{**row(), **{f"svd/{name}/error": 0.5 for name in range(2000)}}])
    command = f"set -o pipefail; {sys.executable} -m expkit.svd {run} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "=" * 80 + "\n")
    assert "Traceback" not in done.stderr
