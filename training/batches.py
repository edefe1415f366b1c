"""Batches for training: drawn and tokenized by worker processes ahead of the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.genomes import Genomes
from training.networks import DNA_PAD
from training.windows import Examples, Sampler
from virnucpro.models.tokenizer import DNATokenizer

#: Window sizes, and how often each is drawn.
SIZES, SHARES = (500, 300), (0.65, 0.35)
#: A row of tokens is cut here; no protein of 500 bases has more, and DNA of that length seldom.
MOST_TOKENS = 176


#: The arrays of a `Batch`, in its order.
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Batch:
    """Examples of one window size, on a device.

    dna: (n, width) ids of each window's example, padded; protein: (k, width) ids of those with an open frame; framed,
    bare: (k,) and (n - k,) which windows have one, and which have none; codes, viral, group: as in `Examples`.
    """

    dna: Tensor
    protein: Tensor
    framed: Tensor
    bare: Tensor
    codes: Tensor
    viral: Tensor
    group: Tensor

    @classmethod
    def of(cls, arrays: Arrays, device: torch.device) -> Batch:
        """The arrays on `device`, ids as int64."""
        tensors = [torch.from_numpy(each) for each in arrays]
        if device.type == "cuda":
            # Copied from pinned memory, nothing waits for what the device is at.
            tensors = [each.pin_memory().to(device, non_blocking=True) for each in tensors]
        dna, protein, *others = tensors
        return cls(dna.long(), protein.long(), *others)


class Draws(IterableDataset[Arrays]):
    """Endless batches of `size` windows; each worker has a random sequence of its own."""

    def __init__(self, genomes: Genomes, records: NDArray[np.bool_], tokenizer: Path, size: int, seed: int) -> None:
        self.genomes, self.records, self.tokenizer = genomes, records, tokenizer
        self.size, self.seed = size, seed

    def __iter__(self) -> Iterator[Arrays]:
        info = get_worker_info()
        worker = info.id if info else 0
        sampler = Sampler(self.genomes, self.records, [self.seed, worker])
        tokenizer = DNATokenizer(self.tokenizer)
        while True:
            size = int(sampler.rng.choice(SIZES, p=SHARES))
            yield to_arrays(sampler.draw(self.size, size), tokenizer)


def to_arrays(examples: Examples, tokenizer: DNATokenizer) -> Arrays:
    """Tokenize and pad."""
    dna = pad(tokenizer.encode(examples.dna))
    framed, bare = np.flatnonzero(examples.residues), np.flatnonzero(examples.residues == 0)
    return (dna, examples.protein[framed], framed, bare, examples.codes, examples.viral, examples.group)


def pad(rows: list[NDArray[np.int64]], fill: int = DNA_PAD) -> NDArray[np.int16]:
    """(n, width) rows of ids, filled up to a width that is a multiple of 8, which attention on a GPU wants."""
    width = min(MOST_TOKENS, -(-max(map(len, rows)) // 8) * 8)
    ids = np.full((len(rows), width), fill, np.int16)
    for row, values in zip(ids, rows, strict=True):
        row[: min(width, len(values))] = values[:width]
    return ids


def drawn(draws: Draws, workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches of `draws`, made by `workers` processes; 0 makes them in this one."""
    # Arrays, not tensors, come from the workers: tensors would need more shared memory than some machines give.
    loader = DataLoader(
        draws,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    return (Batch.of(arrays, device) for arrays in loader)


def _as_it_is(arrays: Any) -> Any:
    return arrays


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
