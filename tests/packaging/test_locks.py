"""What is asked for, what is pinned, and what is locked with hashes belong together."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts import audit

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-cpu.lock", "requirements-cuda.lock")


def pinned(file: str) -> dict[str, Version]:
    """Return package -> version of a file's lines `name==version`."""
    lines = re.findall(r"^([\w.\-]+)==([^\s;\\]+)", (ROOT / file).read_text(), re.MULTILINE)
    found = {canonicalize_name(name): Version(version) for name, version in lines}
    assert len(found) == len(lines), f"{file} names a package twice"
    return found


def asked_for() -> list[Requirement]:
    """Return the requirements of the project, of its extras, and of its build."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = about["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), about["build-system"]["requires"]]
    return [requirement for texts in lists for text in texts if (requirement := Requirement(text)).name != "expkit"]


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = pinned("constraints.txt")
    for requirement in asked_for():
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is pinned"


def test_all_that_a_pinned_package_needs_is_pinned_too() -> None:
    pins = pinned("constraints.txt")
    missing = []
    for name in pins:
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # for another system
            continue
        for need in map(Requirement, needs):
            if need.name == "pip" or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
                continue  # pip comes with Python, and is what reads a lock
            version = pins.get(canonicalize_name(need.name))
            if version is None or not need.specifier.contains(version, prereleases=True):
                missing.append(f"{name} needs {need}, pinned is {version}")
    cuda = re.compile(r"torch needs (cuda|nvidia|triton)")  # of torch's build with CUDA: requirements-cuda.lock
    assert [each for each in missing if not cuda.match(each)] == []


def test_the_locks_have_what_is_pinned_and_nothing_else() -> None:
    pins, lock = pinned("constraints.txt"), pinned("requirements.lock")
    assert lock == {name: version for name, version in pins.items() if name != "torch"}
    assert pinned("requirements-cpu.lock") == {"torch": pins["torch"]}
    cuda = pinned("requirements-cuda.lock")
    assert cuda["torch"] == pins["torch"]
    added = cuda.keys() - {"torch"}
    assert not added & pins.keys()
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in added), added


def test_every_line_of_a_lock_has_hashes_and_none_names_a_registry() -> None:
    for file in LOCKS:
        text = (ROOT / file).read_text()
        body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("#", "-r ")))
        entry = r"[\w.\-]+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
        assert re.fullmatch(f"(?:{entry})+", body), file
        assert "://" not in text
    for file in LOCKS[1:]:
        assert "\n-r requirements.lock\n" in (ROOT / file).read_text()
    builds = [set(re.findall("sha256:[0-9a-f]+", (ROOT / file).read_text())) for file in LOCKS[1:]]
    assert not builds[0] & builds[1], "the build without CUDA is a file of its own"


FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3", "4"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "out", "err"),
    [
        ([FINE], 0, "no known vulnerability in 1 packages\n", ""),
        ([FINE, BAD], 1, "b 2: CVE-1, fixed by 3, 4\n", ""),
        ([FINE, SKIPPED], 3, "", "not audited: nothing is known of 1 of 2 packages (c); "),
        ([BAD, SKIPPED], 1, "b 2: CVE-1, fixed by 3, 4\n", "not audited: nothing is known of 1 of 2 packages (c); "),
        ([], 3, "", ""),
    ],
)
def test_an_audit_calls_nothing_sound_that_was_not_looked_up(
    found: list[dict[str, object]], code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.judge(found) == code
    said = capsys.readouterr()
    assert said.out == out
    assert said.err.startswith(err) and bool(said.err) == bool(err)


def test_an_audit_without_a_network_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run(command: list[str], **options: str) -> SimpleNamespace:
        asked.append(options["input"])
        return SimpleNamespace(stdout="", stderr="Traceback ...\nConnectionError: no route to host\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not audited: nobody could be asked (ConnectionError: no route to host); it needs a network")
    assert "torch==2.13.0\n" in asked[0] and "nvidia-" in asked[0]
