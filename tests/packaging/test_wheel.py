"""The wheel, installed where no clone can be imported, does what the README says, in an empty folder."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import expkit
from tests.conftest import train_environment
from tests.train.test_own_task import readme_block

ROOT = Path(__file__).parents[2]
SMALL = ("debug=smoke", "run.min_free_gb=0", "tracker=[]")


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist as `python -m build` does, without its environment for that, which needs a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


class Installed:
    """The wheel in a folder of its own, and a folder from which it is used."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.site, self.folder = site, folder

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command in the folder and return what it says. `python` and scripts are those of the installation."""
        program = {"python": (sys.executable,)}.get(command[0], (sys.executable, str(self.site / "bin" / command[0])))
        environment = {**train_environment(self.folder.parent), "PYTHONPATH": str(self.site)}
        done = subprocess.run(
            [*program, *command[1:]], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("installed") / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    # Where the clone is installed in place, its folder is on the path of every process.
    forget = f"import sys; sys.path[:] = [each for each in sys.path if each not in {[str(ROOT), *clones()]!r}]\n"
    (site / "sitecustomize.py").write_text(forget)
    return site


def clones() -> list[str]:
    """The folders that this Python's site-packages add to its path."""
    return [each for each in sys.path if (Path(each) / "expkit" / "__init__.py").exists()]


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Installed:
    folder = tmp_path / "empty"
    folder.mkdir()
    return Installed(site, folder)


def test_it_is_what_is_imported_and_no_clone(installed: Installed) -> None:
    code = "import expkit, train, sweeps, sys; print(expkit.__file__, train.__file__, sweeps.__file__, sys.path)"
    said = installed.run("python", "-c", code)
    assert said.count(str(installed.site)) >= 4
    assert repr(str(ROOT)) not in said


def test_it_has_all_that_is_not_python_too(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    there = {name for name in names if not name.endswith(".py")}
    folders = ("expkit", "train", "sweeps", "hydra_plugins", "conf")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    wanted = {str(file.relative_to(ROOT)) for file in files if file.suffix not in (".py", ".pyc")}
    wanted = {re.sub("^conf/", "train/_conf/", name) for name in wanted}
    assert wanted <= there
    assert {"expkit/py.typed", "train/py.typed", "sweeps/py.typed"} <= there
    assert {"expkit/monitor/web/static/app.js", "expkit/report/static/page.css"} <= there
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"expkit", "train", "sweeps", "hydra_plugins", f"expkit-{expkit.__version__}.dist-info"}
    assert f"expkit-{expkit.__version__}.dist-info/licenses/LICENSE" in there


def test_the_version_is_said_once_and_the_same_everywhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        about = email.message_from_bytes(packed.read(f"expkit-{expkit.__version__}.dist-info/METADATA"))
    assert about["Version"] == expkit.__version__
    assert about["License-Expression"] == "MIT"
    assert "Typing :: Typed" in about.get_all("Classifier", [])
    released = re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == expkit.__version__


def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert (source / "tests" / "conftest.py").exists()
    assert (source / "constraints.txt").exists()
    again = build("wheel", source, tmp_path / "again")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_ones_own_task_trains_and_is_looked_at(installed: Installed) -> None:
    for kind in ("python", "yaml"):
        path, content = readme_block(kind)
        (installed.folder / path).parent.mkdir(parents=True)
        (installed.folder / path).write_text(content)
    own = ("--config-dir", "my_conf", "task=my_task", "run.min_free_gb=0", "tracker=[]", "trainer.max_epochs=2")
    said = installed.run("python", "-m", "train", *own, "-m", "hydra/launcher=local", "optimizer.lr=0.01")
    assert "1 done, 0 failed" in said
    assert "training_dynamics" in str(list(installed.folder.glob("outputs/*/visualizations/*")))
    assert "my_task" in installed.run("expkit", "runs")
    assert "report.html" in installed.run("expkit", "report", "-o", "report.html")
    assert "</html>" in (installed.folder / "report.html").read_text()
    assert "monitor.png" in installed.run("expkit", "monitor", "--static")
    assert "done" in installed.run("expkit", "sweep")


def test_a_folder_with_a_conf_and_a_train_of_its_own_is_no_trouble_for_expkit_train(installed: Installed) -> None:
    for name in ("train/__init__.py", "train.py", "conf/config.yaml"):
        (installed.folder / name).parent.mkdir(exist_ok=True)
        (installed.folder / name).write_text("mine: 1\n" if name.endswith("yaml") else "raise SystemExit('mine')\n")
    said = installed.run("expkit-train", *SMALL, "plots=[]", "trainer.processes=2")
    assert "expkit-train resume=" in said
    said = installed.run("expkit", "profile", "task=classify", "batch_sizes=[8]", code=1)
    assert said.startswith("error: ") and "is found in place of expkit's own `train`" in said
    assert len(said.splitlines()) == 1
    shutil.rmtree(installed.folder / "train")
    (installed.folder / "train.py").unlink()
    assert "task=" in installed.run("python", "-m", "sweeps.batch_size", "--help")


def test_commands_that_need_no_run(installed: Installed) -> None:
    assert installed.run("expkit", "--version") == f"expkit {expkit.__version__}\n"
    assert "expkit COMMAND --help" in installed.run("expkit", "--help")
    assert "_shtab_expkit" in installed.run("expkit", "completion", "bash")
    assert list(installed.folder.iterdir()) == []
