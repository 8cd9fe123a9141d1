"""Signals that ask a run to stop: the handler only sets a flag, the loop acts on it at the next step boundary."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["StopSignals", "received_signal"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

#: Seconds within which two INT are one: a scheduler that signals all processes reaches torchrun's workers at once, and
#: once more through torchrun. They are in no terminal's group, so that a Ctrl-C reaches them once.
_ECHO = 2.0

_active: list[StopSignals] = []


def received_signal() -> signal.Signals | None:
    """Return the signal that asked what this process is doing now to stop, or None: signals are the process's."""
    return next((each.received for each in reversed(_active) if each.received is not None), None)


class StopSignals:
    """Context manager that turns INT, TERM, HUP (the terminal was closed), USR1 and USR2 into a request.

    HUP stays ignored where it was: nohup does that. The second INT (Ctrl-C twice) interrupts at once; under torchrun,
    one that comes right after the first is the same. The previous handlers are put back on leaving. submitit turns TERM
    into nothing and uses USR2 to requeue: ours lie on top, and `call_previous` runs theirs once everything is saved.

    Args:
        on_request: called inside the handler: it may only set flags.

    Attributes:
        received: the signal that came first, or None.
        at_once: whether KeyboardInterrupt has been raised. Code in C++ may have made another error of it: torch.save
            says that a file has an unexpected position.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request
        self._previous: dict[int, Any] = {}
        self._interrupted: float | None = None
        self._echo = _ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self.received: signal.Signals | None = None
        self.at_once = False

    def __enter__(self) -> StopSignals:
        _active.append(self)
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        _active.remove(self)
        for number, handler in self._previous.items():
            # A handler that C code installed reads as None, and cannot be put back.
            with contextlib.suppress(TypeError):
                signal.signal(number, handler)

    def tell(self, on_request: Callable[[], None]) -> None:
        """Call this from now on; and now, if there was a signal before."""
        self._on_request = on_request
        if self.received is not None:
            on_request()

    @property
    def state(self) -> str:
        """What the run is called afterwards: `interrupted` by a person, `preempted` by a scheduler."""
        by_person = (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT))
        return "interrupted" if self.received in by_person else "preempted"

    def call_previous(self) -> None:
        """Call the handler that was there before ours for the signal received, if it is a function."""
        if self.received is not None:
            handler = self._previous.get(self.received)
            if callable(handler) and handler is not signal.default_int_handler:
                handler(self.received, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted is not None and now >= self._interrupted + self._echo:
                self.at_once = True
                raise KeyboardInterrupt
            self._interrupted = now if self._interrupted is None else self._interrupted
        if self.received is None:
            self.received = signal.Signals(number)
        self._on_request()
