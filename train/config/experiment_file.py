"""An experiment as one plain JSON object, from a file or from Python, and the overrides that it stands for.

Only what differs from the defaults becomes an override. So whatever is typed beside a file works as it does without
one, and a run that was started with a file is like any other.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from expkit.errors import ConfigError
from expkit.opening import read_whole
from train.config.build import MULTI_SELECT, extra_folders
from train.config.compose import compose, hydra_with, literal
from train.config.experiment_form import OPTION, TRAINER, chosen_options, differences, form, normal, section_of
from train.config.mistakes import one_line

__all__ = ["Experiment", "read_experiment", "take_config_file"]

log = logging.getLogger("expkit")


def read_experiment(path: Path | str) -> Experiment:
    """Return the experiment in a JSON file.

    Raises:
        ConfigError: there is no such file, or it does not hold JSON.
    """
    try:
        file = Path(path).expanduser()
        content = json.loads(read_whole(file).decode("utf-8-sig"), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: no JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except FileNotFoundError:
        names = {each.stem: each.name for each in file.parent.glob("*.json")}
        close = [names[stem] for stem in get_close_matches(file.stem, names, n=1)]
        raise ConfigError(f"{path}: there is no such file{f'; did you mean {close[0]}?' if close else ''}") from None
    except OSError as error:
        raise ConfigError(f"{path}: no JSON file can be read there: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no JSON: it is no text in UTF-8") from None
    except (ValueError, RuntimeError) as error:  # a key twice; a folder ~user of nobody; lists in lists without end
        raise ConfigError(f"{path}: {error}") from None
    return Experiment(content, str(path), file.stem)


def take_config_file(arguments: Sequence[str]) -> tuple[Experiment | None, list[str]]:
    """Return the experiment that `config_file=PATH` among `arguments` names, or None, and the other arguments.

    Raises:
        ConfigError: the file cannot be used, or there are two.
    """
    found = [re.fullmatch(r"\+{0,2}config_file=(.*)", argument, re.DOTALL) for argument in arguments]
    paths = [match[1] for match in found if match]
    if not paths:
        return None, list(arguments)
    if len(paths) > 1:
        raise ConfigError(f"config_file={paths[0]} and config_file={paths[1]}: name one file")
    path = re.sub(r"""^(['"])(.*)\1$""", r"\2", paths[0], flags=re.DOTALL)
    if not path:
        raise ConfigError("config_file=: name a JSON file")
    return read_experiment(path), [each for each, match in zip(arguments, found, strict=True) if not match]


@dataclass(frozen=True)
class Experiment:
    """An experiment object, and where it comes from.

    Args:
        content: what it says; the rest is as the options say.
        source: how mistakes name it.
        name: of the run, where `content` names none; None for the usual name.
    """

    content: Any
    source: str
    name: str | None = None

    def merge(self, arguments: Sequence[str], typed: Sequence[str]) -> list[str]:
        """Return `arguments` with its overrides, which win over a resumed run's own, and lose against those typed.

        Args:
            arguments: all that Hydra is to get.
            typed: those of them that a person typed; the others are a resumed run's own.

        Raises:
            ConfigError: it holds what cannot be used.
        """
        stored = [each for each in arguments if each not in typed and _key(each) != "resume"]
        search = [each for each in typed if _key(each) == "hydra.searchpath"]
        try:
            with hydra_with(extra_folders):
                said = _Translation(self, [*stored, *search]).overrides(typed)
        except ConfigError as error:
            raise ConfigError(f"{self.source}: {error}") from error
        names = {_key(each) for each in said}
        return [*said, *(each for each in arguments if each in typed or _key(each) not in names)]


class _Translation:
    """From an experiment to overrides: the options that it chooses, then the values that differ from theirs.

    Args:
        experiment: what is translated.
        start: overrides that hold already.
    """

    def __init__(self, experiment: Experiment, start: Sequence[str]) -> None:
        self.experiment, self.start = experiment, start
        self.said = normal(experiment.content)
        self.training = self.said.get("training", {})
        if not isinstance(self.training, dict):
            raise ConfigError(f'training={self.training!r}: this is a section, an object like {{"epochs": 10}}')
        for key, value in (
            ("training.enable_diagnostics", self.training.get("enable_diagnostics", False)),
            ("save_plots", self.said.get("save_plots", False)),
        ):
            if not isinstance(value, bool):
                raise ConfigError(f"{key}={value!r}: it is true or false")
        self.chosen: dict[str, str] = {}
        config = self._choose()
        self.form, self.options = form(config), chosen_options(config)

    def overrides(self, typed: Sequence[str]) -> list[str]:
        """Return the overrides, less what is typed."""
        said = [f"{group}={option}" for group, option in self.chosen.items()]
        for path, value, before in differences(self._switched_on(), self.form):
            said += self._value(path, value, before)
        names = {_key(each) for each in typed}
        usual = "${" in str(self.form["run"]["name"]) and not names & {"run.name", "run.variant"}
        if usual and self.experiment.name and not any(_key(each) == "run.name" for each in said):
            said.append(f"run.name={literal(self.experiment.name)}")
        for argument in typed:
            said = self._without(said, argument)
        return said

    def _choose(self) -> DictConfig:
        """Choose all options that are said, outer ones first (a task has options of its own); return what they make."""
        before = next((each.partition("=")[2] for each in self.start if _key(each) == "experiment"), None)
        if self.said.get("experiment") not in (None, before):
            self.chosen["experiment"] = _option("experiment", self.said["experiment"])
        while True:
            kept = [each for each in self.start if _key(each) not in self.chosen]
            overrides = [*kept, *(f"{group}={option}" for group, option in self.chosen.items())]
            with one_line(overrides):
                config = compose(overrides)
            new = {group: option for group, option in self._choices(config) if group not in self.chosen}
            if not new:
                return config
            depth = min(group.count("/") for group in new)
            self.chosen |= {group: option for group, option in new.items() if group.count("/") == depth}

    def _choices(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield group and option wherever the experiment says another option than `config` has."""
        for group, option in chosen_options(config).items():
            said: Any = self.said
            for key in section_of(group).split("."):
                said = said.get(key) if isinstance(said, dict) else None
            said = said.get(OPTION) if isinstance(said, dict) else said
            if said is not None and said != option:
                yield group, _option(group, said)
        for group in MULTI_SELECT:
            names = self._selected(group, list(config[group]))
            if names != list(config[group]):
                yield group, f"[{','.join(_option(group, name) for name in names)}]"

    def _selected(self, group: str, default: list[str]) -> list[str]:
        """Return the options that are said of a multi-select group, switches regarded."""
        names = list(self.said.get(group, default))
        if group == "diagnostics" and "enable_diagnostics" in self.training:
            if not self.training["enable_diagnostics"]:
                return [name for name in names if name != "blob"]
            return names if "blob" in names else [*names, "blob"]
        if group == "plots" and "save_plots" in self.said:
            if self.said["save_plots"] and not names and group not in self.said:
                raise ConfigError("save_plots=true, but there are no plots by default: name some in plots")
            return names if self.said["save_plots"] else []
        return names

    def _switched_on(self) -> dict[str, Any]:
        """Return what is said, less the arguments of parts that `enable_diagnostics` or `save_plots` switch off."""
        said = dict(self.said)
        if not said.get("save_plots", True):
            said.pop("plots", None)
        if not self.training.get("enable_diagnostics", True):
            said["diagnostics"] = {name: each for name, each in said.get("diagnostics", {}).items() if name != "blob"}
        return said

    def _value(self, path: tuple[str, ...], value: Any, before: Any) -> list[str]:
        """Return the overrides of one value, which was `before`."""
        name = ".".join(path)
        if name == "training.diagnostic_sample_size":
            return self._sample_size(value)
        if name in ("training.enable_diagnostics", "save_plots"):
            return []  # regarded when the options were chosen
        if name == "run.name" and value is None:
            return []
        if path[0] == "training":
            name = f"trainer.{TRAINER.get(path[1], path[1])}"
        try:
            written = literal(value)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        if isinstance(before, dict) and before:  # an override adds to a mapping, so the old keys go first
            return [f"~{name}", f"+{name}={written}"]
        return [f"{name}={written}"]

    def _sample_size(self, value: Any) -> list[str]:
        name = "training.diagnostic_sample_size"
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name}={value!r}: it must be a whole number, at least 1, or null for all pairs")
        if "blob" not in self.form["diagnostics"]:
            source = self.experiment.source
            log.warning("%s: %s=%s has no effect: training.enable_diagnostics is not true", source, name, value)
            return []
        if value is None:
            return ["diagnostics.blob.method=exact"]
        return ["diagnostics.blob.method=reference", f"diagnostics.blob.n_samples={value}"]

    def _without(self, said: Sequence[str], typed: str) -> list[str]:
        """Return what is left of the overrides `said` when `typed` wins; the values of an option go with it."""
        group, value = _key(typed), typed.partition("=")[2].strip("'\"")
        left = [each for each in said if _key(each) != group]
        if group == "experiment" and self.form["experiment"] not in (None, value):
            raise ConfigError(f"it says experiment={self.form['experiment']}, but {typed} was typed: leave one out")
        if group in MULTI_SELECT:
            names = [name.strip(" '\"") for name in value.strip("[]").split(",")]
            replaced = tuple(f"{group}.{name}." for name in self.form[group] if name not in names)
        elif self.options.get(group, value) != value:
            replaced = (f"{section_of(group)}.",)
        else:
            return left
        gone = [_key(each) for each in left if section_of(_key(each)).startswith(replaced)]
        if gone:
            log.warning("%s: %s: left out, %s was typed", self.experiment.source, ", ".join(gone), typed)
        return [each for each in left if _key(each) not in gone]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of which every key is there once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice!r} is there twice in one object")
    return made


def _option(group: str, name: Any) -> str:
    """Return the name of an option as an override writes it."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{group.replace('/', '.')}={name!r}: name an option of the group {group}")
    return name if re.fullmatch(r"[\w-]+", name) else literal(name)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
