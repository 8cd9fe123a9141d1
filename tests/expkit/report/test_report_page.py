"""The page in headless Chromium, from disk, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser import Browser, chromium
from expkit.comparison.compare import Request
from expkit.report import write_report
from tests.expkit.report.runs import EVIL, make_run

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium to open a report with"),
    pytest.mark.xdist_group("chromium"),
]

DRAWN = "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.scatterlayer path.js-line'))"
RANGES = "[...document.querySelectorAll('.plot')].map((plot) => plot.layout.xaxis.range.join())"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        browser.cut_off()
        yield browser


def opened(browser: Browser, path: Path) -> None:
    browser.requests.clear()
    browser.errors.clear()
    browser.prefer("light")
    browser.open(path.as_uri())
    browser.wait("document.readyState === 'complete' && document.querySelector('footer') !== null")


def test_a_report_opens_from_disk_without_a_network(browser: Browser, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run_{seed}{EVIL[:9].replace('/', '')}", seed) for seed in range(2)]
    path = tmp_path / "report.html"
    write_report(runs, path, request=Request(["train_loss", EVIL]))
    opened(browser, path)
    browser.wait(f"{DRAWN} && document.querySelectorAll('.plot').length === 2")

    # pictures are there, and a phone has no need to scroll sideways
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth === 8)")
    browser.resize((390, 844), touch=True)
    browser.wait("document.querySelector('.main-svg').getBoundingClientRect().width < 390")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.resize((1280, 800))

    # what is zoomed into is seen in all panels
    before = browser.run(f"{RANGES}[1]")
    browser.run("Plotly.relayout(document.querySelector('.plot'), {'xaxis.range[0]': 5, 'xaxis.range[1]': 9}); 1")
    browser.wait(f"{RANGES}.every((range) => range === '5,9')")
    browser.run("document.querySelector('.plot').emit('plotly_doubleclick'); 1")
    browser.wait(f"{RANGES}.every((range) => range === '{before}')")

    # a run is hidden by a button that a keyboard reaches
    lines = "document.querySelectorAll('.plot')[1].querySelectorAll('.scatterlayer path.js-line').length"
    assert browser.run(lines) == 2
    browser.run("document.querySelector('#lines button').focus(); document.activeElement.click()")
    browser.wait(f"{lines} === 1")
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "false"

    # the reader's theme, and what is printed in light colours whatever that is
    colour = "document.querySelector('.plot').layout.paper_bgcolor"
    assert browser.run(colour) == "#ffffff"
    browser.prefer("dark")
    browser.wait(f"{colour} === '#161c24'")
    browser.run("dispatchEvent(new Event('beforeprint')); 1")
    assert browser.run(colour) == "#ffffff"
    browser.run("dispatchEvent(new Event('afterprint')); 1")
    browser.wait(f"{colour} === '#161c24'")

    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.errors == []


def test_a_static_report_needs_no_script(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "static.html"
    write_report([make_run(tmp_path / "run")], path, static=True, request=Request(["train_loss"]))
    assert path.stat().st_size < 1_000_000
    opened(browser, path)
    browser.wait("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.run("document.querySelectorAll('.drawn img').length") == 1
    assert browser.run("document.scripts.length") == 0
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.errors == []
