"""A report as one page that asks nobody for anything: it opens from disk, without a network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import orjson

import expkit
from expkit.plots.interactive import library
from expkit.plots.panels import Panel
from expkit.plots.themes import THEMES, Theme
from expkit.report import tables
from expkit.report.content import Report, RunPart
from expkit.report.curves import draw_curve, panels_for, plotted, remarks_of
from expkit.report.pictures import EmbeddedPicture
from expkit.table import Table

__all__ = ["PageTheme", "make_page"]

PageTheme = Literal["auto", "dark", "light", "print"]

_STATIC = Path(__file__).with_name("static")
_LONG = 15  # rows
_OPEN_UP_TO = 3  # runs of whom everything is unfolded


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    title: str
    body: str


def make_page(report: Report, theme: PageTheme = "auto", static: bool = False) -> bytes:
    """Return a report as HTML.

    Args:
        report: what is told.
        theme: colours; auto: the reader's own, dark or light.
        static: curves as pictures instead of figures to zoom into: a small page, without JavaScript.

    Raises:
        UserError: plotly is not installed, and the page is not static.
    """
    themes = {"auto": ["light", "dark"], "dark": ["dark", "light"]}.get(theme, [theme])  # what is printed is light
    panels = panels_for(report)
    curves = _static_curves(report, panels, theme) if static else _live_curves(panels)
    sections = [section for section in _sections(report, curves) if section.body]
    scripts = "" if static or not panels else _scripts(report, panels, themes, follow=theme == "auto")
    contents = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in sections)
    body = "\n".join(
        f'<section id="{each.name}" aria-labelledby="{each.name}-title"><h2 id="{each.name}-title">'
        f"{escape(each.title)}</h2>\n{each.body}\n</section>"
        for each in sections
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(report.title)}</title>
<link rel="icon" href="data:,">
<style>
{_colours(theme)}{(_STATIC / "page.css").read_text()}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
<p>{escape(_what(report))}</p>
{f'<ul class="notes">{notes}</ul>' if notes else ""}
</header>
<nav aria-label="contents"><ol>{contents}</ol></nav>
<main>
{body}
</main>
<footer><p>Made by expkit {expkit.__version__} on {report.when}. It needs no network.</p></footer>
{scripts}
</body>
</html>
"""
    return page.encode("utf-8", "replace")  # no lone surrogate, of a file's name say, is worth a report


def _sections(report: Report, curves: str) -> Iterator[_Section]:
    yield _Section("summary", "Summary", _table(tables.summary_table(report)))
    yield _Section("curves", "Curves", curves)
    if report.single:
        rest = tables.rest_table(report)
        body = _table(tables.metrics_table(report)) if report.comparison.metrics else ""
        yield _Section("metrics", "Metrics", body + _folded(rest, "other metrics"))
    else:
        yield _Section("comparison", "Comparison", _comparison(report))
    yield _Section("configuration", "Configuration", _configuration(report))
    yield _Section("events", "Events", _events(report))
    snapshots = tables.snapshots_table(report)
    yield _Section("snapshots", "Snapshots", _table(snapshots) if snapshots is not None else "")
    yield _Section("samples", "Samples", _samples(report))
    yield _Section("pictures", "Pictures", _pictures(report))
    yield _Section("environment", "Environment", "".join(map(_table, tables.environment_tables(report))))


def _what(report: Report) -> str:
    if report.single:
        state = report.runs[0].state.state
        told = "" if state == "unknown" else f", {state}"
        return f"A training run{told}: what it was, how it went, what came of it."
    groups = len(report.comparison.groups)
    grouped = f" in {groups} group{'s' if groups > 1 else ''}" if groups else ""
    return f"{len(report.runs)} training runs{grouped}, side by side: in what they differ, and what came of it."


def _live_curves(panels: Sequence[Panel]) -> str:
    if not panels:
        return ""
    script = "<noscript><p>The curves need JavaScript; expkit report --static draws them as pictures.</p></noscript>"
    note = '<p class="note">Drag to zoom all of them, double-click for the whole.</p>'
    return f'{note}{script}<div id="lines"></div><div class="panels">{"".join(map(_live_curve, panels))}</div>'


def _live_curve(panel: Panel) -> str:
    title = escape(panel.title)
    save = f'<button type="button" data-name="{title}" aria-label="save {title} as SVG" hidden>SVG</button>'
    said = remarks_of(panel)
    remark = f"<span>{escape(said)}</span>" if said else ""
    return (
        f'<figure class="panel"><figcaption><h3>{title}</h3>{save}{remark}</figcaption>'
        f'<div class="plot" role="img" aria-label="curve of {title}"></div></figure>\n'
    )


def _static_curves(report: Report, panels: Sequence[Panel], theme: PageTheme) -> str:
    def address(panel: Panel, theme: str) -> str:
        return _address(draw_curve(panel, theme, "svg", shared=not report.single), "image/svg+xml")

    made = []
    for panel in panels:
        dark = ""
        if theme == "auto":
            dark = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{address(panel, "dark")}">'
        drawn = address(panel, "light" if theme == "auto" else theme)
        picture = f'<img src="{drawn}" alt="curve of {escape(panel.title)}">'
        remark = remarks_of(panel)
        caption = f"<figcaption><span>{escape(remark)}</span></figcaption>" if remark else ""
        made.append(f'<figure class="panel drawn"><picture>{dark}{picture}</picture>{caption}</figure>')
    return "\n".join(made)


