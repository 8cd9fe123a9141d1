"""The first line of a panel: what it shows, which line is which, their last values, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

from expkit.monitor.terminal.look import Look, plain, shortened, styled
from expkit.plots.panels import Line, Panel

__all__ = ["SIGNS", "signed", "swatch", "title_line"]

#: Of lines that neither dots nor colours tell apart.
SIGNS = "ox+*#@%&ABCDEFGHIJKLMNPQRSTUVWYZ"
#: What stands in a legend for a line: whole, dashed, dotted, both; where each line has a sign, that.
_SWATCHES = ("●", "--", "··", "-·")

_SHORTEST = 8  # cells


def title_line(panel: Panel, width: int, look: Look, last: Mapping[str, float] | None) -> Text:
    """Return the first line: what it shows, which line is which, the last values, how many were not finite."""
    title = styled(plain(panel.title), Style(bold=True))
    missing = sum(line.curve.nonfinite for line in panel.lines)
    legends = _legends(panel.lines, look, last) if last is not None else _legend_of_metrics(panel.lines, look)
    counts = (
        [styled(said, look.alert) for said in (f"✕ {missing:,} {panel.missing}", f"✕ {missing:,}")]
        if missing
        else [Text()]
    )
    for right in counts:
        for legend in legends:
            needed = title.cell_len + (2 + legend.cell_len if legend else 0) + (1 + right.cell_len if right else 0)
            if needed <= width:
                made = title.append("  ").append_text(legend) if legend else title
                return _spread(made, right, width)
    legend, right = legends[-1], counts[-1]
    room = width - legend.cell_len - right.cell_len - 3
    if room < _SHORTEST:  # the legend has to be shorter, too
        room = max(_SHORTEST, width // 3)
        legend.truncate(max(width - room - right.cell_len - 3, 0), overflow="ellipsis")
    title = styled(shortened(title.plain, room), Style(bold=True))
    return _spread(title.append("  ").append_text(legend), right, width)


def _spread(left: Text, right: Text, width: int) -> Text:
    """Return a line with something at its right end."""
    left.truncate(max(width - right.cell_len - (1 if right else 0), 0), overflow="ellipsis", pad=True)
    return left.append(" ").append_text(right) if right else left


def _legends(lines: Sequence[Line], look: Look, last: Mapping[str, float]) -> list[Text]:
    """Return what tells which line is which, and their last values: the longest first, the shortest last."""
    known = [line for line in lines if line.curve.bounds() is not None]
    labels = [line.label for line in known]
    values = [f"{last[label]:.4g}" if label in last else "" for label in labels]
    if len(known) < 2:
        return [Text(value, look.line(line.colour)) for line, value in zip(known, values, strict=True)] or [Text()]
    alike = signed(look, len(known))
    signs = [SIGNS[at % len(SIGNS)] if alike else swatch(line.style) for at, line in enumerate(known)]
    short = _without_common_end(labels)
    made = []
    for names, shown in ((labels, values), (short, values), (labels, []), (short, [])):
        text = Text()
        for number, line in enumerate(known):
            text.append(f"{'  ' if number else ''}{signs[number]} ", look.line(line.colour))
            text.append(plain(names[number]), look.muted)
            text.append(f" {shown[number]}" if shown else "", look.line(line.colour))
        made.append(text)
    return made


def _legend_of_metrics(lines: Sequence[Line], look: Look) -> list[Text]:
    """Return which style which metric of several runs has; the runs' colours stand above the panels."""
    styles: dict[str, list[str]] = {}
    for line in lines:
        found = styles.setdefault(line.metric, [])
        if swatch(line.style) not in found:
            found.append(swatch(line.style))
    if len(styles) < 2 or signed(look, len(lines)):
        return [Text()]
    made = []
    for names in (list(styles), _without_common_end(list(styles))):
        parts = [f"{' '.join(signs)} {plain(name)}" for name, signs in zip(names, styles.values(), strict=True)]
        made.append(styled("  ".join(parts), look.muted))
    return made


def _without_common_end(labels: Sequence[str]) -> list[str]:
    """Return train and val of train_loss and val_loss."""
    ends = {label.partition("_")[2] for label in labels}
    return [label.partition("_")[0] for label in labels] if len(ends) == 1 and "" not in ends else list(labels)


def swatch(style: int) -> str:
    """Return what stands in a legend for lines of a style (`Line.style`)."""
    return _SWATCHES[style % len(_SWATCHES)]


def signed(look: Look, lines: int) -> bool:
    """Whether each line is of a sign of its own: where there are no braille dots, or no colours to tell them apart."""
    return not look.unicode or (look.colours == "none" and lines > 1)
