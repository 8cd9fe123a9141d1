"""What every command of `expkit` keeps to: help with true examples, exit codes, one line for a mistake, JSON."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import command_names, find_command, main

NAMES = [name for names in command_names().values() for name in names]
#: Whose options are Hydra's, and which begins to train where others look for a run.
OWN_PARSER = [name for name in NAMES if name != "train"]
#: Those that begin something which takes time when nothing is typed.
BEGINS = {"profile", "train", "verify-resume"}
#: Those that need the run's task, and torch: their JSON is tested with them.
REBUILDS = {"batch", "bisect-nan", "profile", "verify-resume"}


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two finished runs, which is the current one's `outputs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for number in range(2):
        run = tmp_path / "outputs" / f"toy_2026010{number + 1}_120000_abc{number}"
        for folder in ("logs", "checkpoints", "snapshots"):
            (run / folder).mkdir(parents=True)
        config = {"trainer": {"seed": number}, "tracker": {"trackio": {"_target_": "x"}}}
        (run / "config.json").write_text(json.dumps({"config": config, "timestamp": "2026-01-01T12:00:00+00:00"}))
        status = {"state": "finished", "step": 3, "total_steps": 3, "heartbeat_time": time.time()}
        (run / "status.json").write_text(json.dumps({**status, "metrics": {"val_loss": 0.5 + number}}))
        entries = [{"step": step, "epoch": 1, "time": 1.0 + step, "train_loss": 1 / step} for step in (1, 2, 3)]
        (run / "logs" / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in entries))
    return tmp_path / "outputs"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed."""
    try:
        code: Any = main(arguments)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    return int(code or 0), said.out, said.err


def examples(name: str) -> Iterator[str]:
    """Yield the commands in a command's help: what stands behind two spaces tells what they do."""
    for line in (find_command(name).parser().epilog or "").splitlines():  # type: ignore[attr-defined]
        words = line.strip().removeprefix("nohup ")
        if words.startswith(f"expkit {name}"):
            yield words.split("   ")[0].partition("  ")[0].partition(" > ")[0]


@pytest.mark.parametrize("name", OWN_PARSER)
def test_help_has_examples_each_of_which_can_be_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, name, "--help")
    assert (code, err) == (0, "") and out.startswith(f"usage: expkit {name}")
    assert "examples:" in out
    found = list(examples(name))
    assert found, f"expkit {name} --help shows how it is typed"
    for each in found:
        parser = find_command(name).parser()  # type: ignore[attr-defined]
        words = shlex.split(each)[2:]
        nested = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
        parse = parser.parse_known_args if nested else parser.parse_known_intermixed_args
        _, left = parse(words)
        wrong = [word for word in left if "=" not in word and word not in ("--config-dir", "my_conf")]
        assert not wrong, each


@pytest.mark.parametrize("name", OWN_PARSER)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    name: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, name, *(["keys"] if name == "wandb" else []), "--no-such-option")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "--no-such-option" in err


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BEGINS])
def test_without_arguments_in_an_empty_folder_it_is_one_line_or_an_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELL", "/bin/bash")
    code, out, err = run(capsys, name)
    assert (code in (1, 2) and not out and err.startswith("error: ") and err.count("\n") == 1) or (code == 0 and out)
    assert not list(tmp_path.iterdir()), "who looks for something leaves nothing behind"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in BEGINS | {"dashboard", "completion", "profile"}]
)
def test_a_run_that_is_not_there_is_one_line_and_exit_code_1(
    name: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {"wandb": ["keys"], "batch": ["--step", "1"]}.get(name, [])
    code, out, err = run(capsys, name, *first, "no_such_run")
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "no_such_run" in err


#: What has to be typed for an answer that ends.
ASKED = {
    "replay": ["--to", "tensorboard", "--dry-run"],
    "svd": ["--once"],
    "sync": ["--dry-run"],
    "wandb": ["runs", "outputs"],
    "watch": ["--dry-run", "detectors=nonfinite"],
}


@pytest.mark.parametrize("name", [name for name in OWN_PARSER if name not in REBUILDS])
def test_json_is_json(name: str, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = find_command(name).parser()  # type: ignore[attr-defined]
    if "--json" not in parser.options():
        assert name in ("completion", "dashboard", "report"), "it prints something that a program could want"
        return
    _, out, err = run(capsys, name, *ASKED.get(name, []), "--json")
    assert "Traceback" not in err
    if name in ("replay", "svd", "sync"):  # an object a line
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())
    elif out or not err.startswith("error: "):
        assert json.loads(out) is not None


def test_help_loads_no_framework() -> None:
    import subprocess

    program = "import sys; from expkit.cli.main import main; main(['--help']); print([m for m in sys.modules if m in "
    done = subprocess.run(
        [sys.executable, "-c", program + "('torch', 'wandb', 'hydra', 'matplotlib', 'trackio')])"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_groups_of_the_help_have_every_command_once() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert {"runs", "show", "compare", "train", "completion"} <= set(NAMES)


def test_the_page_of_commands_has_them_all() -> None:
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    missing = [name for name in NAMES if f"| `{name}` |" not in page]
    assert not missing
