"""The words of the command line select the detectors that Hydra selects for a run, with the same settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from expkit.errors import ConfigError
from expkit.watch.selecting import make_detectors, option_names, own_targets, select_detectors, settings_of
from tests.components import write_page

PRESETS = ("standard", "conservative", "moderate", "aggressive")


@pytest.mark.parametrize("option", [*PRESETS, ",".join(sorted(set(option_names()) - set(PRESETS)))])
def test_every_option_has_the_settings_of_a_run(option: str, compose: Callable[..., Any]) -> None:
    expected = OmegaConf.to_container(compose(f"detectors={option}").detectors, resolve=True)
    assert settings_of([f"detectors={option}"], "") == expected
    for name, detector in select_detectors([f"detectors={option}"], "").items():
        assert detector.name == name


@pytest.mark.parametrize(
    "words",
    [
        ("detectors=standard,plateau", "detectors.plateau.patience=20"),
        ("detectors=[conservative,moderate]",),
        ("detectors=moderate,conservative",),
        ("detectors=loss_spike", "detectors.loss_spike.threshold={0: 0.5, 5000: 0.3}"),
        (
            "detectors=standard",
            "+detectors.hot={_target_: expkit.detectors.threshold.Threshold, metric: a, threshold: 5}",
        ),
        ("detectors=nonfinite", "detectors.nonfinite.respond=[alert]", "detectors.nonfinite.metrics=[a,b]"),
    ],
)
def test_the_words_mean_what_they_mean_in_training(words: tuple[str, ...], compose: Callable[..., Any]) -> None:
    nodes = settings_of(words, "")
    assert nodes == OmegaConf.to_container(compose(*words).detectors, resolve=True)
    assert list(make_detectors(nodes)) == list(nodes)


def test_none_and_the_default() -> None:
    assert settings_of(["detectors=[]"], "standard") == {}
    assert list(settings_of([], "moderate,nonfinite")) == [
        *("loss_spike", "accuracy_drop", "best_model", "divergence", "nonfinite")
    ]


def test_those_of_the_run() -> None:
    node = {"_target_": "expkit.detectors.nonfinite.NonFinite", "metrics": None, "respond": ["skip"]}
    config = {"detectors": {"nonfinite": node}, "trainer": {"precision": "fp16"}}
    detector = select_detectors(["detectors=run"], "", config)["nonfinite"]
    assert detector.metrics == ("train_loss",)  # type: ignore[attr-defined]
    assert node["metrics"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detectors=los_spike"], "did you mean loss_spike"),
        (["detectors.loss_spike.threshold=1"], "loss_spike is not selected: detectors=nonfinite,loss_spike selects it"),
        (["detectors.x.threshold=1"], "there is no detector 'x'"),
        (["detectors.standard.threshold=1"], "standard only selects others"),
        (["detectors.nonfinite.cooldwn=1"], "there is no detectors.nonfinite.cooldwn: nonfinite has metrics, warmup"),
        (["detectors.nonfinite.cooldown=x"], "detectors.nonfinite.cooldown=x: it must be a whole number"),
        (["detectors.nonfinite.cooldown={"], "the value cannot be read"),
        (["detectors.nonfinite=5"], "this is a whole section"),
        (["detectors.nonfinite.respond=5"], "choose from snapshot, alert"),
        (["detectors.nonfinite.respond=[shout]"], "there is no shout"),
        (["detectors=run"], "there is no run here whose config.json tells"),
        (["+detectors.x={_target_: os.system, command: true}"], "os.system is none of expkit's detectors"),
        (["+detectors.x={_target_: expkit.detectors.base.Event}"], "there is no such detector"),
        (["+detectors.x={metric: y}"], "without a _target_"),
        (["trainer.seed=1"], "write detectors=NAME"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_detectors(words, "nonfinite")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_detector_of_ones_own_is_made_where_a_file_of_ones_own_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = write_page(tmp_path) / "my_conf"
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_package", "my_package.high"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    nodes = settings_of(["detectors=standard,high", "detectors.high.limit=3"], "", None, conf)
    assert nodes["high"] == {"_target_": "my_package.high.HighLoss", "limit": 3}
    assert list(make_detectors(nodes, own_targets(conf))) == [*nodes]
    as_run = settings_of(["detectors=run"], "", {"detectors": {"it": nodes["high"]}})
    assert list(make_detectors(as_run, own_targets(conf))) == ["it"]
    with pytest.raises(ConfigError, match=r"my_package.high.HighLoss is none of expkit's detectors; one of yours"):
        make_detectors(as_run)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("detectors.gap.ratio=high", "detectors.gap.ratio=high: it must be a number (default: 1.5)"),
        ("detectors.gap.respond=[alrt]", "detectors.gap.respond=[alrt]: there is no alrt; choose from snapshot, alert"),
    ],
)
def test_a_mistake_in_a_detector_of_ones_own_is_told_before_its_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    (tmp_path / "gap_of_a_test.py").write_text(
        "from expkit.detectors import Detector\n\n\n"
        "class Gap(Detector):\n"
        "    def __init__(self, *, ratio=1.5, respond=('alert',)):\n"
        "        self.ratio, self.respond = ratio, list(respond)\n\n"
        "    def observe(self, record):\n"
        "        return []\n"
    )
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "gap.yaml").write_text("_target_: gap_of_a_test.Gap\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert make_detectors(settings_of(["detectors=gap"], "", None, tmp_path), own_targets(tmp_path))
    with pytest.raises(ConfigError) as caught:
        make_detectors(settings_of(["detectors=gap", word], "", None, tmp_path), own_targets(tmp_path))
    assert message in str(caught.value)


def test_nothing_that_a_run_directory_names_is_imported(tmp_path: Path) -> None:
    config = {"detectors": {"x": {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "made")}}}
    with pytest.raises(ConfigError, match=r"pathlib.Path.touch is none of expkit's detectors"):
        select_detectors(["detectors=run"], "", config)
    assert not (tmp_path / "made").exists()
