"""The codon network on one device of many: the worker that a run starts once a device.

Everything but the model itself is shared with DNABERT-S: see `pipeline/parallel_dnabert.py` for how files reach a
worker, and `BaseEmbeddingWorker` for what it does with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch

from virnucpro.input.windows import SHORTEST
from virnucpro.models.codon import CodonNetwork, CodonTokenizer, load_codon
from virnucpro.pipeline.base_worker import BaseEmbeddingWorker, Tokenizer, WorkerOptions, run_worker

__all__ = ["CodonWorker", "process_codon_files_worker"]

#: Bases of each window in the batch that is tried out before a run.
TRIAL_BASES = 500


class CodonWorker(BaseEmbeddingWorker):
    """Embeds windows of DNA, of any length from 8 bases on, by the codons of all six frames."""

    shortest: ClassVar[int] = SHORTEST
    network: CodonNetwork

    def process_files_worker(
        self,
        file_subset: Iterable[Path],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed the sequences of each file of `file_subset`; see `process_codon_files_worker`."""
        return self.run_subset(file_subset, device_id, batch_size, output_dir, WorkerOptions.from_kwargs(kwargs))

    def get_optimal_batch_size(self, device: torch.device) -> int:
        """8704 tokens on a CPU, and on a GPU 8192 a GiB of its memory, up to 524,288; a base has about two.

        On a CPU fewer are slower, and more hold results back (docs/performance.md).
        """
        return self.tokens_for(device)

    def read_model(self, dtype: torch.dtype) -> tuple[Tokenizer, torch.nn.Module, int]:
        """The network, in fp32 as it is computed with on most CPUs."""
        network = load_codon(self.model.weights, self.model.config)
        return CodonTokenizer(network.config.stride), network, network.dim

    def pool(self, hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
        """(positions, channels) → (n, dim) fp32: mean and maximum over each frame, then over the frames."""
        return self.network.pool(hidden, tokens, lengths, used)

    @property
    def trial_length(self) -> int:
        """Tokens of an ordinary window."""
        return len(self.tokenize(["N" * TRIAL_BASES])[0])


def process_codon_files_worker(
    file_subset: Iterable[Path],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of windows of DNA on one device; the target of a spawned process, or called as it is.

    Arguments, results and errors as `process_dnabert_files_worker`; a sequence of less than 8 bases fails, with a
    message.
    """
    return run_worker(CodonWorker, file_subset, device_id, batch_size, output_dir, kwargs)
