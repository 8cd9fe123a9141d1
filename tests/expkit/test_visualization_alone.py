"""VisualizationManager in a script of somebody's own: pictures come beside it, and nobody has to wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expkit import VisualizationManager
from expkit.plots.gallery import Gallery, Words
from tests.expkit.plots.helpers import is_whole_png, said
from tests.expkit.plots.sleepy import Slow
from tests.expkit.plots.test_drawer import at, wait_for

#: A plain script, as people write them: no function, no guard against being imported.
BEGINNING = """
import os, sys, time
from expkit import VisualizationManager

class Tool:
    def image(self, name, path, step):
        print(name, path.name, step, flush=True)
        if step == 3:
            raise OSError("offline")

viz = VisualizationManager(sys.argv[1], viz_interval=1, trackers=Tool())
"""


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (folder / "script.py").write_text(BEGINNING + code)
    return subprocess.Popen(
        [sys.executable, "script.py", "pictures"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_script_gets_all_its_pictures_and_so_do_its_trackers(tmp_path: Path) -> None:
    code = """
os.mkdir(viz.viz_dir / "training_dynamics_step_2.png")
losses = []
for step in range(1, 5):
    losses.append(1 / step)
    (path,) = viz.generate_training_plots(step, losses)
del viz
if os.fork() == 0:
    sys.exit()
os.wait()
print(path, path.exists(), flush=True)
"""
    out, error = start(tmp_path, code).communicate()
    name = "training_dynamics"
    assert out.splitlines() == [
        f"pictures/{name}_step_4.png False",
        *(f"{name} {name}_step_{step}.png {step}" for step in (1, 3, 4)),
    ]
    assert [line.split(":")[0] for line in error.splitlines()] == [
        "Failed to generate training plots",
        "generate_training_plots works again",
        f"{name}_step_3.png was not taken by the trackers",
    ]
    assert all(is_whole_png(tmp_path / "pictures" / f"{name}_step_{step}.png") for step in (1, 3, 4))


@pytest.mark.slow
def test_ctrl_c_leaves_whole_pictures(tmp_path: Path) -> None:
    code = """
with viz:
    viz.generate_training_plots(1, [1.0, 2.0])
    print("drawing", flush=True)
    time.sleep(60)
"""
    script = start(tmp_path, code)
    assert script.stdout and script.stdout.readline() == "drawing\n"
    script.send_signal(signal.SIGINT)
    _, error = script.communicate()
    assert error.splitlines()[-1] == "KeyboardInterrupt" and script.returncode != 0
    (path,) = (tmp_path / "pictures").iterdir()
    assert is_whole_png(path)


def test_wait_and_close(tmp_path: Path) -> None:
    with VisualizationManager(tmp_path) as viz:
        viz.wait()
        (path,) = viz.generate_training_plots(1, [1.0])
        viz.wait()
        assert is_whole_png(path)
        viz.close()
        viz.close()


def test_more_than_can_wait_leaves_the_newest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = Gallery({"slow": Slow()}, words=Words("{name}", "", "viz_interval"), waiting=2)
    gallery.submit("slow", at(tmp_path, 1), tmp_path)
    wait_for(tmp_path / "began_1")
    for step in range(2, 6):
        gallery.submit("slow", at(tmp_path, step), tmp_path)
    gallery.wait(0.01)
    (tmp_path / "go").touch()
    gallery.finish(60)
    assert sorted(path.name for path in tmp_path.glob("began_*")) == ["began_1", "began_4", "began_5"]
    assert said(caplog) == [
        "slow: a picture from before step 4 is left out, as drawing takes longer than its interval: choose a longer "
        "viz_interval; how many of all are left out is said at the end",
        "slow: not drawn within 0.01 seconds",
        "pictures left out, as drawing takes longer than their intervals: 2 of slow",
    ]


def test_what_takes_no_pictures_is_no_tracker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take no pictures: give a Delivery"):
        VisualizationManager(tmp_path, trackers="wandb")  # type: ignore[arg-type]
