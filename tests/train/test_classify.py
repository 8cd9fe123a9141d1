"""The classification task: its data, its numbers counted by hand, its picture, and what it refuses."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from expkit.errors import ConfigError
from expkit.journal import read_journal, stable
from tests.conftest import Train
from tests.train.helpers import Run, same
from train.data import Batches
from train.models.cnn import CNN
from train.models.mlp import MLP
from train.tasks.classify import ClassifyTask
from train.tasks.classify_data import LabelledDigitsData, LabelledImages
from train.tasks.denoise_data import DigitsData
from train.tasks.digits import read_digits

SMALL = functools.partial(MLP, hidden=16)
ADAM = functools.partial(torch.optim.Adam, lr=0.003, fused=True)


def classify(data: Any = None, model: Any = SMALL, **options: Any) -> ClassifyTask:
    return ClassifyTask(data or LabelledDigitsData(), model, **options)


# --- data ----------------------------------------------------------------------------------------------------------


def test_both_tasks_split_the_digits_alike_whatever_the_seed() -> None:
    for seed in (0, 7):
        labelled, noisy = LabelledDigitsData(seed=seed, n_val=300), DigitsData(seed=0, n_val=300)
        assert same(labelled.train().images.flatten(1), noisy.train().clean)
        assert same(labelled.val().images.flatten(1), noisy.val().clean)


def test_each_image_has_its_own_label() -> None:
    pixels, labels = read_digits()
    label_of = {tuple(row): label for row, label in zip(pixels.tolist(), labels.tolist(), strict=True)}
    for data in (LabelledDigitsData().train(), LabelledDigitsData().val()):
        images, labels = data.batch(range(len(data)))
        assert (images.dtype, images.shape[1:], labels.dtype) == (torch.float32, (1, 8, 8), torch.int64)
        assert [label_of[tuple(row)] for row in images.flatten(1).tolist()] == labels.tolist()


def shifts(data: LabelledImages) -> list[tuple[int, int]]:
    """Return the (row, column) in a frame of zeros that each image was moved to; exactly one must fit."""
    space = data.max_shift
    frames = nn.functional.pad(data.images[:, 0], (space,) * 4)
    found = []
    for frame, (image, _) in zip(frames, (data[index] for index in range(len(data))), strict=True):
        places = [
            (row - space, column - space)
            for row in range(2 * space + 1)
            for column in range(2 * space + 1)
            if torch.equal(frame[row : row + 8, column : column + 8], image[0])
        ]
        assert len(places) == 1
        found += places
    return found


@pytest.mark.parametrize("max_shift", [1, 2])
def test_training_images_are_shifted_up_to_max_shift_pixels_in_every_direction_alike(max_shift: int) -> None:
    found = shifts(LabelledDigitsData(max_shift=max_shift).train())
    places, counts = np.unique(found, axis=0, return_counts=True)
    kinds = (2 * max_shift + 1) ** 2
    assert len(places) == kinds
    assert np.abs(places).max() == max_shift
    expected = len(found) / kinds
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_shifts_are_fresh_in_each_epoch_come_back_and_differ_between_seeds() -> None:
    data, other = (LabelledDigitsData(max_shift=2, seed=seed).train() for seed in (0, 1))
    drawn = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        drawn.append(data.batch(range(200)))
    assert same(drawn[0], drawn[2])
    for images in (drawn[1][0], other.batch(range(200))[0]):
        changed = (images != drawn[0][0]).flatten(1).any(dim=1)
        assert changed.float().mean() > 0.8  # 24 of 25 on average
    assert same(drawn[0][1], drawn[1][1])  # the labels stay


def test_a_shift_depends_on_its_index_alone_however_it_is_fetched() -> None:
    data = LabelledDigitsData(max_shift=2).train()
    images, labels = data.batch([3, 0, 7])
    for row, index in enumerate([3, 0, 7]):
        torch.rand(1)  # the global generator has no say in it
        assert same(list(data[index]), [images[row], labels[row]])
    epochs = []
    for workers in (0, 2):
        batches = Batches(LabelledDigitsData(max_shift=2).train(), 500, num_workers=workers).epoch(3)
        epochs.append([list(batch) for each in batches for batch, _ in each.pieces])
    assert same(*epochs)


def test_without_shifts_training_images_are_as_they_were_read() -> None:
    data = LabelledDigitsData().train()
    data.set_epoch(4)
    assert same(data.batch([5, 2])[0], data.images[[5, 2]])


def test_validation_images_are_never_shifted() -> None:
    plain, data = LabelledDigitsData().val(), LabelledDigitsData(max_shift=3).val()
    for epoch in (0, 5):
        data.set_epoch(epoch)
        assert same(data.batch(range(360)), plain.batch(range(360)))


@pytest.mark.parametrize(
    "wrong", [{"max_shift": -1}, {"max_shift": 8}, {"max_shift": 0.5}, {"n_val": 0}, {"n_val": 1797}]
)
def test_bad_values_of_the_data_are_named(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"^task\.data\.{key}={value}: "):
        LabelledDigitsData(**wrong)


# --- loss and accuracy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_mean_cross_entropy_smoothed_in_training_only(smoothing: float) -> None:
    task = classify(label_smoothing=smoothing)
    torch.manual_seed(0)
    model = task.build_model()
    images, labels = task.train_data().batch(range(9))
    scores = model(images).detach().double().numpy()
    logarithms = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    plain = -logarithms[np.arange(9), labels].mean()
    smoothed = (1 - smoothing) * plain - smoothing * logarithms.mean()
    assert task.step(model, (images, labels)).loss.item() == pytest.approx(smoothed, rel=1e-5)
    assert task.step(model.eval(), (images, labels)).loss.item() == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, "much"])
def test_a_share_that_cannot_be_is_named(smoothing: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^task\.label_smoothing={smoothing}: "):
        classify(label_smoothing=smoothing)


@pytest.mark.parametrize(
    "model",
    [functools.partial(MLP, hidden=[64, 32], dropout=0.1), functools.partial(CNN, channels=[16, 32], dropout=0.1)],
    ids=["mlp", "cnn"],
)
def test_a_short_training_reaches_90_percent_of_digits_counted_by_hand(model: Any) -> None:
    torch.manual_seed(0)
    run = Run(classify(model=model), ADAM, batch_size=64, max_epochs=8, log_interval="auto").fit()
    images, labels = LabelledDigitsData().val().batch(range(360))
    with torch.no_grad():
        guesses = run.model.eval()(images).argmax(dim=1).tolist()
    right = sum(guess == label for guess, label in zip(guesses, labels.tolist(), strict=True))
    assert run.values("val_accuracy")[-1] == pytest.approx(100 * right / 360, rel=1e-6)
    assert run.values("val_accuracy")[-1] > 90
    assert 90 < run.values("train_accuracy")[-1] <= 100
    assert run.values("val_loss")[-1] < run.values("val_loss")[0]
    assert run.values("final/best_val_accuracy") == [max(run.values("val_accuracy"))]


class Quadrants:
    """Points of the plane, by quadrant: labelled data of one's own, which are no images."""

    shape = (2,)
    classes = 4

    def train(self) -> TensorDataset:
        points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        return TensorDataset(points, ((points > 0) * torch.tensor([1, 2])).sum(dim=1))

    val = train


