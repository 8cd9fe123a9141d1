"""What tests share: running `python -m train` as a user does, and composing a configuration in this process."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# Hundreds of processes are started here: none of them has to compile the whole project.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Matrices are small here: where each process computes with as many threads as there are cores, they wait for each
# other, busily, and some tests take three times as long. torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# OmegaConf reads and writes YAML with Python's own code; with libyaml's, which does the same, composing takes two
# thirds of the time.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
yaml.Dumper = getattr(yaml, "CDumper", yaml.Dumper)

# trackio reads it when it is imported; every test process gets a folder of its own, which goes when it ends.
_trackio = tempfile.TemporaryDirectory(prefix="expkit-trackio-", ignore_cleanup_errors=True)
os.environ["TRACKIO_DIR"] = _trackio.name

gc.disable()  # while test modules are imported; see pytest_runtestloop

Train = Callable[..., subprocess.CompletedProcess[str]]
Trained = Callable[..., Path]

CONF = Path(__file__).parents[1] / "conf"

#: Each task made small: seconds become tenths of seconds.
SMALL: dict[str, tuple[str, ...]] = {
    "denoise": ("task=denoise", "task.model.hidden=32"),
    "classify": ("task=classify", "task/model=mlp", "task.model.hidden=16"),
    "gpt": (
        *("task=gpt", "task.data.context_length=16", "trainer.batch_size=8"),
        *("task.model.d_model=16", "task.model.num_layers=1", "task.model.num_heads=2"),
    ),
}


def options(group: str) -> list[str]:
    """Return the options of a configuration group, by their files."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Keep Python from looking again and again for garbage in all that was imported, half a million objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests see neither the user's tracker settings nor a scheduler's job, and leave no global setting behind."""
    os.environ.pop("WANDB_SERVICE", None)  # not to be put back: where a service is that a test may end
    _forget_settings(monkeypatch)
    yield
    if "torch" in sys.modules:
        import torch

        torch.use_deterministic_algorithms(False)


def _forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("WANDB_", "SLURM_", "SUBMITIT_", "HYDRA_", "TRACKIO_SPACE", "TRACKIO_SERVER")):
            monkeypatch.delenv(name)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    return tmp_path / "outputs"


@pytest.fixture
def train(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Train:
    """Call as `train("optimizer=sgd", ...)`: what `python -m train` does, in this process, which saves its imports."""
    import torch

    from train.cli.main import main

    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd or tmp_path)
        forget_modules(tmp_path.parent)  # of other tests, too
        capfd.readouterr()
        command = train_command(outputs, *arguments)
        try:
            code = main(command[2:])
        except SystemExit as end:  # argparse, in Hydra
            code = int(end.code or 0)
        said = capfd.readouterr()
        done = subprocess.CompletedProcess(command, code, said.out, said.err)
        if check:
            assert code == 0, said.out + said.err
        return done

    return run


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Call as `train`; return the run's directory. What was asked for before is not trained again."""

    @functools.cache
    def run(*arguments: str) -> Path:
        from train.cli.main import main

        outputs = tmp_path_factory.mktemp("trained")
        with pytest.MonkeyPatch.context() as monkeypatch:
            _forget_settings(monkeypatch)
            monkeypatch.setattr(sys, "argv", list(sys.argv))
            assert main(train_command(outputs, *arguments)[2:]) == 0
        (made,) = outputs.iterdir()
        return made

    return run


@pytest.fixture
def trained(train: Train, _trained: Trained, outputs: Path) -> Trained:
    """Call as `train`, with a run.id: a copy of such a run is in `outputs`. Tests that only go on from it share it."""

    def copied(*arguments: str) -> Path:
        made = _trained(*arguments)
        return Path(shutil.copytree(made, outputs / made.name, symlinks=True))

    return copied


@pytest.fixture
def train_process(outputs: Path, tmp_path: Path) -> Train:
    """The same in a process of its own."""

    def run(*arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            train_command(outputs, *arguments),
            cwd=cwd or tmp_path,
            env=train_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=240,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def forget_modules(folder: Path) -> None:
    """Forget what was imported from below `folder`, as a new process would not know it."""
    below = f"{folder}{os.sep}"  # texts: of thousands of modules, paths would take a tenth of a short run
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
        if file and str(file).startswith(below):
            del sys.modules[name]
    for place, finder in list(sys.path_importer_cache.items()):
        if finder is not None and place.startswith(below):
            finder.invalidate_caches()


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """End `process` after the block: a test that fails leaves nothing running."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def train_command(outputs: Path, *arguments: str) -> list[str]:
    """Return the command line of a run whose directory goes below `outputs`."""
    where = [] if any(argument.startswith("run.outputs=") for argument in arguments) else [f"run.outputs={outputs}"]
    return [sys.executable, "-m", "train", *where, "run.min_free_gb=0", *arguments]


def train_environment(folder: Path) -> dict[str, str]:
    """Return an environment with tracker databases below `folder` and one thread, so that results are comparable."""
    return {**os.environ, "TRACKIO_DIR": str(folder / "trackio"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def compose(outputs: Path) -> Iterator[Callable[..., Any]]:
    """Call as `compose("optimizer=sgd", ...)`: the configuration that such a command line gives."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from train.cli.main import rewrite
    from train.config.build import CONF_DIR

    def composed(*overrides: str) -> Any:
        GlobalHydra.instance().clear()
        initialize_config_dir(str(CONF_DIR), version_base="1.3")
        given = [f"run.outputs={outputs}", "run.min_free_gb=0", *overrides]
        overrides = [each for each in rewrite(given) if each != "-m"]
        config = hydra_compose("config", overrides=overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        from omegaconf import OmegaConf, open_dict

        plain = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
        with open_dict(plain):
            del plain["hydra"]
        return plain

    yield composed
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
