"""ESM-2 on one device of many: the worker that a run starts once a device.

Everything but the model itself is shared with DNABERT-S: see `pipeline/parallel_dnabert.py` for how files reach a
worker, and `BaseEmbeddingWorker` for what it does with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch

from virnucpro.input.fasta import PROTEIN, Alphabet
from virnucpro.models.esm2 import ESM2, load_esm2, protein_mean
from virnucpro.models.protein_tokenizer import ProteinTokenizer
from virnucpro.pipeline.base_worker import BaseEmbeddingWorker, Tokenizer, WorkerOptions, run_worker
from virnucpro.runs.config import DEFAULT_PROTEIN_MODEL

__all__ = ["ESMWorker", "process_esm_files_worker"]


class ESMWorker(BaseEmbeddingWorker):
    """Embeds proteins with ESM-2 of any size: mean over the first 1024 residues of the last layer, in fp32."""

    alphabet: ClassVar[Alphabet] = PROTEIN
    network: ESM2

    def process_files_worker(
        self,
        file_subset: Iterable[Path],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed the proteins of each file of `file_subset`; see `process_esm_files_worker`."""
        return self.run_subset(file_subset, device_id, batch_size, output_dir, WorkerOptions.from_kwargs(kwargs))

    def get_optimal_batch_size(self, device: torch.device) -> int:
        """As for DNABERT-S: 2048 tokens, 3072 in BF16, and more on a GPU with the memory for it."""
        return self.tokens_for(device)

    def read_model(self, dtype: torch.dtype) -> tuple[Tokenizer, torch.nn.Module, int]:
        """The network in `dtype` at once, since the largest takes 11 GB in fp32; the alphabet needs no file."""
        network = load_esm2(self.model.weights, dtype)
        return ProteinTokenizer(), network, network.dim

    def pool(self, hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
        """(tokens, dim) → (n, dim) fp32 means over residues, <cls> and <eos> excluded."""
        return protein_mean(hidden, lengths, used)


def process_esm_files_worker(
    file_subset: Iterable[Path],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of proteins on one device; the target of a spawned process, or called as it is.

    Arguments, results and errors as `process_dnabert_files_worker`; the files are FASTA, FASTQ or uBAM of proteins.
    """
    return run_worker(
        ESMWorker, file_subset, device_id, batch_size, output_dir, {"model": DEFAULT_PROTEIN_MODEL} | kwargs
    )
