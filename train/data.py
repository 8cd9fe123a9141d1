"""Batches of an epoch, as a pure function of (seed, epoch): a resume finds the same ones without having drawn them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from expkit.dist import Dist
from expkit.errors import ConfigError
from expkit.rng import rng_state, set_rng_state
from expkit.sampler import ResumableSampler, mix, permutation
from train.loading import Fetch, IgnoreSignals, as_it_is, noting_loaders
from train.shares import StepBatches, batch_shares, inside, is_shared_out, shares_of

__all__ = ["Batches", "mix", "to_device"]

_T = TypeVar("_T")


class Batches:
    """The updates of each epoch.

    A dataset with a length is shuffled by (seed, epoch), split into global batches, and each process takes its share
    of every batch. A DataLoader, or any other iterable of batches, is used as it is; its generator is seeded by
    (seed, epoch) too. With several processes each draws the same batches of it and takes its share of them, unless the
    loader shares samples out itself (`train.shares.is_shared_out`). One that knows its place (`state_dict`,
    `load_state_dict`, in the loader or its sampler) goes on there; of any other the batches that were trained on are
    drawn again, and thrown away.

    Args:
        data: dataset, DataLoader or iterable of batches.
        batch_size: samples per update over all processes.
        seed: of the order.
        pieces: how many pieces an update's batch is split into (gradient accumulation).
        shuffle: a new order in every epoch.
        drop_last: leave out an incomplete last batch.
        num_workers: loading processes.
        dist: which share is this process's.
        pin_memory: for faster copies to a GPU.

    Raises:
        ConfigError: the sizes do not fit.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        seed: int = 0,
        pieces: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        dist: Dist | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.pieces = pieces
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.dist = dist or Dist()
        self.pin_memory = pin_memory
        if isinstance(data, IterableDataset):
            raise ConfigError(
                "an IterableDataset does not say how to batch it: return DataLoader(dataset, batch_size=...)"
            )
        self._place: Any = None
        self._restored: Any = None
        self._agreed = False
        self._least: int | None = None
        self._own_loader = isinstance(data, DataLoader) or not hasattr(data, "__getitem__")
        if not hasattr(data, "__iter__" if self._own_loader else "__len__"):
            raise ConfigError(
                f"{type(data).__name__} is neither a data set with a length nor an iterable of batches: "
                "look at the task's train_data and val_data"
            )
        if self._own_loader:
            self.size = None
            if isinstance(data, DataLoader) and not isinstance(data.worker_init_fn, IgnoreSignals):
                data.worker_init_fn = IgnoreSignals(data.worker_init_fn)
            return
        self.size = len(data)
        share = self.dist.world_size * pieces
        if batch_size % share:
            raise ConfigError(
                f"trainer.batch_size={batch_size} is not divisible by processes x grad_accumulation = {share}: "
                f"try {max(share, batch_size // share * share)}"
            )
        if self.size == 0:
            raise ConfigError("the data set is empty: look at the task's train_data and val_data")
        if drop_last and batch_size > self.size:
            raise ConfigError(
                f"trainer.batch_size={batch_size} is more than the {self.size} samples there are, and "
                "trainer.drop_last leaves none: take a smaller batch"
            )

    def agree(self) -> None:
        """Let the shortest epoch count where a loader shares samples out, unevenly perhaps. Called by all processes."""
        if self.is_shared_out:
            found = self.dist.gather_all(self.steps)
            self._agreed, self._least = True, None if None in found else min(found)

    @property
    def is_shared_out(self) -> bool:
        """Whether each of several processes has batches of its own, of which there may be more on one of them."""
        return self.dist.world_size > 1 and self._own_loader and is_shared_out(self.data)

    @property
    def steps(self) -> int | None:
        """Updates per epoch, or None where a loader of one's own does not tell."""
        if self._agreed:
            return self._least
        if self._own_loader:
            try:
                return -(-len(self.data) // self.pieces)
            except TypeError:  # a DataLoader of an IterableDataset has the method, and it raises
                return None
        assert self.size is not None
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def indices(self, epoch: int, update: int) -> list[list[int]] | None:
        """Return which samples each piece of an update, counted from 0, holds; None for a loader of one's own."""
        if self.size is None:
            return None
        share = self._share(permutation(self.size, self.seed, epoch, self.shuffle), update)
        return [indices for indices, weight in share if weight]

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[StepBatches]:
        """Yield the updates of `epoch` (from 0), without the first `skip`."""
        # Evaluation is the same in every epoch; its data may even be an object that training is in the middle of.
        places = (self.data, *(inside(self.data) if self._own_loader else ())) if self.shuffle else ()
        for place in places:
            if hasattr(place, "set_epoch"):
                place.set_epoch(epoch)
        if not self._own_loader:
            return noting_loaders(self._dataset_epoch(epoch, skip))
        updates = self._loader_epoch(epoch, skip)
        return noting_loaders(updates, self.data) if isinstance(self.data, DataLoader) else updates

    def _dataset_epoch(self, epoch: int, skip: int) -> Iterator[StepBatches]:
        assert self.size is not None
        assert self.steps is not None
        order = permutation(self.size, self.seed, epoch, self.shuffle)
        shares, again = itertools.tee(self._share(order, step) for step in range(skip, self.steps))
        loaded = self._load((indices for share in again for indices, _ in share), epoch)
        for step, share in enumerate(shares, start=skip):
            samples = min(self.batch_size, self.size - step * self.batch_size)
            pieces = [(next(loaded), weight) for _, weight in share]
            yield StepBatches(pieces, samples, step == self.steps - 1)

    def _share(self, order: torch.Tensor, step: int) -> list[tuple[list[int], float]]:
        """Return this process's indices of one update, in as many pieces as there are to accumulate, and weights."""
        whole: list[int] = order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        return shares_of(whole, self.dist, self.pieces)

    def _load(self, pieces: Iterator[list[int]], epoch: int) -> Iterator[Any]:
        fetch = Fetch(self.data, (self.seed, epoch))
        if self.num_workers == 0 and not self.pin_memory:
            return map(fetch.__getitem__, pieces)
        loader: Iterable[Any] = DataLoader(
            fetch,  # type: ignore[arg-type]
            sampler=pieces,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            worker_init_fn=IgnoreSignals(),
            pin_memory=self.pin_memory,
            # A loader without a generator of its own draws from the global one, and a resume would differ.
            generator=torch.Generator().manual_seed(mix(self.seed, epoch, 1)),
        )
        return iter(loader)

    def _loader_epoch(self, epoch: int, skip: int) -> Iterator[StepBatches]:
        for place in (self.data, *inside(self.data)):
            if hasattr(place, "generator") and not isinstance(place, Dataset):
                place.generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        shared_out = self.dist.world_size == 1 or self.is_shared_out
        groups = _grouped(self._loader_batches(epoch, skip), self.pieces)
        known, source = self.steps, self._resumable()
        # Where a batch is loaded ahead to know the last one, the place after this one is gone when it is asked for.
        placed = ((group, source.state_dict() if source and known is None else None) for group in groups)
        empty = skip == 0
        for (group, self._place), last in _with_last(placed, None if known is None else known - skip):
            empty = False
            if shared_out:
                yield StepBatches([(batch, 1 / len(group)) for batch in group], None, last)
            else:
                yield StepBatches(*batch_shares(group, self.dist), last)
        if empty:
            raise ConfigError("the data loader yields no batch: look at the task's train_data and val_data")

    def _loader_batches(self, epoch: int, skip: int) -> Iterator[Any]:
        """Yield the batches of a loader of one's own, from its restored place if it knows one."""
        source, place, self._restored = self._resumable(), self._restored, None
        before = rng_state()
        if isinstance(source, ResumableSampler):
            source.seek(epoch)
        known = skip and source is not None and place is not None
        if known:
            source.load_state_dict(place)
        batches = source.track(self.data) if isinstance(source, ResumableSampler) else iter(self.data)
        if skip:  # what the loader draws to get there was drawn before the resume
            for _ in itertools.islice(batches, 0 if known else skip * self.pieces):
                pass
            set_rng_state(before)
        return batches

    def _resumable(self) -> Any:
        """Return what knows its place in a loader of one's own: the loader, or its sampler; None if nothing does."""
        if not self._own_loader:
            return None
        samplers = [part for part in inside(self.data) if not isinstance(part, Dataset)]
        ours = next((part for part in samplers if isinstance(part, ResumableSampler)), None)
        if ours is not None or _knows_its_place(self.data):
            return ours or self.data
        # Loading processes let a sampler draw ahead: only ours tells what was drawn from what was trained on.
        ahead = getattr(self.data, "num_workers", 0)
        return next((part for part in samplers if _knows_its_place(part) and not ahead), None)

    def state_dict(self) -> Any:
        """Return the place of a loader of one's own that knows it, after the update that was yielded last; or None."""
        source = self._resumable()
        return self._place if self._place is not None or source is None else source.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Take back what `state_dict` returned; the next epoch that skips updates begins there."""
        self._restored = state


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch` with every tensor in it (in tuples, lists and dicts) on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _knows_its_place(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _grouped(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(itertools.islice(items, size)):
        yield group


def _with_last(groups: Iterator[_T], count: int | None) -> Iterator[tuple[_T, bool]]:
    """Yield each group and whether it is the last; one is loaded ahead only if their number is not known."""
    if count is not None:
        for number, group in enumerate(groups, start=1):
            yield group, number == count
        return
    upcoming = next(groups, None)
    while upcoming is not None:
        group, upcoming = upcoming, next(groups, None)
        yield group, upcoming is None
