"""`benchmarks.peers` without the tools: which sequences are compared, and what is said of their scores."""

from __future__ import annotations

from benchmarks.peers import TOOLS, choose, row, sample_of
from training.pieces import Piece


def piece(number: int, group: str, cluster: int) -> Piece:
    """One of 500 bases."""
    return Piece(f"s{number}", group, cluster, number, 0, 500)


PIECES = [
    *(piece(i, "viral/phage_dsDNA", i // 10) for i in range(40)),
    *(piece(100 + i, "other/bacteria_markers", 20 + i // 10) for i in range(40)),
    *(piece(200 + i, "other/human", 30 + i // 10) for i in range(40)),
]


def test_clusters_give_in_turn() -> None:
    chosen = choose(PIECES, 8, seed=0)
    assert [sum(each.viral is viral for each in chosen) for viral in (True, False)] == [8, 8]
    for cluster in {each.cluster for each in PIECES}:
        assert sum(each.cluster == cluster for each in chosen) == (2 if cluster < 20 else 1)


def test_only_what_a_tool_scores_counts() -> None:
    """Two viral ones have no score; of the others all are told rightly from bacteria, and none from the human ones."""
    scores = {
        each.name: {"v": 0.8, "b": 0.1, "h": 0.9}[each.group.split("/")[1][0].replace("p", "v")] for each in PIECES
    }
    del scores["s0"], scores["s1"]
    found = row("all", TOOLS["mini"], sample_of(PIECES, scores))
    assert (found["viral"], found["others"]) == (38, 80)
    assert str(found["AUROC, prokaryotes"]).startswith("1.000 ")
    assert str(found["AUROC, eukaryotes"]).startswith("0.000 ")
    assert row("all", TOOLS["Jaeger"], sample_of(PIECES, {}))["at 1%"] == ""
