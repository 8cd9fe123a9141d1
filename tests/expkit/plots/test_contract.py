"""What every plot that can be selected must fulfil: found by its YAML file, so a new one needs no new test."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.journal import Journal
from expkit.plots import NOTHING, Plot, PlotContext, PlotSource
from expkit.record import make_record
from tests.components import load, make, option_files
from tests.expkit.plots.helpers import is_whole_png

FILES = option_files("plots")


class Task:
    """A task with a picture of its own."""

    def figures(self, model: nn.Module) -> dict[str, Any]:
        from matplotlib.figure import Figure

        return {"samples": Figure(figsize=(1, 1))}


class TwoLayers(nn.Module):
    """A model with what plots look for. One that needs something else adds it here."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 16), nn.Linear(16, 8)
        for name, shape in (("frequencies", (5, 4)), ("phases", (5, 4)), ("amplitudes", (5, 4, 3))):
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest, page: Path) -> Path:
    """The YAML file of an option, or of an example of the page."""
    path: Path = page / request.param
    return path


@pytest.fixture
def context(tmp_path: Path) -> PlotContext:
    with Journal(tmp_path / "metrics.jsonl") as journal:
        for step in (1, 2):
            metrics = {"train_loss": 1.0 / step, "svd/encoder/subspace_angle": 0.1 * step}
            centres = {"blob/cluster_centers": [[0.0, 0.1 * step]]}
            journal.write(make_record(step, metrics, details=centres))
    (tmp_path / "pictures").mkdir()
    return PlotContext(2, tmp_path / "pictures", tmp_path / "metrics.jsonl", "$toy_")


def test_it_draws_whole_pictures_of_its_step_and_nothing_else(file: Path, context: PlotContext) -> None:
    model, plot = TwoLayers(), make(file, "plots", Plot)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    stored = pickle.dumps(plot)
    with torch.no_grad():
        plot.before_update(model)
        for parameter in model.parameters():
            parameter.grad = None
        collected = plot.collect(PlotSource(model, Task()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    message = pickle.dumps(collected)
    assert b"torch" not in message, "the process that draws would have to import it"
    made = pickle.loads(stored).draw(context, pickle.loads(message))
    assert made and all(path.name.endswith("_step_2.png") and is_whole_png(path) for path in made)
    assert sorted(path for path in context.folder.iterdir() if path.name != ".earlier") == sorted(made)


@pytest.mark.parametrize("theme", ["dark", "light", "print"])
def test_every_option_takes_every_theme(file: Path, theme: str) -> None:
    kind, arguments = load(file)
    assert kind(**arguments | {"theme": theme}).theme == kind(**arguments | {"theme": theme}).theme
    with pytest.raises(ValueError, match="theme=blue: choose dark, light or print"):
        kind(**arguments | {"theme": "blue"})
    with pytest.raises(ValueError, match="viz_interval=0: give a number of steps"):
        kind(**arguments | {"viz_interval": 0})


@pytest.mark.parametrize("value", [0.0, pytest.param(float("nan"), marks=pytest.mark.slow), float("inf")])
def test_weights_that_say_nothing_are_drawn_or_left_out(
    file: Path, page: Path, context: PlotContext, value: float
) -> None:
    if file.is_relative_to(page):
        return  # the page's example draws a histogram, as matplotlib does it
    model, plot = TwoLayers(), make(file, "plots", Plot)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
        parameter.grad = torch.full_like(parameter, value)
    with torch.no_grad():
        plot.before_update(model)
        collected = plot.collect(PlotSource(model, Task()))
    assert collected is NOTHING or all(map(is_whole_png, plot.draw(context, collected)))


def test_a_model_without_what_it_shows_is_no_failure(
    file: Path, context: PlotContext, caplog: pytest.LogCaptureFixture
) -> None:
    plot, empty = make(file, "plots", Plot), nn.ReLU()
    for _ in range(2):
        plot.before_update(empty)
        collected = plot.collect(PlotSource(empty))
        assert collected is NOTHING or all(map(is_whole_png, plot.draw(context, collected)))
    assert len(caplog.records) <= 1, "said once"
