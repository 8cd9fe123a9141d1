"""What cannot be written is said once, and once more when it works again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from expkit.troubles import WriteTrouble


def test_a_disk_that_stays_full_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    trouble = WriteTrouble(Path("run/results.json"))
    trouble.worked()
    assert trouble.summary() == {}
    for _ in range(3):
        trouble.failed(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
    assert trouble.summary() == {"failures": 3, "last_error": "Disk quota exceeded", "failing": True}
    trouble.worked()
    trouble.worked()
    trouble.failed(ValueError("no number"))
    assert [record.getMessage() for record in caplog.records] == [
        "run/results.json cannot be written (Disk quota exceeded): training goes on",
        "run/results.json can be written again: 3 attempt(s) had failed",
        "run/results.json cannot be written (ValueError: no number): training goes on",
    ]
    assert trouble.summary() == {"failures": 4, "last_error": "ValueError: no number", "failing": True}
