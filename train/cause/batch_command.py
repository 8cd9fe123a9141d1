"""`expkit batch RUN --step N`: the exact batch behind a step of a run, and what is in it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from expkit.cli.parser import Parser
from expkit.errors import UserError
from train.cause.stored import add_run_arguments, before_rewind, rebuilt, stored_run, typed_settings

if TYPE_CHECKING:
    import torch

    from train.cause.batches import FoundBatch

__all__ = ["BatchCommand", "statistics"]

_EXAMPLES = """examples:
  expkit batch RUN --step 1234                    epoch, sample indices, shapes, ranges
  expkit batch RUN --step 1234 --save batch.pt    torch.load("batch.pt", weights_only=True)["pieces"]
  expkit batch RUN --step 1234 --json             one JSON object, for programs
  expkit batch RUN --step 1234 --config-dir conf  options of your own, as the run was started with
  expkit batch RUN --before-rewind 1              the batch of the trouble that the run was rewound from

The run's directory is only read. Its configuration is composed again from what was typed: a _target_ that
was typed is not taken over from the run, type it again after RUN.
"""


class BatchCommand:
    """Rebuilds the batch that a run was trained on at a step."""

    summary = "the exact batch behind a step: its samples, shapes and ranges (RUN --step N)"

    def run(self, arguments: Sequence[str]) -> int:
        """Print what the batch is; with --save write it too.

        Raises:
            UserError: there is no such run or step, or the run's data cannot be had any more.
        """
        options, others = self.parser().parse_with_settings(arguments)
        typed = typed_settings(others)
        if options.step is None and options.before_rewind is None:
            raise UserError("which step? --step N, or --before-rewind K for the trouble that the run was rewound from")
        if options.step is not None and options.step < 1:
            raise UserError(f"--step {options.step}: steps count from 1")
        if options.save is not None and options.save.exists():
            raise UserError(f"--save {options.save}: there is such a file already: name a new one")
        origin, step = stored_run(options.run), options.step
        if options.before_rewind is not None:
            origin, undone = before_rewind(origin, options.before_rewind)
            step = step or undone["seen"]
        from expkit.dist import Dist
        from expkit.experiment import RunDir
        from train.cause.batches import batch_of, place_before
        from train.cause.journalled import seen_at

        with rebuilt(origin, step, typed, options.config_dir, device="cpu") as (_, parts):
            batches = parts.batches(parts.data("train_data"), training=True, dist=Dist())
            place = place_before(origin, step, batches)
            found = batch_of(batches, place, step, parts.trainer.max_epochs)
            lines = [parts.task.describe_batch(piece) for piece in found.pieces]
        seen, last = seen_at(RunDir(origin.run), step)
        if origin.left is not None and step > origin.left:
            seen = {}  # the journal has what came instead
        elif last < step:
            found.notes.append(f"the run has not got there: its journal ends at step {last}")
        summary = {"run": str(origin.run), **_plain(found, seen, lines)}
        if options.save is not None:
            _save(options.save, found)
        if options.json:
            sys.stdout.buffer.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            print("\n".join(_lines(summary, options.samples)))
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit batch",
            usage="expkit batch [RUN] --step N [KEY=VALUE ...] [options]",
            description="Rebuilds the batch that a run was trained on at a step, from its configuration.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_run_arguments(parser)
        parser.add_argument("--step", type=int, metavar="N", help="the update, from 1")
        parser.add_argument("--samples", type=int, default=3, metavar="K", help="samples to show as text (default: 3)")
        parser.add_argument("--save", type=Path, metavar="FILE", help="write the tensors to this new file")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        return parser


def statistics(name: str, value: torch.Tensor) -> dict[str, Any]:
    """Return shape and range of a tensor. min, max and mean are of what is finite; null without any."""
    import torch

    finite = value[torch.isfinite(value)] if value.is_floating_point() else value.flatten()
    number = finite.double() if finite.numel() and not finite.is_complex() else None
    return {
        "name": name,
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "min": None if number is None else float(number.min()),
        "max": None if number is None else float(number.max()),
        "mean": None if number is None else float(number.mean()),
        "nonfinite": int(value.numel() - finite.numel()),
    }


def _plain(found: FoundBatch, seen: Mapping[str, float], lines: Sequence[Sequence[str]]) -> dict[str, Any]:
    from train.cause.batches import tensors

    indices: Sequence[Any] = found.indices or [None] * len(found.pieces)
    pieces = [
        {"indices": index, "tensors": [statistics(*each) for each in tensors(piece)], "samples": list(text)}
        for index, piece, text in zip(indices, found.pieces, lines, strict=True)
    ]
    return {
        "step": found.step,
        "epoch": found.epoch,
        "batch": found.number,
        "batches_per_epoch": found.per_epoch,
        "journal": {name: value if math.isfinite(value) else str(value) for name, value in seen.items()},
        "pieces": pieces,
        "notes": found.notes,
    }


def _lines(summary: Mapping[str, Any], shown: int) -> Iterator[str]:
    of = f" of {summary['batches_per_epoch']}" if summary["batches_per_epoch"] else ""
    yield f"step {summary['step']}: epoch {summary['epoch']}, batch {summary['batch']}{of} ({summary['run']})"
    if summary["journal"]:
        yield "  journal   " + ", ".join(f"{name} {_short(value)}" for name, value in summary["journal"].items())
    for number, piece in enumerate(summary["pieces"], start=1):
        if len(summary["pieces"]) > 1:
            yield f"piece {number} of {len(summary['pieces'])}"
        if piece["indices"] is not None:
            yield "  samples   " + ", ".join(map(str, piece["indices"]))
        width = max((len(each["name"]) for each in piece["tensors"]), default=0)
        for each in piece["tensors"]:
            kind = f"{each['dtype']} {' x '.join(map(str, each['shape'])) or 'a number'}"
            ranges = "  ".join(f"{name} {_short(each[name])}" for name in ("min", "max", "mean"))
            wrong = f"  NOT FINITE: {each['nonfinite']}" if each["nonfinite"] else ""
            yield f"  {each['name']:<{width}}  {kind}  {ranges}{wrong}"
        for place, text in enumerate(piece["samples"][:shown]):
            name = place if piece["indices"] is None else piece["indices"][place]
            yield f"  sample {name}: {text}"
    for note in summary["notes"]:
        yield f"note: {note}"


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _save(path: Path, found: FoundBatch) -> None:
    import torch

    from expkit.checkpoints.state import StateError, check_loadable
    from expkit.files import atomic_writer

    content = {
        "step": found.step,
        "epoch": found.epoch,
        "batch": found.number,
        "indices": found.indices,
        "pieces": [_loadable(piece) for piece in found.pieces],
    }
    try:
        check_loadable(content["pieces"], "the batch")
        with atomic_writer(path, durable=False) as file:
            torch.save(content, file)
    except StateError as error:
        raise UserError(f"--save {path}: {error}") from None
    except OSError as error:
        raise UserError(f"--save {path}: it cannot be written: {error.strerror or error}") from None


def _loadable(value: Any) -> Any:
    """Return a batch as plain tuples, lists and dicts."""
    if isinstance(value, Mapping):
        return {key: _loadable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(_loadable(item) for item in value)
    return value