def test_labelled_data_of_ones_own_will_do() -> None:
    task = classify(Quadrants(), SMALL)
    torch.manual_seed(0)
    run = Run(task, functools.partial(ADAM, lr=0.03), batch_size=20, max_epochs=10).fit()
    assert run.values("val_accuracy")[-1] > 90
    with torch.no_grad():
        (axis,) = task.figures(run.model.eval())["predictions"]().axes  # no images, no examples
    assert axis.get_xlabel() == "predicted"


# --- the picture ---------------------------------------------------------------------------------------------------


def test_the_picture_counts_what_is_taken_for_what_and_shows_the_hardest_first() -> None:
    task = classify(LabelledDigitsData(n_val=150))
    torch.manual_seed(0)
    run = Run(task, ADAM, batch_size=64, max_epochs=2).fit()
    images, labels = task.val_data().batch(range(150))
    with torch.no_grad():
        figure = task.figures(run.model.eval())["predictions"]()
        probabilities = run.model(images).softmax(dim=1)
    matrix, *examples = figure.axes

    counted: dict[tuple[int, int], int] = {}
    for true, predicted in zip(labels.tolist(), probabilities.argmax(dim=1).tolist(), strict=True):
        counted[true, predicted] = counted.get((true, predicted), 0) + 1
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in matrix.texts}
    assert written == {place: str(count) for place, count in counted.items()}

    of_true = probabilities[range(150), labels]
    for axis, index in zip(examples, of_true.argsort().tolist(), strict=False):
        true, predicted = int(labels[index]), int(probabilities[index].argmax())
        assert np.array_equal(axis.images[0].get_array(), images[index, 0])
        assert axis.get_title().startswith(f"{true} → {predicted} ")
        assert (axis.title.get_color() == "black") == (true == predicted)
    assert len(examples) == 12


