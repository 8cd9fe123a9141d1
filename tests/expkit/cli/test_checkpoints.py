"""`expkit checkpoints RUN`: what there is, what for, and whether it is intact."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.checkpoints import CheckpointManager, manager
from expkit.cli.main import main

Listing = Callable[..., dict[str, Any]]


def save(run: Path, *steps: int, best: int | None = None, keep: int = 100) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoints = CheckpointManager(run, keep_last_n=keep)
    for step in steps:
        checkpoints.save_checkpoint(step, model, optimizer, [], {}, is_best=step == best)


def damage(run: Path, step: int) -> None:
    """Change one bit of a tensor: torch would load it without a word."""
    path = run / "checkpoints" / f"checkpoint_step_{step}.pt"
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model_state_dict"]["weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 1 (the best), 2 and 10."""
    folder = tmp_path / "outputs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"resumes": [{"step": 2}]}))
    save(folder, 1, 2, 10, best=1)
    return folder


@pytest.fixture
def listing(capsys: pytest.CaptureFixture[str]) -> Listing:
    """What `expkit checkpoints ... --json` prints."""

    def listed(*arguments: object, code: int = 0) -> dict[str, Any]:
        assert main(["checkpoints", *map(str, arguments), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return listed


def column(shown: dict[str, Any], key: str) -> list[Any]:
    return [entry[key] for entry in shown["checkpoints"]]


@pytest.mark.parametrize("arguments", [(), ("--verify",)])
def test_every_checkpoint_is_listed_with_what_it_is_for(run: Path, listing: Listing, arguments: Sequence[str]) -> None:
    shown = listing(run, *arguments)
    assert column(shown, "step") == [10, 2, 1]
    assert column(shown, "uses") == [["newest"], ["resumed from"], ["best"]]
    assert column(shown, "bytes") == [Path(path).stat().st_size for path in column(shown, "path")]
    assert shown["total_bytes"] == sum(column(shown, "bytes"))
    assert shown["resume_step"] == 10
    assert column(shown, "valid") == [True if arguments else None] * 3


def test_the_table_is_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run)]) == 0
    folder, header, *rows, total = capsys.readouterr().out.splitlines()
    assert folder == str(run / "checkpoints")
    assert header.split() == ["step", "size", "saved", "for"]
    assert [row.split()[0] for row in rows] == ["10", "2", "1"]
    assert rows[0].endswith("  newest")
    assert total.startswith("3 files, ")
    assert total.endswith("; a resume takes step 10 (not verified: --verify reads every byte)")


def test_one_bit_of_damage_is_found_and_the_next_older_one_is_what_a_resume_takes(
    run: Path, listing: Listing, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run, 10)
    shown = listing(run, "--verify", code=1)
    assert column(shown, "valid") == [False, True, True]
    assert "checksum" in shown["checkpoints"][0]["problem"]
    assert shown["resume_step"] == 2
    assert main(["checkpoints", str(run), "--verify"]) == 1
    said = capsys.readouterr().out
    assert "does not match: it was changed after it was written" in said
    assert said.endswith("a resume takes step 2 (verified)\n")
    assert listing(run)["resume_step"] == 10, "without --verify nothing is read"


def test_what_was_set_aside_is_named_and_no_longer_a_fault(run: Path, listing: Listing) -> None:
    damage(run, 10)
    CheckpointManager(run).load_latest_checkpoint()
    CheckpointManager(run).rewind(1)
    shown = listing(run, "--verify")
    assert column(shown, "uses") == [["set aside: corrupt"], ["set aside: rewound"], ["newest", "best"]]
    assert column(shown, "valid") == [False, True, True]
    assert shown["resume_step"] == 1


