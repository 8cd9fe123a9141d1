"""Runs as something to hand on: one page that opens from disk, or Markdown for a paper's appendix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expkit.errors import UserError

if TYPE_CHECKING:
    from expkit.comparison.compare import Request
    from expkit.experiment import RunDir
    from expkit.report.page import PageTheme

__all__ = ["Written", "write_report"]

_KINDS = (".html", ".md")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: the report.
        pictures: files beside it, of Markdown.
        notes: what to know of it, a sentence each.
        left_out: run -> pictures and texts that there was no room for.
    """

    path: Path
    pictures: Sequence[Path]
    notes: Sequence[str]
    left_out: dict[str, Sequence[str]]


def write_report(
    runs: Sequence[RunDir | Path | str],
    path: Path | str,
    *,
    request: Request | None = None,
    title: str | None = None,
    theme: PageTheme = "auto",
    static: bool = False,
    single: bool = False,
) -> Written:
    """Write a report of runs: the whole file, or none.

    Args:
        runs: their directories: of the runner, of somebody's own loop, or with a results.json only.
        path: of the report: .html for a page of its own, .md for Markdown with its pictures in a folder beside it.
        request: which metrics, and how runs are compared.
        title: None: the run's id, or how many runs there are.
        theme: auto, dark, light or print; auto is the reader's own on a page, light in Markdown.
        static: of a page: curves as pictures, without JavaScript: 0.2 to 1 MB instead of 5.
        single: of Markdown: without pictures.

    Raises:
        UserError: (a ValueError) there is no run, no such metric, or the file cannot be written.
    """
    from expkit.experiment import RunDir
    from expkit.files import write_bytes
    from expkit.plots.themes import find_theme
    from expkit.report.content import gather

    path = Path(path)
    _check(path, static, single)
    if theme != "auto":
        find_theme(theme)
    found = [run if isinstance(run, RunDir) else RunDir(run) for run in runs]
    for run in found:
        if not run.root.is_dir():
            raise UserError(f"{run.root} is no run: there is no such directory")
    report = gather(found, request, title)
    pictures: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            from expkit.report.page import make_page

            content = make_page(report, theme, static)
        else:
            from expkit.report.markdown import make_markdown

            text, files = make_markdown(report, path, "light" if theme == "auto" else theme, single)
            for file, picture in files.items():
                file.parent.mkdir(exist_ok=True)
                write_bytes(file, picture, durable=False)
            pictures, content = list(files), text
        write_bytes(path, content, durable=False)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} cannot be written: {path.parent} is no folder; -o chooses another place") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; -o chooses another place") from None
    left_out = {part.label: part.left_out for part in report.runs if part.left_out}
    return Written(path, pictures, report.notes, left_out)


def _check(path: Path, static: bool, single: bool) -> None:
    if path.suffix not in _KINDS or path.is_dir():
        raise UserError(f"{path}: the name of a report ends in {' or '.join(_KINDS)}")
    if static and path.suffix != ".html":
        raise UserError(f"--static is for pages: the pictures of {path.name} are drawn anyway")
    if single and path.suffix != ".md":
        raise UserError(f"--single is for Markdown: {path.name} is one file anyway")
