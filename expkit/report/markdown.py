"""A report as Markdown, for the appendix of a paper: tables with captions, and figures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from expkit.plots.themes import ThemeName
from expkit.report import tables
from expkit.report.content import Report
from expkit.report.curves import draw_curve, panels_for, remarks_of
from expkit.report.pictures import EmbeddedPicture
from expkit.table import Table, in_markdown, shown

__all__ = ["make_markdown"]

#: Pictures of the curves, which are drawn here for themselves.
_CURVES = "training_dynamics"


def make_markdown(report: Report, path: Path, theme: ThemeName, single: bool) -> tuple[bytes, dict[Path, bytes]]:
    """Return the text, and the pictures that it shows by their paths.

    Args:
        report: what is told.
        path: of the text: pictures are in a folder beside it, report_files of report.md.
        theme: colours of curves.
        single: without pictures.
    """
    files: dict[Path, bytes] = {}
    figures = [] if single else list(_figures(report, path, theme, files))
    parts = [f"# {in_markdown(report.title)}", _lead(report), *_sections(report, figures)]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "replace"), files


def _lead(report: Report) -> str:
    what = "A training run" if report.single else f"{len(report.runs)} training runs"
    notes = "".join(f" {in_markdown(note)}" for note in report.notes)
    return f"{what}, as of {report.when}.{notes}"


def _sections(report: Report, figures: list[str]) -> Iterator[str]:
    yield from _titled("Summary", [replace(tables.summary_table(report), title="The run" if report.single else "Runs")])
    if report.single:
        yield from _titled("Results", [tables.metrics_table(report)] if report.comparison.metrics else [])
    else:
        yield from _titled("Results", tables.comparison_tables(report))
    if figures:
        yield "## Figures"
        yield from figures
    first = tables.typed_table(report) if report.single else tables.difference_table(report)
    yield from _titled("Configuration", [first] if first is not None else [])
    whole = tables.configuration_table(report)
    if whole is not None and whole.rows:
        yield "The whole configuration:" if report.single else "What all configurations have in common:"
        yield _fenced("\n".join(f"{key}: {shown(value)}" for key, value in whole.rows))
    environment = tables.environment_tables(report)
    named = [replace(table, title=table.title or "What the run was trained with") for table in environment]
    yield from _titled("Environment", named)
    found = [(part, tables.events_table(part)) for part in report.runs]
    events = [replace(table, title=part.label) for part, table in found if table is not None]
    yield from _titled("Events", events)
    snapshots = tables.snapshots_table(report)
    yield from _titled("Snapshots", [replace(snapshots, title="What was kept")] if snapshots is not None else [])
    texts = [(part, text) for part in report.runs for text in part.samples if isinstance(text, str)]
    if texts:
        yield "## Samples"
    for part, text in texts:
        yield f"**{in_markdown(part.label)}**"
        yield _fenced(text)


def _titled(title: str, found: list[Table]) -> Iterator[str]:
    if any(table.rows for table in found):
        yield f"## {title}"
        yield from (table.markdown() for table in found if table.rows)


def _figures(report: Report, path: Path, theme: ThemeName, files: dict[Path, bytes]) -> Iterator[str]:
    """Yield each picture with its caption, and put its content into `files`."""
    folder = path.with_name(f"{path.stem}_files")
    grouped = ": mean and 95 % confidence interval of each group" if report.comparison.groups else ""
    number = 0

    def figure(stem: str, suffix: str, content: bytes, caption: str) -> str:
        nonlocal number
        number += 1
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:80] or "figure"
        file = folder / f"{number:02}_{safe}{suffix}"
        files[file] = content
        address = quote(f"{folder.name}/{file.name}")
        return f"![{in_markdown(caption)}]({address})\n\n*Figure {number}: {in_markdown(caption)}.*"

    for panel in panels_for(report):
        said = remarks_of(panel)
        caption = f"{panel.title} over {panel.along}{grouped}{f' ({said})' if said else ''}"
        yield figure(panel.title, ".png", draw_curve(panel, theme, "png", shared=not report.single), caption)
    for part in report.runs:
        samples = [each for each in part.samples if isinstance(each, EmbeddedPicture)]
        for picture in [*samples, *(each for each in part.pictures if each.kind != _CURVES)]:
            when = f" at step {picture.step:,}" if picture.step is not None else ""
            stem = picture.kind if report.single else f"{part.label}_{picture.kind}"
            whose = "" if report.single else f" of {part.label}"
            yield figure(stem, Path(picture.name).suffix.lower(), picture.content, f"{picture.kind}{whose}{when}")


def _fenced(text: str) -> str:
    """Return a block of text in a fence that is longer than any in it."""
    longest = max((len(found) for found in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"
