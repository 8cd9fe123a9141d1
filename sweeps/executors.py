"""submitit's executors, made from the launchers' presets, and what is known to be wrong before a job is submitted."""

from __future__ import annotations

import getpass
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from expkit.errors import ConfigError, UserError

if TYPE_CHECKING:
    import submitit

__all__ = ["Kind", "check_executor", "make_executor", "slurm_said"]

Kind = Literal["local", "slurm", "debug"]

#: Seconds that SLURM's commands get: a busy controller takes its time.
_PATIENCE = 30.0
#: Parameters that submitit translates for every kind; those of hydra-submitit-launcher beyond are SLURM's own.
_COMMON = frozenset(
    ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout")
)
#: What the launcher's configuration holds besides.
_NOT_OURS = ("_target_", "submitit_folder")
#: What sbatch says of a parameter, and which one that is.
_REFUSED = (
    (re.compile(r"partition name|partition(s)? specified", re.IGNORECASE), "partition"),
    (re.compile(r"invalid account", re.IGNORECASE), "account"),
    (re.compile(r"qos", re.IGNORECASE), "qos"),
    (re.compile(r"time limit", re.IGNORECASE), "timeout_min"),
    (re.compile(r"feature", re.IGNORECASE), "constraint"),
    (re.compile(r"\(gres\)", re.IGNORECASE), "gpus_per_node"),
    (re.compile(r"--signal", re.IGNORECASE), "signal_delay_s"),
)
#: Parameter -> the setting that it mostly comes from.
_KEYS = {
    **{name: f"cluster.{name}" for name in ("partition", "account", "qos", "constraint", "gpus_per_node")},
    "timeout_min": "cluster.time",
    "signal_delay_s": "cluster.signal_delay",
}
#: What SLURM's commands say before what matters.
_BEFORE = re.compile(r"^((sbatch|allocation failure|error|fatal): *)+")
#: No node has what a job asks for by these parameters.
_TOO_MUCH = re.compile(r"node configuration is not available|more processors|memory specification", re.IGNORECASE)
_SIZES = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")
#: No cluster is there at all.
_NO_CLUSTER = re.compile(r"configuration source|contact slurm controller|did not answer", re.IGNORECASE)


def make_executor(kind: Kind, params: Mapping[str, Any], folder: Path) -> submitit.AutoExecutor:
    """Return what submits jobs.

    A local job sees the GPUs that this process sees, unless `gpus_per_node` says how many it gets; submitit alone
    would hide all of them.

    Args:
        kind: local (processes of this machine), slurm, or debug (in this process, for tests).
        params: as the configuration of hydra-submitit-launcher names them (partition, timeout_min, gpus_per_node,
            setup, additional_parameters, array_parallelism, max_num_timeout ...); None is not set. What means nothing
            to `kind` is left out. `python`: how the job's Python is started.
        folder: for submitit's files; `%j` in it is the job's id.

    Raises:
        ConfigError: a parameter is unknown, or has a value that cannot be.
    """
    import submitit

    given = {key: value for key, value in params.items() if value is not None and key not in _NOT_OURS}
    if kind == "local":
        given["python"] = _local_python(given)
    starting = _starting(kind) & given.keys()
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=kind, **{f"{kind}_{key}": given.pop(key) for key in starting}
        )
        known = _parameters(kind)
        unknown = given.keys() - known - _parameters("slurm")
        if unknown:
            raise ConfigError(_unknown(sorted(unknown)[0], _parameters("slurm")))
        executor.update_parameters(
            **{key if key in _COMMON else f"{kind}_{key}": value for key, value in given.items() if key in known}
        )
    except ConfigError:
        raise
    except (AssertionError, TypeError, ValueError, RuntimeError, NameError) as error:
        raise ConfigError(f"hydra.launcher: {' '.join(str(error).split())}") from error
    return executor


def check_executor(kind: Kind, params: Mapping[str, Any]) -> None:
    """Refuse what SLURM would refuse, or would keep waiting for ever, before anything is submitted.

    `sbatch --test-only` is asked with the very parameters; the time limits of partitions are looked up besides, as most
    clusters accept a job beyond them and never start it.

    Raises:
        UserError: one line that names the parameter, or what is missing.
    """
    if kind == "slurm":
        for command in ("sbatch", "srun"):
            if shutil.which(command) is None:
                raise UserError(
                    f"hydra/launcher=slurm: there is no {command} here: submit where the cluster's commands are (its "
                    "login node), or use hydra/launcher=local"
                )
    if kind == "local" and int(params.get("nodes") or 1) > 1:
        raise ConfigError(f"hydra.launcher.nodes={params['nodes']}: hydra/launcher=local has one node; use 1")
    if kind == "local" and int(params.get("tasks_per_node") or 1) > 1:
        tasks = params["tasks_per_node"]
        raise ConfigError(
            f"hydra.launcher.tasks_per_node={tasks}: hydra/launcher=local starts one process for a job, which starts "
            f"the others: trainer.processes={tasks}"
        )
    with tempfile.TemporaryDirectory() as folder:  # an executor makes its folder
        executor = make_executor(kind, params, Path(folder))
    if kind == "slurm":
        script = cast(Any, executor._executor)._make_submission_file_text("true", "test")
        _check_time(params)
        said = _tested(script)
        if said is not None:
            raise UserError(_refused(said, params))