def test_fewer_images_than_places_leave_places_empty() -> None:
    task = classify(LabelledDigitsData(n_val=5))
    task.val_data()
    with torch.no_grad():
        figure = task.figures(task.build_model().eval())["predictions"]()
    assert [len(axis.images) for axis in figure.axes[1:]] == [1] * 5 + [0] * 7


# --- as a user runs it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("classify task/data=two_hot", "task.data is TwoHotData, which task=classify cannot use: choose task/data=lab"),
        ("classify task/data=digits", "task.data is DigitsData, which task=classify cannot use: choose task/data=lab"),
        ("classify task/model=two_layer_net", "task.model: TwoLayerNet does not fit task=classify: choose task/model="),
        ("denoise task/data=labelled_digits", "task.data is LabelledDigitsData, which task=denoise cannot use: choose"),
        ("denoise task/model=mlp", "task.model: MLP does not fit task=denoise: choose task/model=two_layer_net ("),
        ("denoise task/model=cnn", "task.model: CNN does not fit task=denoise: choose task/model=two_layer_net ("),
        ("classify task.model.channels=[0]", "task.model.channels=[0]: whole numbers of at least 1 are needed"),
        (
            "denoise task/data=text",
            "task.data is TextData, which task=denoise cannot use: choose task/data=digits or two",
        ),
        ("classify task/data=text", "task.data is TextData, which task=classify cannot use: choose task/data=labelled"),
        (
            "classify +task.model.classes=5",
            "task.model: CNN does not fit task=classify: choose task/model=cnn or mlp (it",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    train: Train, outputs: Path, arguments: str, expected: str
) -> None:
    done = train(*f"task={arguments}".split(), "tracker=[]", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {expected}")
    assert done.stderr.count("\n") == 1
    assert not outputs.exists()


def test_a_resumed_run_with_shifts_and_dropout_is_bit_identical(train: Train, outputs: Path) -> None:
    arguments = ("task=classify", "task.data.max_shift=1", "task.model.channels=[4]", "trainer.deterministic=true")
    arguments += ("trainer.log_interval=5", "tracker=[]", "plots=[]")
    train(*arguments, "trainer.max_steps=60", "run.id=whole")
    train(*arguments, "trainer.max_steps=30", "run.id=parts", "checkpoint.save_interval=7")
    train("resume=outputs/parts/checkpoints/checkpoint_step_28.pt", "trainer.max_steps=60", cwd=outputs.parent)
    ends, journals = [], []
    for run in ("whole", "parts"):
        checkpoint = outputs / run / "checkpoints" / "checkpoint_step_60.pt"
        ends.append(torch.load(checkpoint, weights_only=True)["model_state_dict"])
        journals.append([stable(entry) for entry in read_journal(outputs / run / "logs" / "metrics.jsonl")])
    assert same(*ends)
    assert journals[0] == journals[1]


def test_config_json_is_told_what_the_data_are() -> None:
    expected = {"name": "LabelledDigitsData", "max_shift": 2, "n_val": 300, "seed": 0}
    assert classify(LabelledDigitsData(max_shift=2, n_val=300)).describe_data() == expected


def test_a_constructor_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Module:
        raise AssertionError("too early")

    monkeypatch.setattr("train.tasks.classify_data.split_digits", lambda n_val: model())
    classify(model=model)
