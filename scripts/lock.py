"""`make lock`: the pins of constraints.txt, each with the SHA-256 of all its files that the registry has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_CONSTRAINTS = _ROOT / "constraints.txt"
#: uv wants a whole version; the first that every pin can be installed with.
_PYTHON, _PLATFORM = "3.11.5", "x86_64-manylinux_2_28"
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")

_ALL = """\
# Made by `make lock` from constraints.txt: every pin with the hashes of all its files, as the registry gives them.
# torch is not here, as its builds differ: install with requirements-cpu.lock or requirements-cuda.lock.
"""
_CPU = """\
# Made by `make lock`: pip install --require-hashes -r requirements-cpu.lock
# torch's build without CUDA, which is not on PyPI: pip has to be shown where it is, PyTorch's own index or a folder
# (--find-links). Hashes of the files that were at hand when this was made: Linux on x86-64, Python 3.11.
-r requirements.lock
"""
_CUDA = """\
# Made by `make lock`: pip install --require-hashes -r requirements-cuda.lock
# torch's build that is on PyPI, and the CUDA packages that it needs on Linux on x86-64.
-r requirements.lock
"""


def main() -> int:
    """Write the three files and return the exit code."""
    pins = [line for line in _CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    names = {_name(pin) for pin in pins}
    try:
        everything = _entries(_locked([pin for pin in pins if pin != torch], "--no-deps"))
        cuda = _entries(_locked([torch], "--python-platform", _PLATFORM, "--constraints", str(_CONSTRAINTS)))
        cpu = _cpu_hashes(torch, known="".join(cuda))
    except subprocess.CalledProcessError as error:
        print(f"error: nothing is written: {error.cmd[2]} has ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    added = [entry for entry in cuda if _name(entry) == "torch" or _name(entry) not in names]
    (_ROOT / "requirements.lock").write_text(_ALL + "".join(everything))
    (_ROOT / "requirements-cuda.lock").write_text(_CUDA + "".join(added))
    if cpu is None:
        print("requirements-cpu.lock stays as it is: pip finds no build without CUDA here", file=sys.stderr)
    else:
        (_ROOT / "requirements-cpu.lock").write_text(f"{_CPU}{torch} \\\n    --hash={cpu}\n")
    print(f"{len(everything)} packages, and torch with {len(added) - 1} of CUDA")
    return 0


def _locked(requirements: list[str], *options: str) -> str:
    """Return what uv makes of requirements: versions and hashes, and no word of where they are from."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--generate-hashes", "--python-version", _PYTHON]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *options, "-"]
    given = "\n".join(requirements)
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - no shell
    return done.stdout


def _entries(locked: str) -> list[str]:
    """Return each package's lines."""
    return re.findall(r"^\S+==.*\n(?:    --hash.*\n)+", locked, re.MULTILINE)


def _name(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[=\[ ]", pin, maxsplit=1)[0]).lower()


def _cpu_hashes(torch: str, known: str) -> str | None:
    """Return the hash of the build that pip installs here, if it is none of PyPI's."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--no-deps", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), torch], check=True)  # noqa: S603 - no shell
        (chosen,) = json.loads(report.read_text())["install"]
    made = f"sha256:{chosen['download_info']['archive_info']['hashes']['sha256']}"
    return None if made in _HASH.findall(known) else made


if __name__ == "__main__":
    sys.exit(main())
