"""What of the data is related: records compared by MMseqs2 as proteins (open frames) and as nucleotides.

Families are stars, a longest sequence and those that resemble it, so that one domain does not chain all together.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import Pool
from pathlib import Path

from training.genomes import LETTERS, nucleotide_files, protein_files, read_fasta, read_letters
from training.orfs import first_frame, open_frames
from training.records import Record
from virnucpro.errors import ModelError

#: Bases of the longest record that is compared as nucleotides, and of the longest other one that is no genomic slice.
LONGEST_COPY, SLICE = 20_000, 20_000
#: Identity and coverage of the shorter sequence within a family: viral and other proteins, nucleotides.
VIRAL_IDENTITY, OTHER_IDENTITY, COPY_IDENTITY, COVERAGE = 0.4, 0.5, 0.8, 0.5
#: Identity of two frames that makes a record of `train` a relative of what is held back.
RELATIVE_IDENTITY = 0.5

Family = tuple[bool, str]


@dataclass(frozen=True)
class Sequenced:
    """Records, their frames as proteins, and the letters of those compared as nucleotides (else empty).

    hidden: of a viral gene the frame that codes, where a longer one lies over it (else empty).
    """

    records: list[Record]
    frames: list[list[str]]
    hidden: list[str]
    letters: list[str]

    def proteins(self, chosen: Iterable[int]) -> Iterator[tuple[str, str]]:
        """Frames of the chosen records by name, which is the record's place, `_` and the frame's."""
        return ((f"{i}_{k}", frame) for i in chosen for k, frame in enumerate(self.frames[i]))

    def all_proteins(self, chosen: Iterable[int]) -> Iterator[tuple[str, str]]:
        """These and the hidden ones."""
        for i in chosen:
            yield from self.proteins([i])
            if self.hidden[i]:
                yield f"{i}_h", self.hidden[i]

    @property
    def residues(self) -> list[int]:
        """Of all frames of each record."""
        return [sum(map(len, frames)) for frames in self.frames]


@dataclass(frozen=True)
class Families:
    """protein: of each record, the families of its frames and their residues; copies: the centre of each copy."""

    protein: list[list[tuple[Family, int]]]
    copies: dict[int, int]

    @cached_property
    def residues(self) -> list[int]:
        """Of all frames of each record."""
        return [sum(residues for _, residues in frames) for frames in self.protein]

    def of(self, chosen: Iterable[int]) -> set[Family]:
        """The families with a frame of the chosen records."""
        return {family for i in chosen for family, _ in self.protein[i]}

    def share(self, record: int, families: set[Family]) -> float:
        """The share of a record's residues whose families are among these."""
        inside = sum(residues for family, residues in self.protein[record] if family in families)
        return inside / max(1, self.residues[record])


def read(data: Path, more: Path) -> Sequenced:
    """All records: viral proteins, viral and other genomes, the largest files first, other proteins."""
    genomes = sorted(nucleotide_files(data, more).items(), key=lambda each: -each[1].stat().st_size)
    genomes.sort(key=lambda each: "viral" not in each[0])
    proteins = protein_files(more)
    with Pool() as pool:
        found = [part for file in proteins if "viral" in file for part in _proteins(file, proteins[file])]
        found += [part for parts in pool.imap(_genomes, genomes, chunksize=1) for part in parts]
        found += [part for file in proteins if "viral" not in file for part in _proteins(file, proteins[file])]
    return Sequenced(*(list(each) for each in zip(*found, strict=True)))


def _proteins(file: str, path: Path) -> Iterator[tuple[Record, list[str], str, str]]:
    for header, residues in read_letters(path, protein=True):
        yield Record(file, header, len(residues)), [residues.tobytes().decode()], "", ""


def _genomes(place: tuple[str, Path]) -> list[tuple[Record, list[str], str, str]]:
    found = []
    for header, codes in read_fasta(place[1]):
        record = Record(place[0], header, len(codes))
        frames = [] if record.prokaryote else open_frames(codes)
        coding = first_frame(codes) if record.run else ""
        hidden = "" if any(coding in frame for frame in frames) else coding
        compared = not record.prokaryote and not record.run and len(codes) <= LONGEST_COPY
        found.append((record, frames, hidden, "".join(LETTERS[code] for code in codes) if compared else ""))
    return found


def families(data: Sequenced, work: Path) -> Families:
    """Group frames and nucleotides into families; files of MMseqs2 go to `work`."""
    star: dict[tuple[bool, str], str] = {}
    for viral, identity, kmers in ((True, VIRAL_IDENTITY, 80), (False, OTHER_IDENTITY, 40)):
        chosen = (i for i, record in enumerate(data.records) if record.viral == viral)
        found = linclust(data.proteins(chosen), identity, kmers, work)
        star |= {(viral, frame): centre for frame, centre in found.items()}
    protein = [
        [((record.viral, star[record.viral, f"{i}_{k}"]), len(frame)) for k, frame in enumerate(data.frames[i])]
        for i, record in enumerate(data.records)
    ]
    order = sorted((i for i, letters in enumerate(data.letters) if letters), key=lambda i: data.records[i].place)
    copies = linclust(((str(i), data.letters[i]) for i in order), COPY_IDENTITY, 60, work)
    return Families(protein, {int(member): int(centre) for member, centre in copies.items()})


def linclust(sequences: Iterable[tuple[str, str]], identity: float, kmers: int, work: Path) -> dict[str, str]:
    """The centre of each sequence's family."""
    write_fasta(work / "input.fa", sequences)
    options = ["--min-seq-id", identity, "-c", COVERAGE, "--cov-mode", 1, "--kmer-per-seq", kmers]
    mmseqs("easy-linclust", work / "input.fa", work / "found", work / "tmp", *options)
    with (work / "found_cluster.tsv").open() as lines:
        return {member: centre for centre, member in (line.split() for line in lines)}


@dataclass(frozen=True)
class Hit:
    """A frame of one record on a frame of another, and how many residues are aligned."""

    query: str
    target: str
    aligned: int


def search(
    queries: Iterable[tuple[str, str]], targets: Iterable[tuple[str, str]], sensitivity: int, work: Path
) -> Iterator[Hit]:
    """The first three targets at `RELATIVE_IDENTITY` that are found for each query."""
    write_fasta(work / "queries.fa", queries)
    write_fasta(work / "targets.fa", targets)
    options = ["-s", sensitivity, "--max-seqs", 20, "--max-accept", 3, "--min-seq-id", RELATIVE_IDENTITY]
    files = [work / name for name in ("queries.fa", "targets.fa", "hits.m8", "tmp")]
    mmseqs("easy-search", *files, *options, "--format-output", "query,target,alnlen,qlen")
    with (work / "hits.m8").open() as lines:
        for query, target, aligned, length in map(str.split, lines):
            yield Hit(query, target, min(int(aligned), int(length)))


def write_fasta(path: Path, sequences: Iterable[tuple[str, str]]) -> None:
    """One line a sequence."""
    with path.open("w") as file:
        file.writelines(f">{name}\n{sequence}\n" for name, sequence in sequences)


def mmseqs(*arguments: object) -> None:
    """Run MMseqs2.

    ModelError: it is absent, or failed.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise ModelError("mmseqs is not on PATH", hint="install MMseqs2; on Debian: apt-get install mmseqs2")
    found = subprocess.run([program, *map(str, arguments), "-v", "1"], capture_output=True, text=True)
    if found.returncode:
        raise ModelError(f"mmseqs {arguments[0]} failed: {(found.stderr or found.stdout).strip()[-500:]}")
