"""Where the configuration groups are, for the runner and for what reads their files without Hydra."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONF_DIR"]

_HERE = Path(__file__).resolve().parents[1]
_INSTALLED = _HERE / "train" / "_conf"  # where a wheel has it

#: The folder of configuration groups.
CONF_DIR = _INSTALLED if _INSTALLED.is_dir() else _HERE / "conf"
