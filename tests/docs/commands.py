"""The commands of README and docs: found in their blocks, made small, and run in processes forked from this one.

A block of `bash` holds commands, one of `console` commands behind `$ ` and what they print; a block without a language
holds output. What cannot be run here is in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["APPENDED", "ENDED", "EXIT_CODES", "NOT_RUN", "PAGES", "REPLACED", "ROOT", "Command", "Shell", "commands"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: What is not run: a pattern of commands -> why. A test that runs the same is named where there is one.
NOT_RUN = {
    r"git clone|make train|source \.venv|pip install": "installs expkit, from a repository with an address",
    r"(srun|sbatch) |tests/slurm/cluster\.sh": "a cluster: tests/slurm",
    r"hydra/sweeper=optuna": "a package that expkit does not install: hydra-optuna-sweeper",
    r"torchrun ": "two processes that load torch: tests/train/test_launched.py",
    r"^expkit verify-resume": "processes that are killed and resumed: tests/train/test_verify_resume.py",
    r"--project P\b|--wandb-run ID|wandb\.mode=online": "a login at W&B",
    r"make fuzz|^python -m tests\.fuzz": "half an hour, or a part of it: tests/fuzz/test_readers.py",
    r"^ssh ": "another machine",
    r"^systemd-run|^systemctl": "somebody's own systemd",
    r"^curl ": "a page that is being served: tests/expkit/monitor/test_web.py",
    r"^python -m benchmarks\.browser": "a page that is being served, and a browser",
    r"^nohup |^kill ": "a watcher in the background: tests/expkit/watch/test_command.py",
    r"^cd |^tail |^grep ": "nothing of expkit's",
}

#: What is put in another's place. A sweep is trained here, one job after the other, whichever launcher it names: those
#: that start processes and jobs are tested by tests/sweeps and tests/slurm.
REPLACED = {
    r"(python -m train .*)hydra/launcher=\w+": r"\1hydra/launcher=basic",
    r"(python -m train .*) sweep\.wait=false": r"\1",
    r"(expkit profile .*)hydra/launcher=slurm": r"\1hydra/launcher=local",
    r" &$": "",
}

#: What is appended, so that seconds become tenths of seconds: a pattern of commands -> words. All that match are.
APPENDED = {
    # Composed and checked, not trained: tests/train/test_processes.py trains.
    r"python -m train .*trainer\.processes=": "--cfg job",
    r"cluster=mine": "--config-dir my_conf",
    # These are short by themselves; what follows them looks for their fault, or at their curves.
    r"python -m train(?!.*(debug=(nan|spike|smoke)|--cfg|trainer\.max_epochs=5$))": "trainer.max_steps=3",
    r"python -m train .*debug=spike.* diagnostics=svd": "trainer.max_steps=3",
    r"python -m train .*task=gpt debug=(diverge|overfit)": "task.model.d_model=16 task.data.context_length=16",
    r"python -m train .*experiment=reference_3blob": "task.data.n_train=20 task.data.n_val=10 task.data.d=32",
    r"python -m train(?!.*(tracker=|resume=|debug=smoke))": "tracker=[]",
    r"python -m train(?!.*(plots|resume=))": "plots=[]",
    r"^expkit sync$": "--dry-run",
    r"^expkit monitor( RUN)?( '?outputs/\S+)?$": "--once",
}

#: What goes on until Ctrl-C, which is pressed once it has said something: a pattern of commands.
ENDED = r"^expkit (monitor .*--(web|terminal)|watch(?!.*--dry-run)|dashboard|svd .*--follow)"

#: A pattern of commands -> the exit code that stands for what the page says, where it is not 0.
EXIT_CODES = {r"optimizer\.learning_rate=0\.01": 1}


@dataclass(frozen=True)
class Command:
    """A command of a page, as it is typed.

    Attributes:
        page: the page's path in the repository.
        line: where its block begins.
        text: without the comment behind it; its lines joined.
    """

    page: str
    line: int
    text: str

    @property
    def small(self) -> str:
        """The command that is run."""
        text = self.text
        for pattern, other in REPLACED.items():
            text = re.sub(pattern, other, text)
        return " ".join([text, *(words for pattern, words in APPENDED.items() if re.search(pattern, self.text))])

    @property
    def left_out(self) -> str | None:
        """Why it is not run."""
        return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, self.text)), None)

    @property
    def code(self) -> int:
        """The exit code that it should have."""
        return next((code for pattern, code in EXIT_CODES.items() if re.search(pattern, self.text)), 0)


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, language and content of every fenced block."""
    text = page.read_text()
    for found in re.finditer(r"^(`{3,})([^`\n]*)\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, found.start()) + 1, found[2].strip(), found[3]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page, in its order."""
    for line, language, content in blocks(page):
        if language == "bash":
            for text in _logical(content):
                yield from (Command(str(page.relative_to(ROOT)), line, part) for part in text.split(" && "))
        elif language == "console":
            for text in re.findall(r"^\$ (.*)$", content, re.MULTILINE):
                yield Command(str(page.relative_to(ROOT)), line, text)


def _logical(content: str) -> Iterator[str]:
    """Yield each command, whichever number of lines it has, without its comment."""
    held = ""
    for line in content.splitlines():
        held += re.sub(r"(^|\s+)#.*$", "", line)
        if held.endswith("\\"):
            held = held[:-1]
            continue
        try:
            shlex.split(held)
        except ValueError:  # a quotation goes on
            held += "\n"
            continue
        if text := held.strip():
            yield re.sub(r" {2,}", " ", text)
        held = ""


@dataclass
class Shell:
    """Runs commands in a folder, with everything imported already.

    Attributes:
        folder: the current one.
        names: what stands in pages for something of one's own -> what it is here.
    """

    folder: Path
    names: dict[str, str] = field(default_factory=dict)

    def run(self, command: Command) -> tuple[int, str]:
        """Run a command; return its exit code and what it has said."""
        text = command.small
        for name, value in self.names.items():
            text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?![\w-])", value, text)
        said = self.folder / "said.txt"
        said.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _child(text, self.folder, said)
        return _wait(pid, said, press=bool(re.search(ENDED, command.text)))


