"""The wave model: its embedding, how it begins, what it says of itself, and runs with it."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.errors import ConfigError
from expkit.journal import read_journal
from tests.conftest import SMALL, Train
from tests.train.helpers import Regression, Run
from train.models.gpt import GPT
from train.models.wave import WaveEmbedding, WaveGPT, phase_coherence
from train.tasks.gpt import GPTTask
from train.tasks.text_data import TextData

V, W, H, D = 11, 5, 3, 12
SIZES = {"vocab_size": V, "context_length": 8, "d_model": D, "num_layers": 2, "num_heads": 3}


def wave(**options: Any) -> WaveGPT:
    torch.manual_seed(0)
    return WaveGPT(**{**SIZES, "num_waves": W, "num_harmonics": H, **options})


# --- the embedding -------------------------------------------------------------------------------------------------


def test_it_computes_what_the_definition_says() -> None:
    torch.manual_seed(0)
    model = WaveEmbedding(V, D, W, H)
    tokens = torch.randint(V, (2, 7))
    f, phi, a, q = model.frequencies, model.phases, model.amplitudes, model.position_frequencies
    # Of the linear map, columns (w, sine or cosine, h): which of them is which is for it to learn.
    columns = model.linear.weight.view(D, W, 2, H)
    for batch in range(2):
        for t in range(7):
            v = tokens[batch, t]
            expected = torch.zeros(D)
            for w in range(W):
                for h in range(1, H + 1):
                    theta = 2 * math.pi * h * f[v, w] + phi[v, w] + t * q[w]
                    wave = a[v, w, h - 1] * torch.stack([theta.sin(), theta.cos()])
                    expected = expected + columns[:, w, :, h - 1] @ wave
            torch.testing.assert_close(model(tokens)[batch, t], expected, rtol=1e-4, atol=1e-6)


def test_the_two_embeddings_are_mixed_by_the_ratio_and_all_else_is_gpt() -> None:
    model, tokens = wave(rho=-1.0), torch.randint(V, (2, 8))
    ratio = 1 / (1 + math.e)
    assert model.get_wave_ratio() == pytest.approx(ratio)
    standard = model.token_embedding(tokens) + model.position_embedding.weight
    torch.testing.assert_close(model.embed(tokens), ratio * model.wave(tokens) + (1 - ratio) * standard)
    gpt = GPT(**SIZES)
    gpt.load_state_dict({name: value for name, value in model.state_dict().items() if name in gpt.state_dict()})
    with torch.no_grad():
        model.rho.fill_(-200)  # nothing of the wave
    torch.testing.assert_close(model(tokens), gpt(tokens))
    own = {name for name, _ in model.named_parameters()} - {name for name, _ in gpt.named_parameters()}
    tensors = ("frequencies", "phases", "amplitudes", "position_frequencies", "linear.weight")
    assert own == {"rho", *(f"wave.{name}" for name in tensors)}


def test_tensors_that_plots_read_have_these_shapes() -> None:
    shapes = {name: tuple(value.shape) for name, value in wave().wave.named_parameters()}
    assert shapes == {
        "frequencies": (V, W),
        "phases": (V, W),
        "amplitudes": (V, W, H),
        "position_frequencies": (W,),
        "linear.weight": (D, 2 * W * H),
    }


def test_it_begins_as_defined() -> None:
    torch.manual_seed(0)
    model = WaveGPT(3000, 8, num_waves=10, num_harmonics=4)
    with torch.no_grad():
        frequencies, phases, amplitudes = model.wave.frequencies, model.wave.phases, model.wave.amplitudes
        torch.testing.assert_close(frequencies.mean(dim=0), torch.linspace(0.5, 5, 10), rtol=0, atol=0.01)
        assert (frequencies - torch.linspace(0.5, 5, 10)).std().item() == pytest.approx(0.1, rel=0.02)
        assert 0 <= phases.min() < 0.01
        assert 2 * math.pi - 0.01 < phases.max() < 2 * math.pi
        assert phases.mean().item() == pytest.approx(math.pi, rel=0.02)
        assert amplitudes.mean().item() == pytest.approx(0, abs=0.001)
        assert amplitudes.std().item() == pytest.approx(0.5 / math.sqrt(40), rel=0.02)
        assert model.wave.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert model.wave.position_frequencies[0] == 1
        ratios = model.wave.position_frequencies[1:] / model.wave.position_frequencies[:-1]
        torch.testing.assert_close(ratios, torch.full((9,), 10_000**-0.1))
    assert model.get_wave_ratio() == pytest.approx(0.622, abs=0.0005)
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_identifiable(seed: int) -> None:
    """Whole turns of a frequency, and half a turn of a phase with the other sign, are the same wave."""
    torch.manual_seed(seed)
    model, tokens = WaveEmbedding(V, D, W, H).double(), torch.randint(V, (3, 8))
    before = model(tokens)
    with torch.no_grad():
        model.frequencies += torch.randint(-3, 4, (V, W))
        turned = torch.rand(V, W) < 0.5
        model.phases += math.pi * turned
        model.amplitudes *= 1 - 2 * turned[..., None].double()
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=2e-5)
    with torch.no_grad():
        model.frequencies += 0.5
    assert not torch.allclose(model(tokens), before, atol=1e-3)


def test_tokens_of_the_batch_alone_get_a_gradient() -> None:
    model = WaveEmbedding(V, D, W, H)
    model(torch.tensor([[2, 7, 2]])).square().sum().backward()
    for parameter in (model.frequencies, model.phases, model.amplitudes):
        assert parameter.grad is not None
        assert parameter.grad.flatten(1).any(dim=1).nonzero().flatten().tolist() == [2, 7]


def test_half_precision_keeps_the_angles() -> None:
    model, tokens = wave(context_length=500), torch.randint(V, (2, 500))
    with torch.no_grad():
        expected = model.wave(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.wave(tokens)
            assert model(tokens).dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
        # Weights in half precision: their own rounding moves the angles, but no further at the last position.
        model.wave.frequencies.copy_(model.wave.frequencies.bfloat16())
        model.wave.phases.copy_(model.wave.phases.bfloat16())
        model.wave.position_frequencies.copy_(model.wave.position_frequencies.bfloat16())
        expected = model.wave(tokens)
        torch.testing.assert_close(
            model.bfloat16().wave(tokens).float(), expected, rtol=0, atol=0.02 * float(expected.abs().max())
        )
        assert model(tokens).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"num_waves": 0}, "num_waves=0: "),
        ({"num_harmonics": 1.5}, "num_harmonics=1.5: "),
        ({"num_waves": True}, "num_waves=True: "),
        ({"rho": math.inf}, "rho=inf: "),
        ({"rho": "half"}, "rho=half: "),
        ({"num_heads": 5}, "d_model=12: "),
    ],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        wave(**options)
    assert str(error.value).startswith(f"task.model.{key}")


# --- coherence -----------------------------------------------------------------------------------------------------


def test_phases_that_agree_are_coherent_and_opposite_ones_are_not() -> None:
    quarter = math.pi / 2
    phases = torch.tensor([[0.3, 0.0, 1.0], [0.3 - 2 * math.pi, 2 * quarter, 1.0], [0.3, quarter, 1.0 + quarter]])
    expected = [1.0, 1 / 3, math.sqrt(5) / 3]
    torch.testing.assert_close(phase_coherence(phases), torch.tensor(expected))
    model = wave(vocab_size=3, num_waves=3)
    with torch.no_grad():
        model.wave.phases.copy_(phases)
    assert model.get_coherence_loss() == pytest.approx(1 - sum(expected) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_coherence_is_invariant_to_the_order_of_tokens_a_common_shift_and_whole_turns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    phases = 2 * torch.randn(20, 6, generator=generator, dtype=torch.float64)
    expected = phase_coherence(phases)
    order, turns = torch.randperm(20, generator=generator), torch.randint(-4, 5, (20, 6), generator=generator)
    for other in (phases[order], phases + torch.randn(6, generator=generator), phases + 2 * math.pi * turns, -phases):
        torch.testing.assert_close(phase_coherence(other), expected)
    assert ((expected >= 0) & (expected <= 1)).all()


def test_random_phases_have_the_coherence_that_chance_gives() -> None:
    """sqrt(pi / (4 V)), the mean of a Rayleigh distribution."""
    torch.manual_seed(0)
    found = phase_coherence(2 * math.pi * torch.rand(100, 4000)).mean().item()
    assert found == pytest.approx(math.sqrt(math.pi / 400), rel=0.03)


# --- runs ----------------------------------------------------------------------------------------------------------

TEXT = "one two three four five six seven eight nine ten\n" * 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text(TEXT)
    return path


def task(file: Path, model: Any = WaveGPT) -> GPTTask:
    return GPTTask(TextData(str(file), context_length=16), functools.partial(model, d_model=16, num_heads=2))


def test_every_record_of_training_says_the_models_metrics_and_no_other(file: Path) -> None:
    torch.manual_seed(0)
    run = Run(task(file), batch_size=32, max_steps=6, log_interval=2).fit()
    ratios = run.values("wave_ratio")
    assert len(ratios) == len(run.values("coherence_loss")) == len(run.values("train_loss")) == 3
    assert isinstance(run.model, WaveGPT)
    assert ratios[-1] == run.model.get_wave_ratio() != ratios[0]
    assert all(0 <= value <= 1 for value in run.values("coherence_loss"))
    plain = Run(task(file, GPT), batch_size=32, max_steps=2).fit()
    assert not plain.values("wave_ratio")


def test_a_task_of_ones_own_says_what_it_likes_of_its_model() -> None:
    class Own(Regression):
        def model_metrics(self, model: nn.Module) -> dict[str, float]:
            assert not torch.is_grad_enabled()
            assert model.training
            return {"bias": float(next(p for p in model.parameters() if p.ndim == 1)[0])}

    run = Run(Own(), log_interval=2).fit()
    assert len(run.values("bias")) == len(run.values("train_loss"))


def test_it_learns(file: Path) -> None:
    torch.manual_seed(0)
    adam = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
    found = Run(task(file), adam, batch_size=16, max_epochs=6, clip_grad_norm=1.0).fit().values("val_perplexity")
    assert found[-1] < 2 < found[0]


def test_it_compiles_as_one_graph(file: Path) -> None:
    made = task(file)
    model, batch = made.build_model(), made.train_data().batch(range(4))
    expected = made.step(model, batch).loss
    model.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(made.step(model, batch).loss, expected)


def test_a_run_from_the_command_line_says_both_names_without_a_prefix(train: Train, outputs: Path, file: Path) -> None:
    small = (*SMALL["gpt"], "task/model=wave", f"task.data.path={file}", "task.sample_length=5", "plots=[]")
    train("debug=smoke", *small, "trainer.max_steps=3", "trainer.precision=bf16", "run.id=run")
    first, *_ = read_journal(outputs / "run" / "logs" / "metrics.jsonl")
    assert first["wave_ratio"] == pytest.approx(0.622, abs=0.01)
    assert 0 < first["coherence_loss"] < 1
    model = json.loads((outputs / "run" / "config.json").read_text())["model"]
    assert model["class"].endswith("WaveGPT")


def test_another_task_refuses_it_in_one_line(train: Train) -> None:
    done = train("task=classify", "task/model=wave", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: task.model: WaveGPT does not fit task=classify")
    assert done.stderr.count("\n") == 1
