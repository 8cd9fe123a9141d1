"""Every step's values: on the device, copied to the host once per log step."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from expkit.dist import Dist

__all__ = ["DeviceRows", "HostRows", "StepSeries", "merge_states"]


class DeviceRows:
    """Rows of scalars in a buffer on their device, float32.

    A row is one small copy there, without synchronisation. The buffer doubles when it is full, so that it need not be
    known how many rows there will be.

    Args:
        width: numbers of a row.
        device: where they are.
        capacity: rows at first.
    """

    def __init__(self, width: int, device: torch.device, capacity: int = 64) -> None:
        self._hold(torch.zeros(capacity, width, dtype=torch.float32, device=device))
        self._count = 0

    def append(self, values: list[torch.Tensor]) -> None:
        """Add a row of 0-dimensional tensors."""
        if self._count == len(self._rows):
            self._hold(torch.cat([self._buffer, torch.zeros_like(self._buffer)]))
        torch.stack(values, out=self._rows[self._count])
        self._count += 1

    def table(self) -> torch.Tensor:
        """Return the rows, shape (rows, width), on their device."""
        return self._buffer[: self._count]

    def replace(self, rows: torch.Tensor) -> None:
        """Hold other rows, shape (rows, width), instead."""
        if rows.shape[0] > len(self._rows):
            self._hold(self._buffer.new_zeros(rows.shape))
        self._buffer[: rows.shape[0]].copy_(rows)
        self._count = rows.shape[0]

    def _hold(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer
        self._rows = buffer.unbind()  # a view of a row takes longer to make than to fill


class HostRows:
    """Rows of scalars that are on the CPU already, float32: numbers, which take a third of the time of a tensor's copy.

    Args:
        width: numbers of a row.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._numbers = array("f")

    def append(self, values: list[torch.Tensor]) -> None:
        """Add a row of 0-dimensional tensors."""
        self._numbers.extend([value.item() for value in values])

    def table(self) -> torch.Tensor:
        """Return the rows, shape (rows, width)."""
        return torch.tensor(self._numbers, dtype=torch.float32).view(-1, self._width)

    def replace(self, rows: torch.Tensor) -> None:
        """Hold other rows, shape (rows, width), instead."""
        self._numbers = array("f", rows.flatten().tolist())


class StepSeries:
    """Collects a few scalars per step without waiting for the device; `drain` copies all of them at once.

    Args:
        names: what the columns are.
        device: where the values are made.
        averaged: which columns are means over a step's samples; the others are sums.
    """

    def __init__(self, names: Sequence[str], device: torch.device, averaged: Collection[str] = ()) -> None:
        self.names = tuple(names)
        self._averaged = [index for index, name in enumerate(self.names) if name in averaged]
        width = len(self.names)
        self._rows: HostRows | DeviceRows = HostRows(width) if device.type == "cpu" else DeviceRows(width, device)
        self._counts: list[int] = []

    def __len__(self) -> int:
        return len(self._counts)

    def push(self, values: list[torch.Tensor], count: int) -> None:
        """Append one row of 0-dimensional tensors, for a step that consumed `count` samples."""
        self._rows.append(values)
        self._counts.append(count)

    def drain(self, dist: Dist | None = None) -> tuple[dict[str, list[float]], list[int]]:
        """Return name -> one value per step, and the samples per step, since the last drain. One host copy.

        With more than one process, both are those of all processes together.
        """
        table = self._rows.table()
        counts, self._counts = self._counts, []
        if dist is not None and dist.world_size > 1:
            samples = torch.tensor(counts, dtype=torch.float64, device=table.device).unsqueeze(1)
            together = torch.cat([torch.where(samples > 0, table.double(), 0.0), samples], dim=1)
            together[:, self._averaged] *= samples
            dist.sum(together)
            together[:, self._averaged] /= together[:, -1:].clamp(min=1)
            counts = [int(count) for count in together[:, -1].tolist()]
            columns = together[:, :-1].T.tolist()
        else:
            columns = table.T.tolist()
        self._rows.replace(table[:0])
        return dict(zip(self.names, columns, strict=True)), counts

    def state_dict(self) -> dict[str, Any]:
        """Return what was not drained yet."""
        return {"names": list(self.names), "rows": self._rows.table().cpu().clone(), "counts": list(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned. Rows with other columns than these are dropped."""
        if tuple(state["names"]) != self.names:
            return
        self._rows.replace(state["rows"])
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
