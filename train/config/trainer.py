"""The `trainer` and `run` sections of the configuration, checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf

from expkit.errors import ConfigError, UserError
from expkit.timelimit import duration

__all__ = ["UNKNOWN_STEPS", "TrainerConfig", "check_run"]

#: Stands for the number of updates of a run whose data loader has no length.
UNKNOWN_STEPS = 2**62

_PRECISIONS = ("32", "bf16", "fp16")
_STRATEGIES = ("auto", "ddp", "fsdp")


@dataclass(frozen=True)
class TrainerConfig:
    """How a run trains. The keys are explained in conf/config.yaml.

    Raises:
        ConfigError: a value that cannot work, or (in `from_mapping`) a key that does not exist.
    """

    max_epochs: int | None = 10
    max_steps: int | None = None
    batch_size: int = 64
    grad_accumulation: int = 1
    clip_grad_norm: float | None = None
    log_interval: int | Literal["auto"] = "auto"
    eval_interval: int | Literal["epoch"] = "epoch"
    precision: str = "32"
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    deterministic: bool = False
    num_workers: int = 0
    threads: int | None = None
    drop_last: bool = False
    diagnostics_budget: float | None = 0.05
    processes: int | None = None
    strategy: str = "auto"
    timeout: float | str = 600
    find_unused_parameters: bool = False
    fsdp_blocks: Sequence[str] = ()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainerConfig:
        """Return the configuration that `values` describe."""
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1)
                hint = f"did you mean trainer.{close[0]}?" if close else f"trainer has {', '.join(names)}"
                raise ConfigError(f"there is no trainer.{key}: {hint}")
        return cls(**{**values, "precision": str(values.get("precision", "32"))})

    def __post_init__(self) -> None:
        for key, word in (
            ("max_epochs", None),
            ("max_steps", None),
            ("clip_grad_norm", None),
            ("threads", None),
            ("processes", None),
            ("log_interval", "auto"),
            ("eval_interval", "epoch"),
        ):
            value = getattr(self, key)
            if value != word:
                self._check_number(key, value, 0, exclusive=True, integer=key != "clip_grad_norm", word=word)
        for key, least in (("batch_size", 1), ("grad_accumulation", 1), ("num_workers", 0), ("seed", 0)):
            self._check_number(key, getattr(self, key), least, exclusive=False, integer=True)
        for key in ("compile", "deterministic", "drop_last", "find_unused_parameters"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"trainer.{key}={getattr(self, key)}: it must be true or false")
        if self.seed >= 2**63:
            raise ConfigError(f"trainer.seed={self.seed}: generators take seeds below 2**63")
        if self.diagnostics_budget is not None:
            budget = self.diagnostics_budget
            self._check_number("diagnostics_budget", budget, 0, exclusive=True, integer=False, word="null")
            if self.diagnostics_budget >= 1:
                raise ConfigError(
                    f"trainer.diagnostics_budget={self.diagnostics_budget}: it is a share of the time, below 1; "
                    "null is no limit"
                )
        if self.max_epochs is None and self.max_steps is None:
            raise ConfigError("trainer.max_epochs and trainer.max_steps are both null: set one, or the run never ends")
        if self.strategy not in _STRATEGIES:
            raise ConfigError(
                f"trainer.strategy={self.strategy}: choose ddp (a copy of the model in each process), fsdp (a part of "
                "it in each), or auto, which is ddp where there are several processes"
            )
        blocks = self.fsdp_blocks
        if isinstance(blocks, str) or not all(isinstance(each, str) for each in blocks or ()):
            raise ConfigError(f"trainer.fsdp_blocks={blocks}: it must be a list of class names: [Block]")
        self.wait  # noqa: B018 - says what is no time
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"trainer.precision={self.precision}: choose 32, or one of 16 bits: bf16 or fp16")

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Return after how many updates a run ends, or `UNKNOWN_STEPS`.

        Args:
            steps_per_epoch: updates of an epoch, or None if the data loader does not tell.
        """
        limits = [self.max_steps] if self.max_steps is not None else []
        if self.max_epochs is not None and steps_per_epoch is not None:
            limits.append(self.max_epochs * steps_per_epoch)
        return min(limits, default=UNKNOWN_STEPS)

    @property
    def wait(self) -> float:
        """Seconds that processes wait for each other."""
        try:
            seconds = duration(self.timeout)
        except UserError:
            seconds = 0.0
        if not seconds >= 1:
            raise ConfigError(f"trainer.timeout={self.timeout}: it must be a time of at least a second: 600, or 10min")
        return seconds

    def torch_device(self, local_rank: int | None = None) -> torch.device:
        """Return the device to train on; `auto` takes CUDA, then MPS, then the CPU.

        Args:
            local_rank: number of this process among those of its machine, where there are several: each takes a GPU
                of its own.

        Raises:
            ConfigError: there is no such device here.
        """
        if self.device in ("auto", "cuda") and local_rank is not None and torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count())  # or the only one that it sees
        if self.device == "auto":
            if torch.cuda.is_available():
                return torch.device("cuda")
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            raise ConfigError(f"trainer.device={self.device}: choose auto, cpu, cuda (a GPU), cuda:N or mps") from None
        there = {
            "cpu": 1,
            "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "mps": int(torch.backends.mps.is_available()),
        }.get(device.type, 0)
        if (device.index or 0) < there:
            return device
        count = f"{there or 'no'} such device{'' if there == 1 else 's'}"
        built = "; this build of torch is without CUDA" if device.type == "cuda" and not torch.version.cuda else ""
        raise ConfigError(
            f"trainer.device={self.device}: this machine has {count}{built}; trainer.device=auto takes what is there"
        )

    def _check_number(
        self, key: str, value: Any, least: float, exclusive: bool, integer: bool, word: str | None = None
    ) -> None:
        kind = "a whole number" if integer else "a number"
        right = isinstance(value, int) or (not integer and isinstance(value, float))
        if isinstance(value, bool) or not right or not (value > least if exclusive else value >= least):
            bound = f"more than {least}" if exclusive else f"at least {least}"
            other = f", or {word}" if word else ""
            raise ConfigError(f"trainer.{key}={value}: it must be {kind}, {bound}{other}")


def check_run(section: Any) -> None:
    """Check the `run` section of a configuration.

    Raises:
        ConfigError: a value that cannot work.
    """
    if not isinstance(section, DictConfig):
        raise ConfigError(f"run={section}: this is a whole section; set run.KEY=... in it")
    values = cast("dict[str, Any]", OmegaConf.to_container(section, resolve=True))
    for key in ("project", "name", "outputs"):
        _check_text(key, values.get(key), optional=False)
    for key in ("variant", "group", "notes"):
        _check_text(key, values.get(key), optional=True)
    tags = values.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str | int | float) for tag in tags):
        shown = "null" if tags is None else tags
        raise ConfigError(f"run.tags={shown}: it must be a list, run.tags=[one,two], or [] for none")
    least = values.get("min_free_gb")
    if isinstance(least, bool) or not isinstance(least, int | float) or not least >= 0:
        raise ConfigError(f"run.min_free_gb={least}: it must be a number of GB, at least 0")


def _check_text(key: str, value: Any, optional: bool) -> None:
    if isinstance(value, str) and (value or optional):
        return
    if isinstance(value, int | float):
        raise ConfigError(f"run.{key}={value}: it must be a text: with quotes, twice, 'run.{key}=\"{value}\"'")
    if value is not None or not optional:
        raise ConfigError(f"run.{key}={'null' if value is None else value}: it must be a text")
