"""What to type for a run to be trained for longer."""

from __future__ import annotations

import pytest

from expkit.longer import longer


@pytest.mark.parametrize(
    ("step", "total", "says"),
    [
        (920, 920, "trainer.max_epochs=80"),
        (500, 920, ""),  # a resume alone goes on with it
        (3612, 920, "trainer.max_epochs=160"),  # with twice the limit nothing would be left to train either
        (None, None, "trainer.max_epochs=80"),
    ],
)
def test_what_is_told_leaves_something_to_train(step: int | None, total: int | None, says: str) -> None:
    assert longer({"max_epochs": 40, "max_steps": None}, step, total) == says