def slurm_said(*command: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Return exit code, output and errors of one of SLURM's commands; 127 if it is not there, 124 if it hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, input=stdin or "", capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} did not answer within {_PATIENCE:.0f} s"
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


def _local_python(given: Mapping[str, Any]) -> str:
    """Return how a local job's Python is started: with the GPUs of this process, where none were asked for."""
    python = str(given.get("python") or shlex.quote(sys.executable))
    if given.get("gpus_per_node") is not None:
        return python
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    change = "-u CUDA_VISIBLE_DEVICES" if visible is None else shlex.quote(f"CUDA_VISIBLE_DEVICES={visible}")
    return f"env {change} {python}"


def _executor_class(kind: Kind) -> type[Any]:
    from submitit.core.plugins import get_executors

    found: type[Any] = get_executors()[kind]
    return found


def _starting(kind: Kind) -> set[str]:
    """Return the parameters that the executor takes when it is made."""
    return {*inspect.signature(_executor_class(kind).__init__).parameters} - {"self", "folder"}


def _parameters(kind: Kind) -> set[str]:
    return {*_COMMON, *_executor_class(kind)._valid_parameters(), *_starting(kind)}


def _unknown(name: str, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    meant = (
        f": did you mean {close[0]}?" if close else "; options of sbatch go into hydra.launcher.additional_parameters"
    )
    return f"hydra.launcher.{name}: there is no such parameter{meant}"


def _tested(script: str) -> str | None:
    """Return why sbatch would refuse a script, or None."""
    code, _, errors = slurm_said("sbatch", "--test-only", stdin=script)
    if code == 0:
        return None
    lines = [_BEFORE.sub("", line.strip()) for line in errors.splitlines() if not line.startswith("Try ")]
    return "; ".join(filter(None, lines)) if any(lines) else f"sbatch --test-only ended with exit code {code}"


def _refused(said: str, params: Mapping[str, Any]) -> str:
    for pattern, name in _REFUSED:
        if pattern.search(said):
            value = params.get(name)
            told = f"{_KEYS.get(name, name)}{'' if value is None else f'={value}'}: SLURM says: {said}"
            return told + _there_are(name)
    if _NO_CLUSTER.search(said):
        return f"hydra/launcher=slurm: no cluster answers here ({said}): use a login node, or hydra/launcher=local"
    if _TOO_MUCH.search(said):
        asked = ", ".join(f"cluster.{name}={params[name]}" for name in _SIZES if params.get(name) is not None)
        return f"{asked}: SLURM says: {said}: no node has that much; what they have: sinfo -N -o '%N %c %m %G'"
    return f"hydra/launcher=slurm: SLURM would refuse these jobs: {said}"


def _there_are(name: str) -> str:
    """Return what there is to choose from, as far as SLURM says."""
    ask: dict[str, Callable[[], list[str]]] = {
        "partition": lambda: list(_partitions()),
        "account": lambda: _associated("Account"),
        "qos": lambda: _associated("QOS"),
        "timeout_min": lambda: [f"{each} up to {limit}" for each, (limit, _) in _partitions().items()],
    }
    if name == "gpus_per_node":
        return "; null asks for none, and what nodes have says sinfo -N -o '%N %G'"
    found = ask[name]() if name in ask else []
    return f"; there are: {', '.join(found)}" if found else ""


def _partitions() -> dict[str, tuple[str, bool]]:
    """Return time limit and whether it is the default of every partition."""
    _, said, _ = slurm_said("sinfo", "-h", "-o", "%P|%l")
    rows = (line.strip().partition("|")[::2] for line in said.splitlines() if "|" in line)
    return {name.rstrip("*"): (limit, name.endswith("*")) for name, limit in rows}


def _associated(what: str) -> list[str]:
    _, said, _ = slurm_said("sacctmgr", "-nP", "show", "associations", f"user={getpass.getuser()}", f"format={what}")
    return sorted({each for line in said.splitlines() for each in line.strip().split(",") if each})


def _check_time(params: Mapping[str, Any]) -> None:
    """Refuse a time limit above the partition's.

    Raises:
        ConfigError: naming both.
    """
    extra = params.get("additional_parameters") or {}
    minutes, chosen = params.get("timeout_min"), params.get("partition") or extra.get("partition")
    if not isinstance(minutes, int | float) or "time" in extra:
        return
    partitions = _partitions()
    names = str(chosen).split(",") if chosen else [name for name, (_, default) in partitions.items() if default]
    limits = {name: limit for name in names if (limit := _minutes(partitions.get(name, ("", False))[0])) is not None}
    if len(limits) < len(names) or not limits or minutes <= max(limits.values()):
        return
    name = max(limits, key=lambda each: limits[each])
    raise ConfigError(
        f"cluster.time={minutes:g}min: partition {name} ends jobs after {limits[name]:g} minutes: ask for no more, or "
        f"for another partition{_there_are('timeout_min')}"
    )


def _minutes(limit: str) -> float | None:
    """Return SLURM's `days-hours:minutes:seconds` in minutes; None for infinite, or what is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", limit.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60
