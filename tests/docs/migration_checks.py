"""How each kind of row of the migration table is checked."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from expkit.cli.main import find_command
from expkit.cli.parser import Parser
from expkit.cli.watch_options import DEFAULT
from expkit.svd import SwitchThresholds
from expkit.wandb_data import read_offline
from expkit.watch.selecting import settings_of
from tests.docs.migration_evidence import Evidence
from train.api import create_config
from train.cli.main import rewrite
from train.cli.typed import check_typed
from train.config.compose import compose, hydra_with
from train.config.experiment_file import Experiment

__all__ = ["KINDS", "check"]

REPOSITORY = Path(__file__).parents[2]


def resolved(name: str) -> Any:
    """Return what a dotted name is of."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        if importlib.util.find_spec(parts[0]) is not None and _is_module(module):
            return functools.reduce(getattr, parts[count:], importlib.import_module(module))
    raise AssertionError(f"there is no package {parts[0]}")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def items(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def call(text: str, _: Evidence) -> None:
    name, _, arguments = text.partition("(")
    said = ast.parse(f"def said({arguments}: ...").body[0].args  # type: ignore[attr-defined]
    function = resolved(name)
    there = list(inspect.signature(function).parameters.values())
    if there and there[0].name == "self":
        del there[0]
    shown = [None] * (len(said.args) - len(said.defaults)) + said.defaults
    extra = [one for one in there if one.kind is inspect.Parameter.VAR_KEYWORD]
    assert [one.name for one in there[: len(said.args)]] == [one.arg for one in said.args]
    for one, default in zip(there, shown, strict=False):
        if default is not None:
            assert one.default == ast.literal_eval(default), one
    for one in there[len(said.args) :]:
        assert one in extra or one.default is not inspect.Parameter.empty, f"{one} has to be given"
    assert said.kwarg is None or said.kwarg.arg == extra[0].name


def attribute(text: str, _: Evidence) -> None:
    resolved(text)


def value(text: str, _: Evidence) -> None:
    name = re.match(r"[\w.]+", text)
    assert name is not None and " == " in text
    resolved(name[0])  # imports it
    assert eval(text, {"expkit": importlib.import_module("expkit")})


def result(text: str, evidence: Evidence) -> None:
    function, keys = text.split("()")
    attribute(function, evidence)
    found = evidence.result(function)
    for key in re.findall(r"\[([^]]+)\]", keys):
        found = found[ast.literal_eval(key)]


class _Parsed(Exception):  # noqa: N818 - it is no error
    """The parser that a script uses, and what it is given."""


def understood(text: str) -> tuple[Parser, argparse.Namespace, list[str]]:
    """Return the parser of a command, and what it makes of the line; SystemExit if it refuses it."""
    program, *words = shlex.split(text.removeprefix("python "))
    if program == "expkit":
        parser, words = find_command(words[0]).parser(), words[1:]  # type: ignore[attr-defined]
    else:
        parser, words = _of_script(program, words)
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        return parser, *parser.parse_known_intermixed_args(words)
    return nested[0].choices[words[0]], *parser.parse_known_args(words)


def _of_script(program: str, words: Sequence[str]) -> tuple[Parser, list[str]]:
    def parse(self: Parser, args: Sequence[str] | None = None, namespace: Any = None) -> None:
        raise _Parsed(self, list(sys.argv[1:] if args is None else args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *words])
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(Parser, "parse_known_args", parse)
        try:
            runpy.run_path(str(REPOSITORY / program), run_name="__main__")
        except _Parsed as parsed:
            return parsed.args  # type: ignore[return-value]
    raise AssertionError(f"{program} parses nothing")


def command(text: str, _: Evidence) -> None:
    if text.startswith("python -m train"):
        words = shlex.split(text)[3:]
        check_typed([word for word in words if not word.startswith("config_file=")])
        composed(*words)
        return
    _, _, left = understood(text)
    assert all("=" in word and not word.startswith("-") for word in left), left


#: Options whose default is that of what they set: where it is found.
_SET_BY: dict[str, Callable[[], Any]] = {
    "loss_spike_threshold": lambda: settings_of((), DEFAULT)["loss_spike"]["threshold"],
    "accuracy_drop_threshold": lambda: settings_of((), DEFAULT)["accuracy_drop"]["threshold"],
    "loss_window": lambda: settings_of((), DEFAULT)["loss_spike"]["window"],
    "min_steps_between_saves": lambda: settings_of((), DEFAULT)["best_model"]["cooldown"],
    **{name: functools.partial(getattr, SwitchThresholds(), name) for name in SwitchThresholds.__slots__},
}


def option(text: str, _: Evidence) -> None:
    before, flag, default = re.fullmatch(r"(.+) (--[\w-]+)(?: (.+))?", text).groups()  # type: ignore[union-attr]
    config = " CONFIG.json" if "profiler" in before else ""  # without which it refuses everything
    parser = understood(before + config)[0]
    action = parser._option_string_actions[flag]
    there = action.default
    if there is None and default is not None:
        there = _SET_BY[action.dest]() if action.dest in _SET_BY else re.search(r"\((\w+)\)$", action.help or "")[1]  # type: ignore[index]
    assert there == yaml.safe_load(default) if default is not None else there in (None, False)


@functools.cache
def composed(*words: str) -> Any:
    with hydra_with():
        return compose([word for word in rewrite(list(words)) if word != "-m"])


def key(text: str, _: Evidence) -> None:
    *before, last = text.split(" ")
    name, _, default = last.partition("=")
    found = OmegaConf.to_container(composed(*before), resolve=False)
    for part in name.split("."):
        found = found[part]  # type: ignore[index, call-overload]
    assert found == yaml.safe_load(default)


def json_key(text: str, _: Evidence) -> None:
    name, _, default = text.partition("=")
    expected = yaml.safe_load(default)
    assert functools.reduce(lambda form, part: form[part], name.split("."), create_config()) == expected
    nested = functools.reduce(lambda inner, part: {part: inner}, reversed(name.split(".")), expected)
    with hydra_with():
        compose(rewrite([], Experiment(nested, "config")))


def found_files(pattern: str, evidence: Evidence) -> list[Path]:
    places = re.sub(r"\{\w+\}", "*", pattern)
    found = [path for run in evidence.runs.values() for path in run.glob(places)]
    return [path for path in found if path.is_dir() or not pattern.endswith("/")]


def file(text: str, evidence: Evidence) -> None:
    assert found_files(text, evidence)


def _read(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    if path.suffix == ".wandb":
        return [{"config": read_offline(path).config}]
    return [torch.load(path, weights_only=True) if path.suffix == ".pt" else json.loads(path.read_text())]


def _has(content: Any, path: str) -> bool:
    for name, number in re.findall(r"([^.\[]+)|\[(\d+)\]", path):
        try:
            content = content[int(number) if number else name]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def field(text: str, evidence: Evidence) -> None:
    pattern, _, path = text.partition(": ")
    assert any(_has(content, path) for file in found_files(pattern, evidence) for content in _read(file))


def metric(text: str, evidence: Evidence) -> None:
    assert [name for name in evidence.metrics if fnmatchcase(name, re.sub(r"\{\w+\}", "*", text))]


_CHECKS: dict[str, Callable[[str, Evidence], None]] = {
    **{"call": call, "attribute": attribute, "value": value, "result": result, "command": command, "option": option},
    **{"key": key, "JSON key": json_key, "file": file, "field": field, "metric": metric},
}


KINDS = (*_CHECKS, "line")


def check(kind: str, new: str, evidence: Evidence) -> None:
    """Check a row by its kind and its third column, each name in backticks.

    Raises:
        Exception: it is not true, or it names nothing.
    """
    if kind == "line":
        where, said = re.fullmatch(r"(.+?): (`.+`)", new).groups()  # type: ignore[union-attr]
        text = evidence.text(where.replace("`", ""))
        assert all(part in text for part in items(said)), text
        return
    assert items(new)
    for item in items(new):
        _CHECKS[kind](item, evidence)