def test_why_it_was_saved_and_its_best_metric_are_shown_where_they_are_known(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = CheckpointManager.list_checkpoints

    def with_more(self: CheckpointManager) -> list[Any]:
        return [{**info, "reason": "preemption", "metrics": {"val_loss": 0.123456789}} for info in known(self)]

    monkeypatch.setattr(manager.CheckpointManager, "list_checkpoints", with_more)
    assert main(["checkpoints", str(run), "--verify"]) == 0
    _, header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[3:] == ["for", "why", "metrics", "verified"]
    assert first.split()[5:] == ["newest", "preemption", "val_loss", "0.12346", "intact"]


@pytest.mark.parametrize("name", ["run", "folder", "id", "latest", "", "copy"])
def test_a_run_can_be_named_in_many_ways(
    run: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(run.parents[1])
    copy = run.parents[1] / "elsewhere" / "mine"
    shutil.copytree(run / "checkpoints", copy / "checkpoints", symlinks=True)  # no config.json: no run of the runner's
    names = {"run": [run], "folder": [run / "checkpoints"], "id": ["mine"], "": [], "copy": [copy]}
    assert column(listing(*names.get(name, [name])), "step") == [10, 2, 1]


@pytest.mark.parametrize("name", ["nowhere", "outputs", "file.txt", "../mine"])
def test_what_is_no_run_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(run.parents[1])
    Path("file.txt").touch()
    assert main(["checkpoints", name, "--verify"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"error: {name} is no run: ")


def test_an_id_is_looked_up_inside_of_the_outputs_folder_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = run.parents[1]
    monkeypatch.chdir(place)
    shutil.copytree(run, place / "private", symlinks=True)
    for command in ("show", "checkpoints"):
        assert main([command, "../private"]) == 1, "outputs/../private is not what was named"
        assert main([command, "outputs/../private"]) == 0, "a path is a path"


def test_a_run_without_checkpoints_and_one_without_their_folder_say_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    assert main(["checkpoints", str(run)]) == 1
    assert capsys.readouterr().err == f"error: {run} has no folder of checkpoints\n"
    (run / "checkpoints").mkdir()
    assert main(["checkpoints", str(run), "--verify"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  no checkpoint yet"]


@pytest.mark.parametrize(
    "content", ["{broken", "[]", '{"resumes": [1]}', '{"resumes": 3}', '{"resumes": [{"step": {}}]}']
)
def test_a_damaged_config_json_does_not_hide_the_checkpoints(run: Path, listing: Listing, content: str) -> None:
    (run / "config.json").write_text(content)
    assert column(listing(run), "uses") == [["newest"], [], ["best"]]


def test_files_of_other_names_links_to_nowhere_and_folders_cost_nothing(run: Path, listing: Listing) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "notes.txt").touch()
    (checkpoints / "checkpoint_step_007.pt").touch()
    (checkpoints / "checkpoint_step_20.pt").mkdir()
    (checkpoints / "checkpoint_step_30.pt").symlink_to("nowhere")
    shown = listing(run, "--verify", code=1)
    assert list(zip(column(shown, "step"), column(shown, "valid"), strict=True)) == [
        *((30, False), (20, False)),
        *((10, True), (2, True), (1, True)),
    ]
    assert shown["resume_step"] == 10


def test_without_verify_nothing_is_read_and_torch_is_not_loaded(run: Path) -> None:
    with (run / "checkpoints" / "checkpoint_step_99.pt").open("wb") as file:
        file.truncate(1 << 40)  # a TB of nothing
    code = (
        "import sys; from expkit.cli.main import main; "
        f"assert main(['checkpoints', {str(run)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert " 1.0 TB" in done.stdout


def test_a_copy_that_cannot_be_written_to_is_only_read(run: Path, listing: Listing) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in run.rglob("*")}

    damage(run, 10)
    before = files()
    for path in (run / "checkpoints", run):
        path.chmod(0o555)
    try:
        assert listing(run, "--verify", code=1)["resume_step"] == 2
    finally:
        for path in (run, run / "checkpoints"):
            path.chmod(0o755)
    assert files() == before


def test_a_training_that_saves_and_deletes_meanwhile_does_no_harm(run: Path, listing: Listing) -> None:
    stop = threading.Event()

    def train() -> None:
        step = 100
        while not stop.is_set():
            step += 1
            save(run, step, keep=1)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(15):
            shown = listing(run, "--verify")
            assert all(column(shown, "valid"))
    finally:
        stop.set()
        thread.join()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["checkpoints", "--help"])
    assert end.value.code == 0
    assert "expkit checkpoints RUN --verify" in capsys.readouterr().out
