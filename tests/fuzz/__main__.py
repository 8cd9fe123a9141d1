"""Many inputs for every reader, for hours if need be: `make fuzz N=1000000 SEED=1`.

Each batch is a process of its own, with a limit on its memory and its time. What fails is kept, as small as Hypothesis
makes it, and said at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expkit.table import Table
from tests.fuzz.corpus import make_corpus
from tests.fuzz.extremes import EXTREMES, try_extreme
from tests.fuzz.front_door import FrontDoor
from tests.fuzz.harness import Figures, Place, in_memory, try_many
from tests.fuzz.targets import TARGETS

_BATCH = 5000
_FRONT_DOOR = 250  # of these a command reads a whole run
_SPACE = 4 << 30  # bytes of address space that a batch may take besides what is loaded
_LONGEST = 1800.0  # seconds of a batch


@dataclass
class Batch:
    """What a process does.

    Attributes:
        name: of the target.
        seed: of its inputs.
        work: does it, in a folder, and counts in the figures; raises what fails.
        failure: what failed.
    """

    name: str
    seed: int
    work: Callable[[Path, Figures], None]
    figures: Figures = field(default_factory=Figures)
    failure: str = ""


def main() -> int:
    """Try the inputs, print what they came to, and return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every reader.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many, in all (1000000)")
    parser.add_argument("--seed", type=int, default=0, help="another one tries other inputs (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one for each core)")
    parser.add_argument("--only", default="", help="targets that have this in their name")
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"), help="where inputs go that fail")
    options = parser.parse_args()
    with in_memory() as folder:
        corpus = make_corpus(folder / "corpus")
        batches = [each for each in _batches(corpus, options) if options.only in each.name]
        if not batches:
            parser.error(f"--only {options.only}: no target has this in its name")
        with ThreadPoolExecutor(options.jobs) as pool:
            for done, each in enumerate(pool.map(lambda batch: _run(batch, folder, options.keep), batches), 1):
                print(f"{done}/{len(batches)} {each.name}, seed {each.seed} {each.failure}", flush=True)
    print(_table(batches))
    return 1 if any(each.failure for each in batches) else 0


def _batches(corpus: Path, options: argparse.Namespace) -> Iterator[Batch]:
    """Yield the batches: extremes, one for each target; then inputs for each by its share; then whole commands."""
    shares = sum(target.share for target in TARGETS)
    for target in TARGETS:
        yield Batch(f"{target.name} (extremes)", 0, _extremes(corpus, target))
    number = options.seed * 1_000_000
    for target in TARGETS:
        left = options.inputs * target.share // shares
        while left > 0:
            number += 1
            yield Batch(target.name, number, _inputs(corpus, target, min(left, _BATCH), number))
            left -= _BATCH
    for _ in range(-(-options.inputs // 250 // _FRONT_DOOR)):
        number += 1
        yield Batch("whole commands", number, _commands(corpus, number))


def _inputs(corpus: Path, target: Any, count: int, number: int) -> Callable[[Path, Figures], None]:
    return lambda folder, figures: try_many(target, Place(corpus, folder), count, number, figures)


def _extremes(corpus: Path, target: Any) -> Callable[[Path, Figures], None]:
    def work(folder: Path, figures: Figures) -> None:
        place = Place(corpus, folder)
        for extreme in EXTREMES:
            try_extreme(target, place, extreme, 50.0, figures)

    return work


def _commands(corpus: Path, number: int) -> Callable[[Path, Figures], None]:
    return lambda folder, figures: FrontDoor(corpus, folder).try_many(_FRONT_DOOR, number, figures)


def _run(batch: Batch, folder: Path, keep: Path) -> Batch:
    """Do a batch in a process of its own, and keep the input if it fails."""
    place = Path(tempfile.mkdtemp(dir=folder)) / "place"
    said = place.with_name("said")
    child = os.fork()
    if child == 0:
        _child(batch, place, said)
    began = time.monotonic()
    status = 0
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.1)
        if time.monotonic() - began > _LONGEST:
            os.kill(child, signal.SIGKILL)
            began = time.monotonic()
    status = os.waitstatus_to_exitcode(ended[1])
    told = json.loads(said.read_bytes()) if said.exists() else {"failure": f"ended by signal {-status}"}
    batch.figures, batch.failure = Figures(**told.get("figures", {})), told["failure"]
    if batch.failure:
        name = f"{batch.name.replace(' ', '_')}_{hashlib.sha256(batch.failure.encode()).hexdigest()[:8]}"
        shutil.rmtree(keep / name, ignore_errors=True)
        try:
            shutil.copytree(place, keep / name, symlinks=True, ignore=_pipes)
            (keep / name / "failure.txt").write_text(f"seed {batch.seed}\n{batch.failure}\n")
        except OSError as error:  # a full disk: the seed makes it again
            batch.failure += f"not kept: {error}"
    shutil.rmtree(place.parent)
    return batch


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_fifo()]


def _child(batch: Batch, place: Path, said: Path) -> None:
    """Do a batch, say what came of it, and end this process."""
    failure = ""
    try:
        own = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (own + _SPACE, own + _SPACE))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        batch.work(place, batch.figures)
    except BaseException:  # noqa: BLE001 - whatever it is, the parent says it
        failure = traceback.format_exc(limit=-12)
    said.write_text(json.dumps({"figures": asdict(batch.figures), "failure": failure}))
    os._exit(0)


def _table(batches: list[Batch]) -> str:
    """Return what each target came to."""
    sums: dict[str, Figures] = {}
    failed: dict[str, int] = {}
    for batch in batches:
        sums.setdefault(batch.name, Figures()).add(batch.figures)
        failed[batch.name] = failed.get(batch.name, 0) + bool(batch.failure)
    total = Figures()
    for each in sums.values():
        total.add(each)
    rows = [
        [name, f"{each.inputs:,}", f"{each.seconds:.2f}", f"{each.peak_mb:.0f}", failed.get(name, sum(failed.values()))]
        for name, each in {**sums, "all": total}.items()
    ]
    return Table("fuzzed", ["reader", "inputs", "longest, s", "most memory, MB", "failures"], rows).markdown()


if __name__ == "__main__":
    sys.exit(main())
