"""Each row of docs/migration.md is true: names are imported, options parsed, keys composed, files and texts read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Trained
from tests.docs.migration_checks import KINDS, check
from tests.docs.migration_evidence import Evidence

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
TABLES = (
    "Run monitoring library",
    "Training diagnostics guide",
    "SVD metrics monitor",
    "Smart anomaly monitor",
    "Tracking with several backends",
    "Names that stay",
)


class Row(NamedTuple):
    """A row of one of the tables, and the line of the page where it stands."""

    table: str
    line: int
    old: str
    kind: str
    new: str
    remark: str


def rows() -> Iterator[Row]:
    """Yield the rows of all tables but the one that explains the kinds."""
    table = ""
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("## "):
            table = line.removeprefix("## ")
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if table and cells and cells[1] != "kind" and set(cells[0]) != {"-"}:
            yield Row(table, number, *cells)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, _trained: Trained) -> Iterator[Evidence]:
    folder = tmp_path_factory.mktemp("migration")
    (folder / "CONFIG.json").write_text(json.dumps({"experiment": "reference_3blob", "training": {"epochs": 2}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Evidence(folder, _trained)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"line {row.line}")
def test_a_row_is_true(row: Row, evidence: Evidence) -> None:
    assert row.old and row.kind in KINDS
    check(row.kind, row.new, evidence)


def test_each_guide_has_its_table_and_each_kind_is_explained() -> None:
    assert tuple(dict.fromkeys(row.table for row in rows())) == TABLES
    explained = set(re.findall(r"^\| ([\w ]+) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE))
    assert {row.kind for row in rows()} == set(KINDS) <= explained


@pytest.mark.parametrize(
    ("kind", "new"),
    [
        ("call", "`expkit.check_disk_space(path, min_gb=11)`"),
        ("call", "`expkit.check_disk_space(folder, min_gb=10)`"),
        ("call", "`expkit.MetricsLogger.log_metrics(step)`"),
        ("attribute", "`expkit.MetricsLogger.no_such_method`"),
        ("value", "`expkit.SwitchThresholds().warn_margin == 0.06`"),
        ("result", '`expkit.MetricsLogger.get_metrics_summary()["loss_first"]`'),
        ("command", "`expkit watch --no-such-option`"),
        ("command", "`python scripts/monitor_svd_metrics.py --wandb-run`"),
        ("command", "`python -m train no_such_key=1`"),
        ("option", "`scripts/smart_monitor.py --poll-interval 11`"),
        ("option", "`scripts/smart_monitor.py --loss-spike-threshold 0.4`"),
        ("option", "`scripts/smart_monitor.py --poll-interval`"),
        ("key", "`trainer.batch_size=65`"),
        ("JSON key", "`training.epochs=51`"),
        ("file", "`logs/no_such_file.jsonl`"),
        ("field", "`status.json: no_such_field`"),
        ("metric", "`no_such_metric`"),
        ("line", "`expkit svd`: `no such line`"),
        ("call", "no check at all"),
        ("no such kind", "`expkit`"),
    ],
)
def test_a_row_that_is_false_fails(kind: str, new: str, evidence: Evidence) -> None:
    with pytest.raises((Exception, SystemExit)):
        check(kind, new, evidence)
