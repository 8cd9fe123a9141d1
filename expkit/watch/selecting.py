"""Detectors by the words of the command line, `detectors=NAME` and `detectors.NAME.key=value`, without Hydra.

They are read from the same files as in training, conf/detectors/*.yaml: names, presets and settings are the same.
Classes that are not expkit's are made only where a file of somebody's own folder, `--config-dir`, names them.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.conf import CONF_DIR
from expkit.detectors.base import RESPONSES, Detector, checked_respond
from expkit.errors import ConfigError, describe
from expkit.opening import read_whole
from expkit.yaml_text import parse_yaml

__all__ = ["AS_THE_RUN", "make_detectors", "option_names", "own_targets", "select_detectors", "settings_of"]

#: The word for the detectors that the run itself has.
AS_THE_RUN = "run"

_PACKAGE = "expkit.detectors."
_FOLDER = CONF_DIR / "detectors"


def select_detectors(words: Sequence[str], default: str, run: Mapping[str, Any] | None = None) -> dict[str, Detector]:
    """Return name -> detector as `settings_of` and `make_detectors` make them: see there."""
    return make_detectors(settings_of(words, default, run))


def settings_of(
    words: Sequence[str], default: str, run: Mapping[str, Any] | None = None, own: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Return name -> node, `_target_` and arguments, of each detector that is selected.

    Args:
        words: as typed: `detectors=standard,plateau`, `detectors.plateau.patience=20`.
        default: the option where none is typed; several with commas between.
        run: the run's own configuration, for `detectors=run`.
        own: a folder with options of somebody's own, in its `detectors`.

    Raises:
        ConfigError: a word is none of these, or names what does not exist.
    """
    nodes: dict[str, dict[str, Any]] = {}
    chosen = default
    values: list[tuple[str, str, Any]] = []
    for word in words:
        key, equals, text = word.lstrip("+").partition("=")
        parts = key.split(".", 2)
        if not equals or parts[0] != "detectors":
            raise ConfigError(f"{word}: write detectors=NAME,... or detectors.NAME.KEY=VALUE")
        if len(parts) == 1:
            chosen = text
        else:
            values.append((parts[1], parts[2] if len(parts) > 2 else "", _value(word, text)))
    for option in filter(None, (each.strip() for each in chosen.strip("[]").split(","))):
        _merge(nodes, _own(run) if option == AS_THE_RUN else _load(option, own))
    for name, key, value in values:
        if not key:
            if not isinstance(value, dict):
                raise ConfigError(
                    f"detectors.{name}={value}: this is a whole section; set detectors.{name}.KEY=... in it"
                )
            _merge(nodes, {name: value})
        elif name not in nodes:
            raise ConfigError(f"detectors.{name}.{key} is set, but {_unselected(name, nodes, own)}")
        else:
            nodes[name][key] = value
    return nodes


def make_detectors(nodes: Mapping[str, Mapping[str, Any]], own: Collection[str] = ()) -> dict[str, Detector]:
    """Return name -> detector, each with its guard if it is to skip updates: a guard's limit decides what is alarmed.

    Args:
        nodes: what `settings_of` returned.
        own: classes to make besides expkit's (`own_targets`).

    Raises:
        ConfigError: a value cannot be, a key does not exist, or the class is none of these.
    """
    detectors = {}
    for name, node in nodes.items():
        detector = _make(name, dict(node), own)
        detector.name = name
        if "skip" in detector.respond:
            detector.guard()
        detectors[name] = detector
    return detectors


def option_names(own: Path | None = None) -> list[str]:
    """Return the options that there are, those of the folder `own` included."""
    return sorted(_files(own))


def own_targets(own: Path | None) -> set[str]:
    """Return the classes that the options of the folder `own` name."""
    if own is None:
        return set()
    nodes = [node for file in (own / "detectors").glob("*.yaml") for node in _load(file.stem, own).values()]
    return {node["_target_"] for node in nodes if isinstance(node.get("_target_"), str)}


def _files(own: Path | None) -> dict[str, Path]:
    """Return option -> file; where there are two of a name it is expkit's, as in training."""
    folders = [_FOLDER] if own is None else [own / "detectors", _FOLDER]
    return {file.stem: file for folder in folders for file in folder.glob("*.yaml")}


