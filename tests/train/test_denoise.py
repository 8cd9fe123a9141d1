"""The denoising task: its data, and its numbers against the definitions, computed with numpy."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expkit.errors import ConfigError
from tests.train.helpers import Run, same
from train.models.two_layer_net import TwoLayerNet
from train.tasks.denoise import DenoiseTask
from train.tasks.denoise_data import DigitsData, NoisyVectors, TwoHotData, TwoHotVectors
from train.tasks.digits import read_digits


def two_hot(**options: Any) -> TwoHotData:
    return TwoHotData(**{"d": 16, "s": 2, "noise_variance": 0.05, "n_train": 40, "n_val": 12, **options})


def denoise(data: Any = None, **options: Any) -> DenoiseTask:
    data = data or two_hot()
    return DenoiseTask(data, functools.partial(TwoLayerNet, d=data.d, hidden=8), **options)


# --- the network and the loss --------------------------------------------------------------------------------------


def test_the_network_is_the_cubed_tanh_of_the_definition() -> None:
    torch.manual_seed(0)
    model = TwoLayerNet(d=5, hidden=7, encoder_init_scale=0.5, decoder_init_scale=2.0)
    assert [(name, tuple(value.shape)) for name, value in model.named_parameters()] == [
        ("encoder.weight", (7, 5)),
        ("encoder.bias", (7,)),
        ("decoder.weight", (5, 7)),
        ("decoder.bias", (5,)),
    ]
    x = torch.randn(3, 5)
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in model.parameters())
    expected = np.tanh(x.double().numpy() @ w1.T + b1) ** 3 @ w2.T + b2
    np.testing.assert_allclose(model(x).detach().numpy(), expected, atol=1e-6)


def test_weights_begin_xavier_normal_times_a_scale_each_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    model = TwoLayerNet(d=300, hidden=200, encoder_init_scale=0.03, decoder_init_scale=2.0)
    xavier = math.sqrt(2 / (300 + 200))
    assert model.encoder.weight.std().item() == pytest.approx(0.03 * xavier, rel=0.02)
    assert model.decoder.weight.std().item() == pytest.approx(2.0 * xavier, rel=0.02)
    assert not model.encoder.bias.any()
    assert not model.decoder.bias.any()


@pytest.mark.parametrize("data", [two_hot(), DigitsData()], ids=["two-hot", "digits"])
def test_loss_and_metrics_are_those_of_the_definitions(data: Any) -> None:
    task = denoise(data, lambda_on=16.0, enc_reg=0.01, dec_reg=0.03)
    torch.manual_seed(0)
    model = task.build_model()
    noisy, clean = task.train_data().batch(range(9))
    out = task.step(model, (noisy, clean))
    means = {name: value.item() / out.count for name, value in out.sums.items()} | {"loss": out.loss.item()}
    found = task.summarize(means)

    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in model.parameters())
    x, truth = noisy.double().numpy(), clean.double().numpy()
    squared = (np.tanh(x @ w1.T + b1) ** 3 @ w2.T + b2 - truth) ** 2
    active = truth > 0
    on, off = (squared * active).sum(1).mean(), (squared * ~active).sum(1).mean()
    scaled = 16 * on + off
    expected = {
        "loss": scaled + 0.01 * (w1**2).sum() + 0.03 * (w2**2).sum(),
        "scaled_loss": scaled,
        "loss_on": on,
        "loss_off": off,
        "psnr": 10 * np.log10(1 / squared.mean()),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert out.count == 9


@pytest.mark.parametrize("factor", ["enc_reg", "dec_reg"])
def test_each_regulariser_pulls_on_its_own_matrix(factor: str) -> None:
    gradients = []
    for options in ({}, {factor: 0.5}):
        task = denoise(**options)
        torch.manual_seed(0)
        model = task.build_model()
        task.step(model, task.train_data().batch([0, 1])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    name = {"enc_reg": "encoder.weight", "dec_reg": "decoder.weight"}[factor]
    torch.testing.assert_close(gradients[1][name] - gradients[0][name], model.get_parameter(name).detach())
    assert all(same(gradients[0][other], gradients[1][other]) for other in gradients[0] if other != name)


def test_regularised_losses_do_not_depend_on_how_a_batch_is_split() -> None:
    runs = []
    for pieces in (1, 4):
        torch.manual_seed(0)
        task = denoise(lambda_on=4.0, enc_reg=0.1, dec_reg=0.1)
        runs.append(Run(task, batch_size=16, grad_accumulation=pieces).fit())
    whole, split = runs
    for metric in ("train_loss", "train_scaled_loss", "val_loss", "val_psnr"):
        assert split.values(metric) == pytest.approx(whole.values(metric), rel=1e-4)


@pytest.mark.parametrize(
    ("error", "psnr"), [(16.0, 0.0), (0.16, 20.0), (0.0, math.inf), (math.inf, -math.inf), (math.nan, math.nan)]
)
def test_psnr_is_in_decibels_and_says_when_there_is_none(error: float, psnr: float) -> None:
    """A loss that is NaN must not look like a perfect reconstruction."""
    found = denoise().summarize({"loss_on": error / 2, "loss_off": error / 2})["psnr"]
    assert found == pytest.approx(psnr, nan_ok=True)


# --- data ----------------------------------------------------------------------------------------------------------


def datasets() -> list[NoisyVectors]:
    return [DigitsData().train(), two_hot().train(), DigitsData().val(), two_hot().val()]


@pytest.mark.parametrize("data", datasets(), ids=["digits", "two-hot", "digits val", "two-hot val"])
def test_a_sample_depends_on_its_index_alone_however_it_is_fetched(data: NoisyVectors) -> None:
    whole = data.batch([3, 0, 7])
    for row, index in enumerate([3, 0, 7]):
        torch.rand(1)  # the global generator has no say in it
        assert same([part[row] for part in whole], list(data[index]))
    assert same(list(data.batch([7, 3])), [part[[2, 0]] for part in whole])


@pytest.mark.parametrize("make", [DigitsData, two_hot])
def test_training_noise_is_fresh_in_each_epoch_and_comes_back(make: Any) -> None:
    data = make().train()
    drawn = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        drawn.append(data.batch([0, 1])[0])
    assert not torch.isclose(drawn[0], drawn[1]).any()
    assert same(drawn[0], drawn[2])


@pytest.mark.parametrize("make", [DigitsData, two_hot])
def test_validation_never_changes(make: Any) -> None:
    data = make().val()
    drawn = []
    for epoch in (0, 5):
        data.set_epoch(epoch)
        drawn.append(list(data.batch([0, 1])))
    assert same(drawn[0], drawn[1])


@pytest.mark.parametrize("make", [DigitsData, two_hot])
def test_noise_differs_between_seeds_indices_training_and_validation(make: Any) -> None:
    noises = []
    for seed in (0, 1):
        for data in (make(seed=seed).train(), make(seed=seed).val()):
            noisy, clean = data.batch([0, 1])
            noises += list((noisy - clean).flatten(1))
    correlations = torch.corrcoef(torch.stack(noises)) - torch.eye(8)
    assert correlations.abs().max() < 0.9


@pytest.mark.parametrize("variance", [0.0, 0.005, 0.25])
def test_noise_has_the_variance_that_is_configured(variance: float) -> None:
    noisy, clean = TwoHotData(d=256, noise_variance=variance, n_train=200).train().batch(range(200))
    noise = noisy - clean
    assert noise.var().item() == pytest.approx(variance, rel=0.03)
    assert abs(noise.mean().item()) <= 0.02 * math.sqrt(variance)
    assert noise.std(dim=0).min() >= 0.75 * math.sqrt(variance)  # every coordinate has its own


@pytest.mark.parametrize(("d", "s"), [(2, 1), (16, 2), (10, 5), (1024, 2)])
def test_two_hot_vectors_have_exactly_s_ones_at_distinct_places(d: int, s: int) -> None:
    clean = TwoHotVectors(200, d, s, 0.1, (0,)).batch(range(200))[1]
    assert clean.shape == (200, d)
    assert set(clean.unique().tolist()) == {0.0, 1.0}
    assert (clean.sum(dim=1) == s).all()


def test_two_hot_places_are_uniform() -> None:
    counts = TwoHotVectors(4000, 8, 2, 0.1, (0,)).batch(range(4000))[1].sum(dim=0)
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000 * 3 / 4)).all()  # binomial: 4000 draws at 2 of 8


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = read_digits()
    expected = load_digits()
    np.testing.assert_array_equal(pixels.numpy(), expected.data.astype(np.float32) / 16)
    np.testing.assert_array_equal(labels.numpy(), expected.target)
    assert pixels.dtype == torch.float32


def test_digits_are_read_without_importing_scikit_learn() -> None:
    code = "import sys; from train.tasks.digits import read_digits; read_digits(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        DigitsData().train()


def test_training_and_validation_digits_are_split_alike_for_every_seed() -> None:
    train, val = DigitsData(seed=0).train(), DigitsData(seed=0).val()
    assert (len(train), len(val)) == (1797 - 360, 360)
    together = torch.cat([train.clean, val.clean])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, read_digits()[0].tolist()))
    assert same(DigitsData(seed=7).train().clean, train.clean)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: DigitsData(d=100), "d=100"),
        (lambda: DigitsData(n_val=0), "n_val=0"),
        (lambda: DigitsData(n_val=1797), "n_val=1797"),
        (lambda: DigitsData(noise_variance=-0.1), "noise_variance=-0.1"),
        (lambda: TwoHotData(noise_variance=-1), "noise_variance=-1"),
        (lambda: TwoHotData(d=10, s=6), "s=6"),
        (lambda: TwoHotData(s=0), "s=0"),
        (lambda: TwoHotData(n_train=0), "n_train=0"),
        (lambda: TwoHotData(n_val=-5), "n_val=-5"),
    ],
)
def test_bad_values_are_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"task\.data\.{key}"):
        make()


def test_config_json_is_told_what_the_data_is() -> None:
    told = denoise(two_hot(seed=4)).describe_data()
    assert told == {
        "name": "TwoHotData",
        "d": 16,
        "s": 2,
        "noise_variance": 0.05,
        "n_train": 40,
        "n_val": 12,
        "seed": 4,
    }


# --- pictures and training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "columns"), [(DigitsData(), 10), (two_hot(d=15), 10), (two_hot(n_val=1), 1), (DigitsData(n_val=4), 4)]
)
def test_the_figure_has_a_row_each_for_noisy_denoised_and_true(data: Any, columns: int) -> None:
    """Ten columns, or fewer where there are fewer validation samples."""
    task = denoise(data)
    model = task.build_model()
    noisy, clean = task.val_data().batch(range(columns))
    with torch.no_grad():
        figure = task.figures(model)["denoised"]()
        denoised = model(noisy)
    assert len(figure.axes) == 3 * columns
    assert [axis.get_ylabel() for axis in figure.axes[::columns]] == ["noisy", "denoised", "true"]
    shown = [torch.as_tensor(axis.images[0].get_array().data).flatten() for axis in figure.axes]
    torch.testing.assert_close(torch.stack(shown), torch.cat([noisy, denoised, clean]), check_dtype=False)


def test_a_short_training_improves_on_the_noisy_input_by_several_decibels() -> None:
    data = DigitsData()
    task = DenoiseTask(data, functools.partial(TwoLayerNet, d=64, hidden=64))
    torch.manual_seed(0)
    optimizer = functools.partial(torch.optim.Adam, lr=0.003, fused=True)
    run = Run(task, optimizer, batch_size=64, max_epochs=10, log_interval="auto").fit()
    noisy, clean = data.val().batch(range(360))
    input_psnr = -10 * torch.log10((noisy - clean).square().mean()).item()
    assert input_psnr == pytest.approx(10, abs=0.2)  # the variance is 0.1
    assert run.values("val_psnr")[-1] > input_psnr + 3


def test_psnr_of_several_batches_is_that_of_their_mean_error() -> None:
    """A logarithm is no mean: it is taken once, after averaging over all samples."""
    task = denoise()
    run = Run(task, batch_size=5)
    noisy, clean = task.val_data().batch(range(12))
    with torch.no_grad():
        expected = -10 * torch.log10((run.model(noisy) - clean).square().mean()).item()
    assert task.summarize(run.runner.evaluate())["psnr"] == pytest.approx(expected, abs=1e-4)


def test_a_constructor_loads_nothing() -> None:
    """It is how a configuration is checked: the model and the data come later."""

    def model() -> nn.Module:
        raise AssertionError("too early")

    DenoiseTask(DigitsData(), model)
