"""What every diagnostic that can be selected must fulfil: found by its YAML file, so a new one needs no new test."""

from __future__ import annotations

import copy
import functools
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from expkit.checkpoints.state import check_loadable
from expkit.diagnostics import Diagnostic, DiagnosticSuite
from expkit.diagnostics._evaluation import evaluating
from expkit.record import make_record
from expkit.schedule import Progress
from tests.components import make, option_files

FILES = option_files("diagnostics")


class TwoLayers(nn.Module):
    """A model with what diagnostics look for. One that needs something else adds it here."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.encoder, self.decoder = nn.Linear(16, 32), nn.Linear(32, 16)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(torch.relu(self.encoder(x)))
        return out


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest, page: Path) -> Path:
    """The YAML file of an option, or of an example of the page."""
    path: Path = page / request.param
    return path


def on_probe(inputs: torch.Tensor, model: nn.Module) -> object:
    """What the runner gives to `use_probe`: it leaves the model as it was."""
    with evaluating(model):
        return model(inputs)


def measured(diagnostic: Diagnostic, model: nn.Module) -> dict[str, float]:
    """Measure as the runner does, in the first step that is due, when gradients are there and no update follows."""
    suite, inputs = DiagnosticSuite({"it": diagnostic}), torch.linspace(-1, 1, 64).view(4, 16)
    suite.use_probe(lambda: functools.partial(on_probe, inputs))
    for step in range(1, 1000):
        look = suite.look_ahead(model, Progress(step=step, epoch=step, epoch_ended=True), last=False)
        if look is not None:
            look()
        if suite.due:
            break
    metrics, details = suite.measure(model, due=True)
    record = make_record(1, metrics, details=details)
    return {name: value for name, value in record.metrics.items() if name != "it/computation_time_ms"}


def test_it_measures_numbers_and_only_looks(file: Path) -> None:
    diagnostic, model = make(file, "diagnostics", Diagnostic), TwoLayers(0)
    before = copy.deepcopy(model.state_dict())
    gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in model.named_parameters()}
    diagnostic.check(model)
    draws = []
    for looks in (False, True):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if looks:
            assert measured(diagnostic, model), "no number at all"
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1], "it drew from a global random generator"
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])  # type: ignore[arg-type]
        assert parameter.requires_grad


def test_a_weight_that_changes_whenever_it_is_used_is_left_as_it_is(file: Path) -> None:
    diagnostic, model = make(file, "diagnostics", Diagnostic), TwoLayers(0)
    for layer in (model.encoder, model.decoder):
        parametrizations.spectral_norm(layer)
    before = copy.deepcopy(model.state_dict())
    diagnostic.check(model)
    assert measured(diagnostic, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_resume_measures_the_same(file: Path) -> None:
    models = [TwoLayers(seed) for seed in range(4)]
    whole = make(file, "diagnostics", Diagnostic)
    expected = [repr(measured(whole, model)) for model in models]
    for cut in range(1, 4):
        before, after = (make(file, "diagnostics", Diagnostic) for _ in range(2))
        for model in models[:cut]:
            measured(before, model)
        check_loadable(before.state_dict(), "state_dict()")
        saved = io.BytesIO()
        torch.save(before.state_dict(), saved)
        saved.seek(0)
        after.load_state_dict(torch.load(saved, weights_only=True))
        assert [repr(measured(after, model)) for model in models[cut:]] == expected[cut:]


def test_weights_that_are_no_numbers_do_not_blind_it(file: Path) -> None:
    diagnostic, broken = make(file, "diagnostics", Diagnostic), TwoLayers(0)
    nn.init.constant_(broken.encoder.weight, torch.nan)
    measured(diagnostic, broken)
    expected = measured(make(file, "diagnostics", Diagnostic), TwoLayers(1))
    assert measured(diagnostic, TwoLayers(1)).keys() == expected.keys()
