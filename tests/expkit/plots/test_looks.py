"""What the pictures of models, blobs and singular values show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import expkit.plots.blob
import expkit.plots.model
import expkit.plots.svd
import expkit.plots.wave
from expkit.diagnostics.blob import BlobDiagnostic
from expkit.journal import Journal
from expkit.plots import PlotContext, PlotSource
from expkit.plots.blob import BlobPlot
from expkit.plots.canvas import apart
from expkit.plots.model import ModelPlot
from expkit.plots.svd import SVDPlot, noise_edge
from expkit.plots.wave import WavePlot
from expkit.record import make_record
from tests.expkit.plots.helpers import keep_figures


@pytest.fixture
def context(tmp_path: Path) -> PlotContext:
    return PlotContext(40, tmp_path, tmp_path / "metrics.jsonl", "toy")


def texts(figure: Figure) -> str:
    """Return everything that is written in and around the panels."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title("left"), axes.get_title("right"), *(text.get_text() for text in axes.texts)]
        found += [text.get_text() for text in (axes.get_legend().get_texts() if axes.get_legend() else [])]
    return "\n".join(found)


def test_many_layers_are_thinned_and_what_cannot_be_on_the_axis_is_said(
    context: PlotContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = keep_figures(monkeypatch, expkit.plots.model)
    model = nn.ModuleList(nn.Linear(4, 4) for _ in range(100))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first: Any = model[0]
    first.weight.grad[0] = 0
    first.weight.grad[1, 0] = math.nan
    plot = ModelPlot()
    plot.before_update(model)
    collected = plot.collect(PlotSource(model))
    assert len(collected["weights"]) == 40 and "99.weight" in collected["weights"]
    plot.draw(context, collected)
    said = texts(figures[0])
    assert "Rows: 40 of 200 tensors, matrices only" in said and "25 % zero, 6.2 % not finite" in said
    plot.draw(context, plot.collect(PlotSource(model)))
    assert "No gradients were seen." in texts(figures[1])


def test_rings_are_those_of_the_first_drawing_whatever_process_made_it(
    context: PlotContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, model = keep_figures(monkeypatch, expkit.plots.model), nn.Linear(4, 4)
    for step, value in ((10, 1.0), (20, 0.01), (10, 0.1), (30, 0.01)):
        nn.init.constant_(model.weight, value)
        plot = ModelPlot()
        plot.draw(PlotContext(step, context.folder, context.journal, "toy"), plot.collect(PlotSource(model)))
    rings = [[line.get_xdata()[0] for line in figure.axes[0].lines[:2]] for figure in figures]
    assert rings == [pytest.approx(each, abs=1e-6) for each in ([0, 0], [0, -2], [-1, -1], [-1, -2])]
    assert "rings: at step 10" in texts(figures[3]).replace("\n", " ")


def test_a_sample_of_a_large_tensor_is_small_and_from_all_of_it() -> None:
    layer = nn.Linear(1000, 1000)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1e6).reshape(1000, 1000))
    values = ModelPlot().collect(PlotSource(layer))["weights"]["weight"]
    assert len(values) <= 8192 and values[0] == 0 and values[-1] > 990_000


def blobs() -> nn.Module:
    model = nn.Module()
    model.encoder, model.decoder = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    generator = torch.Generator().manual_seed(0)
    for name, size in (("encoder", 1.0), ("decoder", 0.1)):
        weight = 0.02 * size * torch.randn(64, 64, generator=generator)
        weight[:4] += size
        weight[4:8] -= size
        model.get_submodule(name).weight = nn.Parameter(weight if name == "encoder" else weight.T.contiguous())
    return model


