"""The command `expkit`: help, mistakes in one line, commands of other packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import expkit
from expkit.cli import main as module
from expkit.cli.main import main
from expkit.errors import UserError


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: expkit COMMAND")
    listed = [line for line in said.splitlines() if line.startswith("  ")]
    assert any(re.match(r"  show +what a run was", line) for line in listed)
    begins = {re.match(r"  \S+ +", line).end() for line in listed}  # type: ignore[union-attr]
    assert len(begins) == 1, "what they do stands in one column"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"expkit {expkit.__version__}\n"


def test_an_unknown_command_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shwo"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: expkit has no command 'shwo': did you mean show? There are ")
    assert "show" in said.err
    assert said.err.count("\n") == 1


class Entry:
    """An entry point of another package."""

    name = "other"
    summary = "a command of another package"

    def load(self) -> type[Entry]:
        return Entry

    def run(self, arguments: list[str]) -> int:
        if arguments == ["--wrong"]:
            raise UserError("there is no --wrong")
        return 7


def test_other_packages_add_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "entry_points", lambda group: [Entry()] if group == "expkit.commands" else [])
    assert main(["--help"]) == 0
    assert "  other        a command of another package" in capsys.readouterr().out
    assert main(["other"]) == 7
    assert main(["other", "--wrong"]) == 1
    assert capsys.readouterr().err == "error: there is no --wrong\n"


def test_a_pipe_whose_reader_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from expkit.cli.main import main; sys.exit(main(['--help']))"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_expkit_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "expkit", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"expkit {expkit.__version__}\n")


def test_a_file_that_hides_the_package_of_a_command_is_named_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hidden(Entry):
        module = "somebodys_package.command"

    (tmp_path / "somebodys_package.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "entry_points", lambda group: [Hidden()])
    assert main(["other"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'somebodys_package.py'} is found in place of")
    assert main(["--help"]) == 0
    assert "  other        cannot be used here: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("watch --loss-spike-treshold 0.2", "there is no --loss-spike-treshold: did you mean --loss-spike-threshold?"),
        ("svd --principal-danger=abc", "--principal-danger: invalid float value: 'abc'; expkit svd --help lists "),
        ("wandb keys latest --projct=p", "there is no --projct: did you mean --project?"),
        ("show --qqq", "there is no --qqq; expkit show --help lists what there is"),
        ("show a b", "b: one thing too many; expkit show --help lists "),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(typed: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.startswith(f"error: {line}") and said.err.count("\n") == 1
