"""Drawing beside training: in a process of its own, the newest of what waits, and never longer than allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from expkit.files import process_alive
from expkit.plots import Plot, PlotContext
from expkit.plots.drawer import Drawer, Drawn
from tests.expkit.plots.helpers import said
from tests.expkit.plots.sleepy import Answering, Counting, Dying, Hanging, Raising, Slow, Talking, Unfit

Make = Callable[..., tuple[Drawer, list[Drawn]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a drawer, and what has been drawn."""
    drawers: list[Drawer] = []

    def made(patience: float = 60, **plots: Plot) -> tuple[Drawer, list[Drawn]]:
        done: list[Drawn] = []
        drawers.append(Drawer(plots, done.append, patience))
        return drawers[-1], done

    yield made
    for drawer in drawers:
        drawer.abandon()


def at(folder: Path, step: int) -> PlotContext:
    return PlotContext(step, folder, folder / "metrics.jsonl", "toy")


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")


def test_pictures_are_drawn_in_one_other_process_and_in_order(make: Make, tmp_path: Path) -> None:
    drawer, done = make(one=Counting(), bad=Raising(), unfit=Unfit(), two=Counting())
    with pytest.raises(Exception, match="pickle"):
        drawer.submit("unfit", at(tmp_path, 1), None)
    for name in ("one", "bad", "two"):
        assert not drawer.submit(name, at(tmp_path, 1), name)
    assert drawer.finish(60) == []
    assert [(drawn.plot, drawn.error and drawn.error.partition(", at ")[0]) for drawn in done] == [
        ("one", None),
        ("bad", "RuntimeError: no picture"),
        ("two", None),
    ]
    count, collected, process = (tmp_path / "counting_step_1.png").read_text().split()
    assert (count, collected) == ("1", "two") and int(process) != os.getpid()
    assert not process_alive(int(process))


def test_of_each_plot_the_newest_waits_and_it_keeps_its_attributes(make: Make, tmp_path: Path) -> None:
    drawer, done = make(slow=Slow(), fast=Counting())
    drawer.submit("slow", at(tmp_path, 1), tmp_path)
    wait_for(tmp_path / "began_1")
    assert [drawer.submit("fast", at(tmp_path, step), step) for step in (2, 3, 4)] == [False, True, True]
    (tmp_path / "go").touch()
    wait_for(tmp_path / "counting_step_4.png")
    drawer.submit("fast", at(tmp_path, 5), 5)
    assert drawer.finish(60) == []
    assert [(drawn.plot, drawn.step) for drawn in done] == [("slow", 1), ("fast", 4), ("fast", 5)]
    assert (tmp_path / "counting_step_5.png").read_text().startswith("2 5 ")


def test_a_process_that_dies_is_said_with_its_last_words_and_the_next_drawing_has_another(
    make: Make, tmp_path: Path
) -> None:
    drawer, done = make(dying=Dying(), fine=Counting())
    drawer.submit("dying", at(tmp_path, 1), None)
    drawer.submit("fine", at(tmp_path, 1), None)
    assert drawer.finish(60) == []
    assert [drawn.error for drawn in done] == ["the process that draws has ended: exit code 7, out of luck", None]


def test_a_drawing_that_hangs_is_given_up_and_the_next_is_drawn(make: Make, tmp_path: Path) -> None:
    drawer, done = make(patience=0.5, hanging=Hanging())
    drawer.start()
    drawer.submit("hanging", at(tmp_path, 1), tmp_path)
    drawer.finish(60)
    assert [drawn.error for drawn in done] == ["given up after 0.5 seconds"]


def test_the_end_does_not_wait_for_ever(make: Make, tmp_path: Path) -> None:
    drawer, done = make(hanging=Hanging(), after=Counting())
    drawer.submit("hanging", at(tmp_path, 1), tmp_path)
    drawer.submit("after", at(tmp_path, 1), None)
    wait_for(tmp_path / "began_1")
    assert drawer.finish(0.1) == ["hanging", "after"]
    assert done == [] and not drawer._waiting


def test_a_killed_training_takes_the_process_with_it_and_a_picture_is_finished(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, time
from pathlib import Path
from expkit.plots import PlotContext
from expkit.plots.drawer import Drawer
from tests.expkit.plots.helpers import said
from tests.expkit.plots.sleepy import Answering, Counting, Slow
folder = Path({str(tmp_path)!r})
drawer = Drawer({{"slow": Slow(), "after": Counting()}}, print)
drawer.submit("slow", PlotContext(1, folder, folder, "toy"), folder)
while not (folder / "began_1").exists():
    time.sleep(0.01)
(folder / "pid").write_text(str(drawer._worker._process.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    process = int((tmp_path / "pid").read_text())
    assert process_alive(process), "it has a picture to finish"
    (tmp_path / "go").touch()
    for _ in range(1000):
        if not process_alive(process) or "Z" in Path(f"/proc/{process}/stat").read_text().split()[2]:
            return
        time.sleep(0.01)
    raise AssertionError("it went on")


def test_what_a_plot_says_is_said_where_training_is(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawer, done = make(talking=Talking())
    drawer.submit("talking", at(tmp_path, 1), None)
    assert drawer.finish(60) == [] and done[0].paths == []
    assert said(caplog) == ["colours run out"]


def test_what_is_no_list_of_pictures_is_said_so(make: Make, tmp_path: Path) -> None:
    drawer, done = make(answering=Answering())
    for step, answer in enumerate((None, tmp_path / "one.png", [tmp_path / "not_made.png"]), start=1):
        drawer.submit("answering", at(tmp_path, step), answer)
        assert drawer.wait(60) == []
    none, path, missing = (drawn.error or "" for drawn in done)
    assert "draw() returned None, but it must return a list of the paths of pictures" in none
    assert "draw() returned a PosixPath, but" in path
    assert "draw() returned not_made.png, but has not made it" in missing
