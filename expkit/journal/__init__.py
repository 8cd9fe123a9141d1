"""The journal: one JSON line per record, the source of truth of a run. Trackers and results are copies of it."""

from expkit.journal.cutting import cut_journal, cut_needs
from expkit.journal.format import decode, encode, is_volatile, stable, to_record
from expkit.journal.reader import JournalReader, read_journal
from expkit.journal.writer import Journal

__all__ = [
    "Journal",
    "JournalReader",
    "cut_journal",
    "cut_needs",
    "decode",
    "encode",
    "is_volatile",
    "read_journal",
    "stable",
    "to_record",
]
