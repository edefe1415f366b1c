"""Open frames of windows by the published rules: all six frames, no stop codon anywhere, no start codon needed.

Source: the six-frame translation of VirNucPro, Li et al. 2025, doi:10.1093/bib/bbaf224, with its two quirks, since the
classifiers were trained with them: a codon with a letter other than A C G T is deleted, so that its neighbours join,
and the nucleotides of a frame extend one base beyond its last codon if there is one.

Windows are processed in batches, whatever records they come from. Each is padded with at least one N to whole codons,
and all are joined. So every window begins at a multiple of three, column k of the codons holds frame k of every window,
and a codon that reaches into the padding is deleted like any other with an N. Read backwards, the same codons are those
of the reverse strand: no reverse complement is needed to find open frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from virnucpro.input.windows import Window

Item = TypeVar("Item")

#: F: forward strand; R: reverse complement; the digit is the offset from the strand's first base, plus 1.
FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")

TOO_SHORT = "shorter than a codon"
NO_CODON = "no codon of A, C, G and T alone"
ALL_STOPPED = "a stop codon in every frame that can be translated"

#: Bases processed at a time: enough to hide the cost of a NumPy call, few enough for the cache of a core.
BATCH_BASES = 1 << 16

# The standard code, NCBI's table 1; codons in the order AAA, AAC, AAG, AAT, ACA … TTT.
_AMINO_ACIDS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_AMINO_ACID = dict(zip(map("".join, product("ACGT", repeat=3)), _AMINO_ACIDS, strict=True))
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")

# The code of a letter is its place here, where N stands for all others; the code of a codon has the letters' codes as
# digits.
_LETTERS = "ACGTN"
_RADIX = len(_LETTERS)
_LETTER_CODES = bytes("ACGT".find(chr(byte)) % _RADIX for byte in range(256))
_CODONS = [bytes(codon) for codon in product(_LETTERS.encode(), repeat=3)]


def _by_code(codons: list[bytes]) -> bytes:
    """Amino acids by codon code, for bytes.translate: it wants 256 entries, and is faster than an index array."""
    return "".join(_AMINO_ACID.get(codon.decode(), "-") for codon in codons).ljust(256, "-").encode()


_FORWARD = _by_code(_CODONS)
_BACKWARD = _by_code([codon[::-1].translate(_COMPLEMENT) for codon in _CODONS])
_DELETED = bytes(code for code, codon in enumerate(_CODONS) if b"N" in codon)
_FORWARD_STOP, _BACKWARD_STOP = 1, 2
_STOPS = bytes(
    _FORWARD_STOP * (here == "*") + _BACKWARD_STOP * (there == "*")
    for here, there in zip(_FORWARD.decode(), _BACKWARD.decode(), strict=True)
)
_OFFSETS = np.arange(3)
_STOP_OF_FRAME = np.repeat(np.array([_FORWARD_STOP, _BACKWARD_STOP], np.uint8), 3)


class Frame(NamedTuple):
    """An open frame of a window; its id is the window's id and `name`."""

    #: One of `FRAME_NAMES`.
    name: str
    #: Never empty; a deleted codon leaves no letter.
    protein: str
    #: Upper case, on the frame's strand. Its length follows from the protein's: nothing replaces deleted codons.
    nucleotide: str


class Scan(NamedTuple):
    """A window and what was found in it."""

    window: Window
    #: In the order of `FRAME_NAMES`.
    frames: list[Frame]
    #: Why there is no open frame: TOO_SHORT, NO_CODON or ALL_STOPPED; empty if there is one.
    reason: str


def open_frames(window: Window, *, exact: bool = False) -> list[Frame]:
    """The open frames of one window; for many, `scan_windows` is far faster. Raises as that does."""
    return next(scan_windows((window,), exact=exact)).frames


def scan_windows(windows: Iterable[Window], *, exact: bool = False) -> Iterator[Scan]:
    """Find the open frames of each window, in order; holds about `BATCH_BASES` bases at a time.

    exact: leave out the base beyond a frame's last codon that the published rule adds.
    Raises ValueError if a sequence holds letters beyond ASCII.
    """
    for batch in batches(windows, lambda window: len(window.sequence), BATCH_BASES):
        yield from _Batch(batch, exact).scans()


