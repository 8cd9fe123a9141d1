"""`expkit monitor`: which face is shown, pictures and JSON, and what is said of mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from expkit import TrainingMonitor
from expkit.cli.main import main
from expkit.journal import Journal
from expkit.monitor.terminal.look import Look
from expkit.record import Record


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name in ("a_1", "a_2"):
        run = tmp_path / "outputs" / name
        (run / "logs").mkdir(parents=True)
        (run / "config.json").write_text("{}")
        with Journal(run / "logs" / "metrics.jsonl") as journal:
            for step in range(20):
                journal.write(Record(step, 1, 1e9 + step, {"train_loss": 5 / (1 + step), "val_loss": 6 / (1 + step)}))
    return tmp_path / "outputs"


@pytest.mark.parametrize(("name", "begins"), [("plot.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("deep/p.pdf", b"%PDF")])
def test_a_picture_is_of_the_kind_that_its_name_says(
    name: str, begins: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", "a_1", "--static", "--output", name]) == 0
    assert Path(name).read_bytes().startswith(begins)
    assert capsys.readouterr().out == f"{name}\n"


@pytest.mark.parametrize("theme", ["dark", "light", "print"])
def test_a_picture_goes_to_the_runs_own_if_nobody_says_where(outputs: Path, theme: str) -> None:
    assert main(["monitor", "a_1", "--static", "--theme", theme]) == 0
    assert (outputs / "a_1" / "visualizations" / "monitor.png").stat().st_size > 10_000


def test_several_runs_are_one_picture(tmp_path: Path) -> None:
    assert main(["monitor", "a_*", "--static", "--metrics", "val_loss,train_loss+val_loss"]) == 0
    assert (tmp_path / "monitor.png").is_file()


def test_json_says_how_runs_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "outputs/a_*", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["name"], run["step"], run["last"]) for run in runs] == [
        (name, 19, {"train_loss": 0.25, "val_loss": 0.3}) for name in ("a_1", "a_2")
    ]


def test_without_a_terminal_it_is_one_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "a_1"]) == 0
    said = capsys.readouterr().out
    assert "a_1" in said and "train_loss" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing is no run"),
        (["--interval", "0"], "--interval 0: give a number of seconds above 0"),
        (["--interval", "nan"], "--interval nan: give a number of seconds above 0"),
        (["--static", "--output", "plot.gif"], "--output plot.gif: its name must end in .png, .svg or .pdf"),
        (["--output", "plot"], "--output plot: its name must end in"),
        (["--web", "--output", "plot.png"], "leave --web out"),
        (["--port", "80"], "--port and --host belong to --web"),
        (["--web", "--port", "70000"], "--port 70000: give a number"),
        (["--theme", "blue", "--static"], "theme=blue: choose"),
        (["--static", "--output", "outputs/a_1/config.json/plot.png"], "it cannot be written"),
        (["--static", "--metrics", "+"], "--metrics +: a name is empty"),
        (["--json", "--metrics", "train_loss+"], "--metrics train_loss+: a name is empty"),
        (["--once", "--metrics", ""], "a name is empty"),
        (["--static", "--metrics", "train_los"], "no metric train_los (yet): did you mean train_loss?"),
        (["--once", "--metrics", "zzz"], "--metrics: there is no metric zzz (yet)"),
        (["--json", "--metrics", "zzz"], "--metrics: there is no metric zzz (yet)"),
        (["--once", "--theme", "print"], "--theme print: a terminal has dark or light"),
        (["--web", "--theme", "light"], "--theme light: leave it out, the page has a button"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize("face", ["--static", "--once", "--json"])
def test_of_several_metrics_one_that_is_not_there_is_a_warning(face: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "a_1", face, "--metrics", "train_loss+val_los,zzz"]) == 0
    said = capsys.readouterr()
    assert said.out
    assert [line.startswith("Warning: --metrics: there is no metric ") for line in said.err.splitlines()] == [True] * 2


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["monitor", "--metrcs", "loss"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: there is no --metrcs: did you mean --metrics?\n"


def test_the_terminal_has_the_theme_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("expkit.monitor.terminal.look.detect_look", lambda _: Look(colours="truecolor"))
    said = []
    for arguments in ([], ["--theme", "light"]):
        assert main(["monitor", "a_1", "--once", *arguments]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1], "the colours of another background"


def test_a_run_without_a_record_has_no_picture(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "a_1" / "logs" / "metrics.jsonl").unlink()
    assert main(["monitor", "a_1", "--static"]) == 1
    assert "there is nothing to draw (no record yet" in capsys.readouterr().err


@pytest.mark.parametrize("face", ["--once", "--json", "--static"])
def test_a_journal_that_cannot_be_read_is_one_line(
    outputs: Path, face: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "a_1" / "logs" / "metrics.jsonl").unlink()
    (outputs / "a_1" / "logs" / "metrics.jsonl").mkdir()
    assert main(["monitor", "a_1", face]) == 1
    said = capsys.readouterr().err
    assert said == "error: outputs/a_1/logs/metrics.jsonl: it cannot be read: Is a directory\n"


def test_two_faces_are_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["monitor", "--web", "--once"])
    assert end.value.code == 2


def test_the_guides_class_draws_its_static_plot(outputs: Path, tmp_path: Path) -> None:
    path = TrainingMonitor(outputs / "a_1").generate_static_plot(tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_guides_script(outputs: Path) -> None:
    script = Path(__file__).parents[3] / "scripts" / "monitor_training.py"
    command = [sys.executable, str(script), "outputs/a_1", "--static", "--output", "my_training_plot.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "my_training_plot.png\n", "")


def test_it_loads_no_torch() -> None:
    code = "import sys; from expkit.cli.main import main; main(['monitor', 'a_1', '--static'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
