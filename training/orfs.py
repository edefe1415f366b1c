"""Open reading frames without starts: what of a genome can be compared as protein."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Codons of the shortest stretch without a stop that counts.
LEAST = 60
# The standard code, NCBI's table 1, codons in the order AAA, AAC, AAG, AAT, ACA … TTT.
_AMINO_ACIDS = np.frombuffer(b"KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLFX", np.uint8)
_UNKNOWN = len(_AMINO_ACIDS) - 1
_STOP = ord("*")


def open_frames(codes: NDArray[np.uint8]) -> list[str]:
    """Proteins of the longest stretches without a stop, both strands, all frames, each where no longer one lies.

    codes: (bases,) as `training.genomes` has them. A stretch counts if at most half of it lies under longer ones.
    """
    taken = np.zeros(len(codes), bool)
    kept = []
    for start, end, protein in sorted(_stretches(codes), key=lambda each: each[0] - each[1]):
        if 2 * np.count_nonzero(taken[start:end]) <= end - start:
            taken[start:end] = True
            kept.append(protein.tobytes().decode())
    return kept


def first_frame(codes: NDArray[np.uint8]) -> str:
    """The longest protein without a stop of the first frame, which codes in a gene by itself."""
    return max(_translate(codes).tobytes().decode().split("*"), key=len)


def _stretches(codes: NDArray[np.uint8]) -> list[tuple[int, int, NDArray[np.uint8]]]:
    """Start, end on the forward strand, and residues of each."""
    found = []
    for strand in (codes, np.where(codes < 4, 3 - codes, 4)[::-1]):
        for frame in range(min(3, len(codes) - 2)):
            residues = _translate(strand[frame:])
            stops = np.r_[-1, np.flatnonzero(residues == _STOP), len(residues)]
            for index in np.flatnonzero(np.diff(stops) > LEAST):
                first, last = stops[index] + 1, stops[index + 1]
                start, end = frame + 3 * first, frame + 3 * last
                place = (start, end) if strand is codes else (len(codes) - end, len(codes) - start)
                found.append((*place, residues[first:last]))
    return found


def _translate(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Letters of amino acids, X for a codon with an unknown base."""
    codons = codes[: len(codes) // 3 * 3].reshape(-1, 3).astype(np.int64)
    index = np.where((codons > 3).any(1), _UNKNOWN, codons @ [16, 4, 1])
    return _AMINO_ACIDS[index]
