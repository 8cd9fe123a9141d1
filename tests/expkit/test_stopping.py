"""Signals that ask a run to stop: a flag first, the previous handlers afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from expkit.dist import Control
from expkit.stopping import StopSignals

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(lambda: None) as signals:
            send(signal.SIGHUP)
            assert signals.received is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_only_sets_a_flag(number: signal.Signals) -> None:
    control = Control()
    with StopSignals(lambda: control.request(Control.STOP)) as signals:
        assert signals.received is None
        send(number)
        assert signals.received == number
        assert control.poll(1) == Control.STOP
    assert signals.state == ("interrupted" if number in (signal.SIGINT, signal.SIGHUP) else "preempted")


def test_the_second_ctrl_c_interrupts_at_once() -> None:
    asked = []
    with pytest.raises(KeyboardInterrupt), StopSignals(lambda: asked.append(1)):
        send(signal.SIGINT)
        assert asked == [1]
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is not None


def test_ctrl_c_after_another_signal_is_the_first_one() -> None:
    """A launcher that is told to stop may send TERM and INT: the checkpoint being saved must not be torn."""
    with StopSignals(lambda: None) as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert signals.received == signal.SIGTERM
        assert signals.state == "preempted"


def test_other_signals_may_come_as_often_as_they_like() -> None:
    asked = []
    with StopSignals(lambda: asked.append(1)) as signals:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
            send(number)
    assert len(asked) == 4
    assert signals.received == signal.SIGUSR2


def test_previous_handlers_are_put_back_whatever_happens() -> None:
    mine = {number: (lambda *_: None) for number in ALL}
    for number, handler in mine.items():
        signal.signal(number, handler)
    with StopSignals(lambda: None):
        assert all(signal.getsignal(number) is not mine[number] for number in ALL)
    assert all(signal.getsignal(number) is mine[number] for number in ALL)
    with pytest.raises(RuntimeError), StopSignals(lambda: None):
        raise RuntimeError
    assert all(signal.getsignal(number) is mine[number] for number in ALL)


def test_the_previous_handler_of_the_signal_received_is_called_when_asked_for() -> None:
    calls = []
    signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    with StopSignals(lambda: None) as signals:
        send(signal.SIGUSR2)
        assert calls == []
        signals.call_previous()
        assert calls == [signal.SIGUSR2]


@pytest.mark.parametrize("previous", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_previous_handlers_that_are_no_functions_of_somebody_are_not_called(previous: object) -> None:
    signal.signal(signal.SIGINT, previous)
    with StopSignals(lambda: None) as signals:
        send(signal.SIGINT)
        signals.call_previous()


def test_without_a_signal_there_is_nothing_to_call() -> None:
    calls = []
    signal.signal(signal.SIGUSR2, lambda *_: calls.append(1))
    with StopSignals(lambda: None) as signals:
        signals.call_previous()
    assert calls == []


def test_outside_of_the_main_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def work() -> None:
        with StopSignals(lambda: None):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_under_torchrun_ctrl_c_that_comes_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that signals all processes reaches its workers twice: once itself, once through torchrun."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    now = [100.0]
    monkeypatch.setattr("expkit.stopping.time.monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), StopSignals(lambda: None) as signals:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert not signals.at_once
        now[0] += 5
        send(signal.SIGINT)
    assert signals.at_once


def test_a_signal_that_came_before_is_told_at_once() -> None:
    asked = []
    with StopSignals(lambda: None) as signals:
        signals.tell(lambda: asked.append("one"))
        assert asked == []
        send(signal.SIGTERM)
        signals.tell(lambda: asked.append("other"))
    assert asked == ["one", "other"]
