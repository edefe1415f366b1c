"""Genomes as arrays: one byte a base in memory, two bits a base in a file.

`python -m training.genomes --data DIR --out FILE.npz` packs the FASTA files of `DIR/viral` and `DIR/other`. A file is a
group; the homology cluster of a record is what its header says (`cluster=…`), or else the record itself. Of an mRNA it
is a block of accessions: RefSeq numbers a genome's mRNAs in a row, so that a block is about a species.

With `--clusters FILE.tsv --part PART` it packs the records of one part by what `training.clusters` wrote: `DIR` is then
the folder over `train` and `dev`, and `--more` the folder of `more`, whose groups are called `CLASS/more_FILE`.
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.errors import InputError

#: A base's code is its place here; N stands for every other letter.
LETTERS = "ACGTN"
OTHER = LETTERS.index("N")
CLASSES = ("other", "viral")
#: Records that encoders learn from, those that what follows is fitted to, and those that all is measured on.
PARTS = ("train", "fit", "dev")
#: RefSeq numbers of mRNAs in a block.
BLOCK = 20_000
#: Of the clusters one in so many is kept from the encoders; the others are dealt to so many folds, one a teacher.
KEPT_BACK, FOLDS = 10, 4
_CODES = np.full(256, OTHER, np.uint8)
_CODES[np.frombuffer(b"ACGTacgt", np.uint8)] = [0, 1, 2, 3] * 2


@dataclass(frozen=True)
class Genomes:
    """Records end to end.

    codes: (bases,) uint8; bounds: (records + 1,) where each record begins, and the end; group: (records,) places in
    `names`, which are `class/file`; cluster: (records,) checksums of the clusters' names.
    """

    codes: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    group: NDArray[np.int64]
    cluster: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(records,) bases of each."""
        return np.diff(self.bounds)

    @property
    def viral_groups(self) -> NDArray[np.bool_]:
        """(groups,) whether each is viral."""
        return np.array([name.startswith("viral/") for name in self.names])

    @property
    def viral(self) -> NDArray[np.bool_]:
        """(records,) whether each is viral."""
        return self.viral_groups[self.group]

    @property
    def kept_back(self) -> NDArray[np.bool_]:
        """(records,) whether each is kept from the encoders."""
        found: NDArray[np.bool_] = self.cluster % KEPT_BACK == 0
        return found

    @property
    def fold(self) -> NDArray[np.int64]:
        """(records,) the fold of each."""
        return self.cluster // KEPT_BACK % FOLDS

    def part(self, chosen: NDArray[np.bool_]) -> Genomes:
        """Some of the records."""
        bounds = np.cumsum([0, *self.lengths[chosen]])
        return Genomes(
            self.codes[np.repeat(chosen, self.lengths)], bounds, self.group[chosen], self.cluster[chosen], self.names
        )

    def sequence(self, record: int) -> str:
        """The letters of a record."""
        codes = self.codes[self.bounds[record] : self.bounds[record + 1]]
        return np.frombuffer(LETTERS.encode(), np.uint8)[codes].tobytes().decode()


def join(parts: Sequence[Genomes]) -> Genomes:
    """The records of all, which have the same groups. Raises ValueError if they have not."""
    if any(part.names != parts[0].names for part in parts):
        raise ValueError("packed genomes of different groups cannot be joined")
    codes, group, cluster = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "group", "cluster")
    )
    bounds = np.cumsum([0, *np.concatenate([part.lengths for part in parts])])
    return Genomes(codes, bounds, group, cluster, parts[0].names)


def checksum(text: str) -> int:
    """The same number for the same text in every run."""
    return zlib.crc32(text.encode())


def cluster_of(header: str) -> str:
    """The homology cluster that a header names, the block of an mRNA, or else the record without a slice's bounds."""
    if mrna := re.match(r"[NX]M_(\d+)", header):
        return f"mRNA{int(mrna[1]) // BLOCK}"
    found = re.search(r"cluster=(\S+)", header)
    return found[1] if found else header.split()[0]


def kept(header: str, share: float) -> bool:
    """Whether a record belongs to the share of its group that is kept."""
    return checksum(header) % 1000 < 1000 * share


def read_folder(folder: Path, shares: Mapping[str, float]) -> Genomes:
    """Read `folder/{viral,other}/*.fa.gz`; of a group named in `shares`, that share of its records."""
    paths = [(name, path) for name in CLASSES for path in sorted((folder / name).glob("*.fa.gz"))]
    names = tuple(f"{name}/{path.name.removesuffix('.fa.gz')}" for name, path in paths)
    records = [
        (group, checksum(cluster_of(header)), codes)
        for group, (_, path) in enumerate(paths)
        for header, codes in read_fasta(path)
        if kept(header, shares.get(names[group], 1))
    ]
    group, cluster, codes = zip(*records, strict=True)
    bounds = np.cumsum([0, *map(len, codes)])
    return Genomes(np.concatenate(codes), bounds, np.array(group), np.array(cluster), names)


