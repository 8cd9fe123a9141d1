"""`make audit`: whether what is pinned has known vulnerabilities.

Exit codes: 0 none is known, 1 there are some, 3 nobody could be asked, or not about all packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_LOCKS = ("requirements.lock", "requirements-cuda.lock")
_NOT_ASKED = 3


def main() -> int:
    """Ask, say what was found, and return the exit code."""
    # The pins are asked about as they are: nothing is resolved, downloaded or installed.
    pins = [
        line.partition(" ")[0] for name in _LOCKS for line in (_ROOT / name).read_text().splitlines() if "==" in line
    ]
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--requirement", "/dev/stdin"]
    done = subprocess.run(command, input="\n".join(pins), capture_output=True, text=True)  # noqa: S603 - no shell
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _not_asked(f"nobody could be asked ({why[:160]})")
    return judge(found)


def judge(found: list[dict[str, Any]]) -> int:
    """Say what pip-audit has found and return the exit code. A package that is skipped is not one that is sound."""
    vulnerable = [(each, known) for each in found for known in each.get("vulns", ())]
    for each, known in vulnerable:
        fixed = ", ".join(known["fix_versions"]) or "nothing yet"
        print(f"{each['name']} {each['version']}: {known['id']}, fixed by {fixed}")
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if skipped:
        named = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        _not_asked(f"nothing is known of {len(skipped)} of {len(found)} packages ({named})")
    if vulnerable:
        return 1
    if skipped or not found:
        return _NOT_ASKED
    print(f"no known vulnerability in {len(found)} packages")
    return 0


def _not_asked(why: str) -> int:
    print(f"not audited: {why}; it needs a network and PyPI's own API", file=sys.stderr)
    return _NOT_ASKED


if __name__ == "__main__":
    sys.exit(main())
