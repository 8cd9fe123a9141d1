"""The completion script, in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from expkit.cli.completion import script
from expkit.cli.main import main

_ASK = """
complete() { :; }
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_shtab_expkit
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    path = tmp_path_factory.mktemp("completion") / "expkit.bash"
    path.write_text(script("bash"))
    return path


def answer(bash_script: Path, folder: Path, *words: str) -> set[str]:
    """Return what bash offers behind words, of which the last is being typed."""
    done = subprocess.run(
        ["bash", "--norc", "-c", _ASK, "ask", str(bash_script), *words], cwd=folder, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["expkit", "sh"], {"show"}),
        (["expkit", "bisect"], {"bisect-nan"}),
        (["expkit", "show", "--j"], {"--json"}),
        (["expkit", "runs", "--format", ""], {"text", "markdown", "csv", "latex", "json"}),
        (["expkit", "wandb", "g"], {"gpu"}),
        (["expkit", "wandb", "gpu", "--sys"], {"--system"}),
        (["expkit", "show", "toy"], {"toy_1", "toy_2"}),
        (["expkit", "show", "toy_1"], {"toy_1"}),
        (["expkit", "compare", "toy_1", "outputs/toy_2"], {"outputs/toy_2"}),
        (["expkit", "watch", "lat"], {"latest"}),
        (["expkit", "runs", "out"], {"outputs"}),
        (["expkit", "compare", "--output", "re"], {"report.png"}),
        (["expkit", "completion", "z"], {"zsh"}),
    ],
)
def test_what_bash_offers(bash_script: Path, tmp_path: Path, words: list[str], offered: set[str]) -> None:
    for name in ("toy_1", "toy_2", "other"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    (tmp_path / "report.png").touch()
    assert answer(bash_script, tmp_path, *words) == offered


def test_without_outputs_there_are_paths(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert answer(bash_script, tmp_path, "expkit", "show", "") == {"latest", "elsewhere"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_is_accepted_by_its_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert "expkit" in said and "bisect-nan" in said and "_expkit_runs_or_dirs" in said
    if shutil.which(shell) is None:
        return
    (tmp_path / "script").write_text(said)
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_name_it_is_the_shell_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert main(["completion"]) == 0
    assert "function _expkit_runs_or_dirs" in capsys.readouterr().out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion"]) == 1
    assert capsys.readouterr().err == "error: which shell? expkit completion bash, zsh or fish\n"
