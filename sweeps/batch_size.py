"""Which batch size to train with: `python -m sweeps.batch_size`, `expkit profile`, `profile_batch_sizes`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.printable import printable
from sweeps.profile.report import Report, row
from sweeps.profile.result import Profile
from sweeps.profile.settings import KEYS, Setup, compose_setup, own_settings
from sweeps.profile.shadow import refuse_shadow
from sweeps.profile.sizes import ProfileSettings, measure_sizes
from sweeps.profile.writing import write_report

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Profile", "ProfileCommand", "main", "profile_batch_sizes"]

_SIZES = (2048, 5120, 10240, 20480)
_EPOCHS, _OUTPUT, _TIMEOUT = 5.0, "batch_profile.md", 30.0

_EXAMPLES = """\
examples:
  expkit profile experiment=reference_3blob 'batch_sizes=[2048,5120,10240,20480]' epochs=5 output=batch_profile.md
  expkit profile task=gpt batch_sizes=auto                  doubles until it no longer fits, or hardly gains
  expkit profile task=gpt 'batch_sizes=[8,16]' epochs=0.1   a tenth of the data
  expkit profile config_file=my.json memory_limit_gb=8      as if there were less memory
  expkit profile task=gpt hydra/launcher=slurm cluster=mine

settings of the profile:
{settings}

All others are those of python -m train. Each size is measured in a process of its own: one at a time, or with
hydra/launcher=slurm all of them as an array. Exit code: 0 a size is recommended, 1 none could be measured or a mistake.
"""


def profile_batch_sizes(
    config: DictConfig | Mapping[str, Any] | Path | str,
    batch_sizes: Sequence[int] | str = _SIZES,
    test_epochs: float = _EPOCHS,
    output_path: Path | str | None = None,
    *,
    timeout_min: float = _TIMEOUT,
    memory_limit_gb: float | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> list[Profile]:
    """Measure batch sizes, each in a process of its own, and return what came of them, the smallest first.

    Args:
        config: a composed configuration; an object as `train.api.create_config` makes it; the path of a JSON file that
            holds one; or the name of an experiment or a task.
        batch_sizes: which; `auto` doubles until it no longer fits or gains under 5 %, then refines.
        test_epochs: over the training data, for each size; may be a fraction.
        output_path: where a Markdown report goes, with JSON and a picture beside it; None for none.
        timeout_min: minutes that a size may take.
        memory_limit_gb: memory that a size may take (1024^3 bytes): of the GPU, or without one of the process.
        overrides: more of what can be typed after `python -m train`; `hydra/launcher=slurm` measures on a cluster.
        config_dir: a folder with options of your own, as with --config-dir.

    Raises:
        UserError: a configuration that cannot work, or none of these settings.
        KeyboardInterrupt: no process is left, and the report is of what was measured.
    """
    settings = ProfileSettings(batch_sizes, test_epochs, output_path, timeout_min, memory_limit_gb)
    setup = compose_setup(config, overrides, config_dir, settings.timeout_min)
    report = measure_sizes(setup, settings, lambda _: None)
    if settings.output is not None:
        write_report(report, settings.output)
    if report.interrupted:
        raise KeyboardInterrupt
    return list(report.profiles)


class ProfileCommand:
    """Says which batch size is best here."""

    name = "profile"
    summary = "which batch size is fastest here, and what it costs in memory and loss (task=... batch_sizes=[...])"

    def run(self, arguments: Sequence[str]) -> int:
        """Measure, report, and return the exit code.

        Raises:
            UserError: what was typed cannot be done.
        """
        for word in arguments:
            key, _, value = word.lstrip("-").replace("-", "_").partition("=")
            if word.startswith("--") and key in KEYS:
                raise UserError(f"{word}: a setting is written KEY=VALUE, without dashes: {key}={value or '...'}")
        options, typed = self.parser().parse_with_settings(arguments)
        own, others = own_settings(typed)
        if not own and not others:
            raise UserError(
                "say what to profile: expkit profile experiment=NAME or task=NAME, batch_sizes=[...] or auto"
            )
        settings = ProfileSettings(
            own.get("batch_sizes", _SIZES),
            own.get("epochs", _EPOCHS),
            own.get("output", _OUTPUT),
            own.get("timeout_min", _TIMEOUT),
            own.get("memory_limit_gb"),
        )
        refuse_shadow()
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # the user's own package, as `python -m` finds it
        setup = compose_setup(None, others, options.config_dir, settings.timeout_min)
        tell = _Progress(settings)
        tell.begin(setup)
        report = measure_sizes(setup, settings, tell.one)
        assert settings.output is not None
        files = write_report(report, settings.output) if report.profiles else []
        tell.end(report, files)
        return 130 if report.interrupted else 0 if report.chosen is not None else 1

    def parser(self) -> Parser:
        """Return the command's parser."""
        width = max(map(len, KEYS))
        told = "\n".join(f"  {key:<{width}}  {text} (default: {_DEFAULTS[key]})" for key, text in KEYS.items())
        parser = Parser(
            prog="expkit profile",
            usage="expkit profile [KEY=VALUE ...] [--config-dir DIR]",
            description="Trains for a few epochs with each of several batch sizes, and recommends one: the smallest "
            "with at least 95 % of the best throughput and at most 85 % of the memory.",
            epilog=_EXAMPLES.format(settings=told),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder with options of your own")
        return parser


_DEFAULTS = {
    "batch_sizes": f"[{','.join(map(str, _SIZES))}]",
    "epochs": f"{_EPOCHS:g}",
    "output": _OUTPUT,
    "timeout_min": f"{_TIMEOUT:g}",
    "memory_limit_gb": "no limit",
}


class _Progress:
    """What the command says as it goes on, and at its end."""

    def __init__(self, settings: ProfileSettings) -> None:
        self._settings = settings

    def begin(self, setup: Setup) -> None:
        count = 0 if self._settings.sizes is None else len(self._settings.sizes)
        sizes = f"{count} size{'s' if count > 1 else ''}" if count else "sizes are found by doubling"
        where = "as an array of SLURM jobs" if setup.kind == "slurm" else "one at a time, each in a process of its own"
        print(f"{printable(setup.title)}: {sizes}, epochs={self._settings.epochs:g}, {where}", flush=True)

    def one(self, profile: Profile) -> None:
        size, time, memory, rate, train, test, status = row(profile)
        if profile.ok:
            said = f"{time} an epoch, {memory}, {rate} samples/sec, train loss {train}, test loss {test}"
        else:
            said = printable(profile.message)
        print(f"  {size:>9}  {status:<7}  {said}", flush=True)

    def end(self, report: Report, files: Sequence[Path]) -> None:
        if report.interrupted:
            left = "; what was measured is kept" if files else ", before a size was measured"
            print(f"interrupted: no process of it is left{left}", file=sys.stderr)
        if report.chosen is not None:
            print(f"\nOptimal batch size: {report.chosen.batch_size:,} ({report.recommendation.why})")
            for note in report.recommendation.notes:
                print(f"  note: {note}")
            print(f"\nuse it:  {report.use}")
        elif not report.interrupted:
            print(f"error: {report.recommendation.why}: the report says why of each", file=sys.stderr)
        if files:
            print("report:  " + "  ".join(map(str, files)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m sweeps.batch_size` and return the exit code."""
    try:
        return ProfileCommand().run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before anything was measured", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
