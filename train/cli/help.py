"""What `python -m train --help` shows: the groups, and every key with the comment that stands beside it in its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from train.config.build import CONF_DIR, MULTI_SELECT, group_folders, preset

__all__ = ["commented_values"]

_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: [^#]*?)?(?:\s+# ?(?P<comment>.*))?")
_COLUMN = 36


def commented_values(config: DictConfig) -> str:
    """Return a configuration as YAML with comments, for a person: what only constructors need is left out.

    Args:
        config: as composed, with its `hydra` section.
    """
    said = _comments(CONF_DIR / "config.yaml", "")
    chosen = [(str(group), str(option)) for group, option in config.hydra.runtime.choices.items()]
    chosen += [(group, str(option)) for group in MULTI_SELECT for option in config[group]]
    for group, option in chosen:
        for folder in group_folders(group) if not group.startswith("hydra/") else ():
            for file in (*preset(group, option), option):  # what it is built on, first
                said |= _comments(folder / f"{file}.yaml", group.replace("/", "."))
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain = _without_targets(OmegaConf.to_container(shown, resolve=False))
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(OmegaConf.create(plain)).splitlines():
        found = _LINE.match(line)
        if found:
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            comment = said.get(".".join(path))
            line = f"{line:<{_COLUMN}}# {comment}" if comment else line
        lines.append(line)
    return "\n".join(lines)


def _comments(file: Path, package: str) -> dict[str, str]:
    """Return dotted key -> the comment beside it in a YAML file whose content goes to `package`."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    header = re.match(r"# @package (\S+)", text)
    root = header[1].replace("_global_", "") if header else package
    said, path = {}, [root] if root else []
    above = len(path)
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found:
            path = [*path[: above + len(found["indent"]) // 2], found["key"]]
            if found["comment"]:
                said[".".join(path)] = found["comment"]
    return said


def _without_targets(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: _without_targets(item) for key, item in node.items() if not str(key).startswith("_")}
