"""Values are held against the annotations of what they go to: what cannot fit is refused, what may fit is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from expkit.errors import ConfigError
from train.config.blame import told
from train.config.signature import check_values, locate

if TYPE_CHECKING:
    from decimal import Decimal


class Inner:
    def __init__(self, size: int = 1) -> None: ...


def annotated(
    whole: int = 1,
    number: float = 1.0,
    flag: bool = False,
    word: str = "",
    path: Path | None = None,
    choice: Literal["a", "b"] = "a",
    either: int | Sequence[int] = 1,
    rate: float | torch.Tensor = 1.0,
    pair: tuple[float, float] = (0.0, 1.0),
    table: dict[str, int] | None = None,
    some_interval: int = 1,
    inner: Inner | None = None,
    call: Callable[[], int] | None = None,
    other: Any = None,
    odd: [int] = (),  # type: ignore[valid-type]
    bare=None,
) -> None: ...


def unknown(whole: int, money: Decimal | None = None) -> None:
    """Annotations that are there for type checkers only tell nothing."""


def check(target: Callable[..., Any], **values: Any) -> None:
    check_values(OmegaConf.create({"_target_": f"{__name__}.{target.__name__}", "_partial_": True, **values}), "part")


@pytest.mark.parametrize(
    "values",
    [
        {"whole": 3, "number": 3, "flag": True, "word": "x", "path": "a/b", "choice": "b"},
        {"whole": 1e4, "word": 5, "path": None},
        {"either": 3},
        {"either": [3, 4]},
        {"rate": 0.1, "pair": [0.9, 0.99], "table": {"a": 1}},
        {"some_interval": "auto"},
        {"inner": None, "call": None, "other": [1, "x"], "odd": "x", "bare": {"x": 1}},
        {"inner": {"_target_": f"{__name__}.Inner", "size": 2}},
        {"number": "${oc.decode:'0.5'}", "whole": "???"},
    ],
    ids=str,
)
def test_what_may_fit_is_let_through(values: dict[str, Any]) -> None:
    check(annotated, **values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"whole": 3.5}, "part.whole=3.5: it must be a whole number"),
        ({"whole": "x"}, "part.whole=x: it must be a whole number"),
        ({"whole": True}, "part.whole=true: it must be a whole number"),
        ({"whole": None}, "part.whole=null: it must be a whole number"),
        ({"number": "fast"}, "part.number=fast: it must be a number"),
        ({"number": [1.0]}, "part.number=[1.0]: it must be a number"),
        ({"flag": "yes"}, "part.flag=yes: it must be true or false"),
        ({"choice": "c"}, "part.choice=c: it must be one of a, b"),
        ({"either": "x"}, "part.either=x: it must be a whole number or a list, each a whole number"),
        ({"rate": "x"}, "part.rate=x: it must be a number"),
        ({"pair": 0.9}, "part.pair=0.9: it must be a list of 2, each a number"),
        ({"path": [1]}, "part.path=[1]: it must be a path or null"),
        ({"numbr": 1}, "part.numbr: annotated takes no numbr; did you mean part.number?"),
        ({"inner": {"_target_": f"{__name__}.Inner", "size": "x"}}, "part.inner.size=x: it must be a whole number"),
        ({"bare": [{"_target_": f"{__name__}.Inner", "size": "x"}]}, "part.bare[0].size=x: it must be a whole number"),
    ],
    ids=str,
)
def test_what_cannot_fit_is_refused_by_its_key(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(annotated, **values)
    assert str(error.value) == says


def test_annotations_that_cannot_be_read_refuse_nothing() -> None:
    check(unknown, whole="x")
    with pytest.raises(ConfigError, match=r"part\.nope: unknown takes no nope"):
        check(unknown, nope=1)


def test_what_is_built_in_c_is_left_to_itself() -> None:
    check_values(OmegaConf.create({"_target_": "torch.zeros", "size": "x"}), "part")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("train.tasks.Tsk", "part._target_=train.tasks.Tsk: train.tasks has no Tsk; did you mean Task?"),
        ("train.taks.Task", "part._target_=train.taks.Task: train has no taks; did you mean tasks?"),
        ("train.tasks.Task.run", "part._target_=train.tasks.Task.run: Task has no run; it has "),
        ("nowhere.at.All", "part: the module 'nowhere' of nowhere.at.All is not installed or not on the path"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_what_is(target: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        locate(target, "part")
    assert str(error.value).startswith(says)


def test_what_is_located_need_not_be_a_class() -> None:
    assert locate("train.tasks.Task.build_model", "task").__name__ == "build_model"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("Invalid learning rate: -1"), "part.lr=-1: Invalid learning rate: -1"),
        (ValueError("Invalid beta parameter at index 0: 7"), "part.betas=[7, 8]: Invalid beta parameter at index 0: 7"),
        (ValueError("lr=-1: give more"), "part.lr=-1: give more"),
        (ValueError("what is 1.5 and what is -1"), "part: what is 1.5 and what is -1"),
        (ConfigError("part.deep.eps is odd"), "part.deep.eps is odd"),
        (ConfigError("the other is odd"), "part: the other is odd"),
        (RuntimeError("a shape of 2.5\nand more"), "part.deep.eps=2.5: a shape of 2.5"),
        (KeyError("nope"), "part: KeyError: 'nope'"),
        (AssertionError(), "part: AssertionError"),
    ],
    ids=repr,
)
def test_an_error_is_told_with_the_setting_that_it_speaks_of(error: Exception, says: str) -> None:
    assert told(error, "part", {"lr": -1, "betas": [7, 8], "weight": 1.5, "deep": {"eps": 2.5}}) == says


def test_an_error_in_somebodys_own_code_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_code.py").write_text("def fail():\n    raise OSError('no disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_code", raising=False)
    with pytest.raises(OSError, match="no disk") as error:
        locate("somebodys_code.fail", "task")()
    said = told(error.value, "task", {}, "MyTask.build_model failed")
    assert said == "task: MyTask.build_model failed: OSError: no disk (somebodys_code.py, line 2)"
