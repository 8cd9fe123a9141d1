"""The parts of `expkit verify-resume`, and what docs/resume.md shows of it."""

from __future__ import annotations

import copy
import itertools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.test_verify_resume import ROOT
from train.verify import runs
from train.verify.causes import cause_of_resume
from train.verify.command import describe
from train.verify.compare import Difference, Recording, first_difference
from train.verify.fingerprint import fingerprint
from train.verify.orders import kill_and_save


@pytest.mark.parametrize(("steps", "kill_at"), [(30, None), (30, 17), (30, 2), (5, None), (3, None), (300, 100)])
@pytest.mark.parametrize("per_epoch", [None, 1, 2, 3, 5, 8, 15, 16, 23, 1000])
def test_the_resume_is_in_mid_epoch_wherever_it_can_be(steps: int, kill_at: int | None, per_epoch: int | None) -> None:
    dies, saved = kill_and_save(steps, per_epoch, kill_at)
    assert 0 < saved < dies < steps
    assert kill_at in (None, dies)
    if kill_at is None and per_epoch not in (1, None) and steps > 4:
        assert not any(step % per_epoch == 0 for step in range(saved, dies))


def test_a_fingerprint_differs_if_and_only_if_the_value_does() -> None:
    values: list[Any] = [
        0.0, -0.0, float("nan"), 1, True, "1", None, [1], (1, 2), {"a": 1}, {"b": 1}, {1, 2}, np.float32(1),
        torch.zeros(2), -torch.zeros(2), torch.zeros(1, 2), torch.zeros(2, dtype=torch.bfloat16), torch.tensor(1.0),
        torch.tensor([1, 2]), torch.tensor([True]), torch.tensor([1j]), torch.empty(0), np.zeros(2), np.ones((2, 2)),
        np.random.default_rng(1), np.random.default_rng(2), random.Random(1), random.Random(2),
        torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), itertools.count(1), itertools.count(2),
    ]  # fmt: skip
    texts = [str(fingerprint(value, "x")) for value in values]
    assert len(set(texts)) == len(values)
    assert [str(fingerprint(copy.deepcopy(value), "x")) for value in values] == texts


def test_a_value_that_holds_itself_has_a_fingerprint() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert fingerprint(ring, "ring") == {"ring's length": "2", "ring[0]": "1"}


def test_a_torn_last_line_of_a_record_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text('{"kind":"restored","step":3}\n{"kind":"step","step":4,"loss":{"loss":"1"}}\n{"kind":"st')
    recording = Recording(file)
    assert (recording.start, list(recording.steps)) == (3, [4])
    assert first_difference(recording, recording) is None


# --- docs/resume.md ---------------------------------------------------------------------------------------------------


def test_the_data_set_that_the_page_shows_is_a_function_of_seed_epoch_and_index() -> None:
    page = (ROOT / "docs" / "resume.md").read_text()
    block = re.search(r"<!-- resume: keyed -->\n```python\n(.*?)```", page, re.DOTALL)
    assert block
    names: dict[str, Any] = {}
    exec(block[1], names)
    x, y = torch.zeros(3, 5), torch.arange(3)

    def noise(epoch: int, index: int, seed: int = 0) -> torch.Tensor:
        data = names["Noisy"](x, y, seed)
        data.set_epoch(epoch)
        return data[index][0]

    assert torch.equal(noise(1, 2), noise(1, 2))
    drawn = [noise(epoch, index, seed) for epoch in range(3) for index in range(3) for seed in range(3)]
    assert len({tuple(each.tolist()) for each in drawn}) == len(drawn) == 27


def test_the_page_shows_what_the_command_says() -> None:
    page = (ROOT / "docs" / "resume.md").read_text()
    ok, different = (
        re.search(rf"<!-- resume: {name} -->\n```console\n(.*?)```", page, re.DOTALL) for name in ("ok", "different")
    )
    assert ok
    assert different
    compared = {"batch": 15, "rng": 3, "loss": 2, "weights": 6, "optimizer": 31, "scheduler": 0, "journal": 4}
    where = "in the middle of epoch 1, after batch 15 of it"
    verdict = runs.Verdict(True, True, 30, 17, 15, where, compared)
    assert describe(verdict) in ok[1]
    found = Difference(
        "loss",
        17,
        "loss",
        "float32[] 1.6706688404083252 #067155bc3add",
        "float32[] 1.6744580268859863 #c673792af798",
        2,
    )
    whole, resumed = (Recording(ROOT / "nowhere") for _ in range(2))
    resumed.start = 16
    for recording, calls in ((whole, "22"), (resumed, "0")):
        recording.steps[17] = {"hidden": {"model.1.calls": calls}}
    cause, cure = cause_of_resume(found, whole, resumed)
    where = "in the middle of epoch 4, after batch 1 of it"
    assert describe(runs.Verdict(False, True, 30, 17, 16, where, compared, found, cause, cure)) in different[1]
