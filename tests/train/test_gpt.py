"""The language model: its layers, its loss and its samples."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.errors import ConfigError, ResumeError
from expkit.rng import rng_state
from tests.train.helpers import Run, same
from train.models.gpt import GPT, generate
from train.tasks.gpt import GPTTask
from train.tasks.text_data import TextData

TEXT = "one two three four five six seven eight nine ten\n" * 60
CONTEXT = 16


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def task(file: Path) -> GPTTask:
    return make(file)


def make(file: Path, dropout: float = 0.0, seed: int = 0, level: Any = "char", **options: Any) -> GPTTask:
    data = TextData(str(file), level, CONTEXT, 0.2, seed)
    model = functools.partial(GPT, d_model=16, num_layers=2, num_heads=2, dropout=dropout)
    return GPTTask(data, model, **{"sample_length": 20, **options})


def gpt(**options: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(**{"vocab_size": 11, "context_length": 8, "d_model": 12, "num_layers": 2, "num_heads": 3, **options})


# --- the network ---------------------------------------------------------------------------------------------------


def test_the_layers_have_the_names_and_shapes_that_people_rely_on() -> None:
    found = {name: tuple(value.shape) for name, value in gpt().named_parameters()}
    for block in ("block0", "block1"):
        for layer in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj"):
            assert found.pop(f"{block}.{layer}.weight") == (12, 12)
            assert found.pop(f"{block}.{layer}.bias") == (12,)
        assert found.pop(f"{block}.mlp.c_fc.weight") == (48, 12)
        assert found.pop(f"{block}.mlp.c_proj.weight") == (12, 48)
    assert found.pop("token_embedding.weight") == (11, 12)
    assert found.pop("position_embedding.weight") == (8, 12)
    assert all("norm" in name or name.endswith("mlp.c_fc.bias") or name.endswith("mlp.c_proj.bias") for name in found)


def test_it_computes_what_the_definition_says() -> None:
    model = gpt(num_layers=1).double()
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        state[name] = value.copy_(torch.randn_like(value))
    tokens = torch.randint(11, (2, 7))

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"block0.{name}.weight"].T + state[f"block0.{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["token_embedding.weight"][tokens] + state["position_embedding.weight"][:7]
    h = norm(x, "block0.norm1")
    q, k, v = (linear(h, f"attn.c_{each}") for each in "qkv")
    heads = []
    for head in range(3):
        columns = slice(4 * head, 4 * head + 4)
        scores = q[..., columns] @ k[..., columns].transpose(1, 2) / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[..., columns])
    x = x + linear(torch.cat(heads, dim=-1), "attn.c_proj")
    u = linear(norm(x, "block0.norm2"), "mlp.c_fc")
    gelu = u / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    x = x + linear(gelu, "mlp.c_proj")
    torch.testing.assert_close(model(tokens), norm(x, "norm") @ state["token_embedding.weight"].T)


def test_a_later_token_does_not_change_earlier_logits() -> None:
    model = gpt()
    tokens = torch.randint(11, (1, 8))
    before = model(tokens)
    tokens[0, 5] = (tokens[0, 5] + 1) % 11
    after = model(tokens)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, 5:], before[:, 5:])


def test_weights_begin_as_those_of_gpt_2() -> None:
    model = gpt(d_model=120, num_layers=8, vocab_size=500)
    for name, value in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert value.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
        elif value.ndim == 2:
            assert value.std().item() == pytest.approx(0.02, rel=0.05)
        else:
            assert set(value.tolist()) == ({1.0} if "norm" in name and name.endswith("weight") else {0.0})


def test_it_begins_knowing_nothing(task: GPTTask) -> None:
    torch.manual_seed(0)
    out = task.step(task.build_model(), task.train_data().batch(range(20)))
    assert out.loss.item() == pytest.approx(math.log(task.data.vocab_size), abs=0.05)
    assert out.count == 20 * CONTEXT


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"d_model": 10, "num_heads": 4}, "d_model=10: the heads share it, so task.model.num_heads=4 must divide it"),
        ({"d_model": 0}, "d_model=0: "),
        ({"num_layers": 0}, "num_layers=0: "),
        ({"num_heads": -1}, "num_heads=-1: "),
        ({"num_heads": True}, "num_heads=True: "),
        ({"context_length": 2.5}, "context_length=2.5: "),
        ({"vocab_size": None}, "vocab_size=None: "),
        ({"dropout": 1.0}, "dropout=1.0: "),
        ({"dropout": "high"}, "dropout=high: "),
    ],
)
def test_sizes_that_cannot_be_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        gpt(**options)
    assert str(error.value).startswith(f"task.model.{key}")


def test_more_tokens_than_it_can_see_are_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens are more than the model's context_length, 8"):
        gpt()(torch.zeros(1, 9, dtype=torch.int64))


# --- samples -------------------------------------------------------------------------------------------------------


class Successor(nn.Module):
    """Says that token t is followed by t + 1, modulo 5, more or less surely; notes how much it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.seen: list[int] = []

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.seen.append(tokens.shape[1])
        return self.weight * nn.functional.one_hot((tokens + 1) % 5, 5)


