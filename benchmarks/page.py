"""The page docs/benchmarks.md: a part for each benchmark, and in front what all of them come to.

A part keeps its goals as JSON in a comment, so that the summary can be written anew whichever benchmark has run.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from benchmarks.harness import Goal

__all__ = ["part", "put"]

INTRODUCTION = """\
# Benchmarks

`make bench` measures all of this and writes this page, `python -m benchmarks NAME` a part of it; no figure is typed by
hand. Competitors take turns in every round, so that whatever else the machine does hits them alike. The difference and
the ratio to the baseline are taken within each round; the table has their median and quartiles.
"""

_PART = re.compile(r"<!-- begin (\S+): written by python -m benchmarks -->\n(.*?)<!-- end \1 -->", re.DOTALL)
_GOALS = re.compile(r"<!-- goals (.*) -->\n")


def part(title: str, text: str, header: str, table: str, goals: Sequence[Goal] = ()) -> str:
    """Return a benchmark's part of the page.

    Args:
        title: its heading.
        text: what was measured, and how.
        header: date, machine and versions.
        table: what came out.
        goals: what was to be reached.
    """
    kept = json.dumps([dataclasses.asdict(goal) for goal in goals], ensure_ascii=False)
    comment = f"<!-- goals {kept} -->\n" if goals else ""
    return f"{comment}## {title}\n\n{text}\n\n{header}\n\n{table}\n"


def put(page: str, name: str, text: str, order: Mapping[str, str]) -> str:
    """Return `page` with `text` as the part of `name`, the summary written anew.

    Args:
        page: the page so far; "" if there is none.
        name: of the benchmark.
        text: its part, see `part`.
        order: name -> title of all benchmarks, in the order of the page. Parts of others are left out.
    """
    parts = {found[1]: found[2] for found in _PART.finditer(page)} | {name: text}
    blocks = [
        f"<!-- begin {each}: written by python -m benchmarks -->\n{parts[each]}<!-- end {each} -->\n"
        for each in order
        if each in parts
    ]
    return "\n".join([INTRODUCTION, *_summary({each: parts[each] for each in order if each in parts}, order), *blocks])


def _summary(parts: Mapping[str, str], titles: Mapping[str, str]) -> list[str]:
    lines = []
    for name, text in parts.items():
        found = _GOALS.match(text)
        for goal in map(lambda kept: Goal(**kept), json.loads(found[1]) if found else ()):
            link = f"[{name}](#{_anchor(titles[name])})"
            met = "yes" if goal.met else f"no: {goal.reason}" if goal.reason else "no"
            lines.append(f"| {link} | {goal.text} | {goal.measured} | {met} |")
    if not lines:
        return []
    head = "| benchmark | goal | measured | met |\n|---|---|---|---|\n"
    return ["## Summary\n", head + "\n".join(lines) + "\n"]


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
