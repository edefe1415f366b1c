"""`training/`: sequences for fitting and measuring calls, what is fitted to them, and a tiny whole fit."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_set import other, toy_calls, viral

from training import engine, fit_sequences, measure, model_card, pieces
from training.engine import Called
from training.fit_sequences import Table, choose_form, columns, compare, false_positives, out_of_fold, sequence_model
from training.genomes import _CODES, Genomes, save
from training.pieces import Piece, cut, read, splice, sweep
from virnucpro.calls.model import probability
from virnucpro.calls.segment import WindowOdds
from virnucpro.models.card import ClassifierCard

pytestmark = pytest.mark.heavy

NAMES = ("other/bacteria_genomic", "other/human", "viral/phage_dsDNA", "viral/refseq_cds")


@pytest.fixture(scope="module")
def genomes() -> Genomes:
    """Hosts of 26 kb, phages of 16 kb, and others, each a cluster of its own."""
    made = [
        *((0, other(26_000, 100 + i)) for i in range(3)),
        *((1, other(9_000, 200 + i)) for i in range(3)),
        *((2, viral(16_000, 300 + i)) for i in range(2)),
        *((3, viral(2_500, 400 + i)) for i in range(8)),
    ]
    codes = [_CODES[np.frombuffer(sequence.encode(), np.uint8)] for _, sequence in made]
    bounds, group = np.cumsum([0, *map(len, codes)]), np.array([group for group, _ in made])
    return Genomes(np.concatenate(codes), bounds, group, np.arange(len(made)) * 10, NAMES)


def test_pieces_are_of_both_classes_and_no_base_is_drawn_twice_at_a_length(genomes: Genomes) -> None:
    made = list(cut(genomes, [(400, 800), (2_000, 2_000)], np.random.default_rng(0)))
    for low, high in ((400, 800), (2_000, 2_000)):
        here = [piece for piece in made if low <= piece.end - piece.start <= high]
        assert {piece.viral for piece in here} == {True, False}
        for record in {piece.record for piece in here}:
            bases = sum(piece.end - piece.start for piece in here if piece.record == record)
            assert bases <= genomes.lengths[record]
    for piece in made:
        assert 0 <= piece.start < piece.end <= genomes.lengths[piece.record]
        assert (piece.group, piece.cluster) == (NAMES[genomes.group[piece.record]], 10 * piece.record)
    assert len({piece.name for piece in made}) == len(made)


def test_kingdoms_of_others_are_drawn_alike(genomes: Genomes) -> None:
    made = [piece for piece in cut(genomes, [(100, 100)], np.random.default_rng(0)) if not piece.viral][:200]
    assert 60 < sum(piece.group == "other/human" for piece in made) < 140


def test_phages_are_put_into_hosts_whole(genomes: Genomes) -> None:
    made = list(splice(genomes, np.random.default_rng(0)))
    assert len(made) == 3
    assert [piece.at >= 0 for piece, _ in made] == [True, True, False]
    for piece, bases in made:
        host = genomes.sequence(piece.record)
        if piece.at < 0:
            assert bases == host
            continue
        assert bases[: piece.at] + bases[piece.to :] == host
        phage = next(i for i in range(len(genomes.group)) if genomes.cluster[i] == piece.phage)
        assert bases[piece.at : piece.to] in genomes.sequence(phage)
        assert pieces.PHAGE <= piece.to - piece.at <= pieces.LONGEST_PHAGE
        assert pieces.MARGIN <= piece.at <= len(host) - pieces.MARGIN


def test_the_sweep_cuts_a_record_at_every_length(genomes: Genomes) -> None:
    made = list(sweep(genomes, np.random.default_rng(0)))
    assert len({piece.record for piece in made}) == 4
    assert [piece.end for piece in made[: len(pieces.SWEEP)]] == list(pieces.SWEEP)


def test_a_table_is_read_as_it_was_written(genomes: Genomes, tmp_path: Path) -> None:
    made = list(splice(genomes, np.random.default_rng(0)))
    pieces.write(tmp_path / "x.fa", made)
    assert read(tmp_path / "x.tsv") == [piece for piece, _ in made]


# What is fitted.


def scored(length: int, is_viral: bool, rng: random.Random, number: int) -> Called:
    """Windows whose log-odds have a common part (that of their cluster) and a part of their own."""
    centre = (1.2 if is_viral else -1.2) + rng.gauss(0, 0.8)
    bounds = [(at, min(at + 500, length)) for at in range(0, length, 500)]
    windows = [WindowOdds(start, end, centre + rng.gauss(0, 1.5), False) for start, end in bounds]
    group = NAMES[2 + number % 2] if is_viral else NAMES[number % 2]
    return Called(Piece(f"s{number}", group, number, number, 0, length), length, "", None, windows, [])


@pytest.fixture(scope="module")
def table() -> Table:
    rng = random.Random(1)
    lengths = [round(100 * 2 ** (9 * rng.random())) for _ in range(4_000)]
    return Table.of([scored(length, bool(i % 2), rng, i) for i, length in enumerate(lengths)])


def test_the_fitted_score_is_a_probability_at_every_length(table: Table) -> None:
    form, report = choose_form(table)
    model = sequence_model(table, form)
    assert len(report) == len(fit_sequences.FORMS) + len(fit_sequences.EXTRA)
    scores = np.array([probability(model.log_odds(int(b), m)) for b, m in zip(table.bases, table.mean, strict=True)])
    for low, high in ((100, 500), (500, 2_000), (2_000, 8_000), (8_000, 60_000)):
        here = (table.bases >= low) & (table.bases < high)
        for least in (0.2, 0.5, 0.8):
            near = here & (np.abs(scores - least) < 0.2)
            assert abs(float(scores[near].mean()) - float(table.viral[near].mean())) < 0.1


def test_length_makes_a_score_surer(table: Table) -> None:
    model = sequence_model(table, choose_form(table)[0])
    assert model.log_odds(300, 0.5) < model.log_odds(1_000, 0.5) < model.log_odds(8_000, 0.5)


def test_false_positives_are_those_counted(table: Table) -> None:
    odds = out_of_fold(table, columns(table, (1, 1)))
    rates = false_positives(table, odds)
    for length in (500, 3_000):
        near = (np.abs(np.log2(table.bases / length)) < 0.5) & ~table.viral
        counted = float((1 / (1 + np.exp(-odds[near])) >= 0.7).mean())
        assert rates.at(length, 0.7) == pytest.approx(counted, abs=0.03)
    assert all(row[i] >= row[i + 1] for row in rates.rates for i in range(len(row) - 1))


def test_regions_against_where_the_phages_are() -> None:
    def host(at: int, to: int) -> Called:
        return Called(Piece("x", NAMES[0], 1, 1, 0, 30_000, at, to), 30_000, "mixed", 0.5, [], [])

    def places(*found: tuple[int, int]) -> Sequence[tuple[int, int]]:
        return found

    sequences = [host(10_000, 20_000), host(10_000, 20_000), host(-1, -1)]
    found = compare(sequences, [places((9_800, 19_500), (25_000, 26_000)), places((19_000, 22_000)), places((0, 900))])
    assert (found.phage, found.found, found.host, found.false) == (20_000, 10_500, 70_000, 2)
    assert found.edges == [200, 500]
    assert found.to_json()["false regions a Mbp"] == pytest.approx(2e6 / 70_000, abs=0.001)


# The whole.


@pytest.mark.timeout(900)
def test_fitting_and_measuring_at_a_tiny_size(
    genomes: Genomes, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pieces go through the engine; the fit is in the card and used for calls; the figures are those of its calls."""
    folder = shutil.copytree(toy, tmp_path / "set")
    card = replace(ClassifierCard.read(folder), window=(300,), calls={300: toy_calls(300)})
    (folder / "model.json").write_text(card.to_json())
    save(tmp_path / "genomes.npz", genomes)
    small = {
        "BASES": 3_000,
        "FEWEST": 3,
        "MOST": 8,
        "LONGEST": 3_200,
        "WINDOWS": 4,
        "SHORT_PIECES": 20,
        "SWEEP": range(7_500, 7_521, 20),
    }
    for name, value in (small | {"LENGTHS": (150, 500, 2_000)}).items():
        monkeypatch.setattr(pieces, name, value)
    monkeypatch.setattr(measure, "LENGTHS", (150, 500, 2_000))
    monkeypatch.setattr(fit_sequences, "FOLDS", 3)
    run(pieces.main, "--genomes", tmp_path / "genomes.npz", "--out", tmp_path / "p", "--kinds", *pieces.KINDS)
    run(engine.main, "--pieces", tmp_path / "p", "--model", folder, "--out", tmp_path / "called", "--device", "cpu")
    run(fit_sequences.main, "--called", tmp_path / "called", "--model", folder)
    fitted = ClassifierCard.read(folder).calls[300]
    assert fitted != toy_calls(300)
    first = (folder / "model.json").read_bytes()
    run(fit_sequences.main, "--called", tmp_path / "called", "--model", folder)
    assert (folder / "model.json").read_bytes() == first
    capsys.readouterr()
    run(
        measure.main, "--pieces", tmp_path / "p", "--model", folder, "--runs", tmp_path / "runs",
        "--out", tmp_path / "figures.json", "--device", "cpu",
    )  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["windows of 500"]["AUROC overall"][0] > 0.9
    assert figures["records of 2 to 8 kb"]["recall"][0] > 0.5
    assert figures["spliced"]["phages"] == 2
    assert len(figures["sweep"]) == 4
    # 150 and 500 bases: of `short`, which has more of them; 2,000: of `lengths`.
    counts = {length: (row["viral"], row["others"]) for length, row in figures["lengths"].items()}
    assert [counts[length] for length in ("150", "300", "500")] == [(20, 20)] * 3
    assert max(counts["2000"]) <= 8
    peers = {"results": {"peers": [{"sequences": "windows of 500", "tool": "Other 1.0", "AUROC": "0.865 [0.8, 0.9]"}]}}
    (tmp_path / "peers.json").write_text(json.dumps(peers))
    run(model_card.main, "--model", folder, "--figures", tmp_path / "figures.json", "--peers", tmp_path / "peers.json")
    assert ClassifierCard.read(folder).metrics["spliced"] == figures["spliced"]
    assert ClassifierCard.read(folder).dtypes == tuple(figures["dtypes"])
    found = figures["records of 2 to 8 kb"]["recall"][0]
    text = (folder / "MODEL_CARD.md").read_text()
    assert f"| viral | {found:.1%} [" in text
    assert "| windows of 500 | Other 1.0 | 0.865 [0.8, 0.9] |" in text


def run(main: object, *words: object) -> None:
    """Run a script's `main` with these arguments."""
    assert callable(main)
    before, sys.argv = sys.argv, ["x", *map(str, words)]
    try:
        main()
    finally:
        sys.argv = before
