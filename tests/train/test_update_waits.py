"""An optimizer update never waits for the device."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from expkit.series import DeviceRows
from tests.train.helpers import FUSED, Regression, Run
from tests.train.test_update import SLOW, LargeNorm, Outlier, batches
from train.data import Batches, to_device


class _Operators(TorchDispatchMode):
    """Counts operators that copy a value to the host."""

    names = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select")
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.names
        return func(*args, **kwargs or {})


class HostReads(TorchFunctionMode):
    """Counts what would wait for a device: operators, and Tensor methods that read CPU memory without one."""

    methods = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")

    def __init__(self) -> None:
        self.count = 0
        self._operators = _Operators()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in self.methods
        return func(*args, **kwargs or {})

    def __enter__(self) -> HostReads:
        self._operators.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._operators.__exit__(*error)

    @property
    def total(self) -> int:
        return self.count + self._operators.count


class Stream:
    """Batches that are there already, so that nothing but training is seen."""

    def __init__(self, n: int) -> None:
        self.batches = batches(n)

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class WithoutValidation(Regression):
    def val_data(self) -> None:
        return None


def reading_steps(**options: Any) -> list[int]:
    """Return at which of 12 steps, logged every fourth, something was read on the host, with rows kept as on a GPU."""
    with pytest.MonkeyPatch.context() as patch, HostReads() as reads:
        patch.setattr("expkit.series.HostRows", lambda width: DeviceRows(width, torch.device("cpu")))
        totals = [0]
        run = Run(
            WithoutValidation(),
            data=Stream(12),
            parts={"plot": lambda runner, last: totals.append(reads.total)},
            log_interval=4,
            **options,
        )
        totals[0] = reads.total
        run.fit()
    return [step for step in range(1, 13) if totals[step] > totals[step - 1]]


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "sgd"])
def test_nothing_is_read_on_the_host_between_log_steps(optimizer: str, precision: str) -> None:
    schedule = functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda done: 0.9**done)
    guards = (Outlier(), LargeNorm(1e9))
    options = {"scheduler": schedule, "clip_grad_norm": 0.5, "guards": guards, "precision": precision}
    assert reading_steps(optimizer=FUSED[optimizer], **options) == [4, 8, 12]


def test_fused_momentum_waits_at_its_first_step_only() -> None:
    assert reading_steps(optimizer=FUSED["momentum"], guards=(Outlier(),)) == [1, 4, 8, 12]
    assert reading_steps(optimizer=FUSED["momentum"]) == [4, 8, 12]


def test_guards_of_other_optimizers_read_at_every_step() -> None:
    """So the counting above can fail."""
    assert reading_steps(optimizer=SLOW["adam-foreach"], guards=(Outlier(),)) == list(range(1, 13))


def test_evaluation_reads_the_host_once_however_many_batches() -> None:
    counts = []
    for n in (1, 12):
        run = Run()
        run.runner.val = Batches(Stream(n), batch_size=4)
        with HostReads() as reads:
            run.runner.evaluate()
        counts.append(reads.total)
    assert counts == [1, 1]


def test_tensors_are_moved_wherever_they_sit_in_a_batch() -> None:
    """A named tuple stays one, and what is no tensor is left alone."""
    from collections import namedtuple

    Pair = namedtuple("Pair", ["x", "y"])
    batch = {"pair": Pair(torch.ones(2), "text"), "list": [torch.ones(2), (torch.ones(2), 3)]}
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].x.is_meta
    assert moved["pair"].y == "text"
    assert moved["list"][0].is_meta
    assert moved["list"][1][0].is_meta
    assert moved["list"][1][1] == 3
