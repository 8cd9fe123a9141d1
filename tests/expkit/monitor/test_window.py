"""The window on a real display: Xvfb, and the toolkit that Python brings."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from expkit.journal import Journal
from expkit.record import Record
from tests.conftest import ended

needs_display = pytest.mark.skipif(
    shutil.which("Xvfb") is None or importlib.util.find_spec("tkinter") is None,
    reason="no virtual display (Debian: xvfb) or no tkinter",
)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A virtual display of its own."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    with ended(subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)):
        os.close(write)
        with os.fdopen(read) as numbers:
            yield f":{numbers.readline().strip()}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    with Journal(tmp_path / "run" / "logs" / "metrics.jsonl") as journal:
        for step in range(100):
            journal.write(Record(step, 1, 1e9 + step, {"train_loss": 5 / (1 + step), "learning_rate": step / 100}))
    return tmp_path / "run"


def environment(display: str | None) -> dict[str, str]:
    names = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[3]), **({"DISPLAY": display} if display else {})}


def in_a_window(display: str, run: Path, code: str) -> None:
    """Run `code` in a process that has opened a window: its names are monitor, window, figure, plt, write, look."""
    script = f"""
        import sys
        from matplotlib.backend_bases import KeyEvent, MouseEvent
        from expkit.journal import Journal
        from expkit.monitor import TrainingMonitor
        from expkit.monitor.window import _load_backend, _Window
        from expkit.record import Record

        plt = _load_backend()
        figure = plt.figure(figsize=(13, 8))
        monitor = TrainingMonitor({str(run)!r}, index=False)
        window = _Window(monitor, figure, 0.1, "dark")
        window.start()

        def write(steps):
            with Journal({str(run / "logs" / "metrics.jsonl")!r}) as journal:
                for step in steps:
                    journal.write(Record(step, 1, 1e9 + step, {{"train_loss": 5 / (1 + step), "learning_rate": 0.5}}))

        def look():
            window._look()
            figure.canvas.flush_events()

        def last(place=0):
            return max(x for line in figure.axes[place].lines for x in line.get_xdata() if x == x)

        def press(key):
            figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))
        """
    whole = textwrap.dedent(script) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", whole], env=environment(display), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_display
def test_it_follows_the_run_and_keeps_what_was_zoomed_into(display: str, run: Path) -> None:
    code = """
        assert [axes.get_title("left") for axes in figure.axes] == ["loss", "learning_rate"]
        assert last() == 99
        write(range(100, 200))
        look()
        assert last() == 199 and figure.axes[0].get_xlim()[1] > 199
        figure.axes[0].set(xlim=(20, 30), ylim=(0.01, 1))
        write(range(200, 300))
        look()
        assert last() == 299
        assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((20, 30), (0.01, 1))
        assert figure.axes[1].get_xlim() == (20, 30), "who zooms into one sees the same of the others"
        figure.canvas.manager.toolbar.home()
        assert figure.axes[0].get_xlim()[1] > 299
        write(range(300, 400))
        look()
        assert figure.axes[0].get_xlim()[1] > 399, "whole again, it follows"
        """
    in_a_window(display, run, code)


@needs_display
def test_keys_change_the_axes_and_a_mouse_button_holds_it_still(display: str, run: Path) -> None:
    code = """
        press("l")
        assert figure.axes[0].get_yscale() == "log"
        press("l")
        press("x")
        assert figure.axes[0].get_xlabel() == "seconds since the first record", figure.axes[0].get_xlabel()
        press("x")
        assert figure.axes[0].get_xlabel() == "epoch"
        press("x")
        mouse = MouseEvent("button_press_event", figure.canvas, 300, 300, button=1)
        figure.canvas.callbacks.process("button_press_event", mouse)
        write(range(100, 200))
        for _ in range(10):
            window._tick()
        assert last() == 99
        mouse = MouseEvent("button_release_event", figure.canvas, 300, 300, button=1)
        figure.canvas.callbacks.process("button_release_event", mouse)
        for _ in range(10):
            window._tick()
        assert last() == 199
        """
    in_a_window(display, run, code)


@needs_display
@pytest.mark.parametrize("quiet", [True, False])
def test_ctrl_c_closes_it(display: str, run: Path, quiet: bool) -> None:
    if quiet:  # nothing to draw yet
        (run / "logs" / "metrics.jsonl").unlink()
        (run / "config.json").write_text("{}")
    code = f"""
        import os, signal, threading, time
        from matplotlib import pyplot
        from expkit.cli.main import main

        def interrupt():
            while not pyplot.get_fignums():
                time.sleep(0.1)
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=interrupt, daemon=True).start()
        assert main(["monitor", {str(run)!r}, "--window", "--interval", "0.2"]) == 0
        assert not pyplot.get_fignums()
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(display), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_display_it_says_what_else_there_is(run: Path) -> None:
    command = [sys.executable, "-m", "expkit", "monitor", str(run), "--window"]
    done = subprocess.run(command, env=environment(None), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    others = "--terminal, --web or --static; in Python generate_static_plot(FILE)"
    assert done.stderr == f"error: --window: there is no display here; choose {others}\n"


@needs_display
def test_a_display_that_is_none_is_one_line(run: Path) -> None:
    command = [sys.executable, "-m", "expkit", "monitor", str(run), "--window"]
    done = subprocess.run(command, env=environment(":9999"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --window: ")
    assert done.stderr.count("\n") == 1


@needs_display
def test_a_journal_that_cannot_be_read_now_is_said_and_time_keeps_its_unit_while_zoomed(
    display: str, run: Path
) -> None:
    code = """
        press("x")
        assert figure.axes[0].get_xlabel() == "seconds since the first record"
        figure.axes[0].set(xlim=(20, 30))
        write(range(100, 9000, 10))
        look()
        assert figure.axes[0].get_xlabel() == "seconds since the first record"
        assert figure.axes[0].get_xlim() == (20, 30)
        figure.canvas.manager.toolbar.home()
        look()
        write([9000])
        look()
        assert figure.axes[0].get_xlabel() == "hours since the first record", figure.axes[0].get_xlabel()
        assert figure.axes[0].get_xlim()[1] < 4
        from pathlib import Path
        journal = Path(monitor.feeds[0].run.metrics)
        journal.rename(journal.with_name("x"))
        journal.mkdir()
        look()
        assert "cannot be read now" in window._said
        """
    in_a_window(display, run, code)