def _load(option: str, own: Path | None, selecting: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the nodes of an option: of itself, or of those that it selects, with its own values.

    Args:
        option: its name.
        own: a folder with options of somebody's own.
        selecting: the options that have led to it.
    """
    files = _files(own)
    if option not in files:
        close = difflib.get_close_matches(option, files, n=1)
        meant = f"did you mean {close[0]}? There are" if close else "choose from"
        known = f"{', '.join(sorted(files))}; {AS_THE_RUN} for the run's own; --config-dir DIR for yours"
        raise ConfigError(f"detectors={option}: there is no such option; {meant} {known}; detectors=[] is none")
    try:
        text = read_whole(files[option]).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{files[option]} is no text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{files[option]} cannot be read: {error.strerror}") from None
    content: Any = parse_yaml(text, str(files[option])) or {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{files[option]} holds no settings: it needs a _target_, and arguments")
    selected = content.pop("defaults", None)
    if selected is None:
        return {option: content}
    if not isinstance(selected, list) or not all(isinstance(each, str) for each in selected):
        raise ConfigError(f"{files[option]}: its defaults are no list of options")
    if option in selecting:
        raise ConfigError(f"{files[option]}: by its defaults it selects itself")
    nodes: dict[str, dict[str, Any]] = {}
    for each in selected:
        inside = content if each == "_self_" else _load(each, own, (*selecting, option))
        if wrong := [key for key, node in inside.items() if not isinstance(node, dict)]:
            raise ConfigError(f"{files[option]}: {wrong[0]} is to be a section, beside defaults")
        _merge(nodes, inside)
    return nodes


def _own(config: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return the detectors that a run was trained with, as its config.json says."""
    group = config.get("detectors") if config is not None else None
    if not isinstance(group, Mapping):
        raise ConfigError(f"detectors={AS_THE_RUN}: there is no run here whose config.json tells its detectors")
    nodes = {str(name): copy.deepcopy(dict(node)) for name, node in group.items() if isinstance(node, Mapping)}
    trainer: Any = (config or {}).get("trainer")
    for node in nodes.values():  # as the runner does: a gradient that overflows is the scaler's daily business
        if str(node.get("_target_")).endswith(".NonFinite") and node.get("metrics") is None:
            node["metrics"] = (
                ["train_loss"] if isinstance(trainer, dict) and trainer.get("precision") == "fp16" else None
            )
    return nodes


def _unselected(name: str, nodes: Mapping[str, Any], own: Path | None) -> str:
    names = option_names(own)
    if name not in names:
        return f"there is no detector {name!r}: choose from {', '.join(names)}"
    if inside := _load(name, own).keys() - {name}:
        return f"{name} only selects others: set the values of {', '.join(sorted(inside))}"
    return f"{name} is not selected: detectors={','.join([*nodes, name])} selects it"


def _merge(nodes: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> None:
    for name, node in more.items():
        nodes.setdefault(name, {}).update(node)


def _value(word: str, text: str) -> Any:
    try:
        return parse_yaml(text, word)
    except ConfigError:
        raise ConfigError(f"{word}: the value cannot be read") from None


def _make(name: str, node: dict[str, Any], own: Collection[str]) -> Detector:
    target = node.pop("_target_", None)
    if not isinstance(target, str) or not (target.startswith(_PACKAGE) or target in own):
        what = f"{target} is" if target else "without a _target_ it is"
        raise ConfigError(
            f"detectors.{name}: {what} none of expkit's detectors; one of yours is made where a file of "
            "--config-dir DIR, DIR/detectors/NAME.yaml, names it"
        )
    module, _, attribute = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        made = None
    except Exception as error:  # noqa: BLE001 - whatever a module of somebody's own does
        if target in own:
            raise ConfigError(f"detectors.{name}: {module} cannot be imported: {describe(error)}") from None
        made = None
    if not (isinstance(made, type) and issubclass(made, Detector)):
        raise ConfigError(f"detectors.{name}._target_={target}: there is no such detector")
    known = inspect.signature(made).parameters
    for key, value in node.items():
        if key not in known:
            raise ConfigError(f"there is no detectors.{name}.{key}: {name} has {', '.join(known)}")
        usual = known[key].default
        if target in own and isinstance(value, str) and isinstance(usual, int | float):  # else it fails at a record
            kind = "true or false" if isinstance(usual, bool) else "a number"
            raise ConfigError(f"detectors.{name}.{key}={value}: it must be {kind} (default: {usual})")
    respond = node.get("respond", ())
    if not isinstance(respond, list | tuple) and respond not in RESPONSES:
        raise ConfigError(f"detectors.{name}.respond={respond}: choose from {', '.join(RESPONSES)}")
    try:
        detector: Detector = made(**node)
        checked_respond(name, detector.respond)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"detectors.{name}: {error}") from error
    except Exception as error:  # whatever a constructor of somebody's own does
        raise ConfigError(f"detectors.{name}: {describe(error)}") from error
    return detector
