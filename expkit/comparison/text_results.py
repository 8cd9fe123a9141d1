"""Plain text result files, read line by line: the grammar is in `parse_text`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TextExperiment", "parse_text"]

_LONGEST = 2000  # characters of a line
_WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+(?:_\d+)*)"  # 1,234 and 1_234; 0,5 and 12,34 are none
_NUMBER = rf"[-+]?(?:{_WHOLE}(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
_VALUE = re.compile(rf"({_NUMBER})\s*(?:%|[a-zA-Z/]{{1,12}})?", re.IGNORECASE)
_NAMED = re.compile(r"(?:experiment|run)(?:\s+name)?\s*[:=]\s*(?P<name>.+)", re.IGNORECASE)
_DECORATED = re.compile(r"(?:[=#*~]{2,}|#\s)(?P<name>.*?)(?:[=#*~-]{2,})?")
_BRACKETS = re.compile(r"\[(?P<inside>[^\[\]]*)\](?P<rest>.*)")
_RULE = re.compile(r"[=#*~_-]{3,}")
_AT = re.compile(
    rf"(?P<what>step|iter|iteration|epoch)\s*[:=#]?\s*(?P<step>{_WHOLE})(?:\s*/\s*{_WHOLE})?\b(?P<rest>.*)",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"(?P<name>[A-Za-z][\w./ -]*?)\s*[:=]\s*(?P<value>{_NUMBER})\s*%?(?=$|[\s;|)]|,(?!\d))", re.IGNORECASE
)
_ENTRY = re.compile(r"(?P<name>[^:=]+?)\s*[:=]\s*(?P<value>.*)")
_HEADED = re.compile(r"(?P<name>[A-Za-z][^:=()]{0,200})\((?P<settings>[^()]{1,500})\):?")
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

    - A heading begins an experiment: `Experiment: NAME`, `Run: NAME`, `=== NAME ===`, `## NAME`, `[NAME]`, and
      `NAME (lr=0.1, seed=1)` with usual settings (below). What is before the first heading belongs to one without a
      name.
    - `config:` (configuration, hyperparameters, settings, arguments, parameters) on a line of its own begins the
      configuration, `results:` (metrics, final metrics, final results) ends it; so does an empty line.
    - `Step 100: loss 6.5, val_loss=6.7` is history: step, iteration or epoch, its number (`100/5000` too), then pairs
      NAME: VALUE or NAME=VALUE. Where there is an epoch and a step, the step counts.
    - What is in brackets before other things, as in logs, is passed over: `[12:00:01] [INFO] Step 100: loss 6.5`. A
      step may be in them: `[Step 100] loss 6.5`.
    - `NAME: VALUE` or `NAME = VALUE`, with `-` or `*` before it or not, is a final metric where VALUE is a number
      (1,234.5, 1e-3, 97.5 %, 12.5 s, nan), and configuration within the configuration, where it is anything else (0,5
      with a decimal comma, too), and where the name is a usual setting's (seed, lr, batch size, num layers). Several
      pairs on a line are several metrics.
    - Rules (`-----`), empty lines and Markdown's emphasis are passed over. A line with more than 2,000 characters is
      not read.

    Names are written as in journals: "Final Validation Loss" is val_loss, "Best val loss" best_val_loss.
    """
    experiments = [TextExperiment()]
    in_config = False
    unread: list[int] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.replace("**", "").replace("`", "").strip()
        line = _without_stamps(re.sub(r"^[-*•]\s+", "", line))
        if not line or _RULE.fullmatch(line):
            in_config = in_config and bool(line)
        elif (section := line.strip("#*= ").rstrip(":").lower()) in (*_CONFIG, *_RESULTS):
            in_config = section in _CONFIG
        elif len(line) > _LONGEST:
            unread.append(number)
        elif (headed := _headed(line)) is not None:
            experiments.append(headed)
            in_config = False
        elif (name := _heading(line)) is not None:
            experiments.append(TextExperiment(name))
            in_config = False
        elif not _take(experiments[-1], line, in_config):
            unread.append(number)
    return [each for each in experiments if each], unread


def _heading(line: str) -> str | None:
    """Return the name of the experiment that begins here, or None."""
    brackets = _BRACKETS.fullmatch(line)
    if brackets is not None and _AT.fullmatch(brackets["inside"].strip()) is not None:
        return None
    found = brackets or _DECORATED.fullmatch(line)
    inside = found[1].strip() if found is not None else line
    named = _NAMED.fullmatch(inside)
    name = named["name"] if named is not None else inside if found is not None else ""
    return name.strip(" :") or None


def _without_stamps(line: str) -> str:
    """Return a line without the brackets that it begins with, unless they are all of it; a step in them stays."""
    step = ""
    while (found := _BRACKETS.fullmatch(line)) is not None and found["rest"].strip():
        if _AT.fullmatch(found["inside"].strip()) is not None:
            step = found["inside"].strip()
        line = found["rest"].strip(" :-")
    return f"{step} {line}".strip()


def _headed(line: str) -> TextExperiment | None:
    """Return the experiment that `NAME (SETTING=VALUE, ...)` begins, or None."""
    match = _HEADED.fullmatch(line)
    pairs = [part.partition("=") for part in match["settings"].split(",")] if match is not None else []
    if match is None or not all(sign and _is_setting(key.strip()) for key, sign, _ in pairs):
        return None
    config = {_key(key.strip()): _plain(value.strip()) for key, _, value in pairs}
    return TextExperiment(match["name"].strip(), config)


def _is_setting(name: str) -> bool:
    return _SETTINGS.fullmatch(re.sub(r"[\s_-]+", " ", name)) is not None


def _take(experiment: TextExperiment, line: str, in_config: bool) -> bool:
    """Take what is in a line; return whether there is anything."""
    at = _AT.fullmatch(line)
    if at is not None and not in_config:
        inner = _AT.fullmatch(at["rest"].lstrip(" ,;|/()[]:-"))  # Epoch 3, Step 300
        step = at["step"] if inner is None or at["what"].lower() != "epoch" else inner["step"]
        rest = at["rest"] if inner is None else inner["rest"]
        pairs = [(match["name"], match["value"]) for match in _PAIR.finditer(_separated(rest))]
        for name, value in pairs:
            experiment.history.setdefault(_metric(name), []).append((_number(step), _number(value)))
        return bool(pairs)
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        return False
    if in_config or _is_setting(entry["name"]):
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
    if re.fullmatch(_NUMBER, text, re.IGNORECASE) is None:
        return text.strip("\"'")
    try:
        return int(text.replace(",", ""))
    except ValueError:
        return _number(text)


def _metric(name: str) -> str:
    words = [_WORDS.get(word, word) for word in re.split(r"[\s_-]+", name.lower()) if word]
    return "_".join(words[1:] if words[:1] == ["final"] and len(words) > 1 else words)


def _key(name: str) -> str:
    return "_".join(name.split())
