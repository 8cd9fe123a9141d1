"""The documentation site: it is built without a warning, asks nobody for anything, and has every public name."""

from __future__ import annotations

import html.parser
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import expkit
from tests.docs.commands import ROOT

#: Elements that load what they name, when a page is opened.
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
#: Modules whose public names all have a place in the reference.
PUBLIC = ("train.api", "train.tasks", "expkit.detectors", "expkit.guards", "expkit.errors")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """Gathers what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == LOADS.get(tag) and value]


def test_every_page_is_in_it_with_the_readme_in_front(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert not [page for page in pages if not (site / page).is_file()]
    assert "Six things to try next" in (site / "index.html").read_text()
    assert (site / "changelog.html").is_file() and (site / "LICENSE.txt").is_file()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    checked = 0
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert not [target for target in loaded.found if re.match(r"(https?:)?//", target)], page
        if page.name == "404.html":  # served for any address, its links begin with a slash
            continue
        for target in loaded.found:
            assert target.startswith("data:") or (page.parent / target.partition("?")[0]).exists(), (page, target)
            checked += 1
    assert checked > 300
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", styles)


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    described = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    names = [f"expkit.{name}" for name in expkit.__all__ if name != "__version__"]
    for module in PUBLIC:
        names += [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    names += ["expkit.diagnostics.Diagnostic", "expkit.trackers.Tracker", "expkit.plots.Plot"]
    names += ["expkit.checkpoints.SavePolicy", "expkit.checkpoints.KeepPolicy"]
    names += ["expkit.record.Record", "sweeps.batch_size.profile_batch_sizes"]
    assert not [name for name in names if f'id="{name}"' not in described]
