"""What people see, and what a run says to them when nobody can hear it."""

from __future__ import annotations

import errno
import io
import logging
import sys
from pathlib import Path

import pytest

from expkit.record import make_record
from tests.faults.injector import FaultInjector
from train.display import Display, console_logging, file_logging

log = logging.getLogger("expkit")


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(log, name, getattr(log, name))
    monkeypatch.setattr(log, "handlers", [])


class Gone(io.StringIO):
    """A terminal that was closed."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_is_gone_is_no_error(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Gone(is_terminal))
    console = console_logging()
    log.info("nobody reads this")
    console.print("nor this")
    assert capfd.readouterr().err == "", "not even logging's own traceback"


def test_a_log_on_a_full_disk_waits_and_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    console_logging()
    path = tmp_path / "logs" / "training.log"
    path.parent.mkdir()
    with file_logging(path) as journal:
        log.info("one")
        with FaultInjector(tmp_path, 0, errno.ENOSPC, lasting=True):
            log.info("two")
            log.info("three\nin two lines")
        assert journal.trouble()["waiting"] == 4, "what it says of itself, too"
        log.info("four")
    written = path.read_text()
    assert [word for word in ("one", "two", "three", "four") if f"INFO {word}" in written] == [
        *("one", "two", "three", "four")
    ]
    assert written.count("cannot be written (No space left on device)") == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "Logging error" not in said
    assert said.count("cannot be written") == said.count("can be written again: nothing was lost") == 1


def test_what_ends_a_run_is_in_its_log(tmp_path: Path) -> None:
    console_logging()
    with pytest.raises(ZeroDivisionError), file_logging(tmp_path / "training.log"):
        raise ZeroDivisionError("no number")
    text = (tmp_path / "training.log").read_text()
    assert "Traceback" in text
    assert "no number" in text


def test_a_record_of_diagnostics_alone_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "expkit")
    display = Display(console_logging())
    log.addHandler(caplog.handler)
    display.record(make_record(7, {"svd/encoder/r": 8.0}, 1))
    display.record(make_record(10, {"train_loss": 0.5}, 1))
    assert caplog.messages == ["epoch 1  step 10  train_loss 0.5"]
