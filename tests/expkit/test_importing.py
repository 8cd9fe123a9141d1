"""What a program begins with is imported without looking for garbage, which is looked for as ever afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from expkit.importing import importing

BEGIN = """
import gc
from expkit.importing import importing

with importing("decimal"):
    assert not gc.isenabled()
    import decimal
assert gc.isenabled() and gc.get_freeze_count()
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_collected_meanwhile_and_what_is_made_later_is() -> None:
    run(
        f"""{BEGIN}
import weakref

class Circle:
    def __init__(self):
        self.own = self

gone = weakref.ref(Circle())
gc.collect()
assert gone() is None
"""
    )


def test_a_program_in_the_midst_of_its_work_is_left_alone() -> None:
    run(
        f"{BEGIN}before = gc.get_freeze_count()\nwith importing('decimal'):\n    assert gc.isenabled(); made = []\n"
        "assert gc.get_freeze_count() == before"
    )


def test_who_has_switched_it_off_and_an_import_that_fails_find_it_as_it_was() -> None:
    run(
        "import gc\nfrom expkit.importing import importing\ngc.disable()\nwith importing():\n    pass\n"
        "assert not gc.isenabled() and not gc.get_freeze_count()"
    )
    with pytest.raises(ModuleNotFoundError), importing("not_there"):
        import not_there  # noqa: F401
    assert gc.isenabled()
