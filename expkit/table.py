"""Tables in the forms that people paste: text, Markdown, CSV, LaTeX, JSON; and HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from expkit.nested import MISSING
from expkit.printable import printable

__all__ = ["Table", "in_markdown", "json_value", "shown"]

_NUMBER = re.compile(r"[-+]?\d[\d.,e+-]*(?: \*)?")

_SHORT = 28  # characters
_LONGEST = 1000

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\ldots{}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        columns: their titles; the first is what a row is of.
        rows: a cell for each column: text, number, MISSING for what a run has not, None where there is nothing to say.
        note: what to know of it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def text(self) -> str:
        """Return it aligned, for a terminal, which finds nothing in it to obey."""
        rows = [[printable(shown(cell)) for cell in row] for row in self.rows]
        columns = list(map(printable, self.columns))
        right = [all(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]
        widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.rjust(width) if aligned else cell.ljust(width)
                for cell, width, aligned in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in [columns, ["-" * width for width in widths], *rows]
        ]
        note = [f"  {printable(self.note)}"] if self.note else []
        return "\n".join([printable(self.title), *(f"  {line}" for line in lines), *note])

    def markdown(self) -> str:
        """Return it as GitHub's Markdown."""
        right = [all(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]
        rows = [[in_markdown(shown(cell)) for cell in row] for row in self.rows]
        marks = ["---:" if aligned else "---" for aligned in right]
        head = [in_markdown(column) for column in self.columns]
        lines = [f"| {' | '.join(row)} |" for row in [head, marks, *rows]]
        return "\n".join(
            [f"**{in_markdown(self.title)}**", "", *lines, *(["", in_markdown(self.note)] if self.note else [])]
        )

    def csv(self) -> str:
        """Return comma-separated values with one line of titles; what is not there is an empty cell.

        Values are told as they are, for programs, control characters apart: a text that begins with `=` is no formula
        to them. Into a spreadsheet, import columns of other people's runs as text.
        """
        out = io.StringIO()
        plain = [["" if cell is None or cell is MISSING else _csv(cell) for cell in row] for row in self.rows]
        csv.writer(out, lineterminator="\n").writerows([map(printable, self.columns), *plain])
        return out.getvalue()

    def latex(self) -> str:
        """Return a table environment for the package booktabs."""
        right = [all(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]
        rows = [" & ".join(_latex(shown(cell)) for cell in row) + r" \\" for row in self.rows]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(self.title)}{'. ' + _latex(self.note) if self.note else ''}}}",
                rf"\begin{{tabular}}{{{''.join('r' if aligned else 'l' for aligned in right)}}}",
                r"\toprule",
                " & ".join(_latex(column) for column in self.columns) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    def html(self) -> str:
        """Return it as HTML. All that stands in it is escaped. Columns of numbers and of short texts have a class."""
        kinds = [_kind(name, [row[place] for row in self.rows]) for place, name in enumerate(self.columns)]

        def line(tag: str, cells: Sequence[str]) -> str:
            made = (f"<{tag}{kind}>{escape(cell)}</{tag[:2]}>" for cell, kind in zip(cells, kinds, strict=True))
            return f"<tr>{''.join(made)}</tr>"

        head = line('th scope="col"', self.columns)
        rows = "\n".join(line("td", [shown(cell) for cell in row]) for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return f"<table>{caption}<thead>{head}</thead><tbody>\n{rows}\n</tbody></table>{note}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values: one object for each row."""
        rows = [{name: json_value(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        return {"title": self.title, "rows": rows, **({"note": self.note} if self.note else {})}


def shown(cell: Any) -> str:
    """Return a cell for people: five digits, a dash where there is nothing to say, of a long text the beginning."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.5g}"
    text = str(cell)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def json_value(cell: Any) -> Any:
    """Return a cell as JSON: null for what is missing, and for a number that is not finite."""
    return None if cell is MISSING or (isinstance(cell, float) and not math.isfinite(cell)) else cell


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str):
        return _NUMBER.fullmatch(cell) is not None
    return cell is None or cell is MISSING or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _kind(name: str, cells: Sequence[Any]) -> str:
    """Return the class of a column in HTML."""
    if all(map(_is_number, cells)):
        return ' class="number"'
    return ' class="short"' if max(len(shown(cell)) for cell in [name, *cells]) <= _SHORT else ""


def in_markdown(text: str) -> str:
    """Return a text as Markdown shows it letter by letter, in one line."""
    escaped = re.sub(r"([|\\`*<>\[\]&~$]|(?<!\w)_|_(?!\w))", r"\\\1", printable(text))
    return re.sub(r"\s+", " ", escaped)


def _latex(text: str) -> str:
    text = re.sub(r"\s+", " ", printable(text))
    made = "".join(_LATEX.get(character, character) for character in text)
    return f"{{}}{made}" if made.startswith(("[", "*")) else made  # else an argument of the command before it


def _csv(cell: Any) -> Any:
    return cell if isinstance(cell, int | float) else printable(str(cell))
