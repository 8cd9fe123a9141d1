"""A ring buffer on the device: every step's values, copied to the host once per log step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from expkit.dist import Dist

__all__ = ["StepSeries", "merge_states"]


class StepSeries:
    """Collects a few scalars per step without waiting for the device.

    A write costs about a microsecond and no synchronisation; `drain` copies all at once. The buffer doubles when
    it is full, so the interval between drains need not be known.

    Args:
        names: what the columns are.
        device: where the values are made.
        averaged: which columns are means over a step's samples; the others are sums.
        capacity: rows at first.
    """

    def __init__(
        self, names: Sequence[str], device: torch.device, averaged: Collection[str] = (), capacity: int = 64
    ) -> None:
        self.names = tuple(names)
        self._averaged = [index for index, name in enumerate(self.names) if name in averaged]
        self._hold(torch.zeros(capacity, len(self.names), dtype=torch.float32, device=device))
        self._counts: list[int] = []

    def __len__(self) -> int:
        return len(self._counts)

    def push(self, values: list[torch.Tensor], count: int) -> None:
        """Append one row of 0-dimensional tensors, for a step that consumed `count` samples."""
        row = len(self._counts)
        if row == len(self._rows):
            self._hold(torch.cat([self._buffer, torch.zeros_like(self._buffer)]))
        torch.stack(values, out=self._rows[row])
        self._counts.append(count)

    def _hold(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer
        self._rows = buffer.unbind()  # a view of a row takes longer to make than to fill

    def drain(self, dist: Dist | None = None) -> tuple[dict[str, list[float]], list[int]]:
        """Return name -> one value per step, and the samples per step, since the last drain. One host copy.

        With more than one process, both are those of all processes together.
        """
        table = self._buffer[: len(self._counts)]
        counts, self._counts = self._counts, []
        if dist is not None and dist.world_size > 1:
            samples = torch.tensor(counts, dtype=torch.float64, device=table.device).unsqueeze(1)
            table = torch.cat([torch.where(samples > 0, table.double(), 0.0), samples], dim=1)
            table[:, self._averaged] *= samples
            dist.sum(table)
            table[:, self._averaged] /= table[:, -1:].clamp(min=1)
            counts = [int(count) for count in table[:, -1].tolist()]
            table = table[:, :-1]
        return dict(zip(self.names, table.T.tolist(), strict=True)), counts

    def state_dict(self) -> dict[str, Any]:
        """Return what was not drained yet."""
        return {
            "names": list(self.names),
            "rows": self._buffer[: len(self._counts)].cpu().clone(),
            "counts": list(self._counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned. Rows with other columns than these are dropped."""
        if tuple(state["names"]) != self.names:
            return
        rows: torch.Tensor = state["rows"]
        missing = max(0, rows.shape[0] - self._buffer.shape[0])
        if missing:
            self._hold(torch.cat([self._buffer, self._buffer.new_zeros(missing, len(self.names))]))
        self._buffer[: rows.shape[0]].copy_(rows)
        self._counts = list(state["counts"])


def merge_states(states: Sequence[Mapping[str, Any]], averaged: Collection[str] = ()) -> dict[str, Any]:
    """Return the states of several processes' series, of the same steps, as one process would have it.

    Args:
        states: what `StepSeries.state_dict` returned in each.
        averaged: which columns are means over a step's samples; the others are sums.
    """
    names = list(states[0]["names"])
    counts = torch.tensor([list(state["counts"]) for state in states], dtype=torch.float64).unsqueeze(-1)
    rows = torch.stack([torch.as_tensor(state["rows"]).double() for state in states])
    mean = torch.tensor([name in averaged for name in names])
    total = counts.sum(dim=0)
    # A process without samples at a step may have anything there.
    weighted = torch.where(counts > 0, rows * torch.where(mean, counts, torch.ones_like(counts)), 0.0)
    merged = weighted.sum(dim=0) / torch.where(mean, total, torch.ones_like(total))
    return {"names": names, "rows": merged.float(), "counts": [int(each) for each in total.flatten().tolist()]}
