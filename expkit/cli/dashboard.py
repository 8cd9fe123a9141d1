"""`expkit dashboard [PROJECT]`: trackio's own page, served to this machine alone."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import socket
import sqlite3
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from expkit.cli.finding import find
from expkit.cli.parser import Parser
from expkit.errors import UserError, describe
from expkit.experiment import RunDir
from expkit.files import is_there, read_json
from expkit.replay import run_info

__all__ = ["DashboardCommand"]

_HOST = "127.0.0.1"
#: With these trackio's page brings data from the Hugging Face Hub before it shows any.
_REMOTE = ("TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")

_EXAMPLES = """examples:
  expkit dashboard                        the project of the newest run in outputs
  expkit dashboard my-project             another one
  expkit dashboard my-project --dir /shared/trackio
  expkit dashboard --port 8000 --no-browser

The page can be opened on this machine only. For another one: ssh -L 7860:127.0.0.1:7860 THIS_MACHINE
It shows; `trackio show` gives a page on which runs can be renamed and deleted, too."""


class DashboardCommand:
    """Serves trackio's page until Ctrl-C."""

    summary = "trackio's page: the curves of a project's runs, in the browser"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the address of the page and wait for Ctrl-C, after which the exit code is 0."""
        options = self.parser().parse_args(arguments)
        if options.port is not None:
            _check_port(options.port)
        project, folder = options.project, options.dir
        if project is None:
            project, own = _of_run(find(None, Path("outputs")))
            folder = folder or own
        _prepare(folder)
        server, address = _serve(_known(project), options.port)
        try:
            print(address, flush=True)
            if not options.no_browser and _has_display():
                webbrowser.open(address)
            print("Ctrl-C ends it", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.close()
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit dashboard",
            description="Show a project's runs on trackio's own page. Nothing is asked of any network.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("project", nargs="?", help="default: that of the newest run in outputs")
        parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
        parser.add_argument(
            "--no-browser", action="store_true", help="only print the address; always so with no display"
        )
        parser.add_argument(
            "--dir",
            type=Path,
            help="the folder that holds trackio's databases, PROJECT.db; default: tracker.trackio.dir of the newest "
            "run (if no PROJECT is named), or else TRACKIO_DIR, or else trackio's own in the Hugging Face cache",
        )
        return parser


def _of_run(run: RunDir) -> tuple[str, Path | None]:
    """Return the project that a run has in trackio, and the folder that it is in if it is one of its own."""
    config = read_json(run.config).get("config")
    group = config.get("tracker") if isinstance(config, dict) else None
    node = group.get("trackio") if isinstance(group, dict) else None
    said = {key: str(value) for key, value in node.items() if value} if isinstance(node, dict) else {}
    for key in ("space_id", "server_url"):
        if key in said:
            place = said[key].partition("?")[0]  # what may follow is the key to write there
            raise UserError(
                f"{run.root} was sent to {place}, not to this machine: look there, or name a PROJECT of this machine"
            )
    return said.get("project") or run_info(run).project, Path(said["dir"]) if "dir" in said else None


def _check_port(port: int) -> None:
    """Refuse a port that cannot be used. (Of one that is taken, trackio says that it finds no empty one.)"""
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: it must be from 1 to 65535")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_HOST, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"--port {port} cannot be used ({reason}): choose another, or leave --port out to have one found"
            ) from None


def _prepare(folder: Path | None) -> None:
    """Set what trackio and its libraries read when they are imported."""
    if folder is not None:
        folder = folder.expanduser().absolute()
        if not (is_there(folder) and folder.is_dir()):
            raise UserError(f"--dir {folder}: there is no such folder; it is the one that holds PROJECT.db")
        os.environ["TRACKIO_DIR"] = str(folder)
    for name in _REMOTE:
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # trackio asks its own server whether it is there, through a proxy if one is set.
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{before},{_HOST}" if before else _HOST


def _known(project: str) -> str:
    """Return what trackio calls the project, once it is sure that there is one.

    Raises:
        UserError: there is none; the message lists those that are.
    """
    from trackio import fragments, utils
    from trackio.sqlite_storage import SQLiteStorage

    name = utils.canonical_project_name(project)
    if name not in SQLiteStorage.get_projects():
        fragments.import_inbox_dir()  # from a network file system, where runs leave files for whoever shows them
    known = SQLiteStorage.get_projects()
    if name in known:
        return name
    choose = f"choose from {', '.join(known)}" if known else "it is empty; `expkit replay --to trackio` fills it"
    raise UserError(
        f"trackio has no project {project!r} in {utils.TRACKIO_DIR}: {choose}, or name the folder with --dir"
    )


def _serve(project: str, port: int | None) -> tuple[Any, str]:
    """Start trackio's server. Return it, and the address of the project's page.

    Raises:
        UserError: it cannot be started.
    """
    import trackio

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            server, address, _, _ = trackio.show(
                project,
                host=_HOST,
                server_port=port,
                share=False,
                mcp_server=False,
                open_browser=False,
                block_thread=False,
            )
    except (OSError, RuntimeError, sqlite3.Error) as error:
        raise UserError(f"trackio's page cannot be shown: {describe(error)}") from None
    return server, f"{address.rstrip('/')}/?project={quote(project)}"


def _has_display() -> bool:
    # Without one Python would open a browser for the terminal, if there is one, which takes the terminal over.
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
