"""Every key says what it is, in a comment of the file that declares it: `--help` prints it from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import CONF

#: Selections of other options, that declare nothing of their own.
PRESETS = ("debug", "experiment", "sweep", "hydra")
#: Hydra's own words.
HYDRA = ("_target_", "_partial_", "defaults", "hydra", "hydra.")
FILES = sorted(file for file in CONF.rglob("*.yaml") if file.relative_to(CONF).parts[0] not in PRESETS)


def keys(file: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield the last word and the path of each key that holds a value, and whether a comment says what it is."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()

    def walk(node: yaml.Node, path: str) -> Iterator[tuple[str, str, bool]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{path}{key.value}"
            line = key.start_mark.line
            said = "#" in lines[line] or (line > 0 and lines[line - 1].lstrip().startswith("#"))
            if name.startswith(HYDRA) or key.value in HYDRA:
                continue
            if isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, f"{name}.")
            else:
                yield key.value, name, said

    root = yaml.compose(text)
    assert root is not None, file
    yield from walk(root, "")


DECLARED = {word for file in FILES for word, _, said in keys(file) if said}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_is_documented_where_it_is_declared(file: Path) -> None:
    beside = {word for other in file.parent.glob("*.yaml") for word, _, said in keys(other) if said}
    known = beside if file.parent != CONF / "trainer" else DECLARED  # a task's own values of the trainer's keys
    silent = [name for word, name, said in keys(file) if not said and word not in known]
    selections = {"diagnostics", "detectors", "plots", "tracker"} if file == CONF / "config.yaml" else set()
    assert [name for name in silent if name not in selections] == []


@pytest.mark.parametrize(
    "file",
    sorted(file for folder in PRESETS[:-1] for file in (CONF / folder).rglob("*.yaml")),
    ids=lambda file: str(file.relative_to(CONF)),
)
def test_presets_set_what_is_declared_elsewhere_or_say_what_it_is(file: Path) -> None:
    assert [name for word, name, said in keys(file) if not said and word not in DECLARED and "." in name] == []
