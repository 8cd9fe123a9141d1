"""A profile as Markdown, with JSON and a picture beside it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sweeps.profile.choose import Recommendation, recommend, with_equal_time
from sweeps.profile.result import Profile

__all__ = ["Report", "row"]

_HEAD = ("Batch Size", "Time/Epoch", "GPU Memory", "Samples/Sec", "Final Train Loss", "Final Test Loss", "Status")


@dataclass
class Report:
    """What a profile says.

    Args:
        title: what was trained.
        epochs: of each size.
        profiles: what was measured; put in order of size.
        typed: overrides to type before the one that is recommended; None if the configuration cannot be typed.
        interrupted: whether sizes are missing.
        memory_limit_gb: the limit that was set, or None.
    """

    title: str
    epochs: float
    profiles: Sequence[Profile]
    typed: Sequence[str] | None = ()
    interrupted: bool = False
    memory_limit_gb: float | None = None
    recommendation: Recommendation = field(init=False)
    equal_time: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.profiles = sorted(self.profiles, key=lambda each: each.batch_size)
        self.equal_time = with_equal_time(self.profiles)
        self.recommendation = recommend(self.profiles)

    @property
    def chosen(self) -> Profile | None:
        """The profile of the recommended size."""
        return next((each for each in self.profiles if each.batch_size == self.recommendation.batch_size), None)

    @property
    def use(self) -> str:
        """What to type to train with the recommended size, or ""."""
        override = self.recommendation.plain()["override"]
        if override is None or self.typed is None:
            return override or ""
        return " ".join(["python -m train", *map(shlex.quote, self.typed), override])

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "title": self.title,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "device": self._device,
            "epochs": self.epochs,
            "memory_limit_gb": self.memory_limit_gb,
            "interrupted": self.interrupted,
            "equal_time_seconds": self.equal_time,
            "profiles": [each.plain() for each in self.profiles],
            "recommendation": self.recommendation.plain(),
        }

    def markdown(self, picture: str | None = None) -> str:
        """Return it as Markdown."""
        parts = [f"# Batch Size Profile: {self.title}", self._where(), table(_HEAD, map(row, self.profiles))]
        if self.interrupted:
            parts.append("**Interrupted**: sizes that are not in the table were not measured.")
        parts += [f"- {each.batch_size:,}: {each.status}: {each.message}" for each in self.profiles if each.message]
        parts += ["## Recommendation", *self._recommended()]
        if picture is not None:
            parts.append(f"![Throughput and memory against batch size]({picture})")
        parts += ["## In detail", self._details(), self._losses(), _HOW]
        return "\n\n".join(filter(None, parts)) + "\n"

    @property
    def _device(self) -> str:
        return next((each.device for each in self.profiles if each.device), "")

    def _where(self) -> str:
        first = next((each for each in self.profiles if each.samples), None)
        data = f"{first.samples:,} training samples; " if first is not None else ""
        limit = f"; memory limit {self.memory_limit_gb:g} GB" if self.memory_limit_gb else ""
        epochs = f"{self.epochs:g} epoch{'s' if self.epochs != 1 else ''}"
        return f"{data}{epochs} of each size{f' on {self._device}' if self._device else ''}{limit}."

    def _recommended(self) -> list[str]:
        chosen, found = self.chosen, self.recommendation
        if chosen is None:
            return [f"None: {found.why}."]
        best = max(each.samples_per_second or 0.0 for each in self.profiles if each.ok)
        rate = chosen.samples_per_second or 0.0
        share = (
            ""
            if found.best == chosen.batch_size
            else f" ({100 * rate / best:.1f} % of the best, {best:,.0f} at {found.best:,})"
        )
        memory = "GPU memory usage" if chosen.gpu_memory_gb is not None else "Memory usage (resident set)"
        points = [
            f"{'Best throughput' if found.best == chosen.batch_size else 'Throughput'}: {rate:,.0f} samples/sec{share}",
            f"Time per epoch: {seconds(chosen.time_per_epoch)}",
            f"{memory}: {_memory(chosen)}"
            + (
                f" ({100 * chosen.memory_share:.1f} % of {chosen.memory_total_gb:.1f} GB)"
                if chosen.memory_share
                else ""
            ),
            f"Final test loss: {loss(chosen.final_test_loss)}",
            f"Why: {found.why}",
        ]
        notes = [f"Note: {note}." for note in found.notes]
        return [
            f"**Optimal batch size: {chosen.batch_size:,}**",
            "\n".join(f"- {point}" for point in points),
            *notes,
            f"Use it: `{self.use}`",
        ]

    def _details(self) -> str:
        head = ["Batch Size", "Step (median)", "Step (IQR)", "Steps timed", "Noise scale", "Peak RSS"]
        cuda = any(each.gpu_memory_gb is not None for each in self.profiles)
        head += ["Allocated", "Reserved", "Of the GPU", "Retries"] if cuda else ["Of the memory"]
        rows = []
        for each in self.profiles:
            scale = "-" if each.noise_scale is None else f"{each.noise_scale:,.0f}"
            cells = [
                f"{each.batch_size:,}",
                seconds(each.step_time),
                seconds(each.step_time_iqr),
                f"{each.timed_steps:,}",
            ]
            cells += [scale, _gb(each.rss_gb)]
            share = "-" if each.memory_share is None or not each.ok else f"{100 * each.memory_share:.1f} %"
            retries = "-" if each.alloc_retries is None else str(each.alloc_retries)
            cells += [_gb(each.allocated_gb), _gb(each.reserved_gb), share, retries] if cuda else [share]
            rows.append(cells)
        return table(head, rows)

    def _losses(self) -> str:
        measured = [each for each in self.profiles if each.ok and each.curve]
        if not measured or self.equal_time is None:
            return ""
        after, time = f"{measured[0].curve[-1][0]:,} samples", seconds(self.equal_time)
        head = ["Batch Size", "Updates", f"Train, {after}", f"Test, {after}", f"Train, {time}", f"Test, {time}"]
        rows = []
        for each in measured:
            values = [
                each.final_train_loss,
                each.final_test_loss,
                each.train_loss_equal_time,
                each.test_loss_equal_time,
            ]
            rows.append([f"{each.batch_size:,}", f"{each.updates:,}", *map(loss, values)])
        return "Losses after equal samples, and after equal time (that of the fastest size):\n\n" + table(head, rows)


_HOW = """\
How it was measured: each size trained in a process of its own, by the same step as `python -m train`. After 10 updates
to warm up, the device was waited for, and updates were timed in blocks of at least 50 ms; the median over blocks is the
step time, IQR their interquartile range, and samples/sec is the batch size by it. Time/epoch is without evaluation.
Memory is the peak: of a GPU what nvidia-smi shows of the process, without one the resident set (RSS). Train losses are
means over the last tenth of the samples. Recommended is the smallest size with at least 95 % of the best throughput and
at most 85 % of the memory."""


def row(profile: Profile) -> list[str]:
    """Return a size's cells in the table of the report."""
    if profile.ok:
        cells = [seconds(profile.time_per_epoch), _memory(profile), f"{profile.samples_per_second:,.0f}"]
        cells += [loss(profile.final_train_loss), loss(profile.final_test_loss)]
    elif profile.status == "TIMEOUT" and profile.samples_per_second:
        cells = [seconds(profile.time_per_epoch), _memory(profile), f"{profile.samples_per_second:,.0f}", "-", "-"]
    else:
        cells = ["OOM" if profile.oom_error else "-", "-", "-", "-", "-"]
    return [f"{profile.batch_size:,}", *cells, profile.status]


def table(head: Sequence[str], rows: Any) -> str:
    """Return a Markdown table whose columns stand below one another."""
    lines = [list(head), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    said = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([said[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *said[1:]])


def seconds(value: float | None) -> str:
    """Return a time for people."""
    if value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.1f}s" if value < 600 else f"{value / 60:.1f} min"


def loss(value: float | None) -> str:
    """Return a loss for people."""
    if value is None or math.isfinite(value):
        return "-" if value is None else f"{value:.4f}"
    return str(value)


def _memory(profile: Profile) -> str:
    return _gb(profile.memory_gb) + (" RSS" if profile.gpu_memory_gb is None and profile.rss_gb is not None else "")


def _gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} GB" if value >= 1 else f"{value:.2f} GB"
