"""`sweep=...`: the ready sweeps of conf/sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.conftest import Train, options
from train.cli.main import rewrite
from train.config.compose import compose, hydra_with


@pytest.mark.parametrize("option", options("sweep"))
def test_every_ready_sweep_has_several_jobs_that_compose(option: str) -> None:
    with hydra_with():
        check_jobs(option)


def check_jobs(option: str) -> None:
    params = compose([f"sweep={option}"]).hydra.sweeper.params
    assert params
    for key, values in OmegaConf.to_container(params).items():
        (override,) = OverridesParser.create().parse_overrides([f"{key}={values}"])
        assert override.is_sweep_override()
        jobs = [f"{key}={value}" for value in override.sweep_string_iterator()]
        assert len(jobs) > 2
        named = {compose([f"sweep={option}", job]).run.variant for job in (jobs[0], jobs[-1])}
        assert len(named) == 2, "each job is called after its value"


def test_a_ready_sweep_needs_no_flag(train: Train, outputs: Path) -> None:
    train("sweep=seeds", "debug=smoke", "plots=[]", "trainer.max_steps=1", "hydra.sweeper.params={trainer.seed:'3,5'}")
    configs = [json.loads(file.read_text())["config"] for file in outputs.glob("*/config.json")]
    assert {config["trainer"]["seed"] for config in configs} >= {3, 5}
    assert len({config["run"]["group"] for config in configs}) == 1


def test_flags_and_a_resume_say_themselves_what_is_done() -> None:
    assert rewrite(["sweep=seeds"])[0] == "-m"
    assert rewrite(["-m", "sweep=seeds"]) == ["-m", "sweep=seeds"]
    assert rewrite(["--cfg", "job", "sweep=seeds"]) == ["--cfg", "job", "sweep=seeds"]
    assert "-m" not in rewrite(["sweep=null"])
    assert "-m" not in rewrite(["sweep=seeds", "resume=auto"])
