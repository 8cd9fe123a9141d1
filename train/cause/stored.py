"""A run's parts once more, from its config.json: the same task, model and data. Its directory is only read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.cli.finding import find
from expkit.errors import ConfigError, UserError

if TYPE_CHECKING:
    import argparse

    from omegaconf import DictConfig

    from train.parts import Parts
    from train.resume import Origin

__all__ = ["add_run_arguments", "before_rewind", "overrides_at", "rebuilt", "stored_run", "typed_settings"]


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which run it is, and where options of one's own are; what follows as KEY=VALUE is `typed_settings`."""
    parser.add_argument("run", nargs="?", help="a run directory, the id of one in outputs, or latest (the default)")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="options of your own, as the run was started with"
    )
    parser.add_argument(
        "--before-rewind",
        type=int,
        metavar="K",
        help="the steps that the run's rewind K, from 1, has undone (default step: that of its trouble)",
    )


def typed_settings(arguments: Sequence[str]) -> list[str]:
    """Return the KEY=VALUE that were typed after the run.

    Raises:
        UserError: something else was typed.
    """
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            raise UserError(f"{argument}: there is no such option; a setting is written KEY=VALUE")
        if argument.partition("=")[0] in ("resume", "config_file"):
            raise UserError(f"{argument}: the run is named without a key: leave this out")
    return list(arguments)


def stored_run(name: str | None) -> Origin:
    """Return the run that `name` is the path or id of; of None, or latest, the one in outputs that was active last.

    Raises:
        UserError: there is none, or it is not one of `python -m train`.
    """
    root = find(name, Path("outputs")).root  # a wrong name is answered before torch is loaded
    from train.resume import find_origin

    place = root.absolute()  # no run is called like a word that resume= takes
    origin = find_origin(str(place), place.parent)
    assert origin is not None  # only resume=never and auto give none
    return replace(origin, run=root)  # as other commands name it


def before_rewind(origin: Origin, number: int) -> tuple[Origin, Mapping[str, Any]]:
    """Return a run as it was before one of its rewinds, and what config.json says of that.

    Args:
        origin: the run.
        number: which rewind, from 1.

    Raises:
        UserError: there is none of this number.
    """
    resumes = list(origin.stored.get("resumes") or [])
    places = [place for place, each in enumerate(resumes) if "rewind" in each]
    if not 1 <= number <= len(places):
        times = "never" if not places else "once" if len(places) == 1 else f"{len(places)} times"
        raise UserError(f"--before-rewind {number}: {origin.run} was {times} rewound")
    place = places[number - 1]
    left = min(each["step"] for each in resumes[place:])
    stored = {**origin.stored, "resumes": resumes[:place]}
    return replace(origin, stored=stored, left=left), resumes[place]["rewind"]


def overrides_at(stored: Mapping[str, Any], step: int) -> list[str]:
    """Return the overrides with which a run has done the update of `step`: a resume may have changed some."""
    overrides: Sequence[Any] = stored.get("first_overrides") or stored.get("overrides") or []
    for resume in stored.get("resumes") or []:
        if resume["step"] < step:  # the last of these, in the order of time, has done it
            overrides = resume.get("overrides", stored.get("overrides", []))
    return list(map(str, overrides))


@contextlib.contextmanager
def rebuilt(
    origin: Origin, step: int, typed: Sequence[str] = (), config_dir: Path | None = None, device: str | None = None
) -> Iterator[tuple[DictConfig, Parts]]:
    """Yield the configuration and the parts with which the run has done the update of `step`.

    Only what the installed configuration and `config_dir` name is made: see `train.resume.merge_overrides`. Trackers,
    detectors, diagnostics and plots are left out, and no checkpoint manager is made.

    Args:
        origin: the run.
        step: from 1.
        typed: overrides that win over the run's.
        config_dir: a folder with options of one's own.
        device: instead of the run's.

    Raises:
        UserError: it cannot be built any more; the message says why.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    import train.cli.main  # noqa: F401 - the resolvers of the configuration
    from train.cli.typed import check_typed
    from train.config.build import MULTI_SELECT, extra_folders
    from train.config.compose import compose, hydra_with
    from train.config.mistakes import explain, is_mistake
    from train.parts import assemble
    from train.resume import merge_overrides

    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where `python -m train` has found the user's own package
    before = list(extra_folders)
    extra_folders[:] = [] if config_dir is None else [config_dir]
    try:
        check_typed(typed)
        then = replace(origin, stored={**origin.stored, "overrides": overrides_at(origin.stored, step)})
        arguments = merge_overrides(then, typed)
        with hydra_with(extra_folders):
            try:
                config = compose(arguments)
                with open_dict(config):
                    config.hydra.mode = RunMode.RUN
                HydraConfig.instance().set_config(config)
                with open_dict(config):
                    del config["hydra"]
                    for group in MULTI_SELECT:
                        config[group] = {}
                    config.checkpoint = {}
                    if device is not None:
                        config.trainer.device = device
                parts = assemble(config)
            except Exception as error:  # whatever Hydra makes of a mistake; anything else goes on up
                if not is_mistake(error):
                    raise
                kind = type(error) if isinstance(error, UserError) else ConfigError
                raise kind(explain(error, arguments, typed)) from error
            yield config, parts
    finally:
        extra_folders[:] = before
