"""DNABERT-S on one device of many: the worker that a run starts once a device.

Files reach workers by greedy bin-packing on their numbers of sequences (`assign_files_by_sequences`) and then one by
one from the work queue. A worker loads the model once, computes in BF16 where the device has it, and packs tokens into
batches sized to the device. Under the spawn context everything here is importable by name and nothing unpicklable
crosses; CUDA is first touched in the worker.

`virnucpro embed` does all this. To place workers by hand:

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        plan = assign_files_by_sequences(files, num_workers=2)
        with context.Pool(2) as pool:
            jobs = [(plan[i], i, 0, Path("out")) for i in range(2)]  # 0 tokens: as suits the device
            for processed, failed in pool.starmap(process_dnabert_files_worker, jobs):
                ...
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from virnucpro.models.attention import segment_mean
from virnucpro.models.dnabert_s import DNABERT, load_dnabert
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.pipeline.base_worker import (
    BaseEmbeddingWorker,
    Tokenizer,
    WorkerOptions,
    assign_files_by_sequences,
    count_sequences,
    run_worker,
)

__all__ = [
    "DNABERTWorker",
    "WorkerOptions",
    "assign_files_by_sequences",
    "count_sequences",
    "process_dnabert_files_worker",
]


class DNABERTWorker(BaseEmbeddingWorker):
    """Embeds DNA with a network of the DNABERT-S family: mean over all tokens of the last layer, in fp32."""

    network: DNABERT

    def process_files_worker(
        self,
        file_subset: Iterable[Path],
        device_id: int | str,
        batch_size: int,
        output_dir: Path,
        **kwargs: Any,
    ) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Embed the sequences of each file of `file_subset`; see `process_dnabert_files_worker`."""
        return self.run_subset(file_subset, device_id, batch_size, output_dir, WorkerOptions.from_kwargs(kwargs))

    def get_optimal_batch_size(self, device: torch.device) -> int:
        """2048 tokens, 3072 in BF16, and more on a GPU with the memory for it."""
        return self.tokens_for(device)

    def read_model(self, dtype: torch.dtype) -> tuple[Tokenizer, torch.nn.Module, int]:
        """The published tokenizer and the network, in fp32 as it is stored."""
        network = load_dnabert(self.model.weights, self.model.config)
        return DNATokenizer(self.model.tokenizer), network, network.dim

    def pool(self, hidden: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
        """(tokens, dim) → (n, dim) fp32 means over all tokens of each sequence, [CLS] and [SEP] included."""
        return segment_mean(hidden, lengths, used)


def process_dnabert_files_worker(
    file_subset: Iterable[Path],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of DNA sequences on one device; the target of a spawned process, or called as it is.

    file_subset: paths of FASTA, FASTQ or uBAM files; any iterable, so that a queue can feed it as it goes.
    device_id: a GPU's number as CUDA_VISIBLE_DEVICES counts, "cuda:N", or "cpu".
    batch_size: tokens a batch; 0 takes `get_optimal_batch_size`.
    output_dir: gets one `<input name>.h5` a file, written whole or not at all.
    kwargs: see `WorkerOptions`.

    Returns the paths written, and (input path, message) for each file that failed. A file's error is logged with
    the device and the rest goes on; ModelError and DeviceError end the call.
    """
    return run_worker(DNABERTWorker, file_subset, device_id, batch_size, output_dir, kwargs)
