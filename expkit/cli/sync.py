"""`expkit sync`: uploads offline W&B runs that were not uploaded yet. The work is that of `wandb sync`."""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import is_there
from expkit.lock import is_free
from expkit.status import read_status
from expkit.wandb_data import OfflineRun, offline_runs
from expkit.wandb_data.login import missing_login, server_trouble
from expkit.wandb_data.offline import offline_files

__all__ = ["SyncCommand"]

_FRESH = 60.0  # seconds since the last heartbeat (every 5) of a run that another machine is taken to be at
_ASK_EVERY, _PATIENCE = 10.0, 120.0  # seconds between two looks for the server; until an upload is given up

_EXAMPLES = """examples:
  expkit sync                       what is in outputs
  expkit sync --dry-run             only list what would be uploaded
  expkit sync /shared/outputs RUN   other folders of runs, run directories, wandb folders

On a cluster whose nodes have no internet: on a node that has, a login node say, with the same outputs.
The key is W&B's own: `wandb login` once, or WANDB_API_KEY."""


@dataclass
class _Waiting:
    """A run with parts that were not uploaded."""

    run: OfflineRun
    folders: list[Path]
    bytes: int
    busy: bool


class SyncCommand:
    """Uploads what `wandb sync` has not uploaded."""

    summary = "upload offline W&B runs, on a machine with a network"

    def run(self, arguments: Sequence[str]) -> int:
        """Upload and say what was uploaded. The exit code is 1 if one of them could not be; the others go on."""
        options = self.parser().parse_args(arguments)
        waiting = [each for place in options.outputs for each in _waiting(Path(place))]
        if not waiting and not options.json:
            print(f"nothing to upload in {', '.join(options.outputs)}")
        ready = [each for each in waiting if not each.busy]
        if ready and not options.dry_run:
            _check_server(options.timeout)
        failed = 0
        for each in waiting:
            trouble, url = None, None
            if not (each.busy or options.dry_run):
                trouble, url = _upload(each, options.project, options.entity)
                failed += trouble is not None
            _say(each, trouble, url, options)
        return int(failed > 0)

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit sync",
            description="Upload offline W&B runs that were not uploaded yet. Nothing is uploaded twice.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("outputs", nargs="*", default=["outputs"], help="folders (outputs)")
        parser.add_argument("--dry-run", action="store_true", help="only list them; needs neither network nor account")
        parser.add_argument("--project", help="upload into another project")
        parser.add_argument("--entity", help="user or team; your default")
        parser.add_argument(
            "--timeout", type=float, default=30.0, metavar="SECONDS", help="for the server to answer (30)"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object for each run")
        return parser


def _waiting(place: Path) -> list[_Waiting]:
    """Return what was not uploaded, the oldest first.

    Raises:
        UserError: there is no such folder.
    """
    if not is_there(place):
        raise UserError(f"{place} is not there: name the folder that holds your runs")
    if not offline_files(place, everywhere=True):
        return []
    found = []
    for run in reversed(offline_runs(place, everywhere=True)):
        files = [
            file
            for file in run.parts
            if file.parent.name.startswith("offline-run-") and not file.with_suffix(".wandb.synced").exists()
        ]
        if files:
            busy = _is_busy(RunDir(files[0].absolute().parents[2]))
            size = sum(each.stat().st_size for file in files for each in file.parent.rglob("*") if each.is_file())
            found.append(_Waiting(run, [file.parent for file in files], size, busy))
    return found


def _is_busy(run: RunDir) -> bool:
    """Whether a process writes to a run: one of this machine, or, by its heartbeat's age, of another one."""
    if not run.exists():
        return False
    status = read_status(run.status)
    if status.get("host") in (None, platform.node()):
        return os.access(run.root, os.W_OK) and not is_free(run)
    running = status.get("state") in ("starting", "running")
    return running and time.time() - run.status.stat().st_mtime < _FRESH


def _check_server(timeout: float) -> None:
    """Raise UserError if nothing could be uploaded."""
    os.environ.setdefault("WANDB_SILENT", "true")
    missing = missing_login()
    if missing:
        raise UserError(f"{missing}: run `wandb login`, or set WANDB_API_KEY; nothing was uploaded")
    trouble = server_trouble(timeout)
    if trouble:
        raise UserError(f"{trouble}: nothing was uploaded; try again on a machine with a network")


def _upload(each: _Waiting, project: str | None, entity: str | None) -> tuple[str | None, str | None]:
    """Upload one run. Return why that failed, or None, and its address."""
    options = [*(("--project", project) if project else ()), *(("--entity", entity) if entity else ())]
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *options, *map(str, each.folders)]
    environment = {**os.environ, "WANDB_SILENT": "false"}
    process = subprocess.Popen(  # noqa: S603 - the arguments are ours
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    )
    try:
        output = _watch(process)
    finally:
        process.kill()
        process.wait()
    if output is None:
        return f"the server has not been there for {_PATIENCE:.0f} s; what was uploaded of it stays", None
    url = re.search(r"at (https?://\S+)", output)
    left = [folder for folder in each.folders if not any(folder.glob("*.wandb.synced"))]
    if left and not process.returncode and not os.access(left[0], os.W_OK):
        return f"uploaded, but {left[0]} is read-only, so that it will be uploaded again", None
    if process.returncode or left:
        said = [line.removeprefix("wandb:").strip() for line in output.splitlines() if line.strip()]
        return f"wandb sync failed: {said[-1] if said else f'exit code {process.returncode}'}", None
    return None, url[1] if url else None


def _watch(process: subprocess.Popen[str]) -> str | None:
    """Return what an upload prints; None if the server goes away, for which W&B itself would wait for days."""
    last = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=_ASK_EVERY)[0]
        except subprocess.TimeoutExpired:
            if _is_there():
                last = time.monotonic()
            elif time.monotonic() - last > _PATIENCE:
                return None


def _is_there() -> bool:
    import wandb

    address = urlsplit(wandb.setup().settings.base_url)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def _say(each: _Waiting, trouble: str | None, url: str | None, options: Any) -> None:
    run = each.run
    state = "still running" if each.busy else "waiting" if options.dry_run else "failed" if trouble else "uploaded"
    if options.json:
        content = {
            **{"run": run.id, "name": run.name, "project": options.project or run.project, "state": state, "url": url},
            **{"folders": [str(folder) for folder in each.folders], "bytes": each.bytes, "error": trouble},
        }
        sys.stdout.buffer.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
        return
    size = f"{each.bytes / 1024:.0f} KB"
    parts = f", {len(each.folders)} parts" if len(each.folders) > 1 else ""
    if trouble:
        print(f"error: {run.id}: {trouble}", file=sys.stderr)
    elif each.busy:
        print(f"{run.id}: still running: upload it when it has ended")
    else:
        verb = "would be uploaded" if options.dry_run else "uploaded"
        print(f"{run.id}: {verb} ({size}{parts}) to {options.project or run.project}{f': {url}' if url else ''}")
