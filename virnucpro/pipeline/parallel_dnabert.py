"""DNABERT-S on one device of many: the worker that a run starts once a device.

Files reach workers by greedy bin-packing on their numbers of sequences (`assign_files_by_sequences`) and then one by
one from the work queue. A worker loads the model once and packs tokens, without padding, into batches sized to the
device. It computes under `torch.no_grad()`, in BF16 where the device multiplies it natively: a GPU does from compute
capability 8 on, which `torch.cuda.get_device_capability` tells. Under the spawn context everything here is importable
by name and nothing unpicklable crosses; CUDA is first touched in the worker.

`virnucpro embed` does all this. For files that are cut already:

    if __name__ == "__main__":
        processed, failed = embed_dnabert_files(files, ["cuda:0", "cuda:1"], Path("out"), model="dnabert-s")

To place workers by hand, without a queue that watches them:

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        plan = assign_files_by_sequences(files, num_workers=2)
        with context.Pool(2) as pool:
            jobs = [(plan[i], i, 0, Path("out")) for i in range(2)]  # 0 tokens: as suits the device
            for processed, failed in pool.starmap(process_dnabert_files_worker, jobs):
                ...

What all workers share, whatever they embed, is in `pipeline/base_worker.py`; how one streams its files in
`pipeline/stream.py`; who gets which file in `pipeline/work_queue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    refuse_equal_names,
    run_worker,
)
from virnucpro.pipeline.launch_local import check_can_spawn
from virnucpro.pipeline.work_queue import WorkQueue

__all__ = [
    "DNABERTWorker",
    "WorkerOptions",
    "assign_files_by_sequences",
    "count_sequences",
    "embed_dnabert_files",
    "process_dnabert_files_worker",
]


class DNABERTWorker(BaseEmbeddingWorker):
    """Embeds DNA with a network of the DNABERT-S family: mean over all tokens of the last layer, in fp32.

    Source: Zhou et al. 2024, "DNABERT-S" (arXiv:2402.08777); the mean over all tokens, [CLS] and [SEP] included, is
    what VirNucPro (Li et al. 2025, doi:10.1093/bib/bbaf224) feeds its classifier.
    """

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
        """2048 tokens, 3072 in BF16, and more on a GPU with the memory for it: 512 a GiB, up to 32,768.

        More gains little: a GPU computes at nearly its full rate from 8,192 tokens on, and at 32,768 what the host
        does for a batch no longer shows (docs/performance.md).
        """
        return self.tokens_for(device)

    def read_model(self, dtype: torch.dtype) -> tuple[Tokenizer, torch.nn.Module, int]:
        """The published tokenizer and the network, in fp32 as it is stored."""
        network = load_dnabert(self.model.weights, self.model.config)
        tokenizer = DNATokenizer(self.model.tokenizer)
        tokenizer.check_fits(network.config.vocab_size)
        return tokenizer, network, network.dim

    def pool(self, hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
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
    kwargs, as in `WorkerOptions`:
        model: a registered name, a folder or weights file, or what `resolve` returned; default: the embedded one.
        models_dir: where named models are sought first.
        dtype: auto (BF16 where the device has it natively, else fp32), fp32, bf16, fp16.
        max_tokens: longer sequences fail with a message.
        threads: CPU threads of this worker.
        attributes: written into each result, besides the model, dtype and versions that made it.
        progress_queue: takes the events of `pipeline.events`, and log records.
        forward_logs: in a process of its own, send log records there.

    Returns the paths written, and (input path, message) for each file that failed. A file's error is logged with
    the device and the rest goes on; ModelError and DeviceError end the call.
    """
    return run_worker(DNABERTWorker, file_subset, device_id, batch_size, output_dir, kwargs)


def embed_dnabert_files(
    files: Sequence[Path], devices: Sequence[str], output_dir: Path, batch_size: int = 0, **kwargs: Any
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of DNA sequences on several devices, one worker each, balanced by their numbers of sequences.

    files: as for the worker, with names that differ; devices: "cpu", "cuda:0", …, an entry for each worker.
    batch_size: tokens a batch, the same on all devices; 0 lets each choose, so that devices of different sizes differ
    in the last bits. kwargs: as for `process_dnabert_files_worker`, but for progress and logs.

    A worker that dies is replaced, and the files it held are tried again, on another device if there is one; a file
    that kills two is given up. Returns the paths written, in the order of `files`, and (input path, message) for each
    file that failed. Raises InputError for two files of one name or one that cannot be counted, ModelError and
    DeviceError. All but one CPU means processes of their own: call it under `if __name__ == "__main__":`.
    """
    check_can_spawn(devices)
    refuse_equal_names(files)
    model = WorkerOptions.from_kwargs(kwargs).local_model
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    counts = {Path(path): count_sequences(path) for path in files}
    end = WorkQueue(
        process_dnabert_files_worker, devices, batch_size, Path(output_dir), counts, kwargs | {"model": model}
    ).run()
    processed = [end.done[path] for path in counts if path in end.done]
    return processed, [(path, end.failed[path]) for path in counts if path in end.failed]
