"""ESM-2 on one or many devices: the worker, started once per device, and the driver that starts workers.

Everything except for the model itself is shared with DNABERT-S: see `pipeline/parallel_dnabert.py` for how workers get
their files, and `StreamingWorker` for what they do with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from virnucpro.core.device import Device
from virnucpro.input.fasta import PROTEIN, Alphabet
from virnucpro.models.esm2 import load_esm2, protein_mean
from virnucpro.models.protein_tokenizer import ProteinTokenizer
from virnucpro.models.weights import CPU
from virnucpro.pipeline.base_worker import Network, StreamingWorker, process_files, tokens_by_memory
from virnucpro.pipeline.parallel_dnabert import Embedded, embed_files
from virnucpro.runs.config import DEFAULT_PROTEIN_MODEL

__all__ = ["ESMWorker", "embed_esm_files", "pool_proteins", "process_esm_files_worker"]

#: The most tokens of a batch on a GPU: with batches of 8,192, ESM-2 3B does 96,044 tokens per second on an H100 (with
#: 32,768: 99,254) and 101,734 on an H200 (100,683), and takes 1.4 GiB less (docs/performance.md).
MOST_TOKENS = 8_192


class ESMWorker(StreamingWorker):
    """Embeds proteins with ESM-2 of any size: mean over the first 1024 residues of the last layer, in fp32."""

    default_model: ClassVar[str] = DEFAULT_PROTEIN_MODEL
    alphabet: ClassVar[Alphabet] = PROTEIN
    fp8: ClassVar[bool] = True

    def get_optimal_batch_size(self, device: Device) -> int:
        """2048 tokens, 3072 in BF16, and more on a GPU with the memory for it, up to `MOST_TOKENS`."""
        return tokens_by_memory(device, self.resolve_dtype(device), MOST_TOKENS)

    def read_model(self, dtype: torch.dtype, device: torch.device = CPU) -> Network:
        """The network, directly in `dtype` since the largest takes 11 GB in fp32; the alphabet needs no file."""
        network = load_esm2(self.model.weights, dtype, device)
        return Network(ProteinTokenizer(), network, network.dim, pool_proteins, network.quantize)


def pool_proteins(hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
    """(tokens, dim) → (n, dim) fp32 means over residues, <cls> and <eos> excluded."""
    return protein_mean(hidden, lengths, used)


def process_esm_files_worker(
    file_subset: Iterable[Path | None],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of proteins on one device; run in a spawned process or called directly.

    Arguments, results and errors as for `process_dnabert_files_worker`; the files are FASTA, FASTQ or uBAM of proteins.
    """
    return process_files(ESMWorker, file_subset, device_id, batch_size, output_dir, **kwargs)


def embed_esm_files(
    files: Iterable[Path], devices: Sequence[str], output_dir: Path, batch_size: int = 0, **kwargs: Any
) -> Embedded:
    """Embed files of proteins on several devices; all as for `embed_dnabert_files`."""
    return embed_files(ESMWorker, files, devices, output_dir, batch_size, **kwargs)
