"""What ends a sweep or a profile from outside is as if somebody had pressed Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sweeps.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_term_and_hup_interrupt_and_handlers_come_back(number: signal.Signals) -> None:
    first = signal.signal(number, signal.SIG_DFL)  # nohup, under which the tests may run, ignores SIGHUP
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 1)  # where Python runs the handler, whatever the machine is doing
    assert signal.signal(number, first) == signal.SIG_DFL


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone() -> None:
    found: list[object] = []

    def run() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]
