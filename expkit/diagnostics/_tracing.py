"""What happens inside a model while it runs: outputs of its layers, and of the activation functions that it applies."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

__all__ = ["ACTIVATIONS", "Activation", "Tracer"]

#: Functions of torch, torch.nn.functional and Tensor, without the underscore of those that work in place.
ACTIVATIONS = {
    *("celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid"),
    *("mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign"),
    *("tanh", "tanhshrink", "threshold"),
}
_ALIASES = {"special_expit": "sigmoid", "log_sigmoid": "logsigmoid"}


@dataclasses.dataclass(frozen=True)
class Activation:
    """A place where a model applies an activation function.

    Attributes:
        module: path of the innermost module that applies it.
        function: one of `ACTIVATIONS`.
        number: which application it is, from 0, within one call of the nearest module around it that has weights. So
            a cell that is called at every time step has one place, an nn.ReLU that a block uses twice has two.
    """

    module: str
    function: str
    number: int


@dataclasses.dataclass
class _Call:
    """A call of a module that has begun."""

    module: nn.Module
    path: str
    weights: bool
    applied: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)


class Tracer(TorchFunctionMode):
    """Tells what happens in `model` while it is entered. Afterwards the model has the hooks that it had.

    It sees functions that are called from Python, in modules; not those inside of fused kernels (nn.LSTM), of compiled
    or of scripted code.

    Args:
        model: what is run, uncompiled.
        layer: called as `layer(path, output)` with each output of a module that owns weights.
        activation: called as `activation(place, arguments, options, output)` after each activation function.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Callable[[str, Tensor], None],
        activation: Callable[[Activation, Sequence[Any], Mapping[str, Any], Tensor], None],
    ) -> None:
        super().__init__()
        self._model = model
        self._layer = layer
        self._activation = activation
        self._calls: list[_Call] = []
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> Tracer:
        with contextlib.ExitStack() as hooks:
            for path, module in self._model.named_modules():
                names = [name for name in path.split(".") if name != "_orig_mod"]  # torch.compile's
                if "parametrizations" not in names:
                    self._watch(hooks, ".".join(names), module)
            super().__enter__()  # type: ignore[no-untyped-call]
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()
        self._calls.clear()

    def _watch(self, hooks: contextlib.ExitStack, path: str, module: nn.Module) -> None:
        weights = next(module.parameters(), None) is not None
        own = any(parameter is not None for parameter in module._parameters.values())
        owns = own or parametrize.is_parametrized(module)

        def begin(module: nn.Module, _: object) -> None:
            self._calls.append(_Call(module, path, weights))

        def end(module: nn.Module, _: object, output: object) -> None:
            if self._calls and self._calls[-1].module is module:
                self._calls.pop()
            first = output[0] if isinstance(output, tuple | list) and output else output
            if owns and _has_units(first):
                self._layer(path or type(module).__name__, first)

        for handle in (
            module.register_forward_pre_hook(begin, prepend=True),
            module.register_forward_hook(end, always_call=True),  # a model may catch what one of its modules raises
        ):
            hooks.callback(handle.remove)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        output = func(*args, **options)
        name = getattr(func, "__name__", "").rstrip("_")
        function = _ALIASES.get(name, name)
        # Of a parameter it is no activation: how a model keeps a number positive, say.
        of = args[0] if args else options.get("input")
        if function in ACTIVATIONS and self._calls and _has_units(output) and not isinstance(of, nn.Parameter):
            self._activation(self._place(function), args, options, output)
        return output

    def _place(self, function: str) -> Activation:
        path = self._calls[-1].path
        around = next((call for call in reversed(self._calls) if call.weights), self._calls[0])
        number = around.applied[path, function]
        around.applied[path, function] += 1
        return Activation(path, function, number)


def _has_units(output: object) -> TypeGuard[Tensor]:
    """Whether this is a tensor of numbers that has units."""
    return isinstance(output, Tensor) and output.ndim > 0 and output.numel() > 0 and output.is_floating_point()
