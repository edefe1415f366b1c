"""Windows of DNA made from proteins: each residue becomes one of its codons, as often as some genome uses it.

The genome is drawn by chance from both classes, so that codons tell nothing of the class: only the protein does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.genomes import OTHER, Genomes

#: The standard code, NCBI's table 1, codons in the order AAA, AAC, AAG, AAT, ACA … TTT.
CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
#: Files whose records are genes in frame, and how many of their records codons are counted in.
CODING, GENES = ("refseq_cds", "markers", "_cds"), 3_000
#: No amino acid has more codons.
MOST = 6


@dataclass(frozen=True)
class Proteins:
    """Proteins end to end: residues (letters,) ASCII; bounds (n + 1,); viral, group, cluster (n,); names of groups."""

    residues: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    viral: NDArray[np.bool_]
    group: NDArray[np.int64]
    cluster: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Proteins:
        """Read a packed file."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("residues", "bounds", "viral", "group", "cluster")}
            return cls(**arrays, names=tuple(file["names"].tolist()))


def codon_usage(genomes: Genomes) -> NDArray[np.float64]:
    """(genes, 20, 6) cumulative shares of the codons of each amino acid, in the order of `codons`."""
    coding = np.array([any(part in name for part in CODING) for name in genomes.names])
    rows = np.flatnonzero(coding[genomes.group] & (genomes.lengths >= 600))
    rows = np.random.default_rng(0).permutation(rows)[:GENES]
    table, found = codons(), []
    for row in rows:
        codes = genomes.codes[genomes.bounds[row] : genomes.bounds[row + 1]].astype(np.int64)
        codes = codes[: len(codes) // 3 * 3].reshape(-1, 3)
        codes = codes[(codes < OTHER).all(1)]
        counts = np.bincount(codes @ [16, 4, 1], minlength=64)
        shares = np.where(table >= 0, counts[table] + 1.0, 0.0)
        found.append(np.cumsum(shares, 1) / shares.sum(1, keepdims=True))
    return np.stack(found)


def codons() -> NDArray[np.int64]:
    """(20, 6) the codons of each amino acid, -1 behind the last."""
    table = np.full((len(LETTERS), MOST), -1)
    for row, letter in enumerate(LETTERS):
        ids = [codon for codon, meaning in enumerate(CODE) if meaning == letter]
        table[row, : len(ids)] = ids
    return table


class BackTranslation:
    """Draws windows from proteins, on a device."""

    def __init__(
        self,
        proteins: Proteins,
        genomes: Genomes,
        weights: NDArray[np.float64],
        first_group: int,
        random: torch.Generator,
    ) -> None:
        device = random.device
        self.random = random
        index = np.full(256, len(LETTERS), np.uint8)
        index[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS))
        self.residues = torch.from_numpy(index[proteins.residues]).to(device)
        self.bounds = torch.from_numpy(proteins.bounds.astype(np.int64)).to(device)
        self.viral = torch.from_numpy(proteins.viral.astype(np.int64)).to(device)
        self.group = torch.from_numpy(proteins.group.astype(np.int64) + first_group).to(device)
        self._ends = torch.from_numpy(np.cumsum(weights) / weights.sum()).to(device)
        self._usage = torch.from_numpy(codon_usage(genomes)).float().to(device)
        self._codons = torch.from_numpy(codons()).to(device)

    def draw(self, wanted: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows of about `wanted` (n,) bases: codes (n, window), lengths, classes, groups."""
        count, device = len(wanted), wanted.device
        record = torch.searchsorted(self._ends, self._rand(count).double()).clamp(max=len(self._ends) - 1)
        whole = self.bounds[record + 1] - self.bounds[record]
        length = torch.minimum(wanted // 3, whole)
        start = self.bounds[record] + (self._rand(count).double() * (whole - length + 1)).long()
        column = torch.arange(window // 3, device=device)
        inside = column < length[:, None]
        residues = self.residues[start[:, None] + column * inside].long()
        known = inside & (residues < len(LETTERS))
        residues = residues.clamp(max=len(LETTERS) - 1)
        genes = (self._rand(count) * len(self._usage)).long().clamp(max=len(self._usage) - 1)
        chance = self._rand(*residues.shape)
        choice = (chance[..., None] > self._usage[genes[:, None], residues]).sum(2).clamp(max=MOST - 1)
        codon = self._codons[residues, choice].clamp(min=0)
        bases = torch.stack((codon // 16, codon // 4 % 4, codon % 4), 2).masked_fill(~known[..., None], OTHER)
        codes = torch.full((count, window), OTHER, dtype=torch.uint8, device=device)
        codes[:, : bases.shape[1] * 3] = bases.flatten(1).to(torch.uint8)
        return codes, length * 3, self.viral[record], self.group[record]

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.random.device)
