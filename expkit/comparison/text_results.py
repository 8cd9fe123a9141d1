"""Plain text result files, read line by line: the grammar is in `parse_text`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TextExperiment", "parse_text"]

_NUMBER = r"[-+]?(?:\d[\d,_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
_VALUE = re.compile(rf"({_NUMBER})\s*(?:%|[a-zA-Z/]{{1,12}})?", re.IGNORECASE)
_NAMED = re.compile(r"(?:experiment|run)(?:\s+name)?\s*[:=]\s*(?P<name>.+)", re.IGNORECASE)
_DECORATED = re.compile(r"(?:[=#*~]{2,}|#\s|\[)\s*(?P<name>.*?)\s*(?:[=#*~-]{2,}|\])?")
_RULE = re.compile(r"[=#*~_-]{3,}")
_AT = re.compile(
    r"(?:step|iter|iteration|epoch)\s*[:=#]?\s*(?P<step>\d[\d,_]*)(?:\s*/\s*\d[\d,_]*)?\b(?P<rest>.*)", re.IGNORECASE
)
_PAIR = re.compile(rf"(?P<name>[A-Za-z][\w./ -]*?)\s*[:=]\s*(?P<value>{_NUMBER})\s*%?(?=$|[\s,;|)])", re.IGNORECASE)
_ENTRY = re.compile(r"(?P<name>[^:=]+?)\s*[:=]\s*(?P<value>.*)")
_CONFIG = ("config", "configuration", "hyperparameters", "settings", "arguments", "parameters")
#: What is configuration wherever it is written.
_SETTINGS = re.compile(
    r"seed|lr|learning rate|batch size|weight decay|epochs|layers|max steps|dropout|(?:n|num|number of) .*",
    re.IGNORECASE,
)
_RESULTS = ("results", "final results", "final metrics", "metrics", "final")
_WORDS = {"validation": "val", "valid": "val", "training": "train", "accuracy": "accuracy", "ppl": "perplexity"}


@dataclass
class TextExperiment:
    """One experiment of a text file.

    Attributes:
        name: from its heading; "" where there is none.
        config: key -> number, truth value or text.
        final: metric -> its value at the end.
        history: metric -> (step, value), in the order of the file.
    """

    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.config or self.final or self.history)


def parse_text(text: str) -> tuple[list[TextExperiment], list[int]]:
    """Return the experiments in a text, and the numbers of lines that are none of these:

    - A heading begins an experiment: `Experiment: NAME`, `Run: NAME`, `=== NAME ===`, `## NAME`, `[NAME]`. What is
      before the first heading belongs to one without a name.
    - `config:` (configuration, hyperparameters, settings, arguments, parameters) on a line of its own begins the
      configuration, `results:` (metrics, final metrics, final results) ends it; so does an empty line.
    - `Step 100: loss 6.5, val_loss=6.7` is history: step, iteration or epoch, its number (`100/5000` too), then pairs
      NAME: VALUE or NAME=VALUE.
    - `NAME: VALUE` or `NAME = VALUE`, with `-` or `*` before it or not, is a final metric where VALUE is a number
      (1,234.5, 1e-3, 97.5 %, 12.5 s, nan), and configuration within the configuration, where it is anything else, and
      where the name is a usual setting's (seed, lr, batch size, num layers). Several pairs on a line are several
      metrics.
    - Rules (`-----`), empty lines and Markdown's emphasis are passed over.

    Names are written as in journals: "Final Validation Loss" is val_loss, "Best val loss" best_val_loss.
    """
    experiments = [TextExperiment()]
    in_config = False
    unread: list[int] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.replace("**", "").replace("`", "").strip()
        line = re.sub(r"^[-*•]\s+", "", line)
        if not line or _RULE.fullmatch(line):
            in_config = in_config and bool(line)
        elif (section := line.strip("#*= ").rstrip(":").lower()) in (*_CONFIG, *_RESULTS):
            in_config = section in _CONFIG
        elif (name := _heading(line)) is not None:
            experiments.append(TextExperiment(name))
            in_config = False
        elif not _take(experiments[-1], line, in_config):
            unread.append(number)
    return [each for each in experiments if each], unread


def _heading(line: str) -> str | None:
    """Return the name of the experiment that begins here, or None."""
    decorated = _DECORATED.fullmatch(line)
    inside = decorated["name"] if decorated is not None else line
    named = _NAMED.fullmatch(inside)
    found = named["name"] if named is not None else inside if decorated is not None else ""
    return found.strip(" :") or None


def _take(experiment: TextExperiment, line: str, in_config: bool) -> bool:
    """Take what is in a line; return whether there is anything."""
    at = _AT.fullmatch(line)
    if at is not None and not in_config:
        pairs = [(match["name"], match["value"]) for match in _PAIR.finditer(_separated(at["rest"]))]
        for name, value in pairs:
            experiment.history.setdefault(_metric(name), []).append((_number(at["step"]), _number(value)))
        return bool(pairs)
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        return False
    if in_config or _SETTINGS.fullmatch(re.sub(r"[\s_-]+", " ", entry["name"])):
        experiment.config[_key(entry["name"])] = _plain(entry["value"].strip())
        return True
    if _VALUE.fullmatch(entry["value"].strip()):
        experiment.final[_metric(entry["name"])] = _number(_value(entry["value"].strip()))
        return True
    pairs = [(match["name"], match["value"]) for match in _PAIR.finditer(_separated(line))]
    if len(pairs) > 1:
        experiment.final.update({_metric(name): _number(value) for name, value in pairs})
    elif entry["value"].strip():
        experiment.config[_key(entry["name"])] = _plain(entry["value"].strip())
    else:
        return False
    return True


def _separated(text: str) -> str:
    """Return `loss 6.5 val_loss 6.7` with signs between names and values, as `loss=6.5 | val_loss=6.7` has."""
    spaced = re.sub(r"[|,;()]+(?=\s|$)|^\W+", " ; ", text)
    return re.sub(rf"\b([A-Za-z][\w./]*)\s+(?={_NUMBER}(?:\s|%|;|$))", r"\1=", spaced)


def _value(text: str) -> str:
    found = _VALUE.fullmatch(text)
    return found[1] if found is not None else text


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("_", ""))


def _plain(text: str) -> Any:
    """Return a configuration's value: a number, a truth value, or the text."""
    if text.lower() in ("true", "yes", "on", "false", "no", "off"):
        return text.lower() in ("true", "yes", "on")
    try:
        return int(text.replace(",", ""))
    except ValueError:
        pass
    try:
        return _number(text)
    except ValueError:
        return text.strip("\"'")


def _metric(name: str) -> str:
    words = [_WORDS.get(word, word) for word in re.split(r"[\s_-]+", name.lower()) if word]
    return "_".join(words[1:] if words[:1] == ["final"] and len(words) > 1 else words)


def _key(name: str) -> str:
    return "_".join(name.split())
