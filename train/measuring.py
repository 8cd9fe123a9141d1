"""The numbers of a record: means over the updates since the last one, and over the validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from expkit.dist import Dist
from expkit.errors import ConfigError
from train.data import Batches, to_device
from train.shares import in_step
from train.tasks.base import Task
from train.tasks.checking import checked
from train.update import Update

__all__ = ["training_metrics", "validation_means"]


def training_metrics(
    task: Task, table: Mapping[str, Sequence[float]], counts: Sequence[float]
) -> tuple[dict[str, float], dict[str, Sequence[float]]]:
    """Return metrics and series of the updates since the last record.

    Args:
        task: summarizes the means.
        table: what was logged -> its value for each update: the loss a mean, sums of the task's as they are.
        counts: samples or tokens of each update, not all 0.
    """
    total = sum(counts)
    losses = table["loss"]
    means = {"loss": sum(loss * count for loss, count in zip(losses, counts, strict=True)) / total}
    series = {"train_loss": losses}
    metrics: dict[str, float] = {}
    for name, values in table.items():
        if name == "gradient_norm":
            series[name], metrics[name] = values, values[-1]
        elif name == "skipped":
            metrics["skipped_steps"] = sum(values)
        elif name != "loss":
            means[name] = sum(values) / total
    return metrics | {f"train_{name}": value for name, value in task.summarize(means).items()}, series


@torch.no_grad()
def validation_means(task: Task, model: nn.Module, val: Batches, update: Update, dist: Dist) -> dict[str, float]:
    """Return the mean over the validation data of `loss` and of every sum that the task's step reports.

    Raises:
        ConfigError: what the step returned is not as it must be, or it counted nothing.
    """
    totals: torch.Tensor | None = None
    names: list[str] = []
    update.strategy.share_buffers(model)
    model.eval()
    updates = val.epoch(0)
    if update.strategy.is_sharded and val.is_shared_out:  # a forward pass is all ranks'
        updates = in_step(updates, dist)
    for batches in updates:
        for batch, weight in batches.pieces:
            with update.autocast():
                out = checked(task, task.step(model, to_device(batch, update.device)), training=False)
            names = ["loss", *out.sums]
            row = torch.stack([out.loss.float() * out.count, *(value.float() for value in out.sums.values())])
            row = torch.cat([row, row.new_tensor([out.count])])
            if not weight:  # a stand-in: the others have a sample more
                row = torch.zeros_like(row)
            row = row if update.device.type == "mps" else row.double()
            totals = row if totals is None else totals + row
    model.train()
    if totals is None:
        return {}
    *sums, count = dist.sum(totals).tolist()
    if not count:
        raise ConfigError(f"task: {type(task).__name__}.step counted no sample in all of the validation data")
    return {name: value / count for name, value in zip(names, sums, strict=True)}