def _comparison(report: Report) -> str:
    more = len(report.comparison.left_out)
    note = f'<p class="note">{more} more metrics are left out; --metrics chooses.</p>' if more else ""
    found = tables.comparison_tables(report)
    return "".join(_table(each) if len(each.rows) <= _LONG else _folded(each, each.title) for each in found) + note


def _configuration(report: Report) -> str:
    first = tables.typed_table(report) if report.single else tables.difference_table(report)
    whole = tables.configuration_table(report)
    return (_table(first) if first is not None else "") + _folded(whole, "the whole" if report.single else "in common")


def _events(report: Report) -> str:
    made = []
    for part in report.runs:
        table = tables.events_table(part)
        if table is not None:
            body = _table(table, by_severity=True)
            made.append(_of_run(report, part, tables.severities(part), body, opened=len(report.runs) <= _OPEN_UP_TO))
    return "".join(made) or "<p>None.</p>"


def _samples(report: Report) -> str:
    made = []
    for part in report.runs:
        if part.samples:
            shown = [_picture(each) if isinstance(each, EmbeddedPicture) else _text(each) for each in part.samples]
            made.append(_of_run(report, part, f"{len(shown)}", f'<div class="pictures">{"".join(shown)}</div>'))
    return _beside(made, max(len(part.samples) for part in report.runs))


def _pictures(report: Report) -> str:
    made = []
    for part in report.runs:
        body = "".join(map(_picture, part.pictures))
        out = (
            f'<p class="note">Left out, to keep the page small: {escape(", ".join(part.left_out))}.</p>'
            if part.left_out
            else ""
        )
        if body or out:
            told = "the newest of each kind"
            made.append(_of_run(report, part, told, f'<div class="pictures">{body}</div>{out}'))
    return _beside(made, max(len(part.pictures) for part in report.runs))


def _beside(made: Sequence[str], most: int) -> str:
    """Return what there is of each run: side by side where that is one picture each."""
    body = "".join(made)
    return f'<div class="pictures">{body}</div>' if most == 1 and len(made) > 1 else body


def _of_run(report: Report, part: RunPart, told: str, body: str, opened: bool = True) -> str:
    """Return what there is to tell of a run, folded where there are several."""
    if report.single:
        return body
    head = f"<summary>{escape(part.label)} <span>{escape(told)}</span></summary>"
    return f"<details{' open' if opened else ''}>{head}{body}</details>"


def _folded(table: Table | None, what: str) -> str:
    if table is None or not table.rows:
        return ""
    return f"<details><summary>{escape(what)} <span>{len(table.rows)}</span></summary>{_table(table)}</details>"


def _table(table: Table, by_severity: bool = False) -> str:
    made = table.html()
    kind = "scroll events" if by_severity else "scroll pairs" if len(table.columns) == 2 else "scroll"
    if by_severity:  # the first cell of a row
        made = re.sub(r"<tr>(<td[^>]*>)(critical|warning|info)</td>", r'<tr class="\2">\1\2</td>', made)
    return f'<div class="{kind}">{made}</div>\n'


def _text(sample: str) -> str:
    return f"<pre>{escape(sample)}</pre>"


def _picture(picture: EmbeddedPicture) -> str:
    when = f"{picture.kind}, step {picture.step:,}" if picture.step is not None else picture.kind
    image = f'<img src="{_address(picture.content, picture.media)}" alt="{escape(when)}">'
    return f'<figure class="panel">{image}<figcaption>{escape(when)}</figcaption></figure>'


def _address(content: bytes, media: str) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


def _scripts(report: Report, panels: Sequence[Panel], themes: Sequence[str], follow: bool) -> str:
    figures = {"themes": themes, "follow": follow, **plotted(report, panels, themes)}
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    plotly, own = library().read_text("utf-8"), (_STATIC / "page.js").read_text()
    return "\n".join(
        [
            f'<script type="application/json" id="figures">{_inside_script(figures, option)}</script>',
            *(f"<script>{text}</script>" for text in (plotly, own)),
        ]
    )


def _inside_script(value: Any, option: int) -> str:
    """Return JSON in which nothing can end the element that it stands in."""
    text = orjson.dumps(value, option=option).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: str) -> str:
    """Return what the page may do: nothing from anywhere, and only the scripts that were put there."""
    found = re.findall(r"<script>(.*?)</script>", scripts, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]
    return (
        f"default-src 'none'; script-src {' '.join(hashes) or chr(39) + 'none' + chr(39)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _colours(theme: PageTheme) -> str:
    printed = f"@media print {{ :root {{ color-scheme: light; {_variables(THEMES['light'])} }} }}\n"
    if theme != "auto":
        scheme = "dark" if theme == "dark" else "light"
        return f":root {{ color-scheme: {scheme}; {_variables(THEMES[theme])} }}\n{printed}"
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(THEMES['dark'])} }} }}"
    return f":root {{ color-scheme: light dark; {_variables(THEMES['light'])} }}\n{dark}\n{printed}"


def _variables(theme: Theme) -> str:
    named = {"page": theme.figure, "card": theme.axes, "text": theme.text, "muted": theme.muted, "line": theme.grid}
    accents = {"accent": theme.cycle[0], "warn": theme.cycle[1], "bad": theme.alert}
    return " ".join(f"--{name}: {colour};" for name, colour in {**named, **accents}.items())
