"""`expkit bisect-nan RUN`: the first step, and the module in it, at which a run's numbers stopped being numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from expkit.cli.parser import Parser
from expkit.errors import UserError
from train.cause.scratch import launch
from train.cause.stored import add_run_arguments, stored_run, typed_settings

__all__ = ["BisectNanCommand", "lines"]

_EXAMPLES = """examples:
  expkit bisect-nan RUN                       from the last good checkpoint before it
  expkit bisect-nan RUN trainer.device=cpu    on another device than the run's
  expkit bisect-nan RUN --step 1234           where it was seen, if not in the journal
  expkit bisect-nan RUN --before-rewind 2     what the run was rewound from
  expkit bisect-nan RUN --json                one JSON object, for programs

The run's directory is only read. Exit code: 0 found, 1 nothing to be found.
"""
_SHOWN = 8


class BisectNanCommand:
    """Replays a run to where something is not finite for the first time."""

    summary = "the first module whose output or gradient is not finite, and why (RUN)"

    def run(self, arguments: Sequence[str]) -> int:
        """Replay the run, say what was found, and return the exit code.

        Raises:
            UserError: there is no such run, or it cannot be built any more.
        """
        options, others = self.parser().parse_with_settings(arguments)
        typed = typed_settings(others)
        if options.step is not None and options.step < 1:
            raise UserError(f"--step {options.step}: steps count from 1")
        folder = options.config_dir
        found = launch(
            {
                "run": str(stored_run(options.run).run),
                "step": options.step,
                "typed": typed,
                "config_dir": None if folder is None else str(folder),
                "rewind": options.before_rewind,
            }
        )
        if options.json:
            sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            print("\n".join(lines(found)))
        return 0 if found["found"] else 1

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit bisect-nan",
            usage="expkit bisect-nan [RUN] [KEY=VALUE ...] [options]",
            description="Trains a run once more, from its last good checkpoint, in a process of its own, and names the "
            "first module whose output or gradient is not finite.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_run_arguments(parser)
        parser.add_argument("--step", type=int, metavar="N", help="where it was seen (default: the journal's first)")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        return parser


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what there is to say of a replay."""
    if found["replayed"] is None:
        steps = f"all {found['steps']} steps" if found["steps"] else "the journal, which is empty"
        yield f"nothing to look for: loss and gradient norm are finite in {steps} of {found['run']}"
        return
    start = f"the checkpoint of step {found['replayed']}" if found["replayed"] else "the beginning"
    if not found["found"]:
        yield (
            f"NOT FOUND: replayed from {start}, and all is finite, past step {found['seen_at']} ({found['seen']}) too: "
            "another device, library or file than the run had, or a task that differs from run to run "
            "(see expkit verify-resume)"
        )
        return
    name = found["module"] or "the model"
    yield f"NOT FINITE: step {found['step']}, {name}: {found['where']}"
    yield ""
    indices, before, norms = found["indices"], found["input_range_before"], found["weight_norms"]
    rows = [
        ("step", f"{found['step']}, epoch {found['epoch']}, batch {found['batch']} (replayed from {start})"),
        ("module", f"{name} ({found['kind']})"),
        ("its input", f"{found['input_range'] or 'no numbers'}" + (f"; the step before {before}" if before else "")),
        ("samples", "a loader of your own draws them" if indices is None else _few(indices)),
        ("weights", ", ".join(f"{value:.4g} {when}" for when, value in norms.items()) + " (norm of all)"),
        ("update/weights", ", ".join(f"{ratio:.2g}" for ratio in found["update_ratios"]) or "no update before"),
        ("likely cause", found["likely_cause"]),
        ("what to do", found["what_to_do"].replace("RUN", found["run"])),
    ]
    yield from (f"  {title:<15} {text}" for title, text in rows)


def _few(pieces: Sequence[Sequence[int]]) -> str:
    indices = [index for piece in pieces for index in piece]
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return ", ".join(map(str, indices[:_SHOWN])) + more
