"""Planted faults: where they are asked for and nowhere else, the same in every piece and after a resume."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.errors import ConfigError
from expkit.journal import read_journal, stable
from tests.conftest import SMALL, Train
from train.cli.main import rewrite
from train.data import Batches
from train.faults import FewSamples, NotFinite, WrongTargets, planted
from train.tasks.classify_data import LabelledImages
from train.tasks.text_data import TextWindows

N, BATCH = 22, 4
IMAGES = LabelledImages(torch.rand(N, 1, 2, 2), torch.arange(N))
WINDOWS = TextWindows(torch.arange(N * 3 + 4), 3, seed=5)


def updates(data: Any, epochs: int = 2, pieces: int = 1) -> list[Any]:
    """Return the batches of all updates, pieces put together."""
    batches = Batches(data, BATCH, seed=3, pieces=pieces)
    found = itertools.chain.from_iterable(batches.epoch(epoch) for epoch in range(epochs))
    return [tuple(map(torch.cat, zip(*(batch for batch, _ in each.pieces), strict=True))) for each in found]


def changed(one: list[Any], other: list[Any], part: int) -> list[int]:
    """Return the updates, from 1, that differ in their inputs (0) or targets (1)."""
    pairs = enumerate(zip(one, other, strict=True), start=1)
    return [number for number, (a, b) in pairs if not torch.equal(a[part], b[part])]


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(("step", "steps"), [(1, 1), (5, 3), (8, 1), (12, 9)])
def test_exactly_the_batches_asked_for_are_bad(step: int, steps: int, pieces: int) -> None:
    clean = updates(IMAGES, pieces=pieces)
    wanted = [each for each in range(step, step + steps) if each <= len(clean)]
    bad = updates(planted(IMAGES, NotFinite(step, steps, seed=3, batch_size=BATCH)), pieces=pieces)
    assert changed(clean, bad, 0) == wanted
    assert changed(clean, bad, 1) == []
    for number in wanted:
        assert torch.isnan(bad[number - 1][0]).flatten(1).all(dim=1).sum() == 1  # one sample of each
    wrong = updates(planted(IMAGES, WrongTargets(step, steps, seed=3, batch_size=BATCH)), pieces=pieces)
    assert changed(clean, wrong, 0) == []
    assert changed(clean, wrong, 1) == wanted
    assert all((wrong[each - 1][1] != clean[each - 1][1]).all() for each in wanted)
    assert bool(torch.isfinite(IMAGES.images).all())  # the data themselves are as they were


def test_of_tokens_no_target_counts() -> None:
    clean, bad = (updates(data) for data in (WINDOWS, planted(WINDOWS, NotFinite(2, seed=3, batch_size=BATCH))))
    assert changed(clean, bad, 0) == []
    assert changed(clean, bad, 1) == [2]
    assert bool((bad[1][1] == -100).all())


def test_few_samples_some_with_the_target_of_another() -> None:
    data = planted(IMAGES, FewSamples(10, wrong=0.2))
    assert len(data) == 10
    assert [int(data[index][1]) for index in range(10)] == [0, 1, 2, 3, 3, 5, 6, 7, 8, 8]
    assert torch.equal(data[4][0], IMAGES[4][0])
    assert len(planted(IMAGES, FewSamples(1000))) == N


def test_a_sample_alone_is_what_it_is_in_a_batch() -> None:
    data = planted(IMAGES, NotFinite(1, seed=3, batch_size=BATCH))
    data.set_epoch(0)
    inputs, targets = data.batch(range(N))
    for index in range(N):
        assert torch.equal(data[index][0].nan_to_num(7), inputs[index].nan_to_num(7))
        assert data[index][1] == targets[index]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NotFinite(0), "task.fault.step=0: a whole number is needed, at least 1"),
        (lambda: NotFinite(1, steps=0), "task.fault.steps=0"),
        (lambda: FewSamples(0), "task.fault.samples=0"),
        (lambda: FewSamples(1, wrong=2.0), "task.fault.wrong=2.0: a share"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_an_option_may_be_called_nan() -> None:
    assert rewrite(["debug=nan"]) == ["debug='nan'"]
    assert rewrite(["debug=[nan,smoke]"]) == ["debug=['nan',smoke]"]
    assert rewrite(["-m", "debug=spike,nan"]) == ["-m", "debug=spike,'nan'"]
    assert rewrite(["debug='nan'"]) == ["debug='nan'"]
    assert rewrite(["trainer.clip_grad_norm=nan"]) == ["trainer.clip_grad_norm=nan"]
    assert rewrite(["task=nano"]) == ["task=nano"]


SHORT = ("plots=[]", "trainer.max_steps=9", "trainer.log_interval=3", "trainer.eval_interval=100")


def test_a_run_with_a_fault_resumes_exactly(train: Train, outputs: Path) -> None:
    spike = (*SMALL["classify"], "debug=spike", "task.fault.step=5", "task.fault.steps=3", *SHORT)
    train(*spike, "run.id=whole")
    train(*spike, "trainer.max_steps=5", "run.id=parts")
    train(f"resume={outputs / 'parts'}", "trainer.max_steps=9")
    last, again = (
        [stable(each) for each in read_journal(outputs / run / "logs" / "metrics.jsonl")][-1]
        for run in ("whole", "parts")
    )
    assert last["step"] == 9
    assert last == again
