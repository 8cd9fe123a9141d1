"""The likely cause of a number that is none, in plain words, and what to do about it."""

from __future__ import annotations

import statistics

from train.cause.replay import Accident

__all__ = ["likely_cause"]

#: A batch is extreme if a value in it is so many times the largest of other batches.
_EXTREME = 1000.0
#: Updates are too large if half of the last few moved the weights by this share of their norm. A healthy run has about
#: 0.001, and 0.2 in its first steps.
_RATIO = 0.5
#: Weights have grown too much: since the checkpoint, and since the run began.
_GROWN, _GROWN_IN_ALL = 10.0, 100.0


def likely_cause(found: Accident) -> tuple[str, str, str]:
    """Return a word for the cause (bad_batch, learning_rate, overflow, loss), the cause for people, and what to do."""
    batch = _bad_batch(found)
    if batch:
        return (
            "bad_batch",
            f"bad batch: {batch}",
            (f"look at it: expkit batch RUN --step {found.step}; take the samples out, or repair them"),
        )
    rate = _learning_rate(found)
    if rate:
        lr = f" (it was {found.learning_rate:g})" if found.learning_rate is not None else ""
        return (
            "learning_rate",
            f"learning rate: {rate}",
            (f"take a smaller optimizer.lr{lr}, a warm-up, or trainer.clip_grad_norm=1"),
        )
    name = found.module or "the model"
    if found.kind == "loss":
        return (
            "loss",
            "the loss: a logarithm, root or quotient of what the model gives, or a mean over nothing",
            ("look at the task's step: keep logarithms and quotients from zero, take logits instead of probabilities"),
        )
    if found.kind in ("gradient", "gradient_norm"):
        return (
            "overflow",
            f"overflow in the backward pass of {name}: its values are finite, its derivative is not",
            ("a root, norm or quotient at zero, or a product too large: add an epsilon, or normalise what comes in"),
        )
    if found.kind == "weight":
        return (
            "overflow",
            f"overflow in the update of {name}: the gradient was finite, the optimizer's step was not",
            ("look at the optimizer's settings (eps, betas), and at trainer.clip_grad_norm"),
        )
    largest = f", up to {found.given.largest:.4g}" if found.given is not None else ""
    grown = ""
    if found.given is not None and found.given_before is not None and found.given_before.largest:
        times = found.given.largest / found.given_before.largest
        grown = f" ({times:.3g} times those of the step before)" if times > 2 else ""
    return (
        "overflow",
        f"overflow in {name}: its input is finite{largest}{grown}, and what it makes of it is not",
        ("normalise what comes in, bound it (an exponential, say), or compute this module with trainer.precision=32"),
    )


def _bad_batch(found: Accident) -> str:
    for name, seen in found.batch.items():
        if seen.nonfinite:
            which = f" (samples {', '.join(map(str, found.bad_samples[:8]))})" if found.bad_samples else ""
            return f"{seen.nonfinite} value(s) of {name} are not finite{which}"
    if found.targets_ignored and found.kind == "loss":
        return "every target is -100, which cross_entropy leaves out: the loss is a mean over nothing"
    for name, seen in found.batch.items():
        usual = found.usual.get(name, 0.0)
        if usual and seen.largest > _EXTREME * usual:
            return f"{name} goes up to {seen.largest:.4g}, where other batches have {usual:.4g} at most"
    return ""


def _learning_rate(found: Accident) -> str:
    first, start, now = found.weights
    if len(found.ratios) > 1 and statistics.median(found.ratios) >= _RATIO:
        each = ", ".join(f"{ratio:.2g}" for ratio in found.ratios)
        return f"the last updates before were {each} times as large as all weights together"
    if start and now > _GROWN * start:
        return f"the norm of all weights grew from {start:.4g} to {now:.4g} since the replay began"
    if first and now > _GROWN_IN_ALL * first:
        return f"the norm of all weights has grown from {first:.4g} to {now:.4g} since the run began"
    if found.ratios and found.ratios[-1] >= 10 * _RATIO:
        return f"the last update before was {found.ratios[-1]:.2g} times as large as all weights together"
    return ""
