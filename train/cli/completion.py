"""Completion for bash: Hydra answers it, but its own script knows neither `python -m train` nor what can be resumed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from expkit.checkpoint_file import step_of
from expkit.experiment import RunDir

__all__ = ["answer"]

#: eval "$(python -m train -sc install=bash)"
_BASH = r"""
_expkit_train() {
    local words=($COMP_LINE) helper rest
    case "${words[0]##*/}" in
        python*)
            if [ "${words[1]}" != "-m" ] || [ "${words[2]}" != "train" ]; then
                COMPREPLY=($(compgen -o default -- "${COMP_WORDS[COMP_CWORD]}"))
                return
            fi
            helper="${words[0]} -m train"
            rest="${COMP_LINE#*-m*train}"
            ;;
        *)
            helper="${words[0]}"
            rest="${COMP_LINE#*"${words[0]}"}"
            ;;
    esac
    local line="expkit-train$rest"
    local word="${COMP_LINE##* }"
    local choices=$(COMP_POINT=${#line} COMP_LINE="$line" $helper -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _expkit_train python python3 expkit-train
"""


def answer(arguments: Sequence[str]) -> str | None:
    """Return what `-sc install=bash` or `-sc query=bash` prints, or None where Hydra knows better."""
    if {"-sc", "install=bash"} <= set(arguments):
        return _BASH
    if {"-sc", "query=bash"} <= set(arguments):
        words = _runs(os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or 10**6)])
        return None if words is None else " ".join(words)
    return None


def _runs(line: str) -> list[str] | None:
    """Return what `resume=` at the end of a command line can be completed to, or None if the line ends otherwise.

    Runs are those in `run.outputs`; after the folder of one and a slash it is its checkpoints and snapshots.
    """
    typed = re.search(r"(?:^|\s)resume=(\S*)$", line)
    if typed is None:
        return None
    where = re.findall(r"(?:^|\s)run\.outputs=(\S+)", line)
    outputs = Path(where[-1] if where else "outputs")
    runs = [file.parent for file in outputs.glob("*/config.json")]
    words = ["latest", "auto", "ask", "never", *map(str, runs)]
    run = next((run for run in runs if typed[1].startswith(f"{run}/")), None)
    if run is not None:
        files = RunDir(run)
        there = files.checkpoints.glob("checkpoint_*")
        checkpoints = [path for path in there if path.suffix == ".pt" or step_of(path) is not None]
        words = [*map(str, checkpoints), *map(str, files.snapshots.glob("anomaly_*"))]
    return [f"resume={word}" for word in sorted(words) if word.startswith(typed[1])]
