"""`python -m train` in a process of its own, forked from this one, which has everything imported already."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.conftest import train_command, train_environment
from train.cli.main import main

__all__ = ["Forked"]


class Forked:
    """A running `python -m train` with a pseudo-terminal: a process group of its own, as in a shell.

    Args:
        outputs: where runs go.
        arguments: what is typed.
        terminal: whether the standard input is the terminal, or /dev/null.
        setup: called in the process before it trains.
    """

    def __init__(
        self, outputs: Path, *arguments: str, terminal: bool = True, setup: Callable[[], object] = lambda: None
    ) -> None:
        self.said = ""
        self.code: int | None = None
        self.pid, self._screen = pty.fork()
        if self.pid == 0:
            _train(outputs, arguments, terminal, setup)

    def expect(self, text: str, seconds: float = 60) -> None:
        """Wait until `text` has been said."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self.read(0.2), self.said

    def type(self, text: str) -> None:
        """Type on the terminal; `\\x03` is Ctrl-C, `\\x04` the end of the input."""
        os.write(self._screen, text.encode())

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end and return the exit code, negative for a signal that killed it."""
        deadline = time.monotonic() + seconds
        while self.read(0.2):
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"it does not end: {self.said}")
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._screen)
        return self.code

    def hang_up(self, seconds: float = 60) -> int:
        """Close the terminal, wait for the end and return the exit code, negative for a signal that killed it."""
        os.close(self._screen)
        deadline = time.monotonic() + seconds
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError("it does not end")
            time.sleep(0.05)
        self.code = os.waitstatus_to_exitcode(found[1])
        return self.code

    def __del__(self) -> None:
        if self.code is None and self.pid:
            with contextlib.suppress(OSError):  # a test has failed
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def read(self, seconds: float) -> bool:
        """Read what there is. Return whether the terminal is open still."""
        if not select.select([self._screen], [], [], seconds)[0]:
            return True
        try:
            content = os.read(self._screen, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.said += content.decode(errors="replace").replace("\r\n", "\n")
        return bool(content)


def _train(outputs: Path, arguments: tuple[str, ...], terminal: bool, setup: Callable[[], object]) -> None:
    code = 70
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(train_environment(outputs.parent), COLUMNS="200", TERM="dumb")
        os.chdir(outputs.parent)
        if not terminal:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        setup()
        code = main(train_command(outputs, *arguments)[2:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing may get back into the tests
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
