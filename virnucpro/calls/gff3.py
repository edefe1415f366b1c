"""Viral sequences and regions as GFF3, for genome browsers and other programs that read annotation.

Format: https://github.com/The-Sequence-Ontology/Specifications/blob/master/gff3.md.
"""

from __future__ import annotations

from typing import TextIO
from urllib.parse import quote

from virnucpro.calls.verdicts import SequenceCall, region_id
from virnucpro.input.index import IndexedSequence
from virnucpro.io.tables import number

# Terms of the Sequence Ontology: SO:0000001 and SO:0001041.
SEQUENCE, REGION = "region", "viral_sequence"

#: Characters allowed in the column of sequences, besides letters and digits; others are encoded, such as %20.
_SEQUENCE_ID = ".:^*$@!+_?-|"
#: Characters that are also allowed in a value.
_VALUE = _SEQUENCE_ID + " /()[]"


class Annotation:
    """Takes sequences that are viral or have a viral region, and writes each with its regions as its parts."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._file.write("##gff-version 3\n")

    def add(self, sequence: IndexedSequence, call: SequenceCall) -> None:
        """Write a sequence. It is named by its number, since two sequences may have the same id."""
        key = f"sequence{sequence.number + 1}"
        facts = {
            "ID": key,
            "Name": sequence.id,
            "verdict": call.verdict.value,
            "threshold": number(call.threshold),
            "false_positive_rate": number(call.false_positives),
            "windows_scored": str(call.scored),
            "windows_viral": str(call.viral),
        }
        self._row(sequence.id, SEQUENCE, 0, sequence.length, call.score, facts)
        for place, region in enumerate(call.regions, 1):
            facts = {
                "ID": f"{key}.{place}",
                "Parent": key,
                "Name": region_id(sequence.id, region),
                "windows_scored": str(region.windows),
                "windows_viral": str(region.viral),
            }
            self._row(sequence.id, REGION, region.start, region.end, region.score, facts)

    def _row(self, name: str, kind: str, start: int, end: int, score: float | None, facts: dict[str, str]) -> None:
        known = ";".join(f"{key}={quote(value, _VALUE)}" for key, value in facts.items() if value)
        who = quote(name, _SEQUENCE_ID)
        self._file.write(f"{who}\tvirnucpro\t{kind}\t{start + 1}\t{end}\t{number(score) or '.'}\t.\t.\t{known}\n")
