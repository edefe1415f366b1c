"""Sequences to fit and to measure calls on, of genomes that no network was trained on.

    python -m training.pieces --genomes fit.npz --out FOLDER
    python -m training.pieces --genomes dev.npz --out FOLDER --kinds windows lengths short records spliced sweep

Writes `KIND.fa` into FOLDER, and beside it a table (`KIND.tsv`) of where its sequences are from:

pieces   of every length from 100 bases to 50 kb, from each octave as many
lengths  of eight lengths
short    of 150, 300 and 500 bases, more of them: a few hundred cannot tell how good a calibration is
windows  of 500 bases by the published rule, as many of each kingdom
records  whole ones of 2 to 8 kb
spliced  phages in slices of bacteria and archaea, and such slices alone
sweep    the beginnings of four records, of every length from 7.5 to 8.5 kb in steps of 50 bases

Of pieces and lengths as many of each class are drawn; of a class, kingdoms weigh as in `training.kingdoms`, groups and
clusters by their damped size. Nothing is drawn that was drawn before at that length.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.genomes import Genomes, load
from training.kingdoms import KINGDOMS, kingdom_of
from virnucpro.input.windows import window_bounds

KINDS = ("pieces", "spliced", "windows", "lengths", "records", "sweep", "short")
#: What is fitted to.
FIT_KINDS = ("pieces", "short", "records", "spliced")
SHORTEST, LONGEST = 100, 50_000
LENGTHS = (150, 300, 500, 1_000, 2_000, 4_000, 8_000, 20_000)
#: Bases of an octave or a length, and of a class, and between which numbers of pieces that is kept.
BASES, FEWEST, MOST = 500_000, 40, 800
#: Short lengths, and how many pieces of each and of a class.
SHORT_LENGTHS, SHORT_PIECES = (150, 300, 500), 3_000
#: Windows of a kingdom; records of a class, and their lengths.
WINDOWS, RECORDS, SHORT, LONG = 2_500, 300, 2_000, 8_000
#: Lengths of the sweep.
SWEEP = range(7_500, 8_501, 50)
#: Bases of groups and clusters are damped by these powers, so that small ones are seen too.
DAMPING, CLUSTER_DAMPING = 0.6, 0.5
#: Phages that are put into hosts, and their hosts, are at least so long; a longer phage is cut; so much host is beside
#: one; so many hosts are taken.
PHAGE, HOST, LONGEST_PHAGE, MARGIN, MOST_HOSTS = 15_000, 25_000, 40_000, 8_000, 180
HOSTS = ("other/bacteria_genomic", "other/archaea_genomic", "other/more_bacteria_genomic", "other/more_archaea_genomic")


@dataclass(frozen=True)
class Piece:
    """A sequence: bases `start` to `end` of a record; for a spliced one of its host, the phage at its bases from `at`.

    `to`: the end of the phage; both are -1 where there is none. phage: its cluster.
    """

    name: str
    group: str
    cluster: int
    record: int
    start: int
    end: int
    at: int = -1
    to: int = -1
    phage: int = -1

    @property
    def viral(self) -> bool:
        """Whether it is of a virus; a host with a phage in it is not."""
        return self.group.startswith("viral/")


class Drawer:
    """Draws places of records of one class, of a kingdom, group and cluster by their weights."""

    def __init__(self, genomes: Genomes, viral: bool, random: np.random.Generator) -> None:
        self.genomes, self.random = genomes, random
        self._kingdoms = np.array([kingdom_of(name) for name in genomes.names])[genomes.group]
        _, self._cluster = np.unique(np.stack((genomes.group, genomes.cluster)), axis=1, return_inverse=True)
        self._class = genomes.viral == viral
        self.refill()

    def refill(self) -> None:
        """Let every base be drawn again."""
        self._room = np.where(self._class, self.genomes.lengths, 0)

    def draw(self, length: int) -> tuple[int, int] | None:
        """A record, and where in it; None if no record has so many bases left."""
        fitting = self._room >= length
        weights = self._weights(fitting)
        if not weights.any():
            return None
        record = int(self.random.choice(len(weights), p=weights))
        self._room[record] -= length
        return record, int(self.random.integers(self.genomes.lengths[record] - length + 1))

    def _weights(self, fitting: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(records,) chance of each."""
        bases, group = np.where(fitting, self.genomes.lengths, 0).astype(np.float64), self.genomes.group
        weights = bases * np.maximum(np.bincount(self._cluster, bases), 1)[self._cluster] ** (CLUSTER_DAMPING - 1)
        groups = np.bincount(group, bases) ** DAMPING / np.bincount(group, weights).clip(1e-9)
        weights *= groups[group]
        for kingdom, share in KINGDOMS.items():
            here = self._kingdoms == kingdom
            if total := weights[here].sum():
                weights[here] *= share / total
        found: NDArray[np.float64] = weights / max(weights.sum(), 1e-300)
        return found


def octaves() -> list[tuple[int, int]]:
    """Lengths from `SHORTEST` to `LONGEST`."""
    steps = range(int(np.ceil(np.log2(LONGEST / SHORTEST))))
    return [(SHORTEST << step, min(SHORTEST << step + 1, LONGEST)) for step in steps]


def fair_count(low: int, high: int) -> int:
    """How many pieces of a span of lengths and of a class hold about `BASES`."""
    return int(np.clip(2 * BASES / (low + high), FEWEST, MOST))


