"""What saves the state of a training, each as its own documentation does, and made durable the same way: an fsync."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

__all__ = [
    "Dcp",
    "DcpAsync",
    "Lightning",
    "LightningAsync",
    "Safetensors",
    "Saver",
    "TorchAtomic",
    "TorchPlain",
    "TorchSynced",
]


class Saver(ABC):
    """Saves one model and its optimizer to one place, again and again.

    Args:
        folder: where to.
        model, optimizer: what.
    """

    #: As the tables call it.
    name: ClassVar[str]

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path = folder / type(self).__name__
        self.model, self.optimizer = model, optimizer

    @abstractmethod
    def save(self) -> None:
        """Return when it is on the disk, as far as this saver sees to that."""

    def begin(self) -> Callable[[], object]:
        """Return, when training may go on, what waits until it is on the disk: with most it is then."""
        self.save()
        return lambda: None

    def load(self) -> object:
        """Return what was saved, on the CPU."""
        return torch.load(self.path, weights_only=True)

    @property
    def state(self) -> dict[str, Any]:
        """What people put into a checkpoint."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class TorchPlain(Saver):
    """As in most scripts: the file is written over, and may not be on the disk yet."""

    name = "`torch.save`, as people write it"

    def save(self) -> None:
        """Write."""
        torch.save(self.state, self.path)


class TorchSynced(Saver):
    """Written over, and on the disk."""

    name = "`torch.save` and `fsync`"

    def save(self) -> None:
        """Write and wait for the disk."""
        _write(self.state, self.path)


class TorchAtomic(Saver):
    """Never half a file: the old one stays until the new one is on the disk."""

    name = "`torch.save` to another name, `fsync`, rename"

    def save(self) -> None:
        """Write, wait for the disk, rename, wait for the folder."""
        other = self.path.with_suffix(".tmp")
        _write(self.state, other)
        os.replace(other, self.path)
        _sync(self.path.parent)


class Lightning(Saver):
    """`Trainer.save_checkpoint`, which is what ModelCheckpoint calls; an fsync is added."""

    name = "Lightning `save_checkpoint`, and `fsync`"

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return optimizer

            def training_step(self, *_: Any) -> None:
                return None  # a step without a loss changes nothing

        super().__init__(folder, model, optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainer = lightning.Trainer(
                max_steps=1, max_epochs=1, limit_train_batches=1, accelerator="cpu", logger=False, barebones=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                plugins=self._plugins(),
            )  # fmt: skip
            self._trainer.fit(Module(), [torch.zeros(1)])

    def _plugins(self) -> list[Any]:
        return []

    def save(self) -> None:
        """Write as Lightning does: into memory, from there to another name, rename. Then wait for the disk."""
        self._trainer.save_checkpoint(self.path, weights_only=False)  # the optimizer, too
        _sync(self.path)


class LightningAsync(Lightning):
    """The same through `AsyncCheckpointIO`, which copies the state, and writes in a thread."""

    name = "Lightning `AsyncCheckpointIO`, and `fsync`"

    def _plugins(self) -> list[Any]:
        from lightning.pytorch.plugins.io import AsyncCheckpointIO

        self._writer = AsyncCheckpointIO()
        return [self._writer]

    def begin(self) -> Callable[[], object]:
        """Copy."""
        self._trainer.save_checkpoint(self.path, weights_only=False)

        def finish() -> None:
            self._writer.teardown()  # waits, and fails where the writing has
            _sync(self.path)

        return finish


class Safetensors(Saver):
    """Weights and moments as one flat file of tensors, which executes nothing when it is read."""

    name = "safetensors `save_file`, and `fsync`"

    def save(self) -> None:
        """Write over and wait for the disk."""
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        save_file(tensors, self.path)
        _sync(self.path)

    def load(self) -> object:
        """Return the tensors, read: the file is only mapped before somebody uses them."""
        from safetensors.torch import load_file

        return {name: tensor.clone() for name, tensor in load_file(self.path).items()}


class Dcp(Saver):
    """`torch.distributed.checkpoint` in one process; it waits for the disk by itself."""

    name = "torch.distributed.checkpoint `save`"

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(folder, model, optimizer)
        for message in ("torch.distributed is disabled", "Detected an existing checkpoint"):  # both are as meant
            warnings.filterwarnings("ignore", message=message)

    def save(self) -> None:
        """Write over."""
        import torch.distributed.checkpoint as dcp

        dcp.save(self.state, checkpoint_id=self.path, no_dist=True)

    def load(self) -> object:
        """Fill the tensors of the model and its optimizer."""
        import torch.distributed.checkpoint as dcp

        state = self.state
        dcp.load(state, checkpoint_id=self.path, no_dist=True)
        return state


class DcpAsync(Dcp):
    """The same, beside training."""

    name = "torch.distributed.checkpoint `async_save`"

    def begin(self) -> Callable[[], object]:
        """Copy."""
        import torch.distributed.checkpoint as dcp

        future: Any = dcp.async_save(self.state, checkpoint_id=self.path, no_dist=True)
        return future.result  # type: ignore[no-any-return]


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
