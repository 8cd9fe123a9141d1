"""`analyze_experiment`: a timeline of blobs from checkpoints alone, whatever made them."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.checkpoints import CheckpointManager, keep_also
from expkit.diagnostics.analysis import analyze_experiment
from expkit.diagnostics.blob import BlobDiagnostic, full_blob_analysis
from expkit.errors import UserError
from tests.expkit.diagnostics.test_blob import TwoLayer, planted

STEPS = (10, 20, 30, 40)
PAGE = (Path(__file__).parents[3] / "docs" / "blob.md").read_text()


def model_at(step: int) -> TwoLayer:
    """Blobs that grow: none at step 10."""
    return planted(shape=(48, 80), share=0.001 * step - 0.01, seed=step)


def save(root: Path, step: int, model: nn.Module, config: Any = None, **extra: Any) -> Path:
    manager = CheckpointManager(root, keep=keep_also(every_steps=1))
    path = manager.save_checkpoint(step, model, torch.optim.Adam(model.parameters()), [], config or {}, **extra)
    assert path is not None
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four checkpoints, the second in the middle of an epoch, as the runner writes them."""
    for step in STEPS:
        ended = step != 20
        state = {"cursor": {"epoch": step // 10 - (not ended), "batch": 0}, "epoch_ended": ended}
        save(tmp_path / "run", step, model_at(step), sampler_state=state)
    return tmp_path / "run"


def without_time(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key != "computation_time_ms"}


def test_the_timeline_says_of_each_checkpoint_what_the_diagnostic_says_of_its_model(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*.pt")}
    found = analyze_experiment(run)
    json.dumps(found, allow_nan=False)
    assert (found["experiment_id"], found["encoder"], found["decoder"]) == ("run", "fc1.weight", "fc2.weight")
    assert [(entry["step"], entry["epoch"]) for entry in found["timeline"]] == [(10, 1), (20, 2), (30, 3), (40, 4)]
    for entry in found["timeline"]:
        expected = BlobDiagnostic().measure(model_at(entry["step"]))
        assert entry.keys() == {"step", "epoch"} | expected.keys()
        for name in ("weight_correlation", "n_clusters_dbscan", "cluster_centers", "n_noise_points"):
            assert entry[name] == expected[name]
    assert found["timeline"][0]["silhouette_score"] is None
    assert found["timeline"][-1]["n_clusters_dbscan"] == 3
    expected = full_blob_analysis(model_at(40))
    assert without_time(found["final"]) == {"step": 40, "epoch": 4, **without_time(expected)}
    assert {file: file.read_bytes() for file in run.rglob("*.pt")} == before, "it only reads"


def test_a_damaged_checkpoint_is_said_and_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = run / "checkpoints" / "checkpoint_step_20.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="expkit"):
        found = analyze_experiment(run)
    assert [entry["step"] for entry in found["timeline"]] == [10, 30, 40]
    ((step, problem),) = [each.values() for each in found["skipped"]]
    assert step == 20
    (record,) = caplog.records
    assert str(damaged) in record.getMessage() and problem in record.getMessage()
    assert damaged.exists(), "not set aside: that is for who goes on training"


def test_a_loop_of_ones_own_and_a_copied_folder(tmp_path: Path) -> None:
    save(tmp_path / "mine", 1, planted(shape=(8, 16)))
    save(tmp_path / "mine", 2, planted(shape=(8, 16)), epoch=7)
    (tmp_path / "mine" / "checkpoints").rename(tmp_path / "copied")
    assert [entry["epoch"] for entry in analyze_experiment(tmp_path / "copied")["timeline"]] == [None, 7]


class Nested(nn.Module):
    """The pair lies among other matrices, one of them a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 7)
        self.up = nn.Sequential(nn.Linear(6, 4))
        self.down = nn.Parameter(torch.arange(24.0).reshape(6, 4))


def test_names_are_those_given_or_the_runs_own(tmp_path: Path) -> None:
    names = {"encoder": "up.0", "decoder": "down"}
    save(tmp_path / "run", 1, Nested(), {"diagnostics": {"blob": names}})
    found = analyze_experiment(tmp_path / "run")
    assert (found["encoder"], found["decoder"]) == ("up.0.weight", "down")
    assert found["timeline"][0]["decoder_mean"] == 11.5
    given = analyze_experiment(tmp_path / "run", encoder="down", decoder="up.0.weight")
    assert (given["encoder"], given["timeline"][0]["encoder_mean"]) == ("down", 11.5)


@pytest.mark.parametrize("config", [{}, {"diagnostics": ["blob"]}, {"diagnostics": {"blob": {"encoder": None}}}])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({}, "name two by encoder=NAME and decoder=NAME, of down 6x4, tokens.weight 5x7, up.0.weight 4x6"),
        ({"encoder": "up.0"}, "name both, or neither"),
        ({"encoder": "up.1", "decoder": "down"}, "encoder=up.1: there is no such matrix, of down 6x4"),
        ({"encoder": "up.0", "decoder": "up.0"}, "decoder=up.0 has shape (4, 6): expected (6, 4)"),
    ],
)
def test_a_model_without_the_pair_is_one_clear_line(tmp_path: Path, config: Any, names: Any, words: str) -> None:
    save(tmp_path, 1, Nested(), config)
    with pytest.raises(UserError) as caught:
        analyze_experiment(tmp_path, **names)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_checkpoints_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        analyze_experiment(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint: train with checkpoint=every_epoch"):
        analyze_experiment(tmp_path)
    (tmp_path / "checkpoint_step_3.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match="no checkpoint that is intact: it is damaged"):
        analyze_experiment(tmp_path)


@pytest.mark.parametrize("module", [TwoLayer, nn.Sequential])
def test_a_state_dict_gives_the_matrices_that_the_model_gives(tmp_path: Path, module: type[nn.Module]) -> None:
    if module is nn.Sequential:
        model: nn.Module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 6))
    else:
        model = planted(shape=(8, 16))
    save(tmp_path, 1, model)
    mine, expected = analyze_experiment(tmp_path)["timeline"][0], BlobDiagnostic().measure(model)
    assert [mine[key] for key in ("encoder_std", "decoder_std")] == [expected["encoder_std"], expected["decoder_std"]]


def test_the_page_says_what_works(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze, loop = re.findall(r"<!-- blob: \w+ -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(run.parent)
    (run.parent / "outputs").mkdir()
    run.rename("outputs/reference_run")
    exec(analyze, {})
    assert capsys.readouterr().out.splitlines()[-2].startswith("4 3 0.")
    found: dict[str, Any] = {"model": Nested()}
    found["model"].up = found["model"].up[0]
    exec(loop, found)
    assert found["metrics"]["n_pairs_analyzed"] == found["analysis"]["n_pairs_analyzed"] == 24
