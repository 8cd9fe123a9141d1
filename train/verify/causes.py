"""The likely cause of a difference, in plain words, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.verify.compare import GENERATOR, Difference, Recording, repeated_batch

__all__ = ["cause_of_chance", "cause_of_resume"]

#: Kind of difference -> where state of the user's own may be that causes it, the likeliest first. Global variables,
#: which have the name of a module before them, come last.
_PLACES = {
    "batch": ("training data", "task"),
    "rng": ("training data", "task", "model", "diagnostics", "validation data"),
    "loss": ("model", "task"),
    "weights": ("optimizer", "model", "task"),
    "optimizer": ("optimizer",),
    "scheduler": ("scheduler",),
    "journal": ("task", "validation data", "diagnostics", "model"),
}
_ALL = ("training data", "task", "model", "optimizer", "scheduler", "validation data", "diagnostics")
_KEYED = "draw them from a generator that is seeded with (seed, epoch, index)"


def cause_of_resume(difference: Difference, whole: Recording, resumed: Recording) -> tuple[str, str]:
    """Return the likely cause of a difference that a resume made, and what to do."""
    kind, name = difference.kind, difference.name
    if difference.restored:
        return _not_restored(difference)
    suspects = _suspects(kind, whole, resumed)
    told = _told(suspects)
    random = [path for path, (one, _) in suspects.items() if one.startswith(GENERATOR)]
    if kind == "batch":
        return _of_batch(difference, whole, resumed, told, random)
    if kind == "rng":
        return (
            f"something drew from the {name} generator between the checkpoint and this step, in one of the two runs "
            "only: code that runs once at the start (a cache that is filled, an import, the first call of a model), "
            f"or draws that depend on state which a checkpoint does not hold{told}",
            "give that code a generator of its own, seeded with what it depends on (the seed, the epoch, the index)",
        )
    if random:
        return (
            f"random numbers come from a generator that no checkpoint holds{told}",
            "draw from torch's, numpy's or python's global generator, which are restored, or "
            "seed the generator with (seed, step) each time",
        )
    if kind == "loss":
        return (
            "from the same batch, weights and generators another loss is computed: the model or the task holds state "
            f"outside of the model's state_dict (a buffer that is not persistent, an attribute that counts){told}",
            "keep it in a buffer, self.register_buffer(NAME, tensor), which is saved with the weights",
        )
    if kind in ("weights", "optimizer"):
        return (
            "the loss was the same and the update was not: the optimizer has state that is not in its state_dict"
            f"{told}",
            "keep it in self.state[parameter][KEY] or in param_groups, which state_dict() saves",
        )
    if kind == "scheduler":
        return (
            f"the schedule depends on something that its state_dict does not hold{told}",
            "keep it in an attribute of the scheduler, or give it state_dict() and load_state_dict()",
        )
    return (
        f"batches, losses and weights are the same, so what is logged depends on something else{told}: "
        "validation data that draw random numbers, or metrics that are collected in attributes",
        f"report sums of each batch; for random validation data {_KEYED}",
    )


def cause_of_chance(difference: Difference) -> tuple[str, str]:
    """Return the likely cause of a difference between two runs that were not stopped, and what to do."""
    kind = difference.kind
    seeds = "a generator without a seed (np.random.default_rng(), random.Random()), os.urandom, the time"
    order = "the order of a set of texts (python shuffles it for each process) or of a folder's files"
    if kind == "batch":
        return (
            f"the data differ from process to process: {seeds}, or {order}",
            f"seed what is random: {_KEYED}; sort sets and lists of files",
        )
    if difference.step == 0:
        return (
            f"the model or optimizer is not built the same in each process: {seeds}, or {order}",
            "draw initial weights from torch's global generator, which is seeded; sort sets and lists of files",
        )
    if kind == "rng":
        return (
            f"how often the {difference.name} generator is drawn from depends on something else: {seeds}, or {order}",
            "let the number of draws depend on the seed, the epoch and the index only",
        )
    return (
        f"from the same batch, weights and generators {_RESULT.get(kind, 'something else')} comes out: {seeds}; or an "
        "operation that is not deterministic (on a GPU: atomic additions; trainer.deterministic=true refuses most)",
        "draw from torch's global generator, which is seeded and restored; take time and machine out of the loss",
    )


_RESULT = {"loss": "another loss", "weights": "another update", "optimizer": "another optimizer state"}


def _not_restored(difference: Difference) -> tuple[str, str]:
    kind, name = difference.kind, difference.name
    if kind == "weights":
        return (
            f"{name} is not restored: the model's state_dict or load_state_dict leaves it out or changes it",
            "save and load it as it is, with the same dtype",
        )
    if kind == "optimizer":
        parameter, _, key = name.rpartition(": ")
        return (
            f"the optimizer's {key} of {parameter} is not in its state_dict, or its load_state_dict does not take it "
            "back as it was (torch's casts floating-point state to the parameter's dtype)",
            "let state_dict() return all of self.state, and load_state_dict() take it back",
        )
    return (
        f"the scheduler's {name} is not restored: its state_dict or load_state_dict leaves it out",
        "let state_dict() return it, and load_state_dict() take it back",
    )


def _of_batch(
    difference: Difference, whole: Recording, resumed: Recording, told: str, random: list[str]
) -> tuple[str, str]:
    step = difference.step
    workers = resumed.steps[step].get("workers", 0)
    if random:
        return (
            f"the data set draws random numbers from a generator of its own, which no checkpoint holds{told}",
            f"{_KEYED}: docs/resume.md shows how",
        )
    if told:
        return (
            f"the data depend on state that no checkpoint holds{told}",
            "let a sample depend on the seed, the epoch and its index only: docs/resume.md shows how",
        )
    again = repeated_batch(whole, resumed, step)
    if again is not None:
        return (
            f"it is the batch that the run which was never stopped had at step {again}: the data do not go on where "
            "they were, since an iterator or sampler of the task's own keeps its place to itself",
            "return a data set, or a DataLoader with sampler=expkit.ResumableSampler(...): docs/resume.md",
        )
    where = f"; its {workers} loading processes start afresh at a resume" if workers else ""
    return (
        f"the data set draws random numbers that are not keyed on (seed, epoch, index), or keeps state{where}",
        f"{_KEYED}: docs/resume.md shows how",
    )


def _suspects(kind: str, whole: Recording, resumed: Recording) -> dict[str, tuple[str, str]]:
    """Return path -> values of all hidden state that was not the same at the first step after the resume."""
    first = resumed.start + 1
    one: Mapping[str, Any] = whole.steps.get(first, {}).get("hidden", {})
    two: Mapping[str, Any] = resumed.steps.get(first, {}).get("hidden", {})
    paths = [path for path in {**one, **two} if one.get(path) != two.get(path)]
    ranked = {path: rank for path in paths if (rank := _rank(path, _PLACES[kind])) is not None}
    return {path: (one.get(path, "not there"), two.get(path, "not there")) for path in sorted(ranked, key=ranked.get)}  # type: ignore[arg-type]


def _rank(path: str, places: tuple[str, ...]) -> int | None:
    """Return how likely a path is to be the cause, from 0; None if it is none."""
    for rank, place in enumerate(places):
        if path.startswith(place):
            return rank
    return None if path.startswith(_ALL) else len(places)


def _told(suspects: Mapping[str, tuple[str, str]]) -> str:
    """Return the likeliest suspects, to be added to a sentence."""
    if not suspects:
        return ""
    shown = [
        f"{path}" + ("" if one.startswith(GENERATOR) else f" ({_short(one)} without the stop, {_short(two)} after it)")
        for path, (one, two) in list(suspects.items())[:2]
    ]
    more = f" and {len(suspects) - 2} more" if len(suspects) > 2 else ""
    return f": look at {', '.join(shown)}{more}"


def _short(text: str) -> str:
    return text.partition(" #")[0] if len(text) > 40 else text
