"""The bundled language model: a small transformer that predicts the next character, or byte, of a text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from expkit.errors import ConfigError, ResumeError
from train.data import mix
from train.faults import Fault, planted
from train.models.gpt import generate
from train.tasks.base import StepOutput, Task, build_fitting, check_data
from train.tasks.text_data import TextData, TextWindows

__all__ = ["GPTTask"]

_SAMPLES = 6
_EXP_OVERFLOWS = 700
#: Metric -> the method that a model has if it can tell it.
_MODEL_METRICS = {"wave_ratio": "get_wave_ratio", "coherence_loss": "get_coherence_loss"}


class GPTTask(Task):
    """Minimise the mean cross-entropy of the next token, in nats.

    Logged besides: perplexity = exp(loss), per character with task.data.level=char, per byte with byte: these are not
    to be compared with each other, nor with perplexities per word. Of a model with waves (`train/models/wave.py`) also
    wave_ratio and coherence_loss.

    The model keeps the vocabulary in a buffer, `vocabulary`: a checkpoint holds it, and one with another vocabulary is
    refused, for its tokens mean something else.

    Args:
        data: the text.
        model: makes the model, which maps tokens, (batch, length), to logits, (batch, length, vocab_size). It is given
            `vocab_size` and `context_length`, those of them that it has parameters for.
        prompt: what samples begin with; None: a new line, or the first character of a text without one.
        num_samples: texts to generate at the end of a run.
        sample_length: tokens to generate for each.
        temperature: of sampling; at 0 the most likely token is taken.
        fault: what is wrong with the training data, on purpose (`train/faults.py`).

    Raises:
        ConfigError: naming the key; a value that cannot be.
    """

    unit = "tokens"

    def __init__(
        self,
        data: TextData,
        model: Callable[..., nn.Module],
        prompt: str | None = None,
        num_samples: int = 3,
        sample_length: int = 200,
        temperature: float = 0.8,
        fault: Fault | None = None,
    ) -> None:
        check_data("gpt", data, TextData, "task/data=text")
        for key, value in (("num_samples", num_samples), ("sample_length", sample_length)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"task.{key}={value}: a whole number, 0 or more")
        if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
            raise ConfigError(f"task.temperature={temperature}: a number, 0 or more")
        self.data = data
        self.model = model
        self.prompt = prompt
        self.num_samples = num_samples
        self.sample_length = sample_length
        self.temperature = temperature
        self.fault = fault

    def build_model(self) -> nn.Module:
        """Return a new model, with the vocabulary in a buffer."""
        data = self.data
        self._prompt()  # what the text does not have is said now, not after training
        known = {"vocab_size": data.vocab_size, "context_length": data.context_length}
        tokens = torch.zeros(1, data.context_length, dtype=torch.int64)
        logits = (1, data.context_length, data.vocab_size)
        model = build_fitting("gpt", self.model, tokens, logits, "task/model=gpt or wave", **known)
        model.register_buffer("vocabulary", data.vocabulary.clone())
        check = functools.partial(_check_vocabulary, data.source)
        model.register_load_state_dict_pre_hook(check)  # type: ignore[no-untyped-call]
        return model

    def train_data(self) -> Any:
        """Return the training windows."""
        return planted(self.data.train(), self.fault)

    def val_data(self) -> TextWindows:
        """Return the validation windows."""
        return self.data.val()

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss of a batch of pairs, each (batch, context_length)."""
        inputs, targets = batch
        logits = model(inputs).float()
        return StepOutput(F.cross_entropy(logits.flatten(0, 1), targets.flatten()), {}, targets.numel())

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Add perplexity, which is no mean; infinite where a float cannot hold it."""
        loss = means["loss"]
        return {**means, "perplexity": math.inf if loss > _EXP_OVERFLOWS else math.exp(loss)}  # NaN stays NaN

    def model_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return `wave_ratio` and `coherence_loss` of a model that has `get_wave_ratio` and `get_coherence_loss`."""
        return {name: getattr(model, get)() for name, get in _MODEL_METRICS.items() if hasattr(model, get)}

    def describe_data(self) -> dict[str, Any]:
        """Return what config.json says about the data."""
        return self.data.describe()

    def describe_batch(self, batch: Any) -> list[str]:
        """Return the text of each window, and what follows it."""
        return [repr(self.data.decode(row)) for row in torch.cat([batch[0], batch[1][:, -1:].clamp(min=0)], dim=1)]

    def samples(self, model: nn.Module) -> list[str]:
        """Return texts that the model generates, always the same for the same weights and seed."""
        device = next(model.parameters()).device
        prompts = self._prompt().to(device).expand(self.num_samples, -1)
        generator = torch.Generator().manual_seed(mix(_SAMPLES, self.data.seed))
        tokens = generate(model, prompts, self.sample_length, self.data.context_length, self.temperature, generator)
        return [self.data.decode(row) for row in tokens]

    def _prompt(self) -> torch.Tensor:
        if not self.prompt:
            return self.data.encode("\n" if "\n" in self.data.text else self.data.text[0])
        try:
            return self.data.encode(str(self.prompt))
        except ValueError as error:
            raise ConfigError(f"task.prompt={self.prompt}: {error}: choose another, or null for a new line") from None


def _check_vocabulary(source: str, model: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint of another vocabulary. A hook that runs before a model's state is loaded."""
    if f"{prefix}vocabulary" not in state:
        return  # of another kind of model: torch says what does not fit
    own, saved = (set(codes.tolist()) for codes in (model.get_buffer("vocabulary"), state[f"{prefix}vocabulary"]))
    if own != saved:
        raise ResumeError(
            f"{source} does not have the vocabulary that the run was trained on ({len(saved)} tokens then, {len(own)} "
            f"now, and {chr(min(own ^ saved))!r} is not in both): give the text and task.data.level that it had, or "
            "start a fresh run"
        )
