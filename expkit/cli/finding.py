"""From what somebody types to run directories: paths, ids, patterns, or nothing, which is the newest run."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from expkit.errors import UserError
from expkit.experiment import RunDir, active_runs, is_id, newest_run

__all__ = ["find", "find_any", "find_runs", "find_with", "newest_runs"]

_LEAST_END = 4  # characters


def find(name: str | None, outputs: Path) -> RunDir:
    """Return the run that `name` is the path or id of; of None, or latest, the one in `outputs` that was active last.

    The end of an id will do, `k3xq`, where no other id ends like that.

    Raises:
        UserError: there is none, or several end so.
    """
    for place in _places(name, outputs) if name else ():
        if RunDir(place).exists():
            return RunDir(place)
    if name not in (None, "", "latest"):
        raise UserError(f"{name} is no run: {_instead(str(name), outputs)}")
    run = newest_run(outputs)
    if run is None:
        raise UserError(f"there is no run in {outputs.absolute()}: name one, or start one with python -m train")
    return run


def find_any(name: str | None, outputs: Path) -> RunDir:
    """Return the run that `find` does; or a directory of somebody's own loop, which has a journal or a results.json.

    Raises:
        UserError: there is none.
    """
    for place in _places(name, outputs) if name else ():
        if RunDir(place).has_something():
            return RunDir(place)
    if name in (None, "", "latest") and newest_run(outputs) is None and outputs.is_dir():
        own = active_runs(outputs, own=True)
        if own:
            return own[-1]
    return find(name, outputs)


def _places(name: str, outputs: Path) -> Iterator[Path]:
    """Yield where a run of this name may be: as a path, by its id, as sweep/0, by the end of its id."""
    yield Path(name)
    if all(is_id(part) for part in name.split("/")):
        yield outputs / name
    end = name.lstrip("…")  # as lists show it where there is little room
    if is_id(end) and len(end) >= _LEAST_END and end != "latest" and outputs.is_dir():
        with os.scandir(outputs) as folders:
            ends = sorted(each.name for each in folders if each.name.endswith(end) and each.name != name)
        if len(ends) > 1:
            raise UserError(
                f"{name}: {len(ends)} runs in {outputs} end like that, {ends[0]} and {ends[1]} say: write more"
            )
        yield from (outputs / each for each in ends)


def _instead(name: str, outputs: Path) -> str:
    """Return what to type where `name` is no run."""
    own = next((place for place in _places(name, outputs) if RunDir(place).has_something()), None)
    if own is not None:
        return (
            f"there is no config.json in {own}; in your own loop ConfigTracker({str(own)!r}).save_config(...) writes it"
        )
    newest = newest_run(Path(name)) if Path(name).is_dir() else None
    if newest is not None:
        return f"it is a folder of runs, name one: {newest.root} is the newest"
    return f"name a run directory, or the id of a run in {outputs.absolute()}"


def find_with(folder: str, name: str | None, outputs: Path) -> RunDir:
    """Return the run that `find_any` does; or of which `name` is this folder, or which has it: a copy is no run else.

    Raises:
        UserError: there is none.
    """
    path = Path(name) if name else None
    if path is not None and path.is_dir():
        if path.resolve().name == folder:
            return RunDir(path.resolve().parent)
        if (path / folder).is_dir():
            return RunDir(path)
    return find_any(name, outputs)


def find_runs(names: Sequence[str], outputs: Path) -> list[RunDir]:
    """Return the runs that are named by path, id or pattern, each once; of no name the newest.

    A directory that has a journal or a results.json is a run too: one of somebody's own training loop. Of what a
    pattern matches, the rest is passed over.

    Raises:
        UserError: there is none, or nothing matches.
    """
    found: dict[Path, RunDir] = {}
    for name in names or ["latest"]:
        found |= {run.root.resolve(): run for run in _named(name, outputs)}
    return list(found.values())


def newest_runs(outputs: Path, count: int) -> list[RunDir]:
    """Return the runs in `outputs` that were active last, oldest first; of a folder without any, those of own loops.

    Raises:
        UserError: there is none.
    """
    runs = (active_runs(outputs) or active_runs(outputs, own=True))[-count:]
    if not runs:
        raise UserError(f"there is no run in {outputs.absolute()}: start one with python -m train")
    return runs


def _named(name: str, outputs: Path) -> list[RunDir]:
    if any(sign in name for sign in "*?[") and not Path(name).exists():
        places = [name] if Path(name).is_absolute() else [name, str(outputs / name)]
        found = [path for place in places for path in sorted(glob.glob(place))]  # noqa: PTH207 - absolute patterns too
        matches = [RunDir(path) for path in found]
        runs = [run for run in matches if run.has_something()]
        if not runs:
            raise UserError(f"{name}: no run matches this, in {Path.cwd()} or {outputs.absolute()}")
        return runs
    return [find_any(name, outputs)]
