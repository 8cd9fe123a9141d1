"""What happens inside a model while it computes an update: where the first number appears that is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Range", "Sight", "Watch"]


@dataclass
class Range:
    """Smallest and largest of some numbers, and how many of them are not finite."""

    low: float = float("inf")
    high: float = float("-inf")
    nonfinite: int = 0

    @property
    def largest(self) -> float:
        """The largest absolute value; 0 without any."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    def add(self, value: Tensor) -> bool:
        """Take the numbers of a tensor. Return whether all are finite."""
        if not value.numel():
            return True
        value = value.detach()
        low, high = (float(each) for each in torch.stack(value.aminmax()).tolist())
        finite = abs(low) != float("inf") and abs(high) != float("inf") and low == low
        if not finite:
            kept = value[torch.isfinite(value)]
            self.nonfinite += value.numel() - kept.numel()
            if not kept.numel():
                return False
            low, high = float(kept.min()), float(kept.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        return finite

    def __str__(self) -> str:
        text = f"{self.low:.4g} to {self.high:.4g}" if self.low <= self.high else "nothing finite"
        return f"{text}, and {self.nonfinite} not finite" if self.nonfinite else text


@dataclass(frozen=True)
class Sight:
    """Something that is not finite.

    Attributes:
        kind: input or output (of a module, in the forward pass), gradient (in the backward pass).
        module: path of the module; "" for the whole model.
        what: which gradient: a parameter's name, "its input" or "its output"; "" in the forward pass.
        inside: for an input, the module whose own code has made it; None where it came with the batch.
    """

    kind: str
    module: str
    what: str = ""
    inside: str | None = None

    @property
    def spoils(self) -> bool:
        """Whether it is the gradient of a parameter: others may be covered up before they do harm."""
        return self.kind == "gradient" and self.what not in ("its input", "its output")


@dataclass
class _Seen:
    """What was seen in one update."""

    sights: list[Sight] = field(default_factory=list)
    inputs: dict[str, Range] = field(default_factory=dict)


class Watch:
    """Looks at the inputs and outputs of each module, and at the gradients of all of them, while it is entered.

    Gradients are looked at by hooks of tensors, not of modules: those do not go with operations in place.

    Args:
        model: what is trained, not compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen = _Seen()
        self._running: list[str] = []
        #: Who has made a tensor or takes it, with the tensor, so that its id stays its own; anew once it was changed.
        self._roles: dict[tuple[int, int], tuple[Tensor, list[tuple[str, str]]]] = {}
        self._hooks = contextlib.ExitStack()

    @property
    def sights(self) -> list[Sight]:
        """What was not finite in this update, in the order of time."""
        return self._seen.sights

    @property
    def inputs(self) -> Mapping[str, Range]:
        """Module -> range of what it was given in this update."""
        return self._seen.inputs

    def begin(self) -> None:
        """Begin with another update."""
        self._seen = _Seen()
        self.piece()

    def piece(self) -> None:
        """Begin with another piece of an update: forget the tensors of the one before."""
        self._running.clear()
        self._roles.clear()

    def __enter__(self) -> Watch:
        hooks = self._hooks
        for path, module in self._model.named_modules():
            for handle in (
                module.register_forward_pre_hook(self._before(path), prepend=True, with_kwargs=True),
                module.register_forward_hook(self._after(path), always_call=True),
            ):
                hooks.callback(handle.remove)
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                handle = parameter.register_hook(self._of_parameter(name))  # type: ignore[no-untyped-call]
                hooks.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        self.piece()

    def _before(self, path: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            given = self._seen.inputs.setdefault(path, Range())
            finite = [given.add(tensor) for tensor in _floats((arguments, options))]
            if not all(finite):
                self._seen.sights.append(Sight("input", path, inside=self._running[-1] if self._running else None))
            self._running.append(path)
            for tensor in _floats((arguments, options)):
                self._follow(tensor, path, "input")

        return hook

    def _after(self, path: str) -> Any:
        def hook(_: nn.Module, __: object, output: Any) -> None:
            while self._running and self._running.pop() != path:  # a module inside of it has raised
                pass
            tensors = list(_floats(output))
            if not all([Range().add(tensor) for tensor in tensors]):
                self._seen.sights.append(Sight("output", path))
            for tensor in tensors:
                self._follow(tensor, path, "output")

        return hook

    def _follow(self, tensor: Tensor, path: str, role: str) -> None:
        """Look at the gradient of `tensor` when it is there."""
        if not tensor.requires_grad or not torch.is_grad_enabled():
            return
        key = id(tensor), tensor._version
        if key in self._roles:
            self._roles[key][1].append((path, role))
            return
        roles = [(path, role)]
        self._roles[key] = tensor, roles

        def hook(gradient: Tensor) -> None:
            if not Range().add(gradient):
                # The module that took the tensor last is where the gradient came through first.
                taken = [path for path, role in roles if role == "input"]
                where, what = (taken[-1], "input") if taken else (roles[0][0], "output")
                self._seen.sights.append(Sight("gradient", where, f"its {what}"))

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _of_parameter(self, name: str) -> Any:
        module, _, own = name.rpartition(".")

        def hook(gradient: Tensor) -> None:
            if not Range().add(gradient.to_dense() if gradient.layout is not torch.strided else gradient):
                self._seen.sights.append(Sight("gradient", module, own))

        return hook


def _floats(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of real numbers in what a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)
