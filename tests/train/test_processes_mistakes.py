"""What several processes cannot train is said in one line by one of them, and nothing is left of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.train.launching import launched, task_option
from tests.train.mistaken_tasks import Mistaken

SMALL = (
    *("tracker=[]", "plots=[]", "gpu.enabled=false", "trainer.device=cpu", "trainer.max_steps=4", "optimizer.lr=0.01"),
    *("trainer.threads=1", "trainer.timeout=30", "run.id=run"),
)

MISTAKES = {
    "size": (
        ("trainer.batch_size=9",),
        r"trainer.batch_size=9 is not divisible by processes x grad_accumulation = 2: try 8",
    ),
    "processes": (("trainer.processes=4",), r"trainer.processes=4, but torchrun has started 2: leave it out"),
    "strategy": (("trainer.strategy=dp",), r"trainer.strategy=dp: choose ddp .*, fsdp .*, or auto"),
    "reference": (("optimizer.lr=${nope}",), r"optimizer.lr.*nope"),
    "tracker": (("tracker=trackio", "+tracker.trackio.nope=1"), r"tracker.trackio.nope"),  # rank 0 alone has it
    "checkpoint": (("checkpoint.keep_last_n=0",), r"checkpoint.*keep_last_n=0"),
    "blocks": (
        ("trainer.strategy=fsdp", "trainer.fsdp_blocks=[Blok]"),
        r"trainer.fsdp_blocks: no part of the model is a Blok; its parts: Linear, ModuleDict, _Sum",
    ),
    "switch": (
        ("trainer.strategy=fsdp", "diagnostics=svd", "detectors=svd_switch", "detectors.svd_switch.respond=[switch]"),
        r"detectors.svd_switch.respond: a switch needs whole layers: trainer.strategy=ddp",
    ),
    "past": (
        ("task.how=past",),
        r"the ranks have different gradients in step 1: processes meet in what goes through model\(...\) only, so that "
        r"task.step must call the model it is given, not one of its methods or parts",
    ),
    "past-fsdp": (
        ("task.how=past", "trainer.strategy=fsdp"),
        r"a part of the model was called that is not gathered: .* task.step must call the model it is given",
    ),
    "unused": (
        ("task.how=unused",),
        r"layers.other.weight, layers.other.bias took no part in the loss of a step, .* leave them "
        r"out of the model, freeze them .*, or set trainer.find_unused_parameters=true",
    ),
    "half": (
        ("task.how=half",),
        r"layers.other.weight, layers.other.bias took no part in the loss of a step, .*",
    ),
    "data": (
        ("task.how=data",),
        r"rank 1 \(of 2, on \S+, pid \d+\) failed: task: Mistaken.train_data failed: FileNotFoundError: no train.bin "
        r"on this machine.*mistaken_tasks.py.*",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, what: str) -> None:
    typed, line = MISTAKES[what]
    ranks = launched(tmp_path / "outputs", *task_option(tmp_path, "mistaken", Mistaken), *SMALL, *typed)
    assert [each.code for each in ranks] == [1, 1], ranks[0].said
    assert "error: " in ranks[0].said, (ranks[0].said, ranks[1].said)
    (error,) = [each for each in ranks[0].said.splitlines() if each.startswith("error: ")]
    assert re.search(line, error), error
    assert "Traceback" not in ranks[0].said and ranks[0].said.rstrip().endswith(error), ranks[0].said
    assert ranks[1].said == "", "rank 0 says it"
    assert not [*tmp_path.glob("outputs/*")], "nothing was trained, and nothing is left"


@pytest.mark.parametrize("how", ["unused", "half"])
def test_parameters_without_a_part_can_be_looked_for(tmp_path: Path, how: str) -> None:
    typed = (f"task.how={how}", "trainer.find_unused_parameters=true")
    ranks = launched(tmp_path / "outputs", *task_option(tmp_path, "mistaken", Mistaken), *SMALL, *typed)
    assert [each.code for each in ranks] == [0, 0], ranks[0].said
    assert ranks[1].said == ""