def read_part(data: Path, more: Path, table: Path, part: str, shares: Mapping[str, float]) -> Genomes:
    """Read the records of a part by the table of `training.clusters`, of a group in `shares` that share of them.

    All parts have the same groups, so that their numbers agree. InputError: the part has no records.
    """
    clusters = {row.key: row.cluster for row in read_table(table) if row.part == part}
    files = nucleotide_files(data, more)
    names = tuple(sorted({group_name(file) for file in files}))
    records = [
        (names.index(group_name(file)), numbered(clusters[file, header.split()[0]], part), codes)
        for file, path in files.items()
        for header, codes in read_fasta(path)
        if (file, header.split()[0]) in clusters and kept(header, shares.get(group_name(file), 1))
    ]
    if not records:
        raise InputError(f"{table}: no record of {data} and {more} is of the part {part}", hint="make it of these data")
    group, cluster, codes = zip(*records, strict=True)
    bounds = np.cumsum([0, *map(len, codes)])
    return Genomes(np.concatenate(codes), bounds, np.array(group), np.array(cluster), names)


def numbered(cluster: str, part: str) -> int:
    """A number for a cluster that counts as kept from the encoders unless its part is `train`."""
    return checksum(cluster) // KEPT_BACK * KEPT_BACK + (part == "train")


@dataclass(frozen=True)
class Row:
    """Of one record: its id, class, file below the data (`train/viral/ssDNA`), cluster and part."""

    record: str
    kind: str
    file: str
    cluster: str
    part: str

    @property
    def key(self) -> tuple[str, str]:
        """Ids occur in more than one file; within a file they do not."""
        return self.file, self.record


def read_table(path: Path) -> Iterator[Row]:
    """Rows of what `training.clusters` wrote."""
    with path.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            yield Row(*line.rstrip("\n").split("\t"))


def nucleotide_files(data: Path, more: Path) -> dict[str, Path]:
    """`train/viral/ssDNA` and the like, and where each lies."""
    found = {f"{split}/{file}": path for split in ("train", "dev") for file, path in _files(data / split, CLASSES)}
    return found | {f"more/{file}": path for file, path in _files(more, [f"{name}_nt" for name in CLASSES])}


def protein_files(more: Path) -> dict[str, Path]:
    """`more/viral_aa/rdrp` and the like, and where each lies."""
    return {f"more/{file}": path for file, path in _files(more, [f"{name}_aa" for name in CLASSES])}


def group_name(file: str) -> str:
    """`viral/ssDNA` of `train/viral/ssDNA`, `viral/more_ssDNA` of `more/viral_nt/ssDNA`."""
    origin, kind, name = file.split("/")
    return f"{kind[:5]}/{'more_' * (origin == 'more')}{name}"


def _files(folder: Path, kinds: Iterable[str]) -> list[tuple[str, Path]]:
    return [
        (f"{kind}/{path.name.removesuffix('.fa.gz')}", path)
        for kind in kinds
        for path in sorted((folder / kind).glob("*.fa.gz"))
    ]


def read_fasta(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Header and codes of each record of DNA."""
    return ((header, _CODES[letters]) for header, letters in read_letters(path))


def read_letters(path: Path, protein: bool = False) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Header and letters, in upper case as ASCII, of each record."""
    from virnucpro.input.fasta import DNA, PROTEIN, Record, read_records  # here, so that packed genomes need it not

    for record in read_records(path, PROTEIN if protein else DNA):
        if not isinstance(record, Record):
            raise SystemExit(f"{path}: {record.reason}")
        yield record.header, np.frombuffer(record.sequence.encode(), np.uint8)


def save(path: Path, genomes: Genomes) -> None:
    """Write genomes; other letters than A C G T are kept as runs."""
    other = np.flatnonzero(np.diff(np.r_[False, genomes.codes == OTHER, False]))
    codes = np.pad(np.where(genomes.codes == OTHER, 0, genomes.codes), (0, -len(genomes.codes) % 4)).reshape(-1, 4)
    packed = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(1, dtype=np.uint8)
    np.savez(
        path,
        packed=packed,
        runs=other,
        bounds=genomes.bounds,
        group=genomes.group,
        cluster=genomes.cluster,
        names=np.array(genomes.names),
    )


def load(path: Path) -> Genomes:
    """Read what `save` wrote."""
    with np.load(path) as file:
        packed, runs, bounds = file["packed"], file["runs"].reshape(-1, 2), file["bounds"]
        codes = ((packed[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3).reshape(-1)[: bounds[-1]]
        for start, end in runs:
            codes[start:end] = OTHER
        return Genomes(codes, bounds, file["group"], file["cluster"], tuple(file["names"].tolist()))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pack genomes for training.")
    parser.add_argument("--data", type=Path, required=True, help="folder with viral/*.fa.gz and other/*.fa.gz")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--share", nargs="*", default=[], metavar="CLASS/FILE=SHARE", help="records kept of a group")
    parser.add_argument("--clusters", type=Path, help="the table of training.clusters")
    parser.add_argument("--more", type=Path, help="with --clusters: the folder of more sequences")
    parser.add_argument("--part", choices=PARTS, help="with --clusters: the part to pack")
    args = parser.parse_args()
    if len({args.clusters is None, args.more is None, args.part is None}) > 1:
        parser.error("--clusters, --more and --part go together")
    return args


def main() -> None:
    """Read, pack, count."""
    args = parse_args()
    shares = {name: float(share) for name, share in (each.split("=") for each in args.share)}
    if args.clusters:
        genomes = read_part(args.data, args.more, args.clusters, args.part, shares)
    else:
        genomes = read_folder(args.data, shares)
    save(args.out, genomes)
    for index, name in enumerate(genomes.names):
        lengths = genomes.lengths[genomes.group == index]
        print(f"{name:28} {len(lengths):7,} records {lengths.sum():13,} bases")


if __name__ == "__main__":
    main()
