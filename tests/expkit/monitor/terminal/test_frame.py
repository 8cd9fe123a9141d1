"""The whole screen: what it holds at each size, what each key changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from expkit.journal import Journal
from expkit.monitor import TrainingMonitor, View
from expkit.monitor.terminal.controls import HELP, Controls
from expkit.monitor.terminal.dashboard import draw_frame
from expkit.monitor.terminal.look import Look, detect_look, plain, shortened
from expkit.monitor.terminal.pages import grid, matching
from expkit.record import Record
from tests.expkit.monitor.test_screen import write as journal
from tests.expkit.monitor.test_state import say

GPU = {"gpu/0/compute_util": 91.0, "gpu/0/memory_used_pct": 97.0, "gpu/0/temp_c": 61.0, "gpu/1/compute_util": 5.0}


class Watched:
    """Runs that are looked at."""

    def __init__(self, runs: list[Path], **view: Any) -> None:
        self.monitor = TrainingMonitor(runs, View(**view), index=False)
        self.controls = Controls.of(self.monitor.view)
        self.look = Look(colours="truecolor")

    def frame(self, width: int = 80, height: int = 24) -> str:
        self.monitor.refresh()
        lines = draw_frame(self.monitor, self.controls, self.look, (width, height))
        assert len(lines) == height and max(line.cell_len for line in lines) <= width
        return "\n".join(line.plain for line in lines)

    def press(self, *keys: str) -> str:
        for key in keys:
            self.controls.press(key, len(self.monitor.feeds))
        return self.frame()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    opened = []

    def watch(*runs: dict[str, Any], count: int = 20, **view: Any) -> Watched:
        made = []
        for number, metrics in enumerate(runs):
            run = tmp_path / f"run_{number}"
            run.mkdir()
            write(run, count, metrics)
            made.append(run)
        opened.append(Watched(made, **view))
        return opened[-1]

    yield watch
    for each in opened:
        each.monitor.close()


def write(run: Path, count: int, metrics: dict[str, Any], first: int = 1) -> None:
    (run / "logs").mkdir(exist_ok=True)
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        for step in range(first, first + count):
            values = {name: value(step) if callable(value) else value for name, value in metrics.items()}
            journal.write(Record(step, 1, time.time() - count + step, values), flush=False)


def alert(run: Path, step: int, severity: str, detector: str) -> None:
    entry = {"step": step, "time": time.time() + step, "severity": severity, "kind": "spike", "detector": detector}
    line = orjson.dumps(entry | {"message": f"loss is {step}", "values": {"limit": 2.5}})
    with (run / "logs" / "events.jsonl").open("ab") as file:
        file.write(line + b"\n")


def test_a_run_shows_badge_speed_panels_bars_and_alerts(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": lambda step: 5 / step, "gradient_norm": lambda step: 1.0 + step % 3, **GPU})
    run = shown.monitor.feeds[0].run.root
    for step, severity in ((5, "WARNING"), (9, "CRITICAL")):
        alert(run, step, severity, f"rule_{step}")
    frame = shown.frame()
    lines = frame.split("\n")
    assert lines[0].startswith(" RUNNING  run_0")
    assert "step 20" in lines[1] and "1 it/s" in lines[1]
    assert "gpu 0" in lines[2] and "█████████░ 91 %" in lines[2] and "(g)" in lines[2]
    assert "loss  0.25" in frame and "gradient_norm  3" in frame and "20 of 20 points" in frame
    alerts = frame[frame.index("2 alerts, newest first") :].split("\n")
    assert alerts[1].split()[0] == "CRITICAL" and "step 9 rule_9 loss is 9  limit=2.5" in alerts[1]
    assert alerts[2].split()[0] == "WARNING"
    assert "No diagnostics available" in frame and lines[-1].startswith("q quit")
    alert(run, 11, "WARNING", "long" * 40 + "end")
    assert "end loss is 11" not in shown.frame() and "end loss is 11" in shown.press("a").replace("\n", "")


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (79, 11), (200, 60), (61, 47), (300, 10)])
def test_every_size_is_filled_exactly(watch: Callable[..., Watched], size: tuple[int, int]) -> None:
    frame = watch({f"metric_{number}": lambda step: step for number in range(12)}, GPU).frame(*size)
    assert "step" in frame


def test_a_stalled_run_says_since_when_and_one_that_ended_why(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": 1.0}, count=0)
    run = shown.monitor.feeds[0].run.root
    journal(run, range(10), time.time() - 1000, train_loss=1.0)
    say(run)
    assert shown.frame().startswith(" STALLED  run_0  last record 17 min ago")
    say(run, pid=4_000_000, machine={})
    lines = shown.frame().split("\n")
    assert lines[0].startswith(" CRASHED ") or lines[0].startswith(" STALLED ")


def test_a_tiny_terminal_says_what_it_needs(watch: Callable[..., Watched]) -> None:
    frame = watch({"train_loss": 1.0}).frame(30, 8)
    assert frame.startswith("RUNNING run_0\nstep 20\npanels need 40 x 10")


def test_pages_hold_every_metric_once(watch: Callable[..., Watched]) -> None:
    shown = watch({f"metric_{number:03}": lambda step: step for number in range(30)})
    first = shown.frame()
    pages = int(first.split("\n")[-1].split("n 1/")[1].split()[0])
    frames = [first, *(shown.press("n") for _ in range(pages - 1))]
    found = [word for frame in frames for word in frame.split() if word.startswith("metric_")]
    assert sorted(found) == sorted({f"metric_{number:03}" for number in range(30)})
    assert shown.press("n") == first, "after the last page comes the first"
    assert shown.press("b") == frames[-1] and shown.press("home") == first


def test_beyond_eight_runs_the_styles_say_which_is_which(watch: Callable[..., Watched]) -> None:
    losses = {"train_loss": lambda step: 1 / step, "val_loss": lambda step: 2 / step}
    lines = watch(*[losses] * 10, count=5).frame(120, 50).split("\n")
    assert lines[0].startswith(" ●  run_0") and lines[8].startswith(" ·· run_8")
    assert any("loss  ● ·· train_loss  -- -· val_loss" in line for line in lines)


def test_of_two_runs_a_panel_says_which_line_is_which_metric(watch: Callable[..., Watched]) -> None:
    losses = {"train_loss": 1.0, "val_loss": 2.0}
    assert "loss  ● train_loss  -- val_loss" in watch(losses, losses).frame()


def test_an_end_is_said_twice_only_where_there_is_room(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": 1.0})
    say(shown.monitor.feeds[0].run.root, forecast={"remaining_seconds": 300.0, "end_time": time.time() + 300})
    narrow, wide = (shown.frame(width, 24).split("\n")[1] for width in (70, 120))
    assert "ETA 0:0" in narrow and "…" not in narrow and "ends in" not in narrow
    assert "ETA 0:0" in wide and "ends in" in wide


def test_a_filter_narrows_while_it_is_typed(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": 1.0, "val_loss": 2.0, "speed": 3.0, "a+b[0]": 4.0})
    typed = shown.press("/", "s", "p", "q")
    assert "no metric matches spq" in typed and typed.split("\n")[-1].startswith("/spq")
    assert not shown.controls.ended, "q is a letter of a name here"
    assert "speed  3" in shown.press("backspace") and "train" not in shown.frame()
    assert "/ sp" in shown.press("enter")
    assert "a+b[0]  4" in shown.press("/", "+", "b", "enter")
    assert "loss" in shown.press("escape")
    assert matching(["gpu/0/x", "Loss"], "gpu/*/x") == ["gpu/0/x"] and matching(["Loss"], "lOS") == ["Loss"]


def test_axes_smoothing_pause_and_help(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": lambda step: 5.0 / step})
    assert "x time" in shown.press("x") and "seconds" in shown.frame()
    assert "x epoch" in shown.press("x") and "x step" in shown.press("x")
    assert [shown.press("l").split(" l ")[1].split()[0] for _ in range(3)] == ["log", "linear", "log:auto"]
    assert "avg 5%" in shown.press("+") and "avg 15%" in shown.press("+", "+", "+")
    assert "avg off" in shown.press(*"-----")
    assert "PAUSED" in shown.press("p") and shown.controls.paused and "PAUSED" not in shown.press("p")
    described = shown.press("?")
    assert all(keys in described for keys in HELP) and "q quit" in shown.press("?")


def test_the_axes_are_at_first_what_the_command_line_asks_for(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": lambda step: 5.0 + step / 100}, along="epoch", logarithmic=True)
    assert "x epoch" in shown.frame() and " l log " in shown.frame()
    assert shown.monitor.screen().panels[0].is_logarithmic()
    assert " l linear " in shown.press("l") and " l log:auto " in shown.press("l")


def test_one_run_after_the_other_and_all_of_them(watch: Callable[..., Watched]) -> None:
    shown = watch(*({"train_loss": lambda step: step} for _ in range(3)))
    assert all(f"run_{number}" in shown.frame() for number in range(3))
    for number in range(3):
        frame = shown.press("r")
        assert f" RUNNING  ● run_{number}" in frame and f"run_{(number + 1) % 3}" not in frame
    assert "run_0" in shown.press("r") and shown.controls.chosen is None
    assert "● run_1" in shown.press("2") and shown.press("R").startswith(" RUNNING  ● run_0")
    assert shown.controls.chosen == 0 and shown.press("0") and shown.controls.chosen is None
    shown.press("9")
    assert shown.controls.chosen is None


def test_a_directory_that_is_removed_and_made_anew(watch: Callable[..., Watched]) -> None:
    import shutil

    shown = watch({"train_loss": 2.0})
    run = shown.monitor.feeds[0].run.root
    shown.frame()
    shutil.rmtree(run)
    assert shown.frame().startswith(" GONE  run_0")
    (run / "logs").mkdir(parents=True)
    assert "GONE" not in shown.frame()
    write(run, 1, {"train_loss": 7.0})
    assert "loss  7" in shown.frame() and "1 of 1 points" in shown.frame()


def test_names_that_a_terminal_would_obey_do_nothing(watch: Callable[..., Watched]) -> None:
    shown = watch({"train_loss": 1.0, "evil\x1b[2Jname\n": 3.0})
    alert(shown.monitor.feeds[0].run.root, 3, "WARNING", "rule\x1b]0;title\x07")
    frame = shown.press("n")
    rendered = "".join(Look(colours="none").render(draw_frame(shown.monitor, shown.controls, shown.look, (80, 24)), 80))
    assert "\x1b[2J" not in rendered and "\x1b]" not in rendered and "\x1b" not in frame
    assert plain("a\x1b\tb\n\ud800") == "a? b ?"
    assert shortened("denoise_20261122_120000_ab12", 20) == "denoise_20…0000_ab12"


def test_a_grid_has_room_for_its_panels() -> None:
    for width in (40, 80, 120, 200):
        for height in (7, 16, 40, 60):
            most = max(1, width // 38) * max(1, height // 7)
            for panels in range(1, min(most, 9) + 1):
                columns, rows = grid(width, height, panels)
                assert columns * rows >= panels and width // columns >= 38 and height // rows >= 7
    assert grid(80, 16, 4) == (2, 2) and grid(80, 16, 2) == (1, 2) and grid(200, 16, 2) == (2, 1)


class Stream:
    encoding = "utf-8"

    def __init__(self, terminal: bool = True, encoding: str = "utf-8") -> None:
        self.terminal, self.encoding = terminal, encoding

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-256color", "LANG": "en_US.UTF-8"}, ("256", True, True)),
        ({"TERM": "xterm", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}, ("truecolor", True, True)),
        ({"TERM": "xterm-256color", "LANG": "C", "LC_CTYPE": "C.UTF-8"}, ("256", False, True)),
        ({"TERM": "xterm-256color", "LANG": "de_DE.UTF-8", "LC_ALL": "POSIX"}, ("256", False, True)),
        ({"TERM": "xterm-256color", "LANG": "C.UTF-8", "NO_COLOR": "1"}, ("none", True, True)),
        ({"TERM": "linux", "LANG": "C.UTF-8", "COLORTERM": "truecolor"}, ("truecolor", False, True)),
        ({"TERM": "dumb", "LANG": "C.UTF-8"}, ("none", True, False)),
        ({"LANG": "C.UTF-8"}, ("none", True, False)),
    ],
)
def test_what_a_terminal_can_show_is_known_by_its_environment(environment: dict[str, str], wanted: Any) -> None:
    look = detect_look(Stream(), environment)  # type: ignore[arg-type]
    assert (look.colours, look.unicode, look.movable) == wanted
    assert not detect_look(Stream(encoding="ascii"), environment).unicode  # type: ignore[arg-type]
    assert not detect_look(Stream(terminal=False), environment).movable  # type: ignore[arg-type]


def test_a_light_background_has_its_own_colours() -> None:
    environment = {"TERM": "xterm-256color", "COLORFGBG": "0;15"}
    assert detect_look(Stream(), environment).light  # type: ignore[arg-type]
    assert Look(colours="truecolor", light=True).line(0) != Look(colours="truecolor").line(0)
