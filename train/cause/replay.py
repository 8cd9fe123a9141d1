"""A run once more, watched, from a checkpoint to where a number is none; its own directory is only read."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from expkit.dist import Dist
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.guards import Guard
from expkit.rng import rng_state, set_rng_state
from train.cause.batches import finite, tensors
from train.cause.journalled import skipped_steps
from train.cause.watch import Range, Sight, Watch
from train.responses import lower_as_rewinds, passes
from train.resume import Origin
from train.runner import Runner
from train.shares import StepBatches
from train.tasks.base import StepOutput

__all__ = ["Accident", "replay"]

#: Steps past the one that is looked for: the loss may be journalled before or after its cause.
_PAST = 10
_REMEMBERED = 5


@dataclass
class Accident:
    """What was found at the step at which something was not finite for the first time.

    Attributes:
        step, epoch, number: of the update, from 1; the number is that within the epoch.
        sight: where, or None if only `what` is known.
        module: that is to be named: a path, "" for the whole model.
        kind: input, output, gradient, loss, gradient_norm or weight.
        where: the same for people.
        given: range of what the module was given at this step; None for one that was not run.
        given_before: the same at the step before, if that was replayed.
        batch: name -> range, of the step's float tensors; and `usual` of batches before it, or others.
        targets_ignored: no target of a piece counts.
        indices: of the samples, for each piece; None for a loader of one's own.
        bad_samples: the samples with a value that is not finite, if that is known.
        ratios: |update| / |weights| of the model for the last updates before.
        weights: norm of all weights: at first, where the replay began, before this update.
        learning_rate: of the last update before; None without any.
    """

    step: int
    epoch: int
    number: int
    kind: str
    module: str
    where: str
    given: Range | None = None
    given_before: Range | None = None
    batch: dict[str, Range] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    targets_ignored: bool = False
    indices: list[list[int]] | None = None
    bad_samples: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    weights: tuple[float, float, float] = (0.0, 0.0, 0.0)
    learning_rate: float | None = None


def replay(origin: Origin, config: Any, parts: Any, step: int, state: dict[str, Any] | None) -> Accident | None:
    """Train from the checkpoint `state`, or from the beginning, until something is not finite.

    Args:
        origin: the run.
        config, parts: of it; see `train.cause.stored.rebuilt`.
        step: at which it was seen; the replay gives up soon after it.
        state: as `start_before` returns it.

    Returns:
        What was found, or None if all was finite this time.
    """
    from train.config.build import plain
    from train.restoring import restore

    train = parts.batches(parts.data("train_data"), training=True, dist=Dist())
    data = parts.data("val_data")
    val = parts.batches(data, training=False, dist=Dist()) if data is not None else None
    update = parts.update(parts.trainer.total_steps(train.steps))
    runner = _Replay(parts.task, parts.model, update, parts.trainer, train, val)
    runner.first_norm = _norm(list(parts.model.parameters()))
    skipped = skipped_steps(RunDir(origin.run), origin.left)
    if skipped:
        update.guards = (_SkipsAgain(skipped, runner),)
    runner.passes = passes(origin.stored)
    if state is not None:
        restore(runner, state, origin, plain(config), {})
        lower_as_rewinds(update, origin.stored, state)
    elif origin.stored.get("parent"):
        raise UserError(f"{origin.run} began as a part of another run, and it has no checkpoint before step {step}")
    return runner.go(step + _PAST)


class _Found(Exception):  # noqa: N818 - the end of a replay, and no error
    def __init__(self, accident: Accident) -> None:
        super().__init__()
        self.accident = accident


class _Enough(Exception):  # noqa: N818
    """The step is past, and nothing has happened."""


class _SkipsAgain(Guard):
    """Skips the updates that the run's guards have skipped."""

    def __init__(self, steps: frozenset[int], runner: Runner) -> None:
        self._steps, self._runner = steps, runner

    def bad(self, loss: Tensor, gradient_norm: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.tensor(self._runner.progress.step + 1 in self._steps, device=loss.device)


class _Watched:
    """A task whose steps are watched."""

    def __init__(self, task: Any, watch: Watch) -> None:
        self._task, self._watch = task, watch
        self.losses: list[Tensor] = []

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        self._watch.piece()
        out: StepOutput = self._task.step(model, batch)
        self.losses.append(out.loss.detach())
        return out


class _Replay(Runner):
    """A runner that stops where something is not finite for the first time."""

    first_norm = 0.0

    def go(self, last: int) -> Accident | None:
        """Train until then, or until step `last`."""
        self._last = last
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._start_norm = _norm(self._parameters)
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self._usual: dict[str, float] = {}
        self._common: set[Sight] = set()  # what is not finite in good steps too: masks, say
        self._before: Mapping[str, Range] = {}
        self._rate: float | None = None
        with Watch(self.model) as self._watch:
            try:
                self.fit()
            except _Found as found:
                return found.accident
            except _Enough:
                pass
        return None

    def _train_step(self, batches: StepBatches) -> None:
        if self.progress.step >= self._last:
            raise _Enough
        progress, watch = self.progress, self._watch
        place = progress.step + 1, progress.epoch, progress.batch
        before = [parameter.detach().clone() for parameter in self._parameters]
        task, update = self.task, self.update
        watched = _Watched(task, watch)
        seen: dict[str, Tensor] = {}

        def step(_: Any, model: nn.Module, pieces: Any, before_step: Any = None) -> Any:
            values, names, count = update(watched, model, pieces, before_step)  # type: ignore[arg-type]
            seen.update(zip(names, values, strict=True))
            return values, names, count

        watch.begin()
        self.update = _Calls(update, step)  # type: ignore[assignment]
        try:
            super()._train_step(batches)
        finally:
            self.update = update
        found = self._what(watched.losses, seen)
        if found is not None:
            raise _Found(self._accident(place, found, batches, before))
        self._remember(batches, before)

    def _what(self, losses: Sequence[Tensor], seen: Mapping[str, Tensor]) -> tuple[str, Sight | None] | None:
        """Return what kind of thing is not finite in this update, and where it was seen first; None if nothing is."""
        sights = [sight for sight in self._watch.sights if sight not in self._common]
        forward = next((sight for sight in sights if sight.kind != "gradient"), None)
        gradient = next((sight for sight in sights if sight.kind == "gradient"), None)
        if not all(finite(loss) for loss in losses):
            return (forward.kind if forward else "loss"), forward
        scaled = self.update.scaler is not None  # whose overflows are a part of training: it skips the update
        if gradient is not None and not scaled and any(sight.spoils for sight in sights):
            return "gradient", gradient
        if not scaled and "gradient_norm" in seen and not finite(seen["gradient_norm"]):
            return "gradient_norm", None
        if not all(map(finite, self._parameters)):
            return "weight", None
        return None

    def _accident(
        self, place: tuple[int, int, int], found: tuple[str, Sight | None], batches: StepBatches, before: list[Tensor]
    ) -> Accident:
        step, epoch, number = place
        kind, sight = found
        module, where = self._named(kind, sight)
        indices = self.train.indices(epoch, number)
        accident = Accident(step, epoch + 1, number + 1, kind, module, where, indices=indices)
        accident.given, accident.given_before = self._watch.inputs.get(module), self._before.get(module)
        accident.ratios, accident.learning_rate = list(self._ratios), self._rate
        accident.weights = self.first_norm, self._start_norm, _norm(before)
        for piece, (batch, _) in enumerate(batches.pieces):
            for name, tensor in tensors(batch):
                if tensor.is_floating_point():
                    accident.batch.setdefault(name, Range()).add(tensor)
                    if indices is not None and tensor.ndim and len(tensor) == len(indices[piece]):
                        bad = (~torch.isfinite(tensor)).flatten(1).any(dim=1) if tensor.ndim > 1 else ~tensor.isfinite()
                        accident.bad_samples += [indices[piece][each] for each in bad.nonzero().flatten().tolist()]
                elif tensor.numel() and tensor.dtype == torch.int64 and bool((tensor == -100).all()):
                    accident.targets_ignored = True
        accident.bad_samples = sorted(set(accident.bad_samples))
        accident.usual = self._usual or self._of_others(epoch)
        return accident

    def _named(self, kind: str, sight: Sight | None) -> tuple[str, str]:
        """Return the module to name, and what to say of it."""
        step = f"{type(self.task).__name__}.step"
        whole = type(self.model).__name__
        if kind == "input" and sight is not None and sight.inside is not None:
            inside = sight.inside or whole
            return sight.inside, f"what {inside} computes itself, before it calls {sight.module}"
        if kind == "input":  # it came with the batch: the first module that passes it on
            first = next((each.module for each in self._watch.sights if each.kind == "output"), "")
            return first, f"the output of {first or whole}, whose input is not finite already"
        if kind == "output" and sight is not None:
            return sight.module, f"the output of {sight.module or whole}"
        if kind == "gradient" and sight is not None:
            return sight.module, f"the gradient of {sight.module or whole}, with respect to {sight.what}"
        if kind == "loss":
            return "", f"the loss that {step} computes; every output of the model is finite"
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        if kind == "gradient_norm":
            return "", "the norm of the gradient, whose every number is finite: their squares are too large"
        first_bad = next(names[id(each)] for each in self._parameters if not finite(each))
        return first_bad.rpartition(".")[0], f"{first_bad}, after the update; its gradient was finite"

    def _remember(self, batches: StepBatches, before: list[Tensor]) -> None:
        moved = [parameter.detach() - old for parameter, old in zip(self._parameters, before, strict=True)]
        norm = _norm(before)
        self._ratios.append(_norm(moved) / norm if norm else 0.0)
        self._rate = self.update.learning_rate
        self._common |= set(self._watch.sights)
        self._before = self._watch.inputs
        for batch, _ in batches.pieces:
            _largest(batch, self._usual)

    def _of_others(self, epoch: int) -> dict[str, float]:
        """Return the largest values of the first batches of an epoch, where none has been seen before."""
        usual: dict[str, float] = {}
        if self.train.size is None or (self.train.steps or 0) < 2:
            return usual
        state = rng_state()
        for batches in itertools.islice(self.train.epoch(epoch), 4):
            for batch, _ in batches.pieces:
                _largest(batch, usual)
        set_rng_state(state)
        return usual


class _Calls:
    """An update that is called otherwise."""

    def __init__(self, update: Any, call: Any) -> None:
        self._update, self._call = update, call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._update, name)


def _largest(batch: Any, into: dict[str, float]) -> None:
    for name, tensor in tensors(batch):
        if tensor.is_floating_point():
            seen = Range()
            seen.add(tensor)
            into[name] = max(into.get(name, 0.0), seen.largest)


def _norm(values: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all of them together; in double precision, or large weights overflow."""
    norms = [float(torch.linalg.vector_norm(value.detach().cpu(), dtype=torch.float64)) for value in values]
    return float(torch.tensor(norms, dtype=torch.float64).norm()) if norms else 0.0
