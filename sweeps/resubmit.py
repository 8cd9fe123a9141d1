"""`python -m sweeps.resubmit FOLDER NUMBER,NUMBER [KEY=VALUE ...]`: run jobs of a sweep again, as they were run before.

`expkit sweep FOLDER --resubmit` starts it. Nothing in the folder is executed: overrides are read from JSON, and those
that could make something run (a `_target_`, lines of shell, environment variables) have to be typed again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from expkit.errors import UserError
from expkit.printable import printable
from expkit.secrets import MASK
from expkit.sweep.folder import SweepDir

__all__ = ["arguments_of", "main", "must_be_typed"]

#: Keys whose values run something, or lead to files that do.
_RUNS = re.compile(
    r"(^|[./+])(setup|modules|python|env|env_set|searchpath|callbacks|additional_parameters|options|submitit_folder)"
    r"([.@=]|$)"
)


def main(argv: Sequence[str]) -> int:
    """Run it and return the exit code."""
    try:
        arguments = arguments_of(SweepDir(argv[0]), [int(each) for each in argv[1].split(",")], argv[2:])
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    from train.cli.main import main as train

    return train(["train", *arguments])


def arguments_of(folder: SweepDir, numbers: Sequence[int], typed: Sequence[str]) -> list[str]:
    """Return what `python -m train` is to get.

    Args:
        folder: of the sweep.
        numbers: of the jobs.
        typed: settings that are to be others, and --config-dir.

    Raises:
        UserError: the sweep was started elsewhere, or something in it must be typed again.
    """
    about = folder.read()
    place = about.get("folder")
    if isinstance(place, str) and Path(place).resolve() != Path.cwd().resolve():
        raise UserError(f"the sweep was started in another folder, where its paths begin: cd {place}")
    jobs = [job for number in numbers if (job := folder.job(number)) is not None]
    if len(jobs) < len(numbers):
        raise UserError(f"{folder.jobs}: not all of these jobs can be read: {', '.join(map(str, numbers))}")
    shared = [each for each in jobs[0].overrides if all(each in job.overrides for job in jobs)]
    said = about.get("hydra")
    hydra = [str(each) for each in said] if isinstance(said, list) else []
    keys = {each.partition("=")[0] for each in typed}
    stored = [
        each
        for each in (*hydra, *shared)
        if (key := each.partition("=")[0]) not in keys
        and not key.startswith(("hydra.sweeper.", "hydra.sweep.dir", "hydra/sweeper", "hydra.mode", "sweep."))
    ]
    for each in stored:
        if must_be_typed(each):
            raise UserError(f"{each} is not taken from the sweep's folder: type it again behind --resubmit")
    quoted = str(folder.root).replace("\\", "\\\\").replace("'", "\\'")
    own = [f"hydra.sweep.dir='{quoted}'", f"hydra.sweeper.jobs=[{','.join(map(str, numbers))}]", "hydra/sweeper=expkit"]
    return ["-m", *stored, *typed, *own]


def must_be_typed(override: str) -> bool:
    """Whether an override is taken from the command line alone, as it holds a secret, or could make something run."""
    return MASK in override or "_target_" in override or _RUNS.search(override.partition("=")[0]) is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
