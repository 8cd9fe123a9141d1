"""Where a run lives: its id, its folder, its free space."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from expkit import check_disk_space, create_experiment_directory, generate_experiment_id
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import free_gb


def test_an_id_is_the_name_the_time_and_four_characters() -> None:
    assert re.fullmatch(r"wave_lr0\.001_20\d{6}_\d{6}_[a-z0-9]{4}", generate_experiment_id("wave_lr0.001"))


@pytest.mark.parametrize("name", ["a/b", "../../etc", "a b:c", "naïve", "~", "$(rm)", "", "...", "-rf", "a\nb"])
def test_an_id_is_always_the_name_of_one_plain_folder(name: str, tmp_path: Path) -> None:
    made = generate_experiment_id(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", made)
    assert create_experiment_directory(tmp_path, made)["root"].parent == tmp_path


def test_ids_are_never_the_same_twice_in_one_process() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: generate_experiment_id("run"), range(5000)))
    assert len(set(ids)) == 5000


def _make_runs(base: Path, count: int) -> list[str]:
    made = []
    while len(made) < count:
        experiment_id = generate_experiment_id("run")
        try:
            create_experiment_directory(base, experiment_id)
        except UserError:  # drawn by two processes within one second: it belongs to the other one
            continue
        made.append(experiment_id)
    return made


def test_a_thousand_runs_of_many_processes_have_a_thousand_directories(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8, multiprocessing.get_context("fork")) as pool:
        ids = [each for made in pool.map(_make_runs, [tmp_path] * 8, [125] * 8) for each in made]
    assert len(set(ids)) == len(list(tmp_path.iterdir())) == 1000


def test_ids_do_not_depend_on_seeds() -> None:
    import random

    random.seed(0)
    first = generate_experiment_id("run")[-4:]
    random.seed(0)
    assert [generate_experiment_id("run")[-4:] for _ in range(3)] != [first] * 3


def test_a_directory_has_these_folders(tmp_path: Path) -> None:
    root = tmp_path / "experiments" / "run"
    assert create_experiment_directory(tmp_path / "experiments", "run") == {
        "root": root,
        "checkpoints": root / "checkpoints",
        "logs": root / "logs",
        "visualizations": root / "visualizations",
    }
    assert all(folder.is_dir() for folder in root.iterdir())


def test_a_directory_belongs_to_one_run(tmp_path: Path) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        try:
            create_experiment_directory(tmp_path, "run")
            outcomes.append("made")
        except UserError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("made") == 1
    assert sum("exists already" in outcome for outcome in outcomes) == 7


def test_a_base_that_cannot_hold_runs_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made: Not a directory; choose another folder"):
        create_experiment_directory(tmp_path / "file" / "runs", "run")


@pytest.mark.parametrize(("free", "enough"), [(9, False), (10, True), (11, True)])
def test_free_space_is_checked_in_gb_of_1024_cubed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert check_disk_space(tmp_path) is enough
    assert check_disk_space(str(tmp_path), min_gb=9) is True


def test_free_space_is_known_where_nothing_is_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_gb("not/there/yet") == pytest.approx(free_gb(tmp_path), abs=0.5)


def test_a_run_exists_once_its_config_json_does(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not run.exists()
    run.config.write_text("{}")
    assert run.exists()
    assert run.id == tmp_path.name
