"""Who is to blame for an error: which rank, and where it has written why; or what leaves the process in a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expkit.dist import Dist
from expkit.errors import RankFailed, UserError
from expkit.experiment import RunDir
from expkit.place import place
from train.report import resume_command
from train.unfinished import newest_step

__all__ = ["blaming", "rank_log", "rank_logs"]


@contextmanager
def blaming(dist: Dist, files: RunDir | None = None) -> Iterator[None]:
    """Let an error inside that another rank is to blame for be that rank's, and `sys.exit()` be an error.

    Args:
        dist: the ranks.
        files: the run directory, for where to look and what to type.

    Raises:
        RankFailed: naming the rank.
        UserError: a part of the user's own called `sys.exit()`; with code 0 a run cut short would pass for a whole one.
    """
    try:
        yield
    except SystemExit as leaving:
        where = place(leaving)
        raise UserError(
            f"sys.exit({'' if leaving.code is None else repr(leaving.code)}) was called in the run"
            f"{f', at {where}' if where else ''}: trainer.max_steps or max_epochs ends it, or a detector that stops; "
            "what went wrong is to be raised as an error"
        ) from None
    except Exception as error:  # a rank that is gone shows as any error of torch's or of the system's
        blamed = dist.watch.blame(error) if dist.watch is not None else None
        if blamed is None:
            raise
        raise RankFailed(blamed if files is None else f"{blamed}{_look(files, blamed)}") from None


def rank_log(files: RunDir, rank: int | str) -> Path:
    """Return where a rank other than 0 writes what it has to say."""
    return files.logs / f"rank_{rank}.log"


def rank_logs(files: RunDir) -> list[Path]:
    """Return the logs of ranks that had something to say."""
    return [*files.logs.glob(rank_log(files, "*").name)]


def _look(files: RunDir, blamed: str) -> str:
    """Return where to look, and what to type where there is a checkpoint to go on from."""
    rank = re.match(r"rank (\d+)", blamed)
    log_file = rank_log(files, rank[1]) if rank is not None else None
    where = f" (see {log_file})" if log_file is not None and log_file.exists() else ""
    return where if newest_step(files) is None else f"{where}; go on with: {resume_command(files.root)}"