def _wait(pid: int, said: Path, press: bool) -> tuple[int, str]:
    """Wait for the end of a process, pressing Ctrl-C once it has said something, and end what it has left behind."""
    deadline, note = time.monotonic() + 120, ""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            note = "\nit does not end"
            break
        if press and said.exists() and said.read_text(errors="replace").strip():
            os.killpg(pid, signal.SIGINT)
            press = False
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # before its number can be another's
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text(errors="replace") + note


def _child(text: str, folder: Path, said: Path) -> None:
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.setdefault("USER", "me")  # as in a shell; my_conf/cluster/mine.yaml names it
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        sys.path.insert(0, str(folder))
        code = _perform(text)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may get back into the tests
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _perform(text: str) -> int:
    """Do what a command does, and return its exit code: in this process, where it is a Python program of ours."""
    program = next((name for name in _PROGRAMS if f"{text} ".startswith(f"{name} ")), None)
    if program is None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(["bash", "-c", text], env=environment).returncode
    text = re.sub(r"(?<=\s)[\w./-]+\*[\w./*-]*(?=\s|$)", _matches, text)
    sys.argv = [program, *shlex.split(text.partition(" > ")[0])[len(program.split()) :]]
    return _PROGRAMS[program]()


def _matches(pattern: re.Match[str]) -> str:
    return " ".join(sorted(map(str, Path().glob(pattern[0]))))


def _train() -> int:
    from train.cli.main import main

    return main(sys.argv)


def _expkit() -> int:
    from expkit.cli.main import main

    if sys.argv[1] == "profile":
        return _profile(sys.argv[2:])
    return main()


def _profile(arguments: list[str] | None = None) -> int:
    """Everything but the measuring, whose processes load torch: tests/sweeps/test_profile_command.py measures."""
    import sweeps.batch_size

    def measured(*_: object) -> None:
        sys.exit(0)

    sweeps.batch_size.measure_sizes = measured  # type: ignore[assignment]
    return sweeps.batch_size.main(sys.argv[1:] if arguments is None else arguments)


def _picture() -> int:
    runpy.run_path(str(ROOT / "scripts" / "terminal_picture.py"), run_name="__main__")
    return 0


def _page() -> int:
    runpy.run_path("page.py", run_name="__main__")
    return 0


def _code() -> int:
    exec(sys.argv[1], {"IN": "picture.png", "OUT": "smaller.png", "W": 80})
    return 0


_PROGRAMS: dict[str, Callable[[], int]] = {
    "python -m train": _train,
    "expkit": _expkit,
    "python -m sweeps.batch_size": _profile,
    "python -c": _code,
    "python page.py": _page,
    "python scripts/terminal_picture.py": _picture,
}
