"""Which run to go on with, and how its configuration meets what the user types now."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expkit.checkpoint_file import step_of
from expkit.config_tracker import ConfigTracker
from expkit.environment import was_requeued
from expkit.errors import ResumeError, UserError
from expkit.experiment import RunDir, is_id, newest_run
from expkit.record import to_plain
from expkit.secrets import MASK
from expkit.snapshots.files import RUN_CONFIG
from expkit.snapshots.reading import Snapshot, is_snapshot, load_snapshot
from train.responses import lowered, passes
from train.unfinished import find_same

__all__ = [
    *("Origin", "check_same_kind", "differences", "find_origin", "merge_overrides", "origin_of"),
    "warn_if_other_data",
]

log = logging.getLogger("expkit")

#: Sections whose parts are selected by their names.
_SELECTED = ("tracker", "diagnostics", "detectors", "plots")


@dataclass(frozen=True)
class Origin:
    """What is resumed.

    Attributes:
        run: its directory.
        step: the checkpoint that was asked for, or None for the newest that is valid.
        stored: its config.json; of a snapshot the one of its time.
        snapshot: the snapshot that a new run begins with, `step` being that of its checkpoint; None: the run goes on.
        left: of a course that a rewind has left, the last step whose checkpoint and journal are of it; None: all are.
    """

    run: Path
    step: int | None
    stored: Mapping[str, Any]
    snapshot: Snapshot | None = None
    left: int | None = None

    @property
    def is_fork(self) -> bool:
        """Whether a new run begins there."""
        return self.snapshot is not None

    @property
    def parent(self) -> dict[str, Any] | None:
        """What config.json of a new run says of where it comes from."""
        if self.snapshot is None:
            return None
        parent: dict[str, Any] = {
            "run": self.snapshot.run,
            "snapshot": self.snapshot.path.resolve().name,
            "step": self.step,
        }
        passed, factor = passes(self.stored), lowered(self.stored)
        if passed:
            parent["passes"] = [[*each] for each in passed.items()]
        return {**parent, "lr_factor": factor} if factor != 1 else parent

    @property
    def place(self) -> Path:
        """What `resume` names."""
        if self.snapshot is not None:
            return self.snapshot.path
        if self.step is None:
            return self.run
        file = self.run / "checkpoints" / f"checkpoint_step_{self.step}.pt"
        return file if file.exists() else file.with_suffix("")  # a folder of shards


def find_origin(
    resume: str, outputs: Path | str, run_id: object = None, overrides: Sequence[str] = ()
) -> Origin | None:
    """Return what `resume` names, or None for a fresh run.

    Args:
        resume: never; latest (the run that was active last); auto (the run called `run_id`, or without an id the one
            that an unchanged command line has started; the choice is said on standard error); or the path of a run, of
            one of its checkpoints or of one of its snapshots, or a run's id.
        outputs: where runs are.
        run_id: the id that was configured.
        overrides: as Hydra gets them, for auto.

    Raises:
        ResumeError: there is no such run.
    """
    outputs = Path(outputs)
    if resume == "never":
        return None
    if resume == "auto":
        return _auto(outputs, run_id, overrides)
    if resume == "ask":
        raise ResumeError("resume=ask belongs on the command line, where somebody can answer")
    if resume == "latest":
        newest = newest_run(outputs)
        if newest is None:
            raise ResumeError(f"resume=latest: there is no run in {outputs.absolute()}; leave resume out to start one")
        return origin_of(newest.root, None)
    for path in (Path(resume), outputs / resume) if _is_inside(resume) else (Path(resume),):
        snapshot = path.parent.parent if path.suffix == ".pt" else path
        if is_snapshot(snapshot):
            return _fork(load_snapshot(snapshot), outputs, overrides)
        step = step_of(path)
        if step is not None and path.exists():
            return origin_of(path.parent.parent, step)
        if path.suffix == ".pt" and path.exists():  # checkpoint_latest.pt, checkpoint_best.pt: links to a step's
            return origin_of(path.parent.parent, step_of(path.resolve()))
        if RunDir(path).exists():
            return origin_of(path, None)
        if path.name.startswith("checkpoint_") and RunDir(path.parent.parent).exists():
            steps = {step for each in path.parent.glob("checkpoint_*") if (step := step_of(each)) is not None}
            there = ", ".join(map(str, sorted(steps))) or "none"
            raise ResumeError(f"resume={resume}: there is no such checkpoint; the run has those of steps {there}")
        within = next((each for each in path.parents if RunDir(each).exists()), None)
        if within is not None and path.exists():
            raise ResumeError(f"resume={resume}: that is a part of a run; to go on with the run: resume={within}")
    close = difflib.get_close_matches(resume, ("latest", "auto", "ask", "never"), n=1, cutoff=0.7)
    if close:
        raise ResumeError(f"resume={resume}: no run there: did you mean {close[0]}?")
    raise ResumeError(f"resume={resume}: no run there (a run's folder holds a config.json); runs are in {outputs}")


def _auto(outputs: Path, run_id: object, overrides: Sequence[str]) -> Origin | None:
    if run_id is not None:
        run = outputs / str(run_id)
        return origin_of(run, None) if is_id(str(run_id)) and RunDir(run).exists() else None
    found, why = find_same(outputs, overrides)
    if found is None:
        print(f"resume=auto: a fresh run, as there is {why}", file=sys.stderr, flush=True)
        return None
    print(f"resume=auto: goes on with {found.run.root}, {why}", file=sys.stderr, flush=True)
    return origin_of(found.run.root, None)


def _fork(snapshot: Snapshot, outputs: Path, overrides: Sequence[str]) -> Origin:
    """Return where a new run begins; of a job that was requeued, the run that it has begun there before."""
    run = snapshot.path.resolve().parent.parent
    if snapshot.checkpoint is None:
        raise ResumeError(f"{snapshot.path} holds no checkpoint: there was none yet when it was made")
    try:
        origin = replace(_checked(run, snapshot.config(), snapshot.path / RUN_CONFIG), snapshot=snapshot)
    except UserError as error:
        raise ResumeError(str(error)) from None
    origin = replace(origin, step=snapshot.checkpoint_step)
    if was_requeued() and overrides:
        begun, _ = find_same(outputs, overrides, origin.parent)
        return origin_of(begun.run.root, None) if begun is not None else origin
    return origin


def check_same_kind(origin: Origin, config: Mapping[str, Any]) -> None:
    """Refuse to go on with another task or optimizer than the run's.

    Args:
        origin: what is resumed.
        config: the configuration of now.

    Raises:
        ResumeError: naming both.
    """
    for key in ("task", "optimizer"):
        then, now = ((each.get(key) or {}).get("_target_") for each in (origin.stored["config"], config))
        if then != now:
            raise ResumeError(
                f"{origin.run} was trained with {key} {then} and cannot go on with {now}: start a fresh run"
            )


def warn_if_other_data(origin: Origin, dataset: Mapping[str, Any]) -> None:
    """Say so if the data are not those that the run was started with: a file may have changed since.

    Args:
        origin: what is resumed.
        dataset: what config.json would say about the data of now.
    """
    before = origin.stored.get("dataset") or {}
    now = to_plain(dataset)
    # How the samples are batched is another question, and belongs to the configuration.
    changed = [key for key, value in now.items() if key not in ("train", "val") and before.get(key, value) != value]
    if changed:
        log.warning("the data are not those that the run was started with: other %s", ", ".join(changed))


def merge_overrides(origin: Origin, typed: Sequence[str]) -> list[str]:
    """Return the overrides of the resumed run, then those typed now, which win.

    A `_target_` from a run directory is never used: whoever can write there could name any code. Masked secrets are
    left out too: both have to be typed again.
    """
    stored = [str(override) for override in origin.stored.get("overrides", [])]
    names = {_key(override) for override in typed}
    kept = []
    for override in stored:
        if _key(override) in names or _key(override) in ("resume", "run.id"):
            continue
        if "_target_" in override or MASK in override:
            log.warning(
                "%s: %s is not taken over from the run; type it again if it is still wanted",
                origin.run,
                override,
            )
            continue
        kept.append(override)
    return kept + list(typed)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `key: old -> new` for every value that differs, of sections that decide over the training.

    Of what is selected by name, trackers say, it is the names, and the settings of those that stay.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    selected = {group: [_names(each.get(group)) for each in (old, new)] for group in _SELECTED}
    changed = [
        f"{group}: [{','.join(then)}] -> [{','.join(now)}]"
        for group, (then, now) in selected.items()
        if set(then) != set(now)
    ]
    for key in before.keys() | after.keys():
        group, *inside = key.split(".")
        if group in ("cluster", "resume", "run", "sweep") or before.get(key) == after.get(key):
            continue
        if group in selected and not all(inside and inside[0] in names for names in selected[group]):
            continue
        changed.append(f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}")
    return sorted(changed)


def origin_of(run: Path, step: int | None) -> Origin:
    """Return a run and one of its checkpoints, None for the newest, as what is resumed.

    Raises:
        ResumeError: it is no run directory of `python -m train`.
    """
    if not RunDir(run).exists():
        raise ResumeError(f"{run} is no run directory: it has no config.json")
    return replace(_checked(run, ConfigTracker(run).load_config(), RunDir(run).config), step=step)


def _checked(run: Path, stored: Mapping[str, Any], file: Path) -> Origin:
    config = stored.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("run"), Mapping):
        raise ResumeError(f"{file} holds no configuration of `python -m train`: restore it, or start a fresh run")
    return Origin(run, None, stored)


def _is_inside(path: str) -> bool:
    """Whether a path that is relative to the folder of runs stays in it."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _names(group: Any) -> list[str]:
    return list(map(str, group)) if isinstance(group, Mapping) else []


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value
