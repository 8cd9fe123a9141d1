"""What `expkit monitor` shows in a terminal, as a picture: python scripts/terminal_picture.py RUN... FILE.svg."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from expkit.monitor import TrainingMonitor
from expkit.monitor.terminal.controls import Controls
from expkit.monitor.terminal.dashboard import draw_frame
from expkit.monitor.terminal.look import Look


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="+", help="run directories")
    parser.add_argument("file", type=Path, help="the picture, FILE.svg")
    parser.add_argument("--size", default="100x30", help="columns x rows")
    options = parser.parse_args()
    columns, rows = (int(part) for part in options.size.split("x"))
    with TrainingMonitor(options.run, index=False) as monitor:
        monitor.refresh()
        lines = draw_frame(monitor, Controls(), Look(colours="truecolor"), (columns, rows))
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line, no_wrap=True, crop=False, overflow="ignore")
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="expkit monitor"), flags=re.DOTALL)
    options.file.write_text(picture, encoding="utf-8")  # no font is fetched from anywhere


if __name__ == "__main__":
    main()
