"""`python -m tests.soak --minutes 60 --seed 0`: train under random faults, and write docs/soak.md."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.faults import FAULTS, RESTARTING, Row, strike
from tests.soak.place import REPOSITORY, Place
from tests.soak.plan import PERIOD, plan
from tests.soak.report import page
from tests.soak.sampling import Sampler
from tests.soak.training import Training, wait_for
from tests.soak.verdicts import judge
from tests.soak.watcher import Watcher


def main() -> int:
    """Soak, and say how it went. Return 1 if a verdict fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="that all of it is to take, about (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults, and of when they come (0)")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"only these, of {', '.join(FAULTS)}")
    parser.add_argument("--report", type=Path, default=REPOSITORY / "docs" / "soak.md", help="(docs/soak.md)")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the soak, and say where it is")
    options = parser.parse_args()
    kinds = [kind.strip() for kind in options.faults.split(",")]
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        parser.error(f"there is no fault {unknown[0]!r}: choose from {', '.join(FAULTS)}")
    place = Place(Path(tempfile.mkdtemp(prefix="soak-")))
    try:
        return _soak(place, options, kinds)
    finally:
        if options.keep:
            kept = shutil.copytree(place.run, place.folder / "kept", symlinks=True) if place.run.exists() else ""
            print(f"kept: {place.folder} {kept}")
        place.close()
        if not options.keep:
            shutil.rmtree(place.folder)


def _soak(place: Place, options: argparse.Namespace, kinds: list[str]) -> int:
    steps, planned = plan(options.minutes, options.seed, kinds, RESTARTING)
    training, watcher = Training(place, steps), Watcher(place)
    _say(f"{steps} steps, {len(planned)} faults, in {place.folder}; first without")
    reference = training.reference()
    _say(f"without faults: {reference.seconds:.0f} s, of which {reference.start:.0f} to begin")
    sampler = Sampler(place, training)
    rows: list[Row] = []
    training.restart()
    watcher.start()
    sampler.start()
    for each in planned:
        while training.step < each.step and not training.has_ended:
            time.sleep(0.02)
        if training.has_ended and training.now.code == 0:
            break
        rows.append(strike(each, training, watcher))
        row = rows[-1]
        _say(
            f"{row.seconds:7.1f} s  step {row.step:6d}  {row.what}: {row.unexpected or row.happened} ({row.away:.1f} s)"
        )
    wait_for(lambda: training.has_ended, "the end", 4 * PERIOD * steps + 120)
    sampler.stop()
    watcher.finish()
    verdicts = list(judge(training, reference.run, rows, len(planned), watcher.codes, sampler.seen))
    for verdict in verdicts:
        _say(f"{'ok    ' if verdict.holds else 'FAILED'}  {verdict.name}: {verdict.found}")
    command = f"python -m tests.soak --minutes {options.minutes:g} --seed {options.seed}"
    if kinds != list(FAULTS):
        command += f" --faults '{','.join(kinds)}'"
    options.report.write_text(
        page(training, reference, rows, verdicts, sampler.seen, command, PERIOD), encoding="utf-8"
    )
    return int(not all(verdict.holds for verdict in verdicts))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
