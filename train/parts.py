"""Everything that a configuration selects, built and checked before data is loaded or a run directory made."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from expkit.checkpoints.state import check_loadable
from expkit.detectors import Detector
from expkit.detectors.nonfinite import NonFinite
from expkit.diagnostics import Diagnostic
from expkit.diagnostics.scheduled import Scheduled
from expkit.diagnostics.svd import SVDDiagnostic
from expkit.dist import Dist
from expkit.errors import ConfigError, UserError
from expkit.experiment import RunDir
from expkit.guards import Guard
from expkit.lowrank import convert
from expkit.machine import GPUSampler
from expkit.plots import Plot
from expkit.rng import seed_all
from expkit.sampler import mix
from expkit.snapshots import Snapshots
from expkit.trackers import Delivery, Tracker
from expkit.trackers.known import check_package
from train.config.blame import told
from train.config.build import MULTI_SELECT, build, build_named, call_with_known
from train.config.responses import ResponseSettings
from train.config.sections import make_delivery, make_guards, make_responses, make_sampler, make_snapshots
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.strategies import Strategy, make_strategy
from train.tasks.base import Task
from train.update import Update

__all__ = ["Parts", "assemble"]

log = logging.getLogger("expkit")

_ANY_STEPS = 1000
_SECTIONS = (
    *MULTI_SELECT,
    *("run", "trainer", "gpu", "delivery", "responses", "snapshots", "task", "optimizer", "scheduler", "checkpoint"),
)


@dataclasses.dataclass
class Parts:
    """The components of one run.

    Attributes:
        task, model, optimizer: what is trained, and by what; the model is on its device.
        scheduler: makes the schedule once the number of steps is known.
        trainer: the checked trainer section.
        trackers: behind their queues, not started yet.
        diagnostics, detectors, plots: name -> component.
        checkpoints: makes the checkpoint manager of a run directory; None for a run without checkpoints.
        sampler: makes what samples the machine, of a function that takes a sample; None for a run without.
        guards: those of the detectors that are to skip updates.
        responses: how detectors' events are responded to.
        snapshots: makes what takes snapshots of a run directory.
        strategy: how the model is spread over the ranks.
        copies: of data, on a disk of this node -> the paths that were configured.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    scheduler: Callable[..., Any]
    trainer: TrainerConfig
    trackers: Delivery
    diagnostics: dict[str, Diagnostic]
    detectors: dict[str, Detector]
    plots: dict[str, Plot]
    checkpoints: Callable[..., Any] | None
    sampler: Callable[..., GPUSampler] | None
    guards: list[Guard]
    responses: ResponseSettings
    snapshots: Callable[[RunDir], Snapshots]
    strategy: Strategy
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def update(self, total_steps: int) -> Update:
        """Return what does one optimizer update, in a run of `total_steps`."""
        trainer = self.trainer
        schedule = call_with_known("scheduler", self.scheduler, self.optimizer, total_steps=total_steps)
        return Update(
            self.optimizer,
            schedule,
            next(self.model.parameters()).device,
            trainer.precision,
            trainer.clip_grad_norm,
            guards=self.guards,
            watch_norm=any(detector.needs_gradient_norm for detector in self.detectors.values()),
            strategy=self.strategy,
        )

    def data(self, method: str) -> Any:
        """Return what `train_data` or `val_data` of the task returns.

        Of several processes the first of each machine comes first: it may download, or leave a file for the others.

        Raises:
            ConfigError: it failed; the message says how, and where in the user's own code.
        """
        with self.strategy.dist.first_of_node_first():
            try:
                return getattr(self.task, method)()
            except UserError:
                raise
            except Exception as error:  # whatever a task of somebody's own does
                raise ConfigError(told(error, "task", None, f"{type(self.task).__name__}.{method} failed")) from error

    def batches(self, data: Any, training: bool, dist: Dist) -> Batches:
        """Return this process's batches of a task's data."""
        trainer = self.trainer
        return Batches(
            data,
            batch_size=trainer.batch_size,
            seed=trainer.seed,
            pieces=trainer.grad_accumulation if training else 1,
            shuffle=training,
            drop_last=trainer.drop_last and training,
            num_workers=trainer.num_workers,
            dist=dist,
            pin_memory=trainer.torch_device().type == "cuda",
        )


