"""The terminal itself: its other screen, its keys, its size, and the signals that come from it.

Whatever ends the process, the terminal is as it was: a key, Ctrl-C, SIGTERM, a hang-up, an exception.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, TextIO

__all__ = ["Terminal", "split_keys"]

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # the other screen, no cursor, no wrapping, empty
_LEAVE = "\x1b[0m\x1b[2J\x1b[H\x1b[?7h\x1b[?25h\x1b[?1049l"
_ESCAPE_WITHIN = 0.05  # seconds: a key that begins with Esc comes at once, Esc alone is followed by nothing

_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?<]*[ -/]*[@-~]|O.)")
_PART = re.compile(r"\x1b(?:\[[0-9;?<]*[ -/]*|O)?$")
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[C": "right", "\x1bOC": "right",
    "\x1b[D": "left", "\x1bOD": "left", "\x1b[5~": "pageup", "\x1b[6~": "pagedown", "\x1b[Z": "backtab",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b": "escape", "\t": "tab", "\r": "enter", "\n": "enter",
    "\x7f": "backspace", "\b": "backspace", "\x0c": "redraw",
}  # fmt: skip


class Terminal:
    """Takes the terminal over, for as long as it is a context.

    Keys are read where the input is a terminal: from a file or nothing there are none.

    Args:
        out: the terminal's stream.
        keys: where keys come from.
    """

    def __init__(self, out: TextIO | None = None, keys: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._keys = _terminal_descriptor(sys.stdin if keys is None else keys)
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._pending = ""
        self._shown: list[str] = []
        self._handlers: dict[int, Any] = {}
        self._arrived: set[int] = set()
        self._before: list[Any] | None = None
        self._wake: tuple[int, int] | None = None
        self._entered = False

    @property
    def has_keys(self) -> bool:
        """Whether there is a keyboard."""
        return self._keys is not None

    @property
    def ended(self) -> int | None:
        """The signal that asks for the end, or None."""
        return next((each for each in (signal.SIGTERM, signal.SIGHUP) if each in self._arrived), None)

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        with contextlib.suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._out.fileno())
            if columns > 0 and rows > 0:
                return columns, rows
        return 80, 24

    def show(self, lines: Sequence[str]) -> None:
        """Show lines from the top of the screen on. Only those that have changed are written: the way may be slow."""
        written = [
            f"\x1b[{row};1H\x1b[K{line}"
            for row, line in enumerate(lines, 1)
            if row > len(self._shown) or self._shown[row - 1] != line
        ]
        if len(lines) < len(self._shown):
            written.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._shown = list(lines)
        if written:
            self._write("".join(written))

    def forget(self) -> None:
        """Draw everything next time: nobody knows what the screen shows."""
        self._shown = []
        self._write("\x1b[2J")

    def wait(self, seconds: float) -> list[str]:
        """Wait for keys or a signal, so long at most. Return the keys; `redraw` is one when the size has changed."""
        watched = [each for each in (self._keys, self._wake and self._wake[0]) if each is not None]
        ready = select.select(watched, [], [], max(seconds, 0.0))[0]
        if self._wake is not None and self._wake[0] in ready:
            os.read(self._wake[0], 4096)
        pressed = self._read() if self._keys in ready else []
        return pressed + self._obey()

    def __enter__(self) -> Terminal:
        self._listen()
        try:
            self._take()
        except BaseException:  # whatever it is, a Ctrl-C too: the terminal is as it was
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop it halfway
        with contextlib.suppress(OSError):  # it may be gone
            self._give_back()
        signal.signal(signal.SIGINT, interrupt)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._wake is not None:
            signal.set_wakeup_fd(-1)
            for descriptor in self._wake:
                os.close(descriptor)
            self._wake = None

    def _listen(self) -> None:
        """Note the signals that have to do with a terminal; one that is ignored (nohup) stays so."""
        self._wake = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._arrived.add(number)

    def _obey(self) -> list[str]:
        """Do what signals ask for that have arrived."""
        if signal.SIGTSTP in self._arrived:
            self._arrived -= {signal.SIGTSTP, signal.SIGCONT}
            self._give_back()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # stops here, until fg
            signal.signal(signal.SIGTSTP, self._note)
            self._arrived.add(signal.SIGCONT)
        if signal.SIGCONT in self._arrived:  # a shell may have set the terminal as it likes it
            self._arrived -= {signal.SIGCONT, signal.SIGWINCH}
            self._take()
            return ["redraw"]
        if signal.SIGWINCH in self._arrived:
            self._arrived.discard(signal.SIGWINCH)
            return ["redraw"]
        return []

    def _take(self) -> None:
        if self._keys is not None:
            import termios

            if self._before is None:
                self._before = termios.tcgetattr(self._keys)
            mode = termios.tcgetattr(self._keys)
            mode[3] &= ~(termios.ICANON | termios.ECHO)  # Ctrl-C, Ctrl-Z and Ctrl-S stay the terminal's
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            _set_mode(self._keys, mode)
        self._entered = True
        self._shown = []
        self._write(_ENTER)

    def _give_back(self) -> None:
        if not self._entered:
            return
        self._entered = False
        try:
            self._write(_LEAVE)
        finally:
            if self._keys is not None and self._before is not None:
                import termios

                with contextlib.suppress(termios.error):
                    _set_mode(self._keys, self._before)

    def _read(self) -> list[str]:
        assert self._keys is not None
        try:
            data = os.read(self._keys, 1024)
        except OSError:
            data = b""
        if not data:  # hung up
            self._keys = None
            return []
        self._pending += self._decoder.decode(data)
        if _PART.search(self._pending) and select.select([self._keys], [], [], _ESCAPE_WITHIN)[0]:
            return self._read()
        pressed, self._pending = split_keys(self._pending), ""
        return pressed

    def _write(self, text: str) -> None:
        self._out.flush()
        data = text.encode("utf-8", "replace")
        while data:
            data = data[os.write(self._out.fileno(), data) :]


def split_keys(text: str) -> list[str]:
    """Return the keys whose signs these are: signs, or names. Those that have no name are left out."""
    keys, place = [], 0
    while place < len(text):
        sequence = _SEQUENCE.match(text, place)
        key = sequence[0] if sequence else text[place]
        place += len(key)
        if key in _NAMES:
            keys.append(_NAMES[key])
        elif key.isprintable():
            keys.append(key)
    return keys


def _set_mode(descriptor: int, mode: list[Any]) -> None:
    """Set a terminal's mode. Of a process in the background the system stops it here, until `fg`."""
    import termios

    while True:
        try:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
            return
        except termios.error as error:
            if error.args[0] != errno.EINTR:  # what Python does itself for other calls
                raise


def _terminal_descriptor(stream: TextIO | None) -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return stream.fileno() if stream is not None and os.isatty(stream.fileno()) else None
    return None
