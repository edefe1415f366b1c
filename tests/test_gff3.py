"""Viral sequences and regions as GFF3, read by a library that knows the format."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from urllib.parse import unquote

import gffutils
import pytest

from virnucpro.calls.gff3 import Annotation
from virnucpro.calls.verdicts import Region, SequenceCall, Verdict
from virnucpro.input.index import IndexedSequence

Row = dict[str, str]


def features_of(text: str) -> list[gffutils.Feature]:
    database = gffutils.create_db(text, ":memory:", from_string=True, merge_strategy="error")
    return list(database.all_features())


def rows(path: Path) -> list[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_viral_sequence_and_region_is_a_feature(complete: Path) -> None:
    found = features_of((complete / "in.regions.gff3").read_text())
    sequences = [row for row in rows(complete / "in.sequences.tsv") if row["verdict"] in ("virus", "mixed")]
    regions = rows(complete / "in.regions.bed")
    assert [
        (feature.attributes["Name"][0], feature.end, feature.attributes["verdict"][0], feature.score)
        for feature in found
        if feature.featuretype == "region"
    ] == [(row["sequence_id"], int(row["length"]), row["verdict"], row["score"]) for row in sequences]
    assert [
        (feature.seqid, feature.start - 1, feature.end, feature.attributes["Name"][0], feature.score)
        for feature in found
        if feature.featuretype == "viral_sequence"
    ] == [
        (row["#sequence_id"], int(row["start"]), int(row["end"]), row["name"], row["region_score"]) for row in regions
    ]
    names = {feature.id: feature.seqid for feature in found}
    for feature in found:
        assert [names[parent] for parent in feature.attributes.get("Parent", [])] in ([], [feature.seqid])


HOSTILE = [">a", "a;b=c,d&e", "100%", "ünï", 'q"q', "a\x01b", "x" * 300, "same", "same"]


def call(region: Region) -> SequenceCall:
    return SequenceCall(9, 8, 4, 0.25, 0.5, None, Verdict.MIXED, (region,))


def test_ids_of_any_kind_come_back() -> None:
    file = io.StringIO()
    annotation = Annotation(file)
    for place, name in enumerate(HOSTILE):
        annotation.add(IndexedSequence(place, 0, place + 1, name, 900, "", False), call(Region(10, 400, 0.9, 3, 2)))
    found = features_of(file.getvalue())
    assert [unquote(feature.seqid) for feature in found] == [name for name in HOSTILE for _ in range(2)]
    assert [feature.attributes["Name"][0] for feature in found if feature.featuretype == "region"] == HOSTILE
    for line in file.getvalue().splitlines()[1:]:
        assert len(line.split("\t")) == 9
        assert line.isascii()
        assert line.isprintable() or "\t" in line


@pytest.mark.parametrize("rate", [None, 0.0125])
def test_what_is_not_known_is_left_out(rate: float | None) -> None:
    file = io.StringIO()
    whole = SequenceCall(2, 2, 2, 0.875, 0.5, rate, Verdict.VIRUS, (Region(0, 900, 0.875, 2, 2),))
    Annotation(file).add(IndexedSequence(6, 0, 7, "v", 900, "", False), whole)
    sequence, region = features_of(file.getvalue())
    assert sequence.attributes.get("false_positive_rate") == (None if rate is None else ["0.012500"])
    assert (sequence.id, region.id, region.attributes["Parent"]) == ("sequence7", "sequence7.1", ["sequence7"])
    assert (region.start, region.end, region.score) == (1, 900, "0.875000")
