"""What earlier drawings leave: seen by every later process, without a step that was undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from expkit.plots.earlier import Earlier, forget_after
from tests.expkit.plots.helpers import said


def keep(folder: Path, plot: str, *steps: int, most: int = 40) -> Earlier:
    earlier = Earlier(folder, plot, most)
    for step in steps:
        earlier.keep(step, {"a/b": np.array([step, 0.5])})
    return earlier


def test_what_is_kept_of_a_step_comes_back(tmp_path: Path) -> None:
    earlier = keep(tmp_path / "pictures", "blob", 5, 20, 100)
    keep(tmp_path / "pictures", "model", 7)
    assert earlier.steps(before=100) == [5, 20]
    found = earlier.load(20)
    assert found is not None and found["a/b"].tolist() == [20, 0.5]
    assert earlier.load(21) is None


def test_of_many_every_other_one_stays(tmp_path: Path) -> None:
    assert keep(tmp_path, "blob", *range(10), most=8).steps(before=99) == [0, 2, 4, 6, 8, 9]


@pytest.mark.parametrize("most", [1, 2, 7])
def test_the_first_and_the_newest_always_stay(tmp_path: Path, most: int) -> None:
    for last in range(2, 12):
        kept = keep(tmp_path / str(last), "blob", *range(last), most=most).steps(before=99)
        assert (kept[0], kept[-1]) == (0, last - 1)


def test_a_first_one_that_is_damaged_makes_the_next_one_the_first(tmp_path: Path) -> None:
    earlier = keep(tmp_path, "model", 1, most=1)
    (tmp_path / ".earlier" / "model_step_1.npz").write_bytes(b"PK")
    assert [earlier.first(step, {"x": np.zeros(1)})[0] for step in (2, 3, 4)] == [2, 2, 2]


def test_a_run_that_goes_back_forgets_what_came_after(tmp_path: Path) -> None:
    earlier = keep(tmp_path, "blob", 10, 20, 30)
    forget_after(tmp_path, 20)
    assert earlier.steps(before=99) == [10, 20]
    forget_after(tmp_path / "none", 20)


def test_damaged_files_and_pickles_are_not_read(tmp_path: Path) -> None:
    earlier = keep(tmp_path, "blob", 1, 2)
    (tmp_path / ".earlier" / "blob_step_1.npz").write_bytes(b"PK")
    np.savez(tmp_path / ".earlier" / "blob_step_2.npz", a=np.array([{}], dtype=object))
    assert [earlier.load(step) for step in (1, 2)] == [None, None]
    assert earlier.first(3, {"x": np.zeros(1)})[0] == 3


def test_a_disk_that_refuses_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".earlier").write_text("a file")
    assert keep(tmp_path, "blob", 1).steps(before=9) == []
    (line,) = said(caplog)
    assert line.startswith("later pictures of plots.blob will not show step 1: FileExistsError")
