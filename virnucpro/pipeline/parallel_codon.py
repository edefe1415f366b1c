"""The codon network on one device, and on many: the worker, and the driver that starts one a device.

Everything but the model itself is shared with DNABERT-S: see `pipeline/parallel_dnabert.py` for how files reach a
worker, and `BaseEmbeddingWorker` for what it does with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from virnucpro.core.device import Device
from virnucpro.input.windows import SHORTEST
from virnucpro.models.codon import CodonTokenizer, load_codon
from virnucpro.pipeline.base_worker import (
    BaseEmbeddingWorker,
    Network,
    Tokenizer,
    WorkerOptions,
    tokens_by_memory,
)
from virnucpro.pipeline.parallel_dnabert import Embedded, embed_files
from virnucpro.runs.config import DEFAULT_CODON_MODEL

__all__ = ["CodonWorker", "embed_codon_files", "process_codon_files_worker"]

#: Bases of each window in the batch that is tried out before a run.
TRIAL_BASES = 500

#: Tokens of a batch on a CPU: eight windows of 500 bases. Fewer are slower, more hold results back.
CPU_TOKENS = 8704

#: On a GPU, a batch has so many times the tokens that it would have of a transformer of up to 32,768: they are the
#: codons of six frames, two a base, and cost little (docs/performance.md).
FACTOR, MOST_TOKENS = 16, 32_768


class CodonWorker(BaseEmbeddingWorker):
    """Embeds windows of DNA, of any length from 8 bases on, by the codons of all six frames.

    An embedding is, over the six frames, mean and maximum of what each frame has by mean and maximum, in fp32.
    """

    shortest: ClassVar[int] = SHORTEST

    def process_files_worker(
        self,
        file_subset: Iterable[Path | None],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed the sequences of each file of `file_subset`; see `process_codon_files_worker`."""
        return self.run(file_subset, device_id, batch_size, output_dir, WorkerOptions.from_kwargs(kwargs))

    def get_optimal_batch_size(self, device: Device) -> int:
        """8704 tokens on a CPU, and on a GPU 8192 a GiB of its memory, up to 524,288; a base has about two."""
        return CPU_TOKENS if device.type == "cpu" else FACTOR * tokens_by_memory(device, "fp32", MOST_TOKENS)

    def read_model(self, dtype: torch.dtype) -> Network:
        """The network, in fp32 as it is computed with on most CPUs."""
        network = load_codon(self.model.weights, self.model.config)
        return Network(CodonTokenizer(network.config.stride), network, network.dim, network.pool)

    def trial_length(self, tokenizer: Tokenizer) -> int:
        """Tokens of an ordinary window."""
        return len(tokenizer.encode(["N" * TRIAL_BASES])[0])


def process_codon_files_worker(
    file_subset: Iterable[Path | None],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of windows of DNA on one device; the target of a spawned process, or called as it is.

    Arguments, results and errors as `process_dnabert_files_worker`; a sequence of less than 8 bases fails, with a
    message.
    """
    kwargs = {"model": DEFAULT_CODON_MODEL} | kwargs
    options = WorkerOptions.from_kwargs(kwargs)
    options.begin_logging(device_id)
    worker = CodonWorker(options.local_model, options.dtype)
    return worker.process_files_worker(file_subset, device_id, batch_size, output_dir, **kwargs)


def embed_codon_files(
    files: Iterable[Path], devices: Sequence[str], output_dir: Path, batch_size: int = 0, **kwargs: Any
) -> Embedded:
    """Embed files of windows of DNA on several devices; all as `embed_dnabert_files`."""
    kwargs = {"model": DEFAULT_CODON_MODEL} | kwargs
    return embed_files(CodonWorker, process_codon_files_worker, files, devices, output_dir, batch_size, **kwargs)
