"""`expkit verify-resume`: what is typed, and what is said."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from expkit.cli.parser import Parser
from expkit.errors import UserError

if TYPE_CHECKING:
    from train.verify.runs import Verdict

__all__ = ["VerifyResumeCommand"]

_EXAMPLES = """\
examples:
  expkit verify-resume task=my_task --config-dir my_conf
  expkit verify-resume task=gpt trainer.num_workers=2 trainer.grad_accumulation=4
  expkit verify-resume task=my_task optimizer=sgd --steps 200 --kill-at 120
  expkit verify-resume task=my_task --keep /tmp/look      runs, records and logs stay there
  expkit verify-resume task=my_task --json                for scripts

It sets trainer.deterministic=true, trainer.max_steps, trainer.max_epochs=null, tracker=[] and plots=[];
what you type wins. Exit code: 0 the same, 1 something differs or the task does not train.
"""

#: Flags of `python -m train` that say where the task is.
_HANDED_ON = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
#: And those that cannot be meant here.
_NOT_HERE = ("-m", "--multirun", "--cfg", "-c", "--info", "-i")
#: Settings that the command makes itself.
_TAKEN = {
    "resume": "this command resumes its own run: leave it out",
    "run.id": "runs get folders of their own: --keep DIR says where",
    "run.outputs": "runs get folders of their own: --keep DIR says where",
    "trainer.max_steps": "--steps N says how many",
}


class VerifyResumeCommand:
    """Proves for a task that a run which was killed and resumed is the same as one that was never stopped."""

    name = "verify-resume"
    summary = "prove that a task resumes exactly: train, kill, resume, compare (task=...)"

    def run(self, arguments: Sequence[str]) -> int:
        """Verify, say what was found, and return the exit code.

        Raises:
            UserError: what was typed cannot be done, or the task does not train.
        """
        options, typed = self.parser().parse_with_settings(arguments, (*_HANDED_ON, *_NOT_HERE))
        _check(options, typed)
        from train.verify.runs import verify

        with _folder(options.keep) as folder:
            _tell(f"training {options.steps} steps, and once more with a SIGKILL and a resume ...", options.json)
            verdict = verify(typed, folder, options.steps, options.kill_at)
            if options.json:
                sys.stdout.buffer.write(orjson.dumps(verdict.plain(), option=orjson.OPT_INDENT_2) + b"\n")
            else:
                print(describe(verdict))
            if options.keep:
                _tell(f"runs, records and logs: {folder}", options.json)
        return 0 if verdict.ok else 1

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit verify-resume",
            usage="expkit verify-resume task=TASK [KEY=VALUE ...] [--config-dir DIR] [options]",
            description="Trains a task, kills it with SIGKILL, resumes it, and names the first thing that differs from "
            "a run that was never stopped: batch, random generator, loss, weights, optimizer, scheduler or journal.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("--steps", type=int, default=30, metavar="N", help="updates of each run (default: 30)")
        parser.add_argument(
            "--kill-at", type=int, metavar="N", help="the step to be killed in (default: about 17 of 30, in mid-epoch)"
        )
        parser.add_argument("--keep", type=Path, metavar="DIR", help="keep runs, records and logs in this new folder")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        return parser


def describe(verdict: Verdict) -> str:
    """Return one line if nothing differs, and else a block that says what, where, why, and what to do."""
    from train.verify.compare import KINDS

    found = verdict.difference
    compared = verdict.compared
    if found is None:
        scheduler = ", scheduler" if compared["scheduler"] else ""
        return (
            f"OK: killed in step {verdict.killed_at}, resumed from the checkpoint of step {verdict.resumed_at} "
            f"({verdict.where}), and all the same up to step {verdict.steps}: "
            f"{compared['batch']} batches, {compared['rng']} random generators, {compared['loss']} losses and metrics, "
            f"{compared['weights']} tensors of weights, {compared['optimizer']} values of optimizer state{scheduler}, "
            f"{compared['journal']} journal lines"
        )
    if verdict.deterministic:
        title = f"DIFFERENT: after the resume {KINDS[found.kind]} of step {found.step} is not what it would have been"
        runs = "never stopped", "killed, resumed"
        when = f"step {found.step}"
        if found.restored:
            when = f"right after the resume from step {found.step}, before any update"
        elif found.step - 1 == verdict.resumed_at:
            when += ", the first after the resume"
    else:
        title = "NOT DETERMINISTIC: the task itself differs from run to run, without any resume"
        runs = "one run", "another run"
        when = f"step {found.step}" if found.step else "the start, before any update"
    more = f" ({found.count - 1} more of this kind differ)" if found.count > 1 else ""
    rows = [
        ("what", f"{KINDS[found.kind]}: {found.name}{more}"),
        ("when", when),
        *zip(runs, (found.expected, found.found), strict=True),
        ("likely cause", verdict.cause),
        ("what to do", verdict.cure),
    ]
    if verdict.deterministic:
        rows.insert(2, ("the stop", f"killed in step {verdict.killed_at}, resumed {verdict.where}"))
    return "\n".join([title, "", *(f"  {name:<17}{text}" for name, text in rows)])


def _check(options: argparse.Namespace, typed: Sequence[str]) -> None:
    if options.steps < 3:
        raise UserError(f"--steps {options.steps}: at least 3 are needed, for a kill and a resume between the ends")
    if options.kill_at is not None and not 2 <= options.kill_at < options.steps:
        raise UserError(f"--kill-at {options.kill_at}: choose a step from 2 to {options.steps - 1} (see --steps)")
    for argument in typed:
        key = argument.partition("=")[0].lstrip("+~")
        if key in _TAKEN:
            raise UserError(f"{argument}: {_TAKEN[key]}")
        if argument in _NOT_HERE:
            raise UserError(f"{argument} belongs to python -m train: here one task is trained")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield an empty folder, the one to keep or a temporary one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="expkit-verify-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UserError(f"--keep {keep}: this folder is not empty; name a new one")
    except OSError as error:
        raise UserError(f"--keep {keep}: {error.strerror}") from error
    yield keep.absolute()


def _tell(text: str, as_json: bool) -> None:
    if not as_json:
        print(text, file=sys.stderr, flush=True)
