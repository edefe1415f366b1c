"""`benchmarks.peers` without the tools: which sequences are compared, and the figures for their scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import BATCH, TOOLS, KeptScores, Scores, Tool, choose, row, sample_of
from training.kingdoms import kingdom_of
from training.pieces import Piece
from virnucpro.input.fasta import Record, read_records


def piece(number: int, group: str, cluster: int) -> Piece:
    """One of 500 bases."""
    return Piece(f"s{number}", group, cluster, number, 0, 500)


PIECES = [
    *(piece(i, "viral/phage_dsDNA", i // 10) for i in range(40)),
    *(piece(100 + i, "other/bacteria_markers", 20 + i // 10) for i in range(40)),
    *(piece(200 + i, "other/human", 30 + i // 10) for i in range(40)),
]


def test_of_each_kingdom_so_many_or_all() -> None:
    chosen = choose(PIECES, 30, seed=0)
    kingdoms = [kingdom_of(each.group) for each in chosen]
    assert [kingdoms.count(name) for name in ("phage", "prokaryote", "eukaryote", "virus")] == [30, 30, 30, 0]
    assert len({each.name for each in chosen}) == 90
    assert len(choose(PIECES, 100, seed=0)) == len(PIECES)


class Lengths:
    """A tool that separates sequences by length, gives no score to those of 7 bases, and may fail at some call."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: list[int] = []
        self.fails_at = fails_at

    def __call__(self, fasta: Path, folder: Path, programs: Path) -> Scores:
        records = [record for record in read_records(fasta) if isinstance(record, Record)]
        if len(self.calls) == self.fails_at:
            raise RuntimeError("stopped")
        self.calls.append(len(records))
        return {each.id: len(each.sequence) / 10 for each in records if len(each.sequence) != 7}


def test_scores_are_kept_batch_by_batch_and_by_version(tmp_path: Path) -> None:
    sequences = {f"s{i}": "A" * (i + 1) for i in range(BATCH + 50)}
    stopped, again, newer = Lengths(fails_at=1), Lengths(), Lengths()
    with pytest.raises(RuntimeError):
        KeptScores(Tool("t", lambda: "1", 5, stopped), tmp_path).of(sequences)
    found = KeptScores(Tool("t", lambda: "1", 5, again), tmp_path).of(sequences)
    assert (stopped.calls, again.calls) == ([BATCH], [46])
    assert found == {name: len(bases) / 10 for name, bases in sequences.items() if len(bases) >= 5 and len(bases) != 7}
    # By their content, not by their names; another version is asked again.
    renamed = {f"r{name}": bases for name, bases in sequences.items()}
    assert KeptScores(Tool("t", lambda: "1", 5, again), tmp_path).of(renamed) == {f"r{k}": v for k, v in found.items()}
    assert again.calls == [46]
    KeptScores(Tool("t", lambda: "2", 5, newer), tmp_path).of(sequences)
    assert sum(newer.calls) == BATCH + 46


def test_only_what_a_tool_scores_counts() -> None:
    """Two viral ones have no score; all others are separated from bacteria, and none from the human ones."""
    scores = {
        each.name: {"v": 0.8, "b": 0.1, "h": 0.9}[each.group.split("/")[1][0].replace("p", "v")] for each in PIECES
    }
    del scores["s0"], scores["s1"]
    found = row("all", TOOLS["mini"], sample_of(PIECES, scores))
    assert (found["viral"], found["others"]) == (38, 80)
    assert str(found["AUROC, prokaryotes"]).startswith("1.000 ")
    assert str(found["AUROC, eukaryotes"]).startswith("0.000 ")
    assert row("all", TOOLS["Jaeger"], sample_of(PIECES, {}))["at 1%"] == ""