def batches(items: Iterable[Item], size: Callable[[Item], int], least: int) -> Iterator[list[Item]]:
    """Group items into lists of `least` bases or a little more, by the `size` of each; the last may have fewer."""
    batch, bases = list[Item](), 0
    for item in items:
        batch.append(item)
        bases += size(item)
        if bases >= least:
            yield batch
            batch, bases = [], 0
    if batch:
        yield batch


class _Batch:
    """Windows side by side."""

    def __init__(self, windows: Sequence[Window], exact: bool) -> None:
        self.windows, self.exact = windows, exact
        self.lengths = [len(window.sequence) for window in windows]
        widths = [3 * (length // 3 + 1) for length in self.lengths]
        padded = [window.sequence.ljust(width, "N") for window, width in zip(windows, widths, strict=True)]
        self.text = "".join(padded).encode("ascii").upper()
        #: Where each window begins in the columns of codons, and finally where they end.
        self.rows: list[int] = [0, *(np.cumsum(widths) // 3).tolist()]
        self.columns = _codon_columns(self.text)

    def scans(self) -> Iterator[Scan]:
        stops = self._stops()
        found: list[list[Frame]] = [[] for _ in self.windows]
        for index, number, column in self._without_stop(stops):
            if frame := self._frame(index, number, column):
                found[index].append(frame)
        stopped = np.bitwise_or.reduce(stops, axis=0).tolist()
        for index, frames in enumerate(found):
            yield Scan(self.windows[index], frames, "" if frames else _reason(self.lengths[index], stopped[index] > 0))

    def _stops(self) -> NDArray[np.uint8]:
        """(3, windows): on which strands each column has a stop codon in each window."""
        stops = [np.frombuffer(column.translate(_STOPS), np.uint8) for column in self.columns]
        return np.stack([np.bitwise_or.reduceat(column, self.rows[:-1]) for column in stops])

    def _without_stop(self, stops: NDArray[np.uint8]) -> Iterator[tuple[int, int, int]]:
        """Window, frame, and the frame's column in it: that of a reverse frame depends on the length of the window."""
        lengths = np.array(self.lengths)[:, None]
        columns = np.concatenate((np.zeros_like(lengths) + _OFFSETS, (lengths - _OFFSETS) % 3), axis=1)
        stopped = stops[columns, np.arange(len(lengths))[:, None]] & _STOP_OF_FRAME
        indices, numbers = np.nonzero(stopped == 0)
        return zip(indices.tolist(), numbers.tolist(), columns[indices, numbers].tolist(), strict=True)

    def _frame(self, index: int, number: int, column: int) -> Frame | None:
        """A frame without a stop codon; None if it has no amino acid either."""
        codons = self.columns[column][self.rows[index] : self.rows[index + 1]]
        backward, offset = divmod(number, 3)
        protein = codons[::-1].translate(_BACKWARD, _DELETED) if backward else codons.translate(_FORWARD, _DELETED)
        if not protein:
            return None
        end = offset + 3 * len(protein) + (not self.exact)
        start = 3 * self.rows[index]
        strand = self.text[start : start + self.lengths[index]]
        if backward:
            strand = strand[::-1].translate(_COMPLEMENT)
        return Frame(FRAME_NAMES[number], protein.decode(), strand[offset:end].decode())


def _codon_columns(text: bytes) -> list[bytes]:
    """Codes, below 125, of the codons at bases 0, 3, 6 …, at 1, 4, 7 …, and at 2, 5, 8 …; a third of `text` each.

    Bytes rather than an array: small slices of them are faster.
    """
    letters = np.frombuffer((text + b"NN").translate(_LETTER_CODES), np.uint8)
    codons = (letters[:-2] * _RADIX + letters[1:-1]) * _RADIX + letters[2:]
    return [codons[first::3].tobytes() for first in range(3)]


def _reason(length: int, stopped: bool) -> str:
    if length < 3:
        return TOO_SHORT
    return ALL_STOPPED if stopped else NO_CODON
