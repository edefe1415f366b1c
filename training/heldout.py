"""Windows that nothing was trained on, as rows for the encoders, and the scores of windows from those of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.genomes import Genomes
from training.networks import TrainedEncoder
from training.windows import CutWindow, all_windows
from virnucpro.calls.scoring import window_score
from virnucpro.models.protein_tokenizer import ProteinTokenizer
from virnucpro.models.tokenizer import DNATokenizer

#: Rows embedded at a time.
ROWS = 1024
#: A row of tokens is cut here; no protein of 500 bases has more, and DNA of that length seldom.
MOST_TOKENS = 176


@dataclass(frozen=True)
class HeldOut:
    """All windows of one size of some genomes.

    frames: (frames,) the window of each open frame; bare: (k,) windows without one; dna: ids of the frames, then of
    the bare windows; protein: ids of the frames; viral, record: (windows,).
    """

    windows: list[CutWindow]
    frames: NDArray[np.int64]
    bare: NDArray[np.int64]
    dna: list[NDArray[np.int64]]
    protein: list[NDArray[np.int64]]
    viral: NDArray[np.bool_]
    record: NDArray[np.int64]

    @classmethod
    def cut(cls, genomes: Genomes, size: int, tokenizer: Path) -> HeldOut:
        """Cut and tokenize."""
        windows = list(all_windows(genomes, size))
        frames = [(index, *frame) for index, window in enumerate(windows) for frame in window.frames]
        bare = [index for index, window in enumerate(windows) if not window.frames]
        dna = [nucleotide for _, _, nucleotide, _ in frames] + [windows[index].sequence for index in bare]
        record = np.array([window.record for window in windows])
        return cls(
            windows,
            np.array([index for index, *_ in frames]),
            np.array(bare, np.int64),
            DNATokenizer(tokenizer).encode(dna),
            ProteinTokenizer().encode([protein for *_, protein in frames]),
            genomes.viral[record],
            record,
        )

    def of_rows(self, viral: NDArray[np.float32]) -> NDArray[np.float64]:
        """(windows,) scores from how viral each row of `dna` is, or of the frames alone: bare windows have 0 then."""
        frames, bare = np.split(viral, [len(self.frames)])
        return self.scores(np.stack((1 - frames, frames), 1), bare if len(bare) else np.float32(0))

    def scores(
        self, frame_scores: NDArray[np.float32], bare_scores: NDArray[np.float32] | np.float32
    ) -> NDArray[np.float64]:
        """(windows,) from the scores of frames (frames, 2) and of bare windows (k,): as `predict` has them."""
        found = np.zeros(len(self.windows))
        found[self.bare] = bare_scores
        bounds = np.flatnonzero(np.r_[True, np.diff(self.frames) != 0])
        for rows in np.split(np.arange(len(self.frames)), bounds[1:]):
            window = int(self.frames[rows[0]])
            scored = zip(self.windows[window].frames, frame_scores[rows].tolist(), strict=True)
            found[window] = window_score([(name, *scores) for (name, _, _), scores in scored]).score
        return found


@torch.inference_mode()
def embed_rows(network: TrainedEncoder, rows: Sequence[NDArray[np.int64]], device: torch.device) -> Tensor:
    """(n, dim) fp32 embeddings of rows of ids; neighbours in length are embedded together."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    fill = network.pad_id
    parts = [
        network(torch.from_numpy(pad([rows[i] for i in order[at : at + ROWS]], fill)).to(device))
        for at in range(0, len(order), ROWS)
    ]
    found = torch.empty(len(rows), network.encoder.dim, device=device)
    found[torch.from_numpy(order).to(device)] = torch.cat(parts)
    return found


def pad(rows: list[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    """(n, width) rows of ids, filled up to a width that is a multiple of 8, which attention on a GPU wants."""
    width = min(MOST_TOKENS, -(-max(map(len, rows)) // 8) * 8)
    ids = np.full((len(rows), width), fill)
    for row, values in zip(ids, rows, strict=True):
        row[: min(width, len(values))] = values[:width]
    return ids
