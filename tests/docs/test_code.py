"""The Python that README and docs show is run as it stands there, from the top of each page to its end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.commands import PAGES, ROOT, Command, Shell, blocks
from tests.docs.conftest import RUNS, shown_files

#: A page whose code is run by a test of its own -> that test.
ELSEWHERE = {
    "docs/batch-size.md": "tests/sweeps/test_profile_measuring.py",
    "docs/library.md": "tests/expkit/test_library_door.py",
}

#: Runs that pages name -> those that are here.
NAMES = {"RUN": RUNS[0], "reference_run": RUNS[2], "a": RUNS[0], "b": RUNS[1]}

#: What parts of somebody's own loop take for given.
GIVEN = """
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from expkit import CheckpointManager
from expkit.diagnostics.svd import SVDDiagnostic

torch.set_num_threads(1)
folder = Path("own")
layers = {"block0": nn.Linear(8, 8), "up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}
model = nn.Sequential(OrderedDict(layers))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step, config = 1000, {}
loss = model(torch.randn(8, 8)).square().mean()
loss.backward()
loss_history = [loss.item()]
"""


def code(page: Path) -> str:
    """Return the Python of a page, without the files that it shows."""
    files = set(shown_files().values())
    return "\n".join(content for _, language, content in blocks(page) if language == "python" and content not in files)


WITH_CODE = [page for page in PAGES if code(page) and str(page.relative_to(ROOT)) not in ELSEWHERE]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, workplace: Path) -> None:
    here = re.sub(r"(?<=outputs/)\w+", lambda name: NAMES.get(name[0], name[0]), code(page))
    (workplace / "page.py").write_text(GIVEN + here)
    status, said = Shell(workplace).run(Command(str(page), 0, "python page.py"))
    assert status == 0, said


def test_the_files_that_pages_show_can_be_imported(workplace: Path) -> None:
    modules = [path.removesuffix(".py").replace("/", ".") for path in shown_files() if path.endswith(".py")]
    assert len(modules) > 5
    (workplace / "page.py").write_text("".join(f"import {module}\n" for module in modules))
    status, said = Shell(workplace).run(Command("", 0, "python page.py"))
    assert status == 0, said


def test_pages_that_are_run_elsewhere_are_there_and_so_are_the_tests() -> None:
    assert all((ROOT / page).exists() and (ROOT / test).exists() for page, test in ELSEWHERE.items())