def test_at_temperature_0_the_most_likely_token_comes_and_no_more_is_seen_than_can_be() -> None:
    model = Successor()
    tokens = generate(model, torch.tensor([[0, 1], [3, 4]]), 6, 3, temperature=0)
    assert tokens.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [3, 4, 0, 1, 2, 3, 4, 0]]
    assert model.seen == [2, 3, 3, 3, 3, 3]
    assert model.training, "left in the mode that it was in"


def test_tokens_come_as_often_as_temperature_makes_them() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = generate(Successor(), torch.zeros(4000, 1, dtype=torch.int64), 1, 3, 2.0, generator)[:, 1]
    expected = torch.softmax(torch.tensor([0.0, 1.5, 0.0, 0.0, 0.0]), 0)
    torch.testing.assert_close(tokens.bincount(minlength=5) / 4000, expected, rtol=0, atol=0.03)


def test_samples_are_the_same_every_time_and_touch_no_other_generator(file: Path) -> None:
    torch.manual_seed(0)
    task = make(file, dropout=0.5)
    model = task.build_model()
    state = rng_state()
    first = task.samples(model)
    assert same(rng_state(), state)
    assert first == task.samples(model)
    assert len(set(first)) == 3
    assert {len(text) for text in first} == {1 + 20}
    assert first != make(file, seed=1).samples(model)


@pytest.mark.parametrize(
    ("prompt", "begin"), [(None, "\n"), ("", "\n"), ("three ", "three "), ("one two three four five", "one two three")]
)
def test_samples_begin_with_the_prompt(file: Path, prompt: str | None, begin: str) -> None:
    task = make(file, prompt=prompt, num_samples=2)
    found = task.samples(task.build_model())
    assert len(found) == 2
    assert all(text.startswith(prompt or begin) for text in found)


def test_a_text_of_one_line_prompts_with_its_first_character(file: Path) -> None:
    file.write_text(TEXT.replace("\n", " "))
    task = make(file, num_samples=1)
    assert task.samples(task.build_model())[0][0] == "o"


def test_no_samples_are_no_samples(file: Path) -> None:
    task = make(file, num_samples=0)
    assert task.samples(task.build_model()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "zero"}, "task.prompt=zero: the text does not have the character 'z'"),
        ({"num_samples": -1}, "task.num_samples=-1: "),
        ({"sample_length": 1.5}, "task.sample_length=1.5: "),
        ({"temperature": -0.1}, "task.temperature=-0.1: "),
        ({"temperature": math.nan}, "task.temperature=nan: "),
    ],
)
def test_options_that_cannot_be_are_named(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(file, **options).build_model()
    assert str(error.value).startswith(message)


# --- the task ------------------------------------------------------------------------------------------------------


def test_perplexity_is_the_exponential_of_the_loss(task: GPTTask) -> None:
    assert task.summarize({"loss": 2.0}) == {"loss": 2.0, "perplexity": math.exp(2.0)}
    assert task.summarize({"loss": 1e4})["perplexity"] == math.inf
    assert math.isnan(task.summarize({"loss": math.nan})["perplexity"])


def test_the_validation_loss_is_the_mean_over_all_tokens(task: GPTTask) -> None:
    run = Run(task, batch_size=5, max_steps=1)
    inputs, targets = task.val_data().batch(range(len(task.val_data())))
    with torch.no_grad():
        chances = run.model(inputs).double().softmax(-1).gather(-1, targets[..., None])
    assert run.runner.evaluate()["loss"] == pytest.approx(-chances.log().mean().item(), rel=1e-6)


def test_it_learns(task: GPTTask) -> None:
    torch.manual_seed(0)
    adam = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
    found = Run(task, adam, batch_size=16, max_epochs=12, clip_grad_norm=1.0).fit().values("val_perplexity")
    assert found[-1] < 2 < found[0] < task.data.vocab_size


def test_pieces_of_a_batch_add_up_to_the_whole(file: Path) -> None:
    weights = []
    for pieces in (1, 4):
        torch.manual_seed(0)
        run = Run(make(file), functools.partial(torch.optim.SGD, lr=0.1), batch_size=16, grad_accumulation=pieces)
        weights.append(run.fit().weights())
    torch.testing.assert_close(weights[0], weights[1])


def test_a_checkpoint_of_another_vocabulary_of_the_same_size_is_refused(file: Path) -> None:
    state = make(file).build_model().state_dict()
    file.write_text(TEXT.replace("x", "z"))
    task = make(file)
    with pytest.raises(ResumeError, match=r"16 tokens then, 16 now, and 'x' is not in both"):
        task.build_model().load_state_dict(state)


def test_a_checkpoint_without_a_vocabulary_is_left_to_torch(task: GPTTask) -> None:
    state = task.build_model().state_dict()
    del state["vocabulary"]
    with pytest.raises(RuntimeError, match="vocabulary"):
        task.build_model().load_state_dict(state)


def test_it_compiles_as_one_graph_which_samples_leave_alone(task: GPTTask) -> None:
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.train_data().batch(range(4))
    expected, samples = task.step(model, batch).loss, task.samples(model)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(task.step(model, batch).loss, expected)
    assert task.samples(model) == samples
    assert len(graphs) == 1
