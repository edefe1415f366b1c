"""What the networks read: random windows of genomes for training, all windows by the published rule for testing.

A window gives one example: the nucleotides and the protein of one of its open frames, as `predict` feeds them, or the
bases of the whole window where no frame is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.genomes import LETTERS, OTHER, Genomes
from virnucpro.models.protein_tokenizer import ALPHABET, CLS, EOS, PAD
from virnucpro.sequence.frames import scan_windows
from virnucpro.sequence.windows import Window, window_bounds

#: Shares of the bases of a group are damped by this power, so that small groups are seen too.
DAMPING = 0.7
#: Groups that are drawn more often than their damped size says: many genomes, and hard to tell from viral ones.
EMPHASIS = {"other/eukaryote_markers": 2.5, "other/bacteria_markers": 1.5}
#: Share of windows shorter than the full size: records that end give such in use.
SHORTER = 0.2
_ASCII = np.frombuffer(LETTERS.encode(), np.uint8)
_COMPLEMENT = np.array([3, 2, 1, 0, OTHER], np.uint8)
# The standard code, NCBI's table 1, codons in the order AAA, AAC, AAG, AAT, ACA … TTT.
_AMINO_ACIDS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_STOP = 255
_IDS = np.array([_STOP if letter == "*" else ALPHABET.index(letter) for letter in _AMINO_ACIDS], np.uint8)


@dataclass(frozen=True)
class Examples:
    """Some windows, one example each.

    dna: what the DNA encoder reads; protein: (n, width) ids, padded; residues: (n,) of each protein, 0 where the
    window has no open frame; codes: (n, size) the windows' bases; viral: (n,) 0 or 1; group: (n,).
    """

    dna: list[str]
    protein: NDArray[np.uint8]
    residues: NDArray[np.int64]
    codes: NDArray[np.uint8]
    viral: NDArray[np.int64]
    group: NDArray[np.int64]


class Sampler:
    """Draws windows: a class by a coin, a group by its damped size, a place in it evenly, a strand by a coin."""

    def __init__(self, genomes: Genomes, records: NDArray[np.bool_], seed: int | list[int]) -> None:
        self.genomes = genomes
        self.rng = np.random.default_rng(seed)
        weights = record_weights(genomes, records)
        self._ends = np.cumsum(weights) / weights.sum()

    def draw(self, count: int, size: int) -> Examples:
        """`count` windows of at most `size` bases without a letter other than A C G T."""
        found = [self._windows(count, size)]
        while sum(len(records) for _, _, records in found) < count:
            found.append(self._windows(count, size))
        codes, lengths, records = (np.concatenate(each)[:count] for each in zip(*found, strict=True))
        group = self.genomes.group[records]
        return self._examples(codes, lengths, self.genomes.viral[records].astype(np.int64), group)

    def _windows(self, count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        records = np.searchsorted(self._ends, self.rng.random(count), side="right").clip(max=len(self._ends) - 1)
        shorter = self.rng.integers(size // 2, size + 1, count)
        wanted = np.where(self.rng.random(count) < SHORTER, shorter, size)
        whole = self.genomes.lengths[records]
        lengths = np.minimum(wanted, whole)
        # The place is that of a window's middle: ends of records come in full.
        middles = (self.rng.random(count) * whole).astype(np.int64)
        starts = self.genomes.bounds[records] + (middles - lengths // 2).clip(0, whole - lengths)
        codes = cut(self.genomes.codes, starts, lengths, self.rng.random(count) < 0.5, size)
        clean = (codes == OTHER).sum(1) == size - lengths
        return codes[clean], lengths[clean], records[clean]

    def _examples(
        self, codes: NDArray[np.uint8], lengths: NDArray[np.int64], viral: NDArray[np.int64], group: NDArray[np.int64]
    ) -> Examples:
        proteins, residues, is_open = six_frames(codes, lengths)
        # Of the open frames one by chance; argmax of zeros gives a frame that then counts as none.
        chosen = (self.rng.random(is_open.shape) * is_open).argmax(1)
        rows = np.arange(len(codes))
        found = is_open[rows, chosen]
        residues = residues[rows, chosen] * found
        dna = [
            frame_dna(row[:length], frame, count) if count else text(row[:length])
            for row, length, frame, count in zip(codes, lengths, chosen, residues, strict=True)
        ]
        return Examples(dna, with_ends(proteins[rows, chosen], residues), residues, codes, viral, group)


def record_weights(genomes: Genomes, records: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(records,) how often each is drawn: half of the draws a class, groups by damped size, records by length."""
    bases = np.where(records, genomes.lengths, 0).astype(np.float64)
    groups = np.bincount(genomes.group, bases, len(genomes.names))
    damped = groups**DAMPING * np.array([EMPHASIS.get(name, 1.0) for name in genomes.names])
    for viral in (False, True):
        here = genomes.viral_groups == viral
        damped[here] /= damped[here].sum()
    weights: NDArray[np.float64] = bases * (damped / np.maximum(groups, 1))[genomes.group]
    return weights


