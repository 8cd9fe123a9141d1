"""Every command that README and docs show is run, page by page, in the order of the page, on real short runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from expkit.cli.main import find_command
from tests.docs.commands import APPENDED, EXIT_CODES, NOT_RUN, PAGES, REPLACED, ROOT, Shell, blocks, commands
from tests.docs.conftest import RUNS

ALL = [command for page in PAGES for command in commands(page)]
WITH_COMMANDS = [page for page in PAGES if any(not command.left_out for command in commands(page))]

#: What stands in pages for something of one's own -> what it is here, in the order in which it is put there.
NAMES = {
    "gpu latest": "gpu with_gpus",
    "gpu outputs/RUN": "gpu with_gpus",
    "keys latest": f"keys {RUNS[0]}",
    "RUN RUN": f"{RUNS[0]} {RUNS[1]}",
    "RUN": f"outputs/{RUNS[0]}",
    "TASK": "gpt",
}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_it_should(page: Path, workplace: Path) -> None:
    (snapshot,) = (workplace / "outputs" / RUNS[0] / "snapshots").iterdir()
    shell = Shell(workplace, {"RUN/snapshots/anomaly_...": str(snapshot.relative_to(workplace)), **NAMES})
    wrong = []
    for command in commands(page):
        if command.left_out:
            continue
        code, said = shell.run(command)
        if code != command.code or "Traceback" in said:
            wrong.append(f"{command.page}:{command.line}: {command.small}\nexit code {code}\n{said[-1000:]}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize(
    "table", [NOT_RUN, APPENDED, REPLACED, EXIT_CODES], ids=["not run", "appended", "replaced", "exit codes"]
)
def test_every_exception_is_of_a_command_that_is_shown(table: dict[str, object]) -> None:
    assert not [pattern for pattern in table if not any(re.search(pattern, command.text) for command in ALL)]


def test_the_tests_that_run_what_is_not_run_here_are_there() -> None:
    named = {name for why in NOT_RUN.values() for name in re.findall(r"tests/[\w/.]+\w", why)}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_a_block_without_a_language_holds_no_command() -> None:
    typed = re.compile(r"^(\$ )?(python -m (train|sweeps)|expkit [a-z]|make [a-z]|git |pip |torchrun )", re.MULTILINE)
    wrong = [
        f"{page.relative_to(ROOT)}:{line}"
        for page in PAGES
        for line, language, content in blocks(page)
        if language not in ("bash", "console", "python") and typed.search(content)
    ]
    assert not wrong, "say bash, or console where the output is shown, too"


def in_sentences(program: str) -> list[str]:
    """Return what stands in sentences and tables as `program ...`."""
    found = set()
    for page in PAGES:
        text = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        found |= {" ".join(words.split()) for words in re.findall(rf"`({program} [a-z][^`]*)`", text)}
    return sorted(found)


def test_commands_in_sentences_have_the_options_that_they_are_shown_with() -> None:
    typed = [words for words in in_sentences("expkit") if words.split()[1] != "train"]
    assert len(typed) > 50
    for each in typed:
        parser = find_command(each.split()[1]).parser()  # type: ignore[attr-defined]
        known = parser.options()
        wrong = [word for word in shlex.split(each)[2:] if word.startswith("--") and word not in known]
        assert not wrong, each


def test_targets_of_make_in_sentences_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words.split()[1] for words in in_sentences("make")} <= targets
