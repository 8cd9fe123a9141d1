"""The benchmark of the first step: what it is compared with is the same task."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from omegaconf import OmegaConf

from benchmarks import start
from benchmarks.peers.template import denoise
from expkit.conf import CONF_DIR
from train.models.two_layer_net import TwoLayerNet

TEMPLATE = Path(denoise.__file__).parent


def test_the_template_trains_the_network_of_the_bundled_task_with_its_settings() -> None:
    ours, theirs = TwoLayerNet(64, 256), denoise.TwoLayerNet(64, 256)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(8, 64)
    assert torch.equal(ours(inputs), theirs(inputs))
    names = ("data/digits.yaml", "model/denoise.yaml", "trainer/cpu.yaml")
    data, model, trainer = (OmegaConf.load(TEMPLATE / "conf" / name) for name in names)
    defaults, optimizer = OmegaConf.load(CONF_DIR / "config.yaml"), OmegaConf.load(CONF_DIR / "optimizer/adam.yaml")
    digits = OmegaConf.load(CONF_DIR / "task/data/digits.yaml")
    assert model.net.hidden == OmegaConf.load(CONF_DIR / "task/model/two_layer_net.yaml").hidden
    assert data.batch_size == defaults.trainer.batch_size and trainer.max_epochs == defaults.trainer.max_epochs
    assert (data.noise_variance, data.n_val) == (digits.noise_variance, digits.n_val)
    assert (model.optimizer.lr, model.optimizer.fused) == (optimizer.lr, optimizer.fused)


def test_its_first_step_comes_within_the_time_that_the_process_takes() -> None:
    began = time.perf_counter()
    first = start.template_step()
    assert 0 < first < time.perf_counter() - began
