"""What the contract tests run over: every option of a group, and what docs/components.md shows as if it were one."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import CONF

PAGE = CONF.parent / "docs" / "components.md"


def page_files() -> dict[str, str]:
    """Return path -> content of every file that the page shows."""
    blocks = re.findall(
        r"```(?:python|yaml)\n((?:# @package \S+\n)?# (my_\w+/\S+)\n.*?)```", PAGE.read_text(), re.DOTALL
    )
    return {path: content for content, path in blocks}


def write_page(folder: Path) -> Path:
    """Write every file that the page shows, and return the folder."""
    for path, content in page_files().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def option_files(group: str) -> list[Path]:
    """Return the YAML files of a group's parts: absolute paths, and for the page's one below the fixture `page`."""
    shown = [Path(path) for path in page_files() if path.startswith(f"my_conf/{group}/")]
    assert shown
    return [*(file for file in sorted((CONF / group).glob("*.yaml")) if not preset(file)), *shown]


def preset(file: Path) -> list[str]:
    """Return the options that a file selects, if that is what it is for."""
    return [option for option in yaml.safe_load(file.read_text()).get("defaults", []) if option != "_self_"]


def load(file: Path) -> tuple[type[Any], dict[str, Any]]:
    """Return the class that a file names, and its arguments; interpolations are left to the run's own values."""
    node = yaml.safe_load(file.read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name), {
        key: None if isinstance(value, str) and value.startswith("${") else value for key, value in node.items()
    }


def make(file: Path, group: str, base: type[Any]) -> Any:
    """Return a new object of an option, whose file must read like its constructor."""
    assert file.read_text().splitlines()[0] == f"# @package {group}.{file.stem}"
    kind, arguments = load(file)
    assert issubclass(kind, base) and kind is not base
    parameters = inspect.signature(kind).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    same = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    assert arguments == same, "YAML and defaults differ"
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    return kind(**arguments)