def cut(
    codes: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    backward: NDArray[np.bool_],
    size: int,
) -> NDArray[np.uint8]:
    """(n, size) windows, filled up with N; those `backward` as reverse complements."""
    column = np.arange(size)
    place = np.where(backward[:, None], lengths[:, None] - 1 - column, column)
    inside = column < lengths[:, None]
    found = codes[starts[:, None] + np.where(inside, place, 0)]
    found = np.where(backward[:, None], _COMPLEMENT[found], found)
    return np.where(inside, found, OTHER).astype(np.uint8)


def six_frames(
    codes: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Proteins (n, 6, size // 3) of windows of A C G T, their residues (n, 6), and which are open (n, 6)."""
    backward = cut(codes.reshape(-1), np.arange(len(codes)) * codes.shape[1], lengths, lengths > 0, codes.shape[1])
    frames = [_translate(strand[:, offset:]) for strand in (codes, backward) for offset in range(3)]
    residues = np.tile((lengths[:, None] - np.arange(3)) // 3, (1, 2))
    proteins = np.stack([np.pad(each, ((0, 0), (0, codes.shape[1] // 3 - each.shape[1]))) for each in frames], axis=1)
    inside = np.arange(proteins.shape[2]) < residues[:, :, None]
    is_open = ~((proteins == _STOP) & inside).any(2) & (residues > 0)
    return np.where(inside, proteins, PAD).astype(np.uint8), residues, is_open


def _translate(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, length // 3) ids of the codons from the first base on; those with N are of no meaning."""
    width = codes.shape[1] // 3 * 3
    letters = (codes[:, :width] & 3).reshape(len(codes), -1, 3)
    ids: NDArray[np.uint8] = _IDS[letters[:, :, 0] * 16 + letters[:, :, 1] * 4 + letters[:, :, 2]]
    return ids


def with_ends(proteins: NDArray[np.uint8], residues: NDArray[np.int64]) -> NDArray[np.uint8]:
    """`<cls>` before and `<eos>` behind each protein, (n, w) with w a multiple of 8, which attention on a GPU wants."""
    ids = np.pad(proteins, ((0, 0), (1, 1 + -(proteins.shape[1] + 2) % 8)), constant_values=PAD)
    column = np.arange(ids.shape[1])
    ids[column[None] > residues[:, None]] = PAD
    ids[:, 0] = CLS
    ids[np.arange(len(ids)), residues + 1] = EOS
    return ids


def frame_dna(codes: NDArray[np.uint8], frame: int, residues: int) -> str:
    """The nucleotides of an open frame, one base beyond its last codon where there is one."""
    backward, offset = divmod(frame, 3)
    strand = _COMPLEMENT[codes[::-1]] if backward else codes
    return text(strand[offset : offset + 1 + 3 * residues])


def text(codes: NDArray[np.uint8]) -> str:
    """The letters of codes."""
    return _ASCII[codes].tobytes().decode()


@dataclass(frozen=True)
class CutWindow:
    """A window of a record with its open frames: names, nucleotides and proteins."""

    record: int
    start: int
    end: int
    sequence: str
    frames: tuple[tuple[str, str, str], ...]


def all_windows(genomes: Genomes, size: int) -> Iterator[CutWindow]:
    """Every window of every record, by the published rule, in order."""
    windows = (
        Window(str(record), start, end, sequence[start:end])
        for record in range(len(genomes.group))
        for sequence in (genomes.sequence(record),)
        for start, end in window_bounds(len(sequence), size)
    )
    for window, frames, _ in scan_windows(windows):
        found = tuple((frame.name, frame.nucleotide, frame.protein) for frame in frames)
        yield CutWindow(int(window.id), window.start, window.end, window.sequence, found)
