"""The order of samples as a pure function of (seed, epoch), and a sampler that goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from expkit.errors import ResumeError, UserError

__all__ = ["ResumableSampler", "mix", "permutation"]

_WORD = (1 << 64) - 1
_CHUNK = 1 << 16  # indices that become Python numbers at once


def mix(*values: int) -> int:
    """Return a 63-bit seed in which every bit of every value counts (SplitMix64's finaliser, Steele et al. 2014)."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1


def permutation(size: int, seed: int, epoch: int, shuffle: bool = True) -> torch.Tensor:
    """Return the order of the samples 0 to `size` - 1 in `epoch`; without `shuffle` it is theirs."""
    if not shuffle:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed, epoch)))


class ResumableSampler(Sampler[int]):
    """Yields the indices of a data set in an order that depends on (seed, epoch) alone, from any place in it.

    For a DataLoader of one's own. A loader draws indices long before their batches are trained on, so the sampler
    cannot know by itself what was consumed: iterate over `track(loader)`, or call `advance` for every batch.

    Args:
        data: the data set, or how many samples it has.
        seed: of the order.
        shuffle: another order in every epoch; the data set's own without.
        rank: this process's number.
        world_size: how many processes share each epoch. Together they have each sample once.
        drop_last: leave out what is left when the samples are dealt out evenly to all processes.

    Attributes:
        epoch: the one that the next sample is of, from 0.
        consumed: samples of it that all processes together have consumed.

    Raises:
        UserError: a rank that is not below `world_size`, or no samples.
    """

    def __init__(
        self,
        data: Sized | int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.length = data if isinstance(data, int) else len(data)
        if self.length < 1:
            raise UserError("the data set is empty: there is nothing to sample")
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size} processes: it must be from 0 to {world_size - 1}")
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.world_size = rank, world_size
        self._used = self.length - (self.length % world_size if drop_last else 0)
        self.epoch, self.consumed = 0, 0
        self._drawn, self._tracked = False, False

    def __len__(self) -> int:
        """Samples of a whole epoch for this process, however many of them are consumed."""
        return len(range(self.rank, self._used, self.world_size))

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices that are not consumed yet in the epoch."""
        order = permutation(self.length, self.seed, self.epoch, self.shuffle)
        mine = order[self.consumed + self.rank : self._used : self.world_size]
        self._drawn = True
        for start in range(0, len(mine), _CHUNK):
            yield from mine[start : start + _CHUNK].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; in the midst of it, as after a resume, the place is kept."""
        if epoch != self.epoch:
            self.seek(epoch)

    def seek(self, epoch: int, consumed: int = 0) -> None:
        """Go to a place: the next sample is the one after the first `consumed` (over all processes) of `epoch`."""
        self.epoch, self.consumed = epoch, consumed

    def advance(self, samples: int) -> None:
        """Say that this process has consumed `samples` more: once for each batch that was trained on.

        After the last one of an epoch the next epoch has begun.
        """
        self._tracked = True
        self.consumed += samples * self.world_size
        if self.consumed + self.rank >= self._used:
            self.seek(self.epoch + 1)

    def track(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of a DataLoader that has this sampler; each counts as consumed as soon as it is yielded.

        So a checkpoint that is saved after the update of a batch goes on with the next batch, however many of them
        loading processes have fetched ahead.

        Raises:
            UserError: the loader does not say how large a batch is: call `advance` instead.
        """
        size = _batch_size(loader)
        epoch = self.epoch
        for batch in loader:
            self.advance(min(size, len(range(self.consumed + self.rank, self._used, self.world_size))))
            yield batch
        if self.epoch == epoch:  # the loader left out an incomplete last batch
            self.seek(epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the place, as plain numbers. Rank 0's is that of all ranks, whatever their number."""
        if self._drawn and not self._tracked:
            raise UserError(
                "this ResumableSampler was not told what was consumed: iterate over sampler.track(loader), or call "
                "sampler.advance(len(batch)) for each batch"
            )
        return {"seed": self.seed, "epoch": self.epoch, "consumed": self.consumed, "length": self.length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called, in the order of then; the number of processes may be another.

        Raises:
            ResumeError: the data set had another number of samples.
        """
        missing = {"seed", "epoch", "consumed", "length"} - state.keys()
        if missing:
            raise ResumeError(f"this is no state of a ResumableSampler: it lacks {', '.join(sorted(missing))}")
        if state["length"] != self.length:
            raise ResumeError(
                f"the data set has {self.length} samples, and had {state['length']} when this place was saved: "
                "a place in another order means nothing"
            )
        self.seed = state["seed"]
        self.seek(state["epoch"], state["consumed"])


def _batch_size(loader: Any) -> int:
    size = getattr(loader, "batch_size", None)
    if size is None:
        sampler = getattr(loader, "batch_sampler", None)
        size = 1 if sampler is None and hasattr(loader, "sampler") else getattr(sampler, "batch_size", None)
    if not isinstance(size, int):
        raise UserError(
            f"{type(loader).__name__} does not say how large a batch is: call sampler.advance(len(batch)) for each"
        )
    return size