def cut(
    genomes: Genomes,
    spans: Iterable[tuple[int, int]],
    random: np.random.Generator,
    count: Callable[[int, int], int] = fair_count,
) -> Iterator[Piece]:
    """Pieces of both classes, of lengths from each span, of each `count`."""
    drawers, number = [Drawer(genomes, viral, random) for viral in (True, False)], 0
    for low, high in spans:
        for drawer in drawers:
            drawer.refill()
            for _ in range(count(low, high)):
                length = int(low * (high / low) ** random.random())
                if (place := drawer.draw(length)) is not None:
                    record, start = place
                    yield _piece(genomes, number, record, start, start + length)
                    number += 1


def windows(genomes: Genomes, random: np.random.Generator) -> Iterator[Piece]:
    """Windows of every kingdom, all alike likely."""
    kingdoms = np.array([kingdom_of(name) for name in genomes.names])[genomes.group]
    number = 0
    for kingdom in KINGDOMS:
        records = np.flatnonzero(kingdoms == kingdom).tolist()
        places = [(record, *bounds) for record in records for bounds in window_bounds(int(genomes.lengths[record]))]
        for place in random.permutation(len(places))[:WINDOWS].tolist():
            yield _piece(genomes, number, *places[place])
            number += 1


def records(genomes: Genomes, random: np.random.Generator) -> Iterator[Piece]:
    """Whole records of both classes, all alike likely; of others half of each kingdom."""
    kingdoms = np.array([kingdom_of(name) for name in genomes.names])[genomes.group]
    fitting = (genomes.lengths >= SHORT) & (genomes.lengths <= LONG)
    number = 0
    parts = (
        (genomes.viral, RECORDS),
        (kingdoms == "prokaryote", RECORDS // 2),
        (kingdoms == "eukaryote", RECORDS // 2),
    )
    for part, count in parts:
        for record in random.permutation(np.flatnonzero(fitting & part))[:count].tolist():
            yield _piece(genomes, number, record, 0, int(genomes.lengths[record]))
            number += 1


def sweep(genomes: Genomes, random: np.random.Generator) -> Iterator[Piece]:
    """Two viral records and two others, cut at every length of `SWEEP`."""
    number = 0
    for viral in (True, False):
        fitting = np.flatnonzero((genomes.viral == viral) & (genomes.lengths >= SWEEP.stop))
        for record in random.permutation(fitting)[:2].tolist():
            for length in SWEEP:
                yield _piece(genomes, number, record, 0, length)
                number += 1


def _piece(genomes: Genomes, number: int, record: int, start: int, end: int) -> Piece:
    return Piece(
        f"s{number:06d}", genomes.names[genomes.group[record]], int(genomes.cluster[record]), record, start, end
    )


def splice(genomes: Genomes, random: np.random.Generator) -> Iterator[tuple[Piece, str]]:
    """Every long phage in a host of its own, as far as there are hosts, and the other hosts alone, with the bases."""
    names = np.array(genomes.names)[genomes.group]
    phages = np.flatnonzero((np.char.find(names, "phage") > 0) & (genomes.lengths >= PHAGE))
    hosts = np.flatnonzero(np.isin(names, HOSTS) & (genomes.lengths >= HOST))
    random.shuffle(phages), random.shuffle(hosts)
    for number, host in enumerate(hosts[:MOST_HOSTS].tolist()):
        bases = genomes.sequence(host)
        piece = _piece(genomes, number, host, 0, len(bases))
        if number >= len(phages):
            yield piece, bases
            continue
        phage = genomes.sequence(int(phages[number]))
        size = min(len(phage), int(random.integers(PHAGE, LONGEST_PHAGE + 1)))
        first = int(random.integers(len(phage) - size + 1))
        at = int(random.integers(MARGIN, len(bases) - MARGIN))
        spliced = replace(piece, at=at, to=at + size, phage=int(genomes.cluster[phages[number]]))
        yield spliced, bases[:at] + phage[first : first + size] + bases[at:]


def write(path: Path, pieces: Iterable[tuple[Piece, str]]) -> None:
    """The sequences as FASTA, and the table beside them."""
    with open(path, "w", encoding="ascii") as fasta, open(path.with_suffix(".tsv"), "w", encoding="utf-8") as table:
        rows = csv.writer(table, delimiter="\t", lineterminator="\n")
        rows.writerow(field.name for field in fields(Piece))
        for piece, bases in pieces:
            fasta.write(f">{piece.name}\n{bases}\n")
            rows.writerow(asdict(piece).values())


def make(genomes: Genomes, kind: str, seed: int) -> Iterable[tuple[Piece, str]]:
    """The sequences of a kind."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "spliced":
        return splice(genomes, random)
    made = {
        "pieces": lambda: cut(genomes, octaves(), random),
        "lengths": lambda: cut(genomes, ((length, length) for length in LENGTHS), random),
        "short": lambda: cut(genomes, ((n, n) for n in SHORT_LENGTHS), random, lambda low, high: SHORT_PIECES),
        "windows": lambda: windows(genomes, random),
        "records": lambda: records(genomes, random),
        "sweep": lambda: sweep(genomes, random),
    }[kind]()
    return ((piece, genomes.sequence(piece.record)[piece.start : piece.end]) for piece in made)


def read(path: Path) -> list[Piece]:
    """The table of `write`."""
    with open(path, encoding="utf-8", newline="") as table:
        rows = csv.reader(table, delimiter="\t")
        next(rows)
        return [Piece(name, group, *map(int, numbers)) for name, group, *numbers in rows]


def main() -> None:
    """Cut, splice, write."""
    parser = argparse.ArgumentParser(description="Make sequences to fit and to measure calls on.")
    parser.add_argument("--genomes", type=Path, required=True, help="packed genomes that no network was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sequences and their tables")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=FIT_KINDS, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    genomes = load(args.genomes)
    for kind in args.kinds:
        write(args.out / f"{kind}.fa", make(genomes, kind, args.seed))


if __name__ == "__main__":
    main()
