"""Planted secrets: no byte of what runs, sweeps, trackers and reports leave behind holds one."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import expkit.cli.main
from tests.conftest import Train

#: In the environment, as people have them there.
ENVIRONMENT = {
    "WANDB_API_KEY": "planted01wandbplanted01wandbplanted01wan",
    "HF_TOKEN": "hf_planted02HuggingFace",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED03AWSKEYI",
    "AWS_SECRET_ACCESS_KEY": "planted04/Aws+Secret/Planted04",
    "AWS_SESSION_TOKEN": "planted05AwsSession==",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/planted06Slack",
    "DATABASE_URL": "postgres://me:planted07Database@db.internal:5432/x",
    "SERVICE_PASSWORD": "planted08 Service Password",
    "SENTRY_DSN": "https://planted09sentryplanted09sentry@o1.ingest.internal/2",
    "PLAIN_NAME": "planted10BehindAPlainName",
    "DB_PASS": "planted11DbPass",
}
#: In the file of a task.
TASK = """\
_target_: tests.train.secretive_task.SecretiveTask
how: ""
api_key: planted20ApiKey
apiKey: planted21CamelCase
password: 98765432123456
database: postgres://me:planted22Database@db.internal:5432/x
feed: https://feed.internal/x?user=me&token=planted23Query&page=2
notify: https://hooks.slack.com/services/T0/B0/planted24Slack
headers: ["Authorization: Bearer planted25Bearer", "X-Api-Key: planted26Header"]
nested: {service: [{client_secret: planted27Nested, passphrase: planted28Passphrase}]}
hub: hf_planted29abcdefghijklmnopqrstuvwx
behind: {token: "${oc.env:PLAIN_NAME}"}
typed: null
auth_token: null
signed: https://bucket.internal/x?X-Amz-Signature=planted30Signature
query: null
"""
TRACKER = """\
# @package tracker.telling
_target_: tests.train.secretive_task.TellingTracker
api_key: planted31TrackerKey
"""
#: Typed.
TYPED = (
    "task.auth_token=planted40Typed",
    "task.typed={api_key:planted41Inside}",
    "task.query='https://feed.internal/x?sig=planted42Sas'",
    "responses.webhook=http://127.0.0.1:9/planted43Webhook",
)
PLANTED = ("planted", "PLANTED", "98765432123456")
SMALL = ("plots=[]", "trainer.max_epochs=1", "trainer.batch_size=8", "trainer.num_workers=0")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides of a run that is given all of them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "conf" / "task" / "secretive.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(TASK)
    tracker = tmp_path / "conf" / "tracker" / "telling.yaml"
    tracker.parent.mkdir()
    tracker.write_text(TRACKER)
    return ["--config-dir", str(tmp_path / "conf"), "task=secretive", *TYPED, *SMALL]


def contents(file: Path) -> Iterator[bytes]:
    """Yield a file as it is, and what is packed in it."""
    content = file.read_bytes()
    yield content
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            yield unpack(content)
        except (OSError, EOFError, zlib.error):
            continue


def leaks(*places: Path) -> list[str]:
    """Return where a planted secret is: the file, and what stands around it."""
    found = []
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    for file in files:
        if not file.is_file() or file.is_symlink():
            continue
        for content in contents(file):
            for word in PLANTED:
                at = content.find(word.encode())
                if at >= 0:
                    found.append(f"{file}: {content[max(at - 60, 0) : at + 40]!r}")
    return found


def test_a_search_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0planted20ApiKey\0")
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x", "planted20ApiKey" * 100)
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"planted20ApiKey"))
    assert {Path(each.partition(":")[0]).name for each in leaks(tmp_path)} == {"a.bin", "b.pt", "c.gz"}


def test_no_secret_is_in_what_a_run_and_its_report_leave_behind(
    train: Train, planted: list[str], outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in ("", "fails"):
        arguments = [*planted, f"task.how={how!r}", "tracker=wandb,trackio,tensorboard,telling", "detectors=best_model"]
        monkeypatch.setattr("sys.orig_argv", ["python", "-m", "train", *arguments])
        done = train(*arguments, "trainer.log_interval=1", check=False)
        assert done.returncode == (1 if how else 0)
        assert not any(word in done.stderr for word in PLANTED)
    train("--config-dir", planted[1], f"resume={next(outputs.glob('*/results.json')).parent}", *TYPED, "task.how=''")
    runs = [path for path in outputs.iterdir() if path.is_dir()]
    assert len(runs) == 2
    assert list(outputs.glob("*/snapshots/*/metadata.json"))
    page = tmp_path / "report.html"
    assert expkit.cli.main.main(["report", *map(str, runs), "-o", str(page)]) == 0
    databases = Path(os.environ["TRACKIO_DIR"])  # one for as long as a process lives, see conftest.py
    assert list(databases.rglob("*.db"))
    assert list(outputs.rglob("*.wandb"))
    found = leaks(outputs, databases, page)
    assert not found, "\n".join(found)
    for run in runs:  # what was masked is there
        assert "***" in (run / "config.json").read_text()
        assert "RuntimeError: *** is not taken, nor is ***" in (run / "status.json").read_text()
        assert "no answer for {'api_key': ***" in (run / "logs" / "training.log").read_text()


def test_no_secret_is_in_the_folder_of_a_sweep(train: Train, planted: list[str], outputs: Path, tmp_path: Path) -> None:
    sweep = ["-m", "hydra/launcher=local", "task.how=fails,''", "tracker=[]"]
    done = train(*planted, *sweep, check=False)
    assert done.returncode == 1
    (folder,) = (outputs / "multirun").iterdir()
    found = leaks(outputs)
    assert not found, "\n".join(found)
    logs = "".join(file.read_text() for file in folder.glob(".submitit/*/*.err"))
    assert "no answer for {'api_key': ***" in logs and "JobFailed: RuntimeError: no answer for" in logs
