"""The files of a profile: for people, for programs, and a picture."""

from __future__ import annotations

from pathlib import Path

from expkit.files import write_bytes, write_json
from sweeps.profile.report import Report

__all__ = ["write_report"]


def write_report(report: Report, output: Path) -> list[Path]:
    """Write a report as Markdown to `output`, and its JSON and its picture beside it; return where they are."""
    from sweeps.profile.picture import draw

    beside, picture = output.with_suffix(".json"), output.with_suffix(".png")
    write_json(beside, report.plain())
    draw(report).savefig(picture, dpi=130)
    write_bytes(output, report.markdown(picture.name).encode())
    return [output, beside, picture]
