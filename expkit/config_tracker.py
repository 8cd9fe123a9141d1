"""ConfigTracker: writes down what a run was (config.json) and what came out of it (results.json)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.environment import git_state, hardware, packages, slurm_ids
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json, write_json
from expkit.record import to_plain
from expkit.secrets import mask_arguments, mask_secrets

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ConfigTracker", "model_summary"]


def model_summary(model: nn.Module) -> dict[str, Any]:
    """Return class, parameters, trainable, and one entry per child module with its class and parameter count."""
    from expkit.checkpoints.state import unwrap

    model = unwrap(model)

    def count(module: nn.Module, trainable_only: bool = False) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)

    return {
        "class": _class_name(model),
        "parameters": count(model),
        "trainable": count(model, trainable_only=True),
        "children": {
            name: {"class": _class_name(child), "parameters": count(child)} for name, child in model.named_children()
        },
    }


def _class_name(module: nn.Module) -> str:
    """Return the name of its class; `fully_shard` puts one of its own before it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = type(module).__mro__
    return (kinds[2] if fsdp is not None and isinstance(module, fsdp.FSDPModule) else kinds[0]).__name__


class ConfigTracker:
    """Keeps config.json and results.json of one experiment.

    Args:
        experiment_dir: the run directory; made, if it is not there, by `save_config`.
    """

    def __init__(self, experiment_dir: Path | str) -> None:
        self.files = RunDir(experiment_dir)

    def save_config(
        self,
        config: Any,
        model: nn.Module | None = None,
        dataset_info: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> Path:
        """Write config.json: the configuration, and everything needed to know later what ran, on what.

        Args:
            config: hyperparameters: a mapping, dataclass, `argparse.Namespace` or OmegaConf container. Secret-sounding
                texts are masked, here and in all other fields.
            model: adds its class and parameter counts.
            dataset_info: whatever describes the data.
            extra: further fields (seed, parent, overrides ...).

        Returns:
            The path of config.json.

        Raises:
            UserError: something in it has no plain JSON form; the message says where it is.
        """
        plain = _plain(config, "config")
        content = {
            "experiment_id": self.files.id,
            "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
            # Arguments that are no UTF-8 hold what JSON cannot.
            "command": [text.encode(errors="backslashreplace").decode() for text in mask_arguments(sys.orig_argv)],
            **git_state(),
            "hardware": hardware(),
            "packages": packages(),
            "slurm": slurm_ids(),
            "seed": _seed(plain),
            "model": model_summary(model) if model is not None else None,
            "dataset": _plain(dataset_info or {}, "dataset_info"),
            "config": plain,
            **{name: _plain(value, name) for name, value in extra.items()},
        }
        self.files.root.mkdir(parents=True, exist_ok=True)
        write_json(self.files.config, content)
        return self.files.config

    def add_to_config(self, **fields: Any) -> None:
        """Add fields to config.json, or replace them: what is known only later (the data, say)."""
        write_json(
            self.files.config,
            {**self.load_config(), **{name: _plain(value, name) for name, value in fields.items()}},
        )

    def load_config(self) -> dict[str, Any]:
        """Return the content of config.json.

        Raises:
            UserError: there is none, or it is no JSON.
        """
        return read_json(self.files.config)

    def save_results(
        self,
        final_metrics: Mapping[str, Any],
        best_checkpoint: str | Path | None = None,
        generation_samples: Sequence[Any] | None = None,
        training_history: Sequence[Mapping[str, Any]] | None = None,
    ) -> Path:
        """Write results.json atomically: a reader never sees half of it.

        Args:
            final_metrics: name -> number; NaN and infinities become null.
            best_checkpoint: path of the best checkpoint; one inside the run directory is written relative to it.
            generation_samples: what the model made (texts, say, or paths of pictures).
            training_history: one entry per evaluation; what an earlier call wrote is kept if not given.

        Returns:
            The path of results.json.

        Raises:
            UserError: `final_metrics` are no names and values.
        """
        given: object = final_metrics
        if not isinstance(given, Mapping):
            what = type(given).__name__
            raise UserError(f"final_metrics is of type {what}: give names and numbers, as {{'val_loss': 0.5}}")
        if training_history is None:
            before = read_json(self.files.results) if self.files.results.exists() else {}
            training_history = before.get("training_history", [])
        content = {
            "experiment_id": self.files.id,
            "training_history": to_plain(training_history),
            "final_metrics": to_plain(final_metrics),
            "best_checkpoint": None if best_checkpoint is None else _inside(self.files.root, best_checkpoint),
            "generation_samples": to_plain(generation_samples or []),
        }
        write_json(self.files.results, content)
        return self.files.results

    def load_results(self) -> dict[str, Any]:
        """Return the content of results.json.

        Raises:
            UserError: there is none, or it is no JSON.
        """
        return read_json(self.files.results)


def _plain(value: Any, name: str) -> Any:
    from expkit.checkpoints.state import plain_config

    return mask_secrets(plain_config(value, name), name)


def _inside(root: Path, path: str | Path) -> str:
    try:
        return str(Path(path).absolute().relative_to(root.absolute()))
    except ValueError:
        return str(path)


def _seed(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return None
    places = (config.get("trainer"), config.get("training"), config)
    return next((place["seed"] for place in places if isinstance(place, Mapping) and "seed" in place), None)
