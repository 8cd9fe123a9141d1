"""Panels as figures of plotly: what is in them, and that names stay text."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from expkit.plots.curve import Curve
from expkit.plots.interactive import library, make_figure, plain, said_of
from expkit.plots.panels import Line, Panel
from expkit.plots.themes import THEMES

DARK = THEMES["dark"]


def test_plotly_is_there_without_being_imported() -> None:
    import sys

    assert library().stat().st_size > 1_000_000
    assert "plotly" not in sys.modules


def test_a_noisy_line_is_faint_behind_its_average_and_a_smooth_one_is_not() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    noisy = make_figure(Panel("a", [Line("a", Curve(range(400), list(noise)), 0)]), DARK)["data"]
    smooth = make_figure(Panel("a", [Line("a", Curve(range(400), list(range(400))), 0)]), DARK)["data"]
    assert [trace.get("opacity", 1) < 0.5 for trace in noisy] == [True, False]
    assert len(smooth) == 1
    off = make_figure(Panel("a", [Line("a", Curve(range(400), list(noise)), 0)]), DARK, smoothing=0)["data"]
    assert len(off) == 1 and np.allclose(off[0]["y"], noise, rtol=1e-6)


def test_counts_are_steps_and_what_is_not_finite_is_marked() -> None:
    curve = Curve([1, 2, 3, 4], [1.0, math.nan, 3.0, math.inf])
    figure = make_figure(Panel("n", [Line("n", curve, 0)], stepped=True), DARK)
    line, missing = figure["data"]
    assert line["line"]["shape"] == "hv" and list(line["x"]) == [1, 3]
    assert list(missing["x"]) == [2, 4] and missing["yaxis"] == "y2"
    assert said_of(Panel("n", [Line("n", curve, 0)])) == ["2 not finite, from step 2"]


def test_a_spike_of_one_step_stays_and_how_many_points_there_are_is_said() -> None:
    values = [1.0] * 100_000
    values[54_321] = 1000.0
    panel = Panel("loss", [Line("loss", Curve(range(100_000), values), 0)])
    trace = make_figure(panel, DARK, smoothing=0)["data"][0]
    assert trace["y"].max() == 1000 and trace["x"][trace["y"].argmax()] == 54_321
    [said] = said_of(panel)
    assert said.endswith("of 100,000 points")


def test_names_are_no_html_and_long_ones_lose_their_middle() -> None:
    assert plain("<b>a</b>&amp;") == "&lt;b&gt;a&lt;/b&gt;&amp;amp;"
    assert len(plain("x" * 90)) == 60 and "…" in plain("x" * 90)


@pytest.mark.parametrize("values", [[1e-300, 1.0], [1e300, 1.0], [0.0, -1.0], [1e-12, 1e12], [5.0]])
def test_any_values_become_json(values: list[float]) -> None:
    panel = Panel("loss", [Line("loss", Curve(range(len(values)), values), 11, dash=3)], along="hours", marks=[0.5])
    found = orjson.loads(orjson.dumps(make_figure(panel, DARK), option=orjson.OPT_SERIALIZE_NUMPY))
    assert found["data"][0]["y"] == pytest.approx(values, rel=1e-6)
    assert len(found["layout"]["shapes"]) == 1


def test_a_panel_without_a_value_says_why() -> None:
    figure = make_figure(Panel("silhouette", [], remark="none yet"), DARK)
    assert figure["data"] == [] and figure["layout"]["annotations"][0]["text"] == "none yet"
