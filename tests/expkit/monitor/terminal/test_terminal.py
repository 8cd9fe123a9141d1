"""`expkit monitor` in a terminal of its own: keys, sizes, signals; what is left behind, however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from expkit.monitor import TrainingMonitor
from expkit.monitor.terminal import show_live
from expkit.monitor.terminal.terminal import split_keys
from tests.expkit.monitor.terminal.test_frame import write
from tests.expkit.trackers.conftest import REPOSITORY, clean_environment, takes_ctrl_c

COMMAND = [sys.executable, "-m", "expkit", "monitor"]


class Session:
    """A process in a terminal of so many cells."""

    def __init__(self, command: list[str], columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.controller, self.terminal = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.resize(columns, rows)
        usual = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "NO_COLOR": ""}
        self.process = subprocess.Popen(
            command,
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            cwd=REPOSITORY,
            env=clean_environment() | usual | environment,
            preexec_fn=self._become_its_session,
        )

    def _become_its_session(self) -> None:
        takes_ctrl_c()
        os.setsid()
        fcntl.ioctl(self.terminal, termios.TIOCSCTTY, 0)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.controller, keys.encode())

    def until(self, shown: Callable[[str], bool]) -> str:
        """Wait until the screen shows something, and return it."""
        deadline = time.monotonic() + 60
        while not shown(self.text()):
            assert time.monotonic() < deadline, self.text()
            if select.select([self.controller], [], [], 0.1)[0]:
                data = os.read(self.controller, 65536)
                self.output += data
                self.stream.feed(data)
        return self.text()

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def end(self) -> int:
        """Return the exit status; all that was written is in `output` then."""
        code = self.process.wait(60)
        while select.select([self.controller], [], [], 0)[0]:
            self.output += os.read(self.controller, 65536)
        return code

    def mode(self) -> int:
        """Return whether lines and echo are the terminal's own."""
        flags = termios.tcgetattr(self.terminal)[3]
        return bool(flags & termios.ICANON) + bool(flags & termios.ECHO)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.controller)
        os.close(self.terminal)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", 30, {"train_loss": lambda step: 5 / step, "speed": lambda step: float(step % 4)})
    return tmp_path / "run"


@pytest.fixture
def begin() -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def begin(command: list[str], *size: int, **environment: str) -> Session:
        opened.append(Session(command, *size, **environment))
        return opened[-1]

    yield begin
    for session in opened:
        session.close()


def left_as_it_was(session: Session) -> bool:
    """Whether the other screen, the hidden cursor, the wrapping and the mode of the keys are given back."""
    found = session.output
    last = [found.rfind(on) < found.rfind(off) for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"?25l", b"?25h"))]
    return all(last) and found.rfind(b"?7l") < found.rfind(b"?7h") and session.mode() == 2


def test_it_follows_a_run_takes_keys_and_sizes_and_leaves_the_terminal_as_it_was(
    begin: Callable[..., Session], run: Path
) -> None:
    session = begin([*COMMAND, str(run), "--interval", "0.1"])
    session.until(lambda text: "30 of 30 points" in text and "q quit" in text)
    assert session.mode() == 0, "keys come at once, and are not shown"
    write(run, 30, {"train_loss": 0.5}, first=31)
    session.until(lambda text: "60 of 60 points" in text)
    session.press("/spe")
    session.until(lambda text: "/spe" in text and "speed" in text and "train_loss" not in text)
    session.press("\r\x1b[C\x1b[Z")
    session.resize(100, 30)
    session.until(lambda text: text.split("\n")[29].startswith("q quit") and "smooth" in text)
    session.resize(30, 8)
    session.until(lambda text: "panels need 40 x 10" in text)
    session.process.send_signal(signal.SIGSTOP)
    session.process.send_signal(signal.SIGCONT)
    session.press("q")
    assert session.end() == 0 and left_as_it_was(session)
    assert b"Traceback" not in session.output


def test_signals_and_exceptions_leave_the_terminal_as_it_was(begin: Callable[..., Session], run: Path) -> None:
    code = (
        "import expkit.monitor.terminal.dashboard as d, expkit.monitor as m, expkit.monitor.terminal as t\n"
        "def fail(*a): raise ZeroDivisionError('planted')\n"
        f"d.draw_frame = fail\nt.show_live(m.TrainingMonitor({str(run)!r}, index=False), 1)"
    )
    broken = begin([sys.executable, "-c", code])
    signalled = {
        (number, status): begin([*COMMAND, str(run), "--interval", "100"])
        for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 143))
    }
    for (number, status), session in signalled.items():
        session.until(lambda text: "q quit" in text)
        session.process.send_signal(number)
        assert session.end() == status and left_as_it_was(session) and b"Traceback" not in session.output
    assert broken.end() == 1 and left_as_it_was(broken)
    assert broken.output.index(b"?1049l") < broken.output.index(b"ZeroDivisionError: planted"), "it is seen"


def test_without_a_keyboard_it_shows_all_the_same(begin: Callable[..., Session], run: Path) -> None:
    line = f'{sys.executable} -m expkit monitor {run} --interval 100 </dev/null; echo "left $?"'
    session = begin(["sh", "-c", line], LC_ALL="C", NO_COLOR="1")
    text = session.until(lambda text: "30 of 30 points" in text)
    assert "q quit" not in text and text.isascii() and b"38;" not in session.output
    session.press("\x03")
    session.until(lambda text: "left 0" in text or session.process.poll() is not None)


def test_a_terminal_whose_cursor_cannot_be_moved_gets_lines(begin: Callable[..., Session], run: Path) -> None:
    session = begin([*COMMAND, str(run), "--interval", "0.1"], TERM="dumb")
    session.until(lambda text: "run: running" in text and "step 30" in text)
    write(run, 1, {"train_loss": 0.5}, first=31)
    session.until(lambda text: "step 31" in text)
    session.process.send_signal(signal.SIGINT)
    assert session.end() == 0 and b"\x1b" not in session.output


def test_one_look_in_a_file_is_one_plain_frame(run: Path) -> None:
    environment = clean_environment() | {"LC_ALL": "C.UTF-8", "COLUMNS": "100", "LINES": "30", "FORCE_COLOR": "1"}
    code = (
        f"import sys; from expkit.cli.main import main; main(['monitor', {str(run)!r}, '--terminal'])\n"
        "print(*({'torch', 'matplotlib', 'pandas', 'wandb'} & set(sys.modules)), file=sys.stderr, end='')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=True)
    lines = done.stdout.split("\n")
    assert "\x1b" not in done.stdout and len(lines) == 30 and max(map(len, lines)) <= 100
    assert "30 of 30 points" in done.stdout and done.stderr == ""


def test_keys_are_read_from_what_terminals_send() -> None:
    assert split_keys("q\x1b[A\x1bOB\x1b[5~\x1b[Z") == ["q", "up", "down", "pageup", "backtab"]
    assert split_keys("\x1b[1;5C\x1b[200~ö\r\x7f\x1b") == ["ö", "enter", "backspace", "escape"]


def test_a_run_that_cannot_be_read_is_said_once_where_there_are_only_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs" / "metrics.jsonl").mkdir(parents=True)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("expkit.monitor.terminal.time.sleep", sleep)
    with TrainingMonitor(tmp_path, index=False) as monitor:
        show_live(monitor, 5.0)
    assert waited == [5.0] * 4
    assert capsys.readouterr().out.count("cannot be read now") == 1