def test_blobs_are_those_of_the_diagnostic(context: PlotContext, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, model = keep_figures(monkeypatch, expkit.plots.blob), blobs()
    with Journal(context.journal) as journal:
        journal.write(make_record(10, {}, details={"blob/cluster_centers": [[0.0, 0.0], [1.0, 0.1], [-1.0, -0.1]]}))
    measured = BlobDiagnostic().measure(model)
    plot = BlobPlot()
    collected = plot.collect(PlotSource(model))
    assert measured["n_clusters_dbscan"] == 3 and collected.counts.sum() == 64 * 64
    assert collected.counts.sum(axis=(1, 2)).tolist()[0] == measured["n_noise_points"]
    for step in (20, 30, 40):  # each in a process of its own, for all the plot knows
        BlobPlot().draw(PlotContext(step, context.folder, context.journal, "toy"), collected)
    said = texts(figures[2])
    assert "step 20" in said and "step 30" in said and "cluster 3: " in said and "noise: " in said
    assert len(figures[2].axes[1].lines) == 3, "the centres over training"
    assert "diagnostics=blob" not in said


def test_without_the_diagnostic_the_picture_says_what_turns_it_on(
    context: PlotContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, plot = keep_figures(monkeypatch, expkit.plots.blob), BlobPlot()
    plot.draw(context, plot.collect(PlotSource(blobs())))
    assert "diagnostics=blob" in texts(figures[0])


def test_a_configured_blob_diagnostic_counts() -> None:
    reference = BlobDiagnostic(method="reference", n_samples=1000)
    collected = BlobPlot().collect(PlotSource(blobs(), diagnostics={"blob": reference}))
    assert collected.counts.sum() == collected.pairs == 1000


@pytest.mark.parametrize("shape", [(200, 200), (100, 400), (300, 60)])
def test_noise_ends_at_the_edge_and_a_signal_is_beyond_it(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, shape)
    values = np.linalg.svd(noise, compute_uv=False)
    edge = noise_edge(values, *shape)
    assert values[0] == pytest.approx(edge, rel=0.05)
    noise[:, 0] += 5
    values = np.linalg.svd(noise, compute_uv=False)
    assert (values > 1.05 * noise_edge(values, *shape)).sum() == 1


@pytest.mark.parametrize("count", [2, 40])
def test_metrics_of_layers_are_drawn_against_the_thresholds_of_the_detector(
    context: PlotContext, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    from expkit.detectors.svd_switch import SVDSwitch

    figures = keep_figures(monkeypatch, expkit.plots.svd)
    metrics = ("principal_alignment", "minor_alignment", "subspace_angle", "reconstruction_error")
    with Journal(context.journal) as journal:
        for step in (20, 40, 60):
            names = {f"svd/block{n}/{metric}": 0.2 + 0.01 * n for n in range(count) for metric in metrics}
            journal.write(make_record(step, names))
    plot = SVDPlot()
    detectors = {"svd_switch": SVDSwitch(principal_danger=0.7)}
    (made, spectrum) = plot.draw(context, plot.collect(PlotSource(nn.Linear(8, 8), detectors=detectors)))
    assert (made.name, spectrum.name) == ("svd_step_40.png", "svd_spectrum_step_40.png")
    panel = figures[0].axes[0]
    assert len(panel.lines) == count + 1 and "danger above 0.7" in panel.get_title("right")
    assert list(panel.lines[0].get_xdata()) == [20, 40], "nothing later than the step"
    assert ("40 layers" in texts(figures[0])) == (count == 40)
    assert "noise edge" in texts(figures[1])


def test_a_wave_picture_says_what_it_cannot_know(context: PlotContext, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, model = keep_figures(monkeypatch, expkit.plots.wave), nn.Module()
    for name, shape in (("frequencies", (300, 2)), ("phases", (300, 2)), ("amplitudes", (300, 2, 1))):
        model.register_buffer(name, torch.rand(shape))
    model.register_buffer("vocabulary", torch.arange(300))
    plot = WavePlot(theme="print")
    collected = plot.collect(PlotSource(model))
    assert collected.frequencies.shape == (256, 2) and collected.labels[-1] == f"token 299, {chr(299)!r}"
    plot.draw(context, collected)
    frequencies, phases, _, packets = map(texts, figures)
    assert "identifiable modulo 1" in frequencies and "256 of 300 tokens" in frequencies
    assert "cyclic" in phases and "illustrative" in packets
    (image,) = figures[1].axes[0].images
    first, last = image.cmap(0.0), image.cmap(1.0)
    assert np.allclose(first, last, atol=0.05), "colours of angles end where they begin"


def test_names_that_are_too_long_keep_what_tells_them_apart() -> None:
    names = [f"transformer_block_number_{n}.attention.projection" for n in range(3)]
    assert apart(names, 30) == [f"…{n}.attention.projection" for n in range(3)]
    assert apart(["a", "b"], 30) == ["a", "b"]
