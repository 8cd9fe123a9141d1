"""What a job does: start the measurement of one batch size in a process of its own, watch over it, and judge its end.

The measurement may run out of memory, hang, crash or be killed; this process, which holds next to no memory, is there
to say so. It imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from expkit.files import process_alive
from expkit.machine.vitals import Vitals
from sweeps.profile.memory import peak_rss_gb, says_out_of_memory
from sweeps.profile.result import Profile, Status

__all__ = ["Order", "supervise"]

_LOOK = 0.05
#: Seconds in which a process that hangs may write down where.
_LAST_WORDS = 0.5
_TAIL = 4096


@dataclass(frozen=True)
class Order:
    """A measurement to be made.

    Attributes:
        config: the composed configuration, as plain values, without Hydra's section.
        batch_size: samples per update.
        epochs: over the training data; may be a fraction.
        timeout_s: seconds that it may take.
        log: gets what the measurement prints.
        memory_limit_gb: memory that it may take, or None.
        folders: of configuration options of one's own, as with --config-dir.
        path: where modules are looked for besides.
        owner: a process of this machine without which there is nobody to tell, or None.
        command: what measures.
    """

    config: Mapping[str, Any]
    batch_size: int
    epochs: float
    timeout_s: float
    log: Path
    memory_limit_gb: float | None = None
    folders: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    owner: int | None = None
    command: tuple[str, ...] = field(default=("-m", "sweeps.profile.measure"))


def supervise(order: Order) -> Profile:
    """Have one batch size measured, and return what came of it. Whatever becomes of the measurement, this returns."""
    before = _kills()
    order.log.parent.mkdir(parents=True, exist_ok=True)
    with order.log.open("wb") as log:
        process, pipe = _start(order, log)
        said: dict[str, Any] = {}
        listener = threading.Thread(target=_listen, args=(pipe, said), daemon=True)
        listener.start()
        peak, stopped = None, ""
        deadline = time.monotonic() + order.timeout_s
        try:
            while process.poll() is None and not stopped:
                peak = max(filter(None, (peak, peak_rss_gb(process.pid))), default=None)
                if time.monotonic() > deadline:
                    stopped = "timeout"
                    _ask_where(process)
                elif order.owner is not None and not process_alive(order.owner):
                    stopped = "owner"
                time.sleep(_LOOK)
        finally:
            _kill(process)
        listener.join(5)
    if peak is not None:
        said.setdefault("rss_gb", peak)
    status, message = _judge(order, said, process.returncode, stopped, before)
    about_size = said.get("failed", {}).get("about_size", True)
    known = {**said, "batch_size": order.batch_size, "status": status, "about_size": about_size}
    return Profile.from_said({**known, "message": " ".join(message.split())})


def _start(order: Order, log: IO[bytes]) -> tuple[subprocess.Popen[bytes], IO[str]]:
    read, write = os.pipe()
    root = str(Path(__file__).resolve().parents[2])  # a clone need not be installed
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(  # noqa: S603 - no shell
        [sys.executable, *order.command, str(write)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(write,),
        start_new_session=True,  # Ctrl-C is for the one who watches
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    )
    os.close(write)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as orders:  # it may be dead by now
        orders.write(json.dumps(asdict(order), default=str).encode())
    return process, os.fdopen(read, encoding="utf-8", errors="replace")


def _listen(pipe: IO[str], said: dict[str, Any]) -> None:
    with pipe:
        for line in pipe:
            with contextlib.suppress(ValueError):  # a line that was cut off by a kill
                said.update(json.loads(line))


def _ask_where(process: subprocess.Popen[bytes]) -> None:
    """Let a process that hangs write its stack into its log."""
    if hasattr(signal, "SIGUSR1"):
        process.send_signal(signal.SIGUSR1)
        time.sleep(_LAST_WORDS)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the measurement, the processes that load its data included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _judge(
    order: Order, said: Mapping[str, Any], code: int, stopped: str, before: tuple[int | None, int | None]
) -> tuple[Status, str]:
    """Return how a measurement ended, and why in one line."""
    if said.get("done"):
        return "OK", ""
    if stopped == "timeout":
        step = f"after {said['updates']:,} updates" if said.get("updates") else "before the first evaluation"
        return "TIMEOUT", f"stopped {step}, at the end of timeout_min={order.timeout_s / 60:g}{_where(order.log)}"
    if stopped == "owner":
        return "ERROR", "stopped: the profile that asked for it is gone"
    told = said.get("failed")
    if isinstance(told, Mapping):
        return ("OOM" if told.get("kind") == "OOM" else "ERROR"), str(told.get("message"))
    tail = _tail(order.log)
    last = tail.splitlines()[-1].strip()[:300] if tail else ""
    after = f"; its last line: {last}" if last else ""
    if code >= 0 and says_out_of_memory(tail):  # before it could say so itself
        return "OOM", f"ended{after}"
    if code >= 0:
        return "ERROR", f"ended with exit code {code} and said nothing{after}"
    name = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        return _of_kill(before, after)
    if says_out_of_memory(tail):  # the C++ of a library, which has no exceptions for it
        return "OOM", f"{name} for want of memory{after}"
    return "ERROR", f"died of {name}{after}"


def _of_kill(before: tuple[int | None, int | None], after: str) -> tuple[Status, str]:
    """Tell the kernel's kill for want of memory from anybody else's."""
    (group, machine), (group_before, machine_before) = _kills(), before
    if group is not None and group_before is not None:
        if group > group_before:
            return "OOM", f"killed by the kernel for want of memory: its cgroup counted it{after}"
        return "ERROR", f"killed by SIGKILL, though its cgroup counted no out-of-memory kill: by somebody{after}"
    if machine is not None and machine_before is not None and machine > machine_before:
        return "OOM", f"killed by SIGKILL as the kernel killed for want of memory{after}"
    return "ERROR", f"killed by SIGKILL: by somebody, or for want of memory, of which nothing here keeps count{after}"


def _kills() -> tuple[int | None, int | None]:
    """Return how many processes were killed for want of memory, in this cgroup and on this machine."""
    machine = None
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                machine = int(line.split()[1])
    return Vitals().read().get("oom_kills"), machine


def _where(log: Path) -> str:
    """Return where a process stood that was asked, as faulthandler wrote it."""
    found = re.findall(r'^Current thread .*\n  File "(.+)", line (\d+) in (\S+)', _tail(log), re.MULTILINE)
    if not found:
        return f"; its log: {log}"
    file, line, function = found[-1]
    return f", in {Path(file).name}, line {line} ({function}); its log: {log}"


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
