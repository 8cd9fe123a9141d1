"""Lines in a run's files that another program wrote, or nobody should have: none of them stops a face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from expkit.experiment import RunDir
from expkit.monitor import TrainingMonitor
from expkit.monitor.terminal.controls import Controls
from expkit.monitor.terminal.dashboard import draw_frame
from expkit.monitor.terminal.look import Look
from expkit.reading.feed import RunFeed
from tests.expkit.reading.test_feed import points, write

#: Lines that another program may have written, or nobody: name -> the line.
ODD = {
    "series that are a number": b'{"step": 30, "series": 3.5, "train_loss": 1}',
    "series that are nothing": b'{"step": 30, "series": null, "train_loss": 1}',
    "series of words": b'{"step": 30, "series": {"a": ["x"], "b": "xyz", "c": 5, "d": [[1], [2, 3]]}, "train_loss": 1}',
    "a time in words": b'{"step": 30, "time": "2026-11-22", "train_loss": 1}',
    "no time": b'{"step": 30, "time": null, "train_loss": 1}',
    "an endless integer": b'{"step": 30, "train_loss": 1, "big": [-1], "small": -1%s}' % (b"0" * 400),
    "a name of nothing": b'{"step": 30, "": 3, "train_loss": 1}',
    "a GPU of no number": '{"step": 30, "gpu/²/compute_util": 3, "gpu/": 4, "train_loss": 1}'.encode(),
    "half a character": b'{"step": 30, "a\\ud800": 3, "train_loss": 1}',
    "an endless step": b'{"step": 1%s, "train_loss": 1}' % (b"0" * 400),
    "no end of brackets": b'{"step": 30, "x": %s}' % (b"[" * 5000 + b"]" * 5000),
}


@pytest.mark.parametrize("line", ODD.values(), ids=ODD)
def test_no_line_of_a_journal_stops_it(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, range(20))
    with (tmp_path / "logs" / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    write(tmp_path, range(40, 45))
    with TrainingMonitor(tmp_path, index=False) as monitor:
        monitor.refresh()
        (feed,) = monitor.feeds
        assert feed.records + feed.broken == 26
        assert [step for step, _ in points(feed) if step != 30] == [*range(20), *range(40, 45)]
        orjson.dumps(monitor.to_json())
        for page in range(3):
            draw_frame(monitor, Controls(page=page), Look(), (80, 24))


@pytest.mark.parametrize("moment", ["now", None, 1e300, -1e18, True, [1]])
def test_an_event_whose_time_is_none_is_shown_without(tmp_path: Path, moment: Any) -> None:
    feed = RunFeed(RunDir(tmp_path))
    write(tmp_path, range(3))
    usual = {"step": 5, "severity": "WARNING", "kind": "nan", "message": "m"}
    lines = [orjson.dumps({**usual, "time": each}) for each in (7.0, moment)]
    (tmp_path / "logs" / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    feed.refresh()
    assert [entry["time"] for entry in feed.events] == [0.0, 7.0]
