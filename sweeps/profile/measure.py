"""One batch size, measured as `train` trains: run as `python -m sweeps.profile.measure`, in a process of its own.

What is found is told line by line, as JSON, so that what was known when the process died is known.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from expkit.importing import importing
from expkit.secrets import mask_secrets, mask_text
from sweeps.profile.memory import Memory, is_out_of_memory, limit_memory

__all__ = ["main", "measure"]

_WARM_UP = 10
#: Blocks of timed updates, and their seconds, at least: where the epochs hold less, more updates are done after them.
_LEAST_BLOCKS, _LEAST_SECONDS = 10, 1.0
#: Evaluations, evenly over the training.
_POINTS = 10
#: Batches whose gradients tell the noise scale.
_GRADIENTS = 16

Tell = Callable[[Mapping[str, Any]], None]


def main(arguments: Sequence[str]) -> int:
    """Measure what standard input orders, and tell it to the file descriptor that is the one argument."""
    order = json.load(sys.stdin)
    pipe = os.fdopen(int(arguments[0]), "w", buffering=1)

    def tell(said: Mapping[str, Any]) -> None:
        pipe.write(json.dumps(said) + "\n")

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # one that hangs is asked where
    mask_secrets(order["config"])  # so that they are known in what goes wrong
    sys.path += [path for path in order["path"] if path not in sys.path]
    try:
        measure(order, tell)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told, and this process is over
        tell({"failed": _failure(error, order["memory_limit_gb"])})
        import traceback

        print(mask_text(traceback.format_exc()), end="", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(0)  # nothing that libraries do at the end may hang


def measure(order: Mapping[str, Any], tell: Tell) -> None:
    """Measure one batch size.

    Args:
        order: config, batch_size, epochs, memory_limit_gb, folders: see `sweeps.profile.supervise.Order`.
        tell: gets attributes of a `Profile`, as they become known.
    """
    with importing():
        import torch._dynamo  # noqa: F401 - the optimizer needs it, see train.cli.main
        from omegaconf import OmegaConf

        from train.config.build import extra_folders
        from train.config.cluster import enter_cluster
        from train.config.trainer import TrainerConfig
        from train.staging import staged

    extra_folders[:] = [Path(folder) for folder in order["folders"]]
    config = OmegaConf.create(dict(order["config"]))
    if "cluster" in config:  # as a job of `train` does: data that are read from a scratch disk are here, too
        enter_cluster(config.cluster)
        config, _ = staged(config)
    trainer = TrainerConfig.from_mapping(cast("dict[str, Any]", OmegaConf.to_container(config.trainer, resolve=True)))
    device = trainer.torch_device()
    memory = Memory(device, order["memory_limit_gb"])
    if order["memory_limit_gb"] is not None:
        limit_memory(order["memory_limit_gb"], device)
    _measure(config, order, trainer, memory, tell)


def _measure(config: Any, order: Mapping[str, Any], trainer: Any, memory: Memory, tell: Tell) -> None:
    import torch

    from sweeps.profile.training import Timed, losses, make_batches
    from train.parts import assemble

    size, epochs = int(order["batch_size"]), float(order["epochs"])
    config.trainer.batch_size, config.trainer.max_steps = size, None
    config.trainer.max_epochs = max(1, math.ceil(epochs))
    config.tracker, config.plots = {}, {}
    parts = assemble(config)
    torch.set_num_threads(parts.trainer.threads or torch.get_num_threads())
    train, val = make_batches(parts, size)
    assert train.size is not None and train.steps is not None
    tell({"samples": train.size, "steps_per_epoch": train.steps, "device": _device(trainer.torch_device())})
    steps = max(1, round(epochs * train.steps))
    # Logged as often as the run that is planned logs: it is a part of what an update costs.
    log = trainer.log_interval if trainer.log_interval != "auto" else _log_interval(trainer.total_steps(train.steps))
    parts.trainer = dataclasses.replace(parts.trainer, max_epochs=None, max_steps=steps, log_interval=log)

    def tell_figures() -> None:
        step = runner.timer.median
        if step is not None:
            rate = size / step
            figures = {"step_time": step, "step_time_iqr": runner.timer.iqr, "timed_steps": runner.timer.timed}
            tell({**figures, "samples_per_second": rate, "time_per_epoch": train.size / rate})  # type: ignore[operator]
        tell({"updates": runner.progress.step, **memory.read()})

    runner = Timed(parts, train, val, _WARM_UP, max(1, round(steps / _POINTS)), tell_figures)
    runner.fit()
    tell(losses(runner, size))
    runner.time_more(_LEAST_BLOCKS, _LEAST_SECONDS)
    tell_figures()
    tell({"updates": steps, "done": True})  # what comes now may be missing, or take too long
    try:
        tell({"noise_scale": runner.noise_scale(_GRADIENTS)})
    except Exception as error:  # noqa: BLE001 - all other figures are there
        print(f"no noise scale: {type(error).__name__}: {error}", file=sys.stderr)


def _log_interval(steps: int) -> int:
    from expkit.schedule import auto_intervals

    return auto_intervals(steps)["log"]


def _device(device: Any) -> str:
    import torch

    from expkit.environment import hardware

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{hardware()['cpu']}, {torch.get_num_threads()} thread(s)" if device.type == "cpu" else device.type.upper()


def _failure(error: BaseException, limit_gb: float | None) -> dict[str, Any]:
    from expkit.errors import UserError, describe
    from sweeps.profile.training import SizeError

    limited = "" if limit_gb is None else f" (memory_limit_gb={limit_gb:g})"
    if is_out_of_memory(error):
        return {"kind": "OOM", "message": _of_allocator(error) + limited}
    refused = isinstance(error, UserError)
    message = mask_text(str(error) if refused else describe(error))
    return {"kind": "ERROR", "message": message, "about_size": isinstance(error, SizeError) or not refused}


def _of_allocator(error: BaseException) -> str:
    """Return what an allocator says, without its place in torch's code and without torch's advice."""
    text = " ".join(str(error).split()).rpartition("DefaultCPUAllocator: ")[2]
    for end in (" Of the allocated memory", " If reserved but", " See documentation"):
        text = text.partition(end)[0]
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:400]


def _end_with(parent: int) -> None:
    """End when the process that watches is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
