"""`expkit sweep PATH`: how the jobs of a sweep stand, and how they are cancelled or run again."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from expkit.cli.finding import find
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import is_there, process_alive, read_json
from expkit.lenient_json import dump_json
from expkit.sweep.folder import Submission, SweepDir
from expkit.sweep.jobs import UNFINISHED, Job, chosen, jobs_of
from expkit.sweep.queue import cancel
from expkit.sweep.report import SweepReport

__all__ = ["SweepCommand", "find_sweep"]

_EXAMPLES = """examples:
  expkit sweep                                     the newest sweep in outputs
  expkit sweep outputs/multirun/20251112_143022    one of them; or the directory of one of its runs
  expkit sweep PATH --watch                        again every few seconds, until all jobs have ended
  expkit sweep PATH --resubmit failed              those that failed, from their newest checkpoints
  expkit sweep PATH --resubmit 3,7 hydra.launcher.mem_gb=64    two of them, with more memory
  expkit sweep PATH --resubmit unfinished          also those that were preempted, cancelled or never started
  expkit sweep PATH --cancel                       all that are queued or running; --cancel 3,7 two of them
  expkit sweep PATH --json                         for programs

Jobs are named by numbers, or as queued, running, done, failed, preempted, cancelled, unfinished or all."""

_AGAIN = 5.0  # seconds between two looks


class SweepCommand:
    """Looks at a sweep's folder, its runs, and SLURM's queue."""

    summary = "the jobs of a sweep: how they stand, which is best; cancel them, run them again"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the table. The exit code is 1 if a job has failed."""
        options, settings = self.parser().parse_with_settings(arguments, ("--config-dir", "-cd"))
        settings = _untangle(options, settings)
        if settings and options.resubmit is None:
            raise UserError(f"{settings[0]}: settings go with --resubmit: the jobs that run have theirs")
        if options.cancel is not None and options.resubmit is not None:
            raise UserError("--cancel ends jobs, --resubmit starts them: give one, and the other once jobs have ended")
        folder = find_sweep(options.path)
        if options.cancel is not None:
            return _cancel(folder, options.cancel)
        if options.resubmit is not None:
            return _resubmit(folder, options.resubmit, settings)
        report = SweepReport.read(folder)
        if options.json:
            sys.stdout.buffer.write(dump_json(report.to_json(), orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            report = _watch(report, options.all) if options.watch else report
            print(report.text(_width(), options.all))
        return int("failed" in report.counts)

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit sweep",
            usage="expkit sweep [PATH] [options]",
            description=self.summary + ".",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("path", nargs="?", help="the sweep's folder, one of its runs, or nothing: the newest sweep")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
        parser.add_argument("--all", action="store_true", help="every job, however many there are")
        parser.add_argument("--watch", action="store_true", help="look again every few seconds, until all have ended")
        parser.add_argument(
            "--resubmit",
            metavar="JOBS",
            help="run jobs again as they were run before, failed or 3,7 say; settings KEY=VALUE may follow",
        )
        parser.add_argument(
            "--cancel", nargs="?", const="queued,running", metavar="JOBS", help="end jobs; all, if none are named"
        )
        return parser


def find_sweep(name: str | None, outputs: Path = Path("outputs")) -> SweepDir:
    """Return the sweep that `name` is the folder of, or that a run with this name or path belongs to; or the newest.

    Raises:
        UserError: there is none.
    """
    if name is None:
        found = [*outputs.glob("multirun/*/sweep.json"), *outputs.glob("*/sweep.json")]
        if not found:
            raise UserError(
                f"there is no sweep in {outputs.absolute()}: name its folder, or start one: python -m train -m ..."
            )
        return SweepDir(max(found, key=lambda file: file.stat().st_mtime).parent)
    for place in (Path(name), outputs / "multirun" / name):
        if SweepDir(place).exists():
            return SweepDir(place)
    if Path(name).is_dir() and not RunDir(name).exists():
        inside = [
            *Path(name).glob("sweep.json"),
            *Path(name).glob("*/sweep.json"),
            *Path(name).glob("multirun/*/sweep.json"),
        ]
        if inside:
            return SweepDir(max(inside, key=lambda file: file.stat().st_mtime).parent)
        raise UserError(f"{name} is no sweep's folder: it has no sweep.json; outputs/multirun has them")
    try:
        run = find(name, outputs)
    except UserError:
        raise UserError(f"{name} is neither a sweep's folder nor a run; outputs/multirun has the folders") from None
    group = _group(run)
    for place in run.root.absolute().parent.glob(f"*/{group}") if group else ():
        if SweepDir(place).exists():
            shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
            return SweepDir(shown)
    raise UserError(f"{run.root} belongs to no sweep that is in {run.root.absolute().parent}")


def _group(run: RunDir) -> str:
    """Return the name of the sweep's folder, as a run notes it."""
    with contextlib.suppress(UserError, AttributeError):
        group = read_json(run.config).get("config", {}).get("run", {}).get("group")
        if isinstance(group, str) and Path(group).name == group and not any(sign in group for sign in "*?[]"):
            return group
    return ""


def _untangle(options: argparse.Namespace, settings: Sequence[str]) -> list[str]:
    """Take `--cancel PATH` for what is meant, the path of a sweep, and a setting for one where no path was typed."""
    if options.path is not None and "=" in options.path and not is_there(options.path):
        settings, options.path = [options.path, *settings], None
    if options.path is None and options.cancel is not None and is_there(options.cancel):
        options.path, options.cancel = options.cancel, "queued,running"
    return list(settings)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _watch(report: SweepReport, all_jobs: bool) -> SweepReport:
    """Show the table again and again where there is a terminal; return the last one."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        while report.open:
            time.sleep(_AGAIN)
            report = SweepReport.read(report.folder)
        return report
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        while True:
            live.update(Text(report.text(console.width, all_jobs), no_wrap=True), refresh=True)
            if not report.open:
                return report
            time.sleep(_AGAIN)
            report = SweepReport.read(report.folder)


def _cancel(folder: SweepDir, typed: str) -> int:
    folder.read()
    jobs = [job for job in chosen(jobs_of(folder), typed) if job.state in ("queued", "running")]
    if not jobs:
        print("nothing to cancel: no such job is queued or running")
        return 0
    drivers = _drivers(folder)
    here = [job for job in jobs if job.kind != "slurm"]
    elsewhere = {job.file.host for job in here if job.file.host not in (None, platform.node())}
    if elsewhere:
        raise UserError(f"these jobs run on {', '.join(sorted(map(str, elsewhere)))}: cancel them there")
    new = [job.number for job in jobs if job.state == "queued" and not job.kind]
    if new:
        raise UserError(f"job {new[0]} is being submitted: try again in a moment, or press Ctrl-C where that was typed")
    slurm = [job.job_id for job in jobs if job.kind == "slurm" and job.job_id]
    folder.note(Submission("cancelled", dict.fromkeys(job.number for job in jobs)))
    if slurm:
        cancel(slurm)
    left = {job.number for job in jobs_of(folder) if job.state in ("queued", "running")} - {job.number for job in jobs}
    if here and not left:
        for pid in drivers:  # who starts the jobs lets them save, and starts no more
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
    else:
        for job in here:
            _terminate(job)
    print(f"cancelled {len(jobs)} job{'s' if len(jobs) > 1 else ''}: those that run save first")
    return 0


def _drivers(folder: SweepDir) -> set[int]:
    """Return the processes of this machine that start the sweep's jobs."""
    found = {each.pid for each in folder.submitted() if each.kind == "local" and each.host == platform.node()}
    return {pid for pid in found if pid is not None and _is_ours(pid)}


def _terminate(job: Job) -> None:
    """Ask the process that trains to save and end."""
    if job.state == "running" and job.file.pid is not None and _is_ours(job.file.pid):
        with contextlib.suppress(OSError):
            os.kill(job.file.pid, signal.SIGTERM)


def _is_ours(pid: int) -> bool:
    """Whether a process is one of Python's, of this user: a number in a file may by now be anybody's."""
    if pid <= 1 or not process_alive(pid):
        return False
    import psutil

    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        return process.uids().real == os.getuid() and any(
            each in ("train", "sweeps.resubmit", "submitit.core._submit") or each.endswith(("expkit-train", "expkit"))
            for each in words
        )
    except psutil.Error:
        return False


def _resubmit(folder: SweepDir, typed: str, settings: Sequence[str]) -> int:
    """Run jobs again, in a process that may import what this one must not."""
    about = folder.read()
    found = chosen(jobs_of(folder), typed)
    alive = [job.number for job in found if job.state in ("queued", "running")]
    if alive:
        raise UserError(f"job {alive[0]} is queued or running: cancel it first, or name others")
    done = [job.number for job in found if job.state == "done"]
    if done:
        raise UserError(f"job {done[0]} is done: name others, {' or '.join(UNFINISHED)} say")
    if not found:
        print(f"nothing to run again: no job is {typed}")
        return 0
    own = about.get("kind") in ("local", "slurm")  # such jobs go on by themselves
    waits = ["sweep.wait=false"] if own and not any(each.startswith("sweep.wait=") for each in settings) else []
    command = [sys.executable, "-m", "sweeps.resubmit", str(folder.root), ",".join(str(job.number) for job in found)]
    return subprocess.run([*command, *settings, *waits], check=False).returncode  # noqa: S603 - our own module
