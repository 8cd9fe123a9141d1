"""The command `expkit`: help, mistakes in one line, commands of other packages."""

from __future__ import annotations

import os
import subprocess
import sys

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
    assert "  show         what a run was" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"expkit {expkit.__version__}\n"


def test_an_unknown_command_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shwo"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: expkit has no command 'shwo': choose from ")
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
