"""What the networks read: random windows of genomes for training, all windows by the published rule for testing.

A window gives one example: the nucleotides and the protein of one of its open frames, as `predict` feeds them, or the
bases of the whole window where no frame is open. Drawing is done on the device that trains: a processor could not keep
up with it. So genomes are tokenized once, whole, and the DNA of an example is cut where tokens meet: it may lack some
bases at either end.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.genomes import LETTERS, OTHER, Genomes
from training.networks import DNA_CLS, DNA_PAD, DNA_SEP
from virnucpro.input.frames import scan_windows
from virnucpro.input.windows import Window, window_bounds
from virnucpro.models.protein_tokenizer import ALPHABET, CLS, EOS, PAD
from virnucpro.models.tokenizer import DNATokenizer

#: Shares of the bases of a group are damped by this power, so that small groups are seen too.
DAMPING = 0.7
#: The same for clusters within their group.
CLUSTER_DAMPING = 0.7
#: Groups drawn more or less often than their damped size says: those of many genomes are hard to tell from viral ones.
EMPHASIS = {"other/eukaryote_markers": 3.5, "other/plant": 2.0, "other/bacteria_genomic": 0.8}
#: Window sizes, and how often each is drawn.
SIZES, SHARES = (500, 300), (0.65, 0.35)
#: Share of windows shorter than the full size: records that end give such in use.
SHORTER = 0.2
#: Bases tokenized in one piece, at most.
PIECE = 5_000
#: Pieces tokenized at a time.
PIECES = 20_000
_ASCII = np.frombuffer(LETTERS.encode(), np.uint8)
# The standard code, NCBI's table 1, codons in the order AAA, AAC, AAG, AAT, ACA … TTT.
_AMINO_ACIDS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_STOP = 255
_IDS = [_STOP if letter == "*" else ALPHABET.index(letter) for letter in _AMINO_ACIDS]


@dataclass(frozen=True)
class Examples:
    """Windows of one size, one example each, on a device.

    dna: (n, width) ids of what the DNA encoder reads, padded; protein: (n, width) ids, padded, of the same frame, or of
    none; framed: (n,) whether the window has an open frame; codes: (n, size) the windows' bases, 4 behind their ends;
    record, group: (n,); viral: (n,) 0 or 1; target: (n,) the probability of viral to be learned.
    """

    dna: Tensor
    protein: Tensor
    framed: Tensor
    codes: Tensor
    record: Tensor
    group: Tensor
    viral: Tensor
    target: Tensor


@dataclass(frozen=True)
class Strands:
    """Genomes without letters other than A C G T on a device, both strands end to end, and their DNA tokens.

    codes: (2 * bases,) uint8; tokens: (tokens,) ids; places: (tokens,) where each begins.
    """

    codes: Tensor
    tokens: Tensor
    places: Tensor

    @classmethod
    def of(cls, genomes: Genomes, tokenizer: Path | None, device: torch.device) -> Strands:
        """Both strands of `genomes`; without a tokenizer there is no DNA to read, only proteins.

        ValueError: more bases than places in 32 bits can tell.
        """
        if 2 * len(genomes.codes) >= 2**31:
            raise ValueError(f"{len(genomes.codes):,} bases are too many, at most {2**30 - 1:,}: pack fewer")
        both = np.concatenate((genomes.codes, 3 - genomes.codes[::-1]))
        bounds = np.r_[genomes.bounds, len(both) - genomes.bounds, np.arange(0, len(both), PIECE)]
        tokens, places = np.zeros(1, np.int16), np.zeros(1, np.int32)
        if tokenizer:
            tokens, places = tokenize(both, np.unique(bounds), tokenizer)
        return cls(*(torch.from_numpy(each).to(device) for each in (both, tokens, places)))


def tokenize(
    codes: NDArray[np.uint8], bounds: NDArray[np.int64], tokenizer: Path
) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
    """Tokens of pieces of `codes`, and where each begins; a last one stands for the end."""
    model = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    lengths = np.zeros(len(model["vocab"]), np.int32)
    for token, place in model["vocab"].items():
        lengths[place] = 0 if token.startswith("[") else len(token)
    letters, encoder = _ASCII[codes].tobytes().decode(), DNATokenizer(tokenizer)
    found = []
    for at in range(0, len(bounds) - 1, PIECES):
        part = bounds[at : at + PIECES + 1].tolist()
        rows = encoder.encode([letters[start:end] for start, end in pairwise(part)])
        found += [row[1:-1].astype(np.int16) for row in rows]
    tokens = np.concatenate([*found, [DNA_SEP]]).astype(np.int16)
    return tokens, np.cumsum(np.r_[0, lengths[tokens[:-1]]]).astype(np.int32)


def without_gaps(genomes: Genomes) -> Genomes:
    """The same records, cut where there are letters other than A C G T."""
    other = genomes.codes == OTHER
    before = np.r_[0, np.cumsum(~other)]
    runs = np.flatnonzero(np.diff(np.r_[0, other.view(np.int8)]) == 1)
    bounds = np.unique(before[np.r_[genomes.bounds, runs]])
    record = np.searchsorted(before[genomes.bounds], bounds[:-1], side="right") - 1
    return Genomes(genomes.codes[~other], bounds, genomes.group[record], genomes.cluster[record], genomes.names)


class Draws(ABC):
    """Endless batches of `size` windows, drawn on a device."""

    def __init__(self, random: torch.Generator, choice: np.random.Generator, size: int) -> None:
        self.random, self.choice, self.size = random, choice, size

    def __iter__(self) -> Iterator[Examples]:
        """Batches of windows of all sizes."""
        while True:
            yield self.draw(self.window())

    def window(self) -> int:
        """A window size by chance."""
        return int(self.choice.choice(SIZES, p=SHARES))

    @abstractmethod
    def draw(self, size: int) -> Examples:
        """A batch of windows of at most `size` bases. Nothing here waits for the device."""


class Sampler(Draws):
    """Draws windows: a class by a coin, a group by its damped size, a place in it evenly, a strand by a coin."""

    def __init__(
        self, genomes: Genomes, strands: Strands, records: NDArray[np.bool_], seed: int, size: int = 1024
    ) -> None:
        device = strands.codes.device
        super().__init__(torch.Generator(device).manual_seed(seed), np.random.default_rng(seed), size)
        self.strands = strands
        self.bounds, self.group = (torch.from_numpy(each).to(device) for each in (genomes.bounds, genomes.group))
        self.viral = torch.from_numpy(genomes.viral.astype(np.int64)).to(device)
        weights = record_weights(genomes, records)
        self._ends = torch.from_numpy(np.cumsum(weights) / weights.sum()).to(device)
        self._ids = torch.tensor(_IDS, dtype=torch.uint8, device=device)

    def draw(self, size: int) -> Examples:
        """A batch of windows of at most `size` bases."""
        count = self.size
        records = torch.searchsorted(self._ends, self._rand(count).double(), right=True).clamp(max=len(self._ends) - 1)
        start, length = self._places(records, size)
        # On the other strand the window lies in the second half, as far from its end.
        other = len(self.strands.codes) - start - length
        start, other = torch.where(self._rand(count) < 0.5, torch.stack((start, other)), torch.stack((other, start)))
        proteins, residues, is_open = self._frames(torch.stack((start, other)), length, size)
        # Of the open frames one by chance; argmax of zeros gives a frame that then counts as none.
        chosen = (self._rand(*is_open.shape) * is_open).argmax(1)
        rows = torch.arange(count, device=start.device)
        framed, residues = is_open[rows, chosen], residues[rows, chosen]
        # A frame's nucleotides reach one base beyond its last codon where there is one.
        begin = torch.where(chosen < 3, start, other) + chosen % 3
        stop = torch.minimum(begin + 1 + 3 * residues, torch.where(chosen < 3, start, other) + length)
        begin, stop = torch.where(framed, begin, start), torch.where(framed, stop, start + length)
        return Examples(
            self._tokens(begin, stop, size),
            with_ends(proteins[rows, chosen], residues * framed),
            framed,
            self._bases(start, length, size),
            records,
            self.group[records],
            self.viral[records],
            self.viral[records].float(),
        )

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.bounds.device)

    def _places(self, records: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Where windows of records begin, and their lengths."""
        count, whole = len(records), self.bounds[records + 1] - self.bounds[records]
        shorter = size // 2 + (self._rand(count) * (size - size // 2 + 1)).long()
        wanted = shorter.masked_fill(self._rand(count) >= SHORTER, size)
        length = torch.minimum(wanted, whole)
        # The place is that of a window's middle: ends of records come in full.
        middle = (self._rand(count).double() * whole).long()
        return self.bounds[records] + torch.minimum((middle - length // 2).clamp(min=0), whole - length), length

    def _bases(self, start: Tensor, length: Tensor, size: int) -> Tensor:
        """(n, size) bases, filled up with N."""
        column = torch.arange(size, device=start.device)
        inside = column < length[:, None]
        return self.strands.codes[start[:, None] + column * inside].masked_fill(~inside, OTHER)

    def _frames(self, starts: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Proteins (n, 6, size // 3) of windows (2, n) on both strands, residues (n, 6), and which are open (n, 6)."""
        offset = torch.arange(3, device=starts.device)
        width = size // 3
        bases = torch.stack([self._bases(start, length, size + 2) for start in starts], 1).long() & 3
        codons = bases[:, :, :-2] * 16 + bases[:, :, 1:-1] * 4 + bases[:, :, 2:]
        column = offset[:, None] + 3 * torch.arange(width, device=starts.device)
        proteins = self._ids[codons[:, :, column.clamp(max=size - 1)]].flatten(1, 2)
        residues = ((length[:, None] - offset) // 3).repeat(1, 2)
        inside = torch.arange(width, device=starts.device) < residues[:, :, None]
        is_open = ~((proteins == _STOP) & inside).any(2) & (residues > 0)
        return proteins.masked_fill(~inside, PAD), residues, is_open

    def _tokens(self, begin: Tensor, stop: Tensor, size: int) -> Tensor:
        """(n, width) the tokens that lie wholly in each place, `[CLS]` before and `[SEP]` behind them, padded."""
        places, width = self.strands.places, width_of(size)
        ends = torch.stack((begin, stop)).int()
        first = torch.searchsorted(places, ends[0])
        count = (torch.searchsorted(places, ends[1], right=True) - 1 - first).clamp(0, width - 2)[:, None]
        column = torch.arange(-1, width - 1, device=begin.device)
        ids = self.strands.tokens[(first[:, None] + column).clamp(0, len(places) - 1)].long()
        ids = ids.masked_fill(column > count, DNA_PAD).masked_fill(column == count, DNA_SEP)
        return ids.masked_fill(column < 0, DNA_CLS)


def width_of(size: int) -> int:
    """Tokens of a row of DNA: few windows have more than six for 25 bases, and a network is compiled for one width."""
    return -(-size * 6 // 25 // 8) * 8


def record_weights(genomes: Genomes, records: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(records,) how often each is drawn: half of the draws a class, groups and clusters by damped size, then bases."""
    bases = np.where(records, genomes.lengths, 0).astype(np.float64)
    groups = np.bincount(genomes.group, bases, len(genomes.names))
    damped = groups**DAMPING * np.array([EMPHASIS.get(name, 1.0) for name in genomes.names])
    for viral in (False, True):
        here = genomes.viral_groups == viral
        damped[here] /= damped[here].sum()
    _, cluster = np.unique(np.stack((genomes.group, genomes.cluster)), axis=1, return_inverse=True)
    sizes = np.bincount(cluster, bases)
    weights = bases * np.maximum(sizes, 1)[cluster] ** (CLUSTER_DAMPING - 1)
    in_group = np.bincount(genomes.group, weights, len(genomes.names)).clip(1e-9)
    found: NDArray[np.float64] = weights * (damped / in_group)[genomes.group]
    return found


def with_ends(proteins: Tensor, residues: Tensor) -> Tensor:
    """`<cls>` before and `<eos>` behind each protein, (n, w) with w a multiple of 8, which attention on a GPU wants."""
    width = proteins.shape[1] + 2
    ids = torch.nn.functional.pad(proteins, (1, 1 + -width % 8), value=PAD).long()
    column = torch.arange(ids.shape[1], device=ids.device)
    ids = ids.masked_fill(column > residues[:, None], PAD).masked_fill(column == residues[:, None] + 1, EOS)
    return ids.masked_fill(column == 0, CLS)


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