def assemble(config: DictConfig, dist: Dist | None = None) -> Parts:
    """Build every component of `config`.

    Args:
        config: the configuration.
        dist: the ranks that train together; each builds its own.

    Raises:
        ConfigError: something in it cannot work; the message names the key.
    """
    for section in ("trainer", *MULTI_SELECT):
        if not isinstance(config.get(section), DictConfig):
            raise ConfigError(f"{section}={config.get(section)}: this is a whole section; set {section}.KEY=... in it")
    _check_packages(config)
    trainer = TrainerConfig.from_mapping(cast("dict[str, Any]", OmegaConf.to_container(config.trainer, resolve=True)))
    sampler = make_sampler(config.get("gpu"))
    trackers = build_named(config, "tracker", Tracker)
    for name, tracker in trackers.items():
        check_package(f"tracker.{name}", type(tracker))
        _check(f"tracker.{name}", config.tracker[name], tracker.check)
    delivery = make_delivery(config.get("delivery"), trackers)
    diagnostics = build_named(config, "diagnostics", Diagnostic)
    detectors = build_named(config, "detectors", Detector)
    for name, detector in detectors.items():
        detector.name = name
        if isinstance(detector, NonFinite) and detector.metrics is None and trainer.precision == "fp16":
            detector.metrics = ("train_loss",)  # a gradient that overflows is the scaler's daily business
    guards = make_guards(detectors)
    responses = make_responses(config.get("responses"))
    snapshots = make_snapshots(config.get("snapshots"))
    plots = build_named(config, "plots", Plot)
    for name, plot in plots.items():
        if not hasattr(plot, "viz_interval"):
            raise ConfigError(
                f"plots.{name}: {type(plot).__name__} has no viz_interval: its constructor takes viz_interval and "
                "theme, and calls super().__init__(viz_interval=viz_interval, theme=theme)"
            )
    checkpoints = None
    if OmegaConf.select(config, "checkpoint._target_") is not None:
        checkpoints = build(config, "checkpoint", cast("type[Any]", Callable))
    rewinds = [name for name, detector in detectors.items() if "rewind" in detector.respond]
    if rewinds and checkpoints is None:
        raise ConfigError(f"detectors.{rewinds[0]}.respond: a rewind needs checkpoints, but checkpoint=none was chosen")
    task = build(config, "task", Task)
    optimizer_factory = build(config, "optimizer", cast("type[Any]", Callable))
    scheduler = build(config, "scheduler", cast("type[Any]", Callable))
    dist = dist or Dist()
    device = trainer.torch_device(dist.local_rank if dist.world_size > 1 else None)
    strategy = make_strategy(trainer, dist, lambda: _model(task, config.task))
    seed_all(trainer.seed, trainer.deterministic)
    model = _model(task, config.task)
    for name, diagnostic in diagnostics.items():
        Scheduled(name, diagnostic, log_interval=1)  # says what is no interval
        _check(f"diagnostics.{name}", config.diagnostics[name], diagnostic.check, model)
    for group, parts in (("detectors", detectors), ("diagnostics", diagnostics)):
        for name, part in parts.items():
            _check_state(f"{group}.{name}", part, config[group][name])
    if any("switch" in detector.respond for detector in detectors.values()):
        svd = diagnostics.get("svd")
        if not isinstance(svd, SVDDiagnostic):
            raise ConfigError("detectors.svd_switch.respond: to switch layers it needs their analysis: diagnostics=svd")
        if strategy.is_sharded:
            raise ConfigError("detectors.svd_switch.respond: a switch needs whole layers: trainer.strategy=ddp")
        convert(model, svd.patterns, "diagnostics.svd.layers")
    model = model.to(device)
    if trainer.compile:
        model.compile()  # in place: names of parameters stay as they are
    model = strategy.prepare(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError(f"task: {type(task).__name__}'s model has no trainable parameter")
    optimizer = call_with_known("optimizer", optimizer_factory, parameters)
    strategy.adapt(optimizer)
    _try_scheduler(scheduler, optimizer_factory)
    if not dist.is_main:  # the models are the same; what training draws, dropout say, is not
        seed_all(mix(trainer.seed, dist.rank), trainer.deterministic)
    return Parts(
        task,
        model,
        optimizer,
        scheduler,
        trainer,
        delivery,
        diagnostics,
        detectors,
        plots,
        checkpoints,
        sampler,
        guards,
        responses,
        snapshots,
        strategy,
    )


def _check_packages(config: DictConfig) -> None:
    """Refuse parts that a misspelt package line has put where nobody looks."""
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    for key, section in plain.items():
        if key in _SECTIONS or not isinstance(section, dict):
            continue
        for name, node in section.items():
            if isinstance(node, dict) and "_target_" in node:
                raise ConfigError(
                    f"{key}.{name} is a part in a section that does not exist: the first line of its YAML file "
                    f"should be `# @package GROUP.{name}`, with GROUP one of {', '.join(MULTI_SELECT)}"
                )


def _check(key: str, settings: DictConfig, check: Callable[..., object], *arguments: Any) -> None:
    """Let a part refuse the run, whatever it raises."""
    try:
        check(*arguments)
    except UserError:
        raise
    except Exception as error:  # whatever a part of somebody's own does
        raise ConfigError(told(error, key, settings)) from error


def _check_state(key: str, part: Detector | Diagnostic, settings: DictConfig) -> None:
    """Refuse a part whose state a checkpoint could not hold, now and not at the first checkpoint."""
    try:
        state: Any = part.state_dict()
    except Exception as error:  # whatever a part of somebody's own does
        raise ConfigError(told(error, key, settings, f"{type(part).__name__}.state_dict failed")) from error
    if not isinstance(state, dict):
        found = "None" if state is None else f"a {type(state).__name__}"
        raise ConfigError(f"{key}: {type(part).__name__}.state_dict returned {found}, but it must return a dict")
    check_loadable(state, f"{key}: {type(part).__name__}.state_dict()")


def _model(task: Task, settings: DictConfig) -> nn.Module:
    """Return the task's model, checked."""
    name = f"{type(task).__name__}.build_model"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # refused below
            model = task.build_model()
    except UserError:
        raise
    except Exception as error:  # whatever a task of somebody's own does
        raise ConfigError(told(error, "task", settings, f"{name} failed")) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"task: {name} returned a {type(model).__name__}, not a model")
    for path, parameter in model.named_parameters():
        if not isinstance(parameter, UninitializedParameter) and not parameter.numel():
            shape = " x ".join(map(str, parameter.shape))
            raise ConfigError(f"task: {name} returned a model whose {path} is empty ({shape}): look at its sizes")
    return model


def _try_scheduler(scheduler: Callable[..., Any], optimizer_factory: Callable[..., Any]) -> None:
    """Build the scheduler once, on an optimizer of its own: some change the learning rate as they are made."""
    throw_away = call_with_known("optimizer", optimizer_factory, [nn.Parameter(torch.zeros(1))])
    made = call_with_known("scheduler", scheduler, throw_away, total_steps=_ANY_STEPS)
    if isinstance(made, ReduceLROnPlateau):
        raise ConfigError(
            "scheduler: ReduceLROnPlateau steps on a metric, which the runner does not: choose a schedule"
        )
