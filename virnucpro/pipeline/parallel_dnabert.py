"""DNABERT-S on one or many devices: the worker, started once per device, and the driver that starts workers.

The driver, `embed_dnabert_files`, plans: it counts the sequences of each file, spreads the files over the devices by
greedy bin-packing on these numbers (`assign_files_by_sequences`), and starts one worker per device. Workers then get
their files one by one; a worker whose list is empty takes from the longest remaining list. `virnucpro embed` uses it.

A worker loads the model once and packs tokens, without padding, into batches of as many tokens as suit the device. It
computes under `torch.no_grad()`, in BF16 if the device multiplies it natively: a GPU does from compute capability 8 on
(`torch.cuda.get_device_capability`). For the spawn context everything here can be imported by name, and only picklable
objects are passed; CUDA is first used in the worker.

    if __name__ == "__main__":
        processed, failed, devices = embed_dnabert_files(files, ["cuda:0", "cuda:1"], Path("out"), model="dnabert-s")

To place workers by hand, without a queue that watches them:

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        plan = assign_files_by_sequences(files, num_workers=2)
        with context.Pool(2) as pool:
            jobs = [(plan[i], i, 0, Path("out")) for i in range(2)]  # 0 tokens: as suits the device
            for processed, failed in pool.starmap(process_dnabert_files_worker, jobs):
                ...

What all workers share, whatever they embed, is in `pipeline/base_worker.py`; how one streams its files in
`pipeline/stream.py`; who gets which file in `pipeline/schedule.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from virnucpro.core.device import Device, available_threads, select_devices
from virnucpro.core.threads import in_order
from virnucpro.models.attention import segment_mean
from virnucpro.models.dnabert_s import load_dnabert
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.models.weights import CPU
from virnucpro.pipeline.base_worker import (
    Embeddings,
    Network,
    StreamingWorker,
    WorkerOptions,
    assign_files_by_sequences,
    count_sequences,
    process_files,
    refuse_equal_names,
    tokens_by_memory,
)
from virnucpro.pipeline.events import Listener, Phase, unheard
from virnucpro.pipeline.launch_local import Launch, check_can_spawn, launcher_for
from virnucpro.pipeline.packing import round_budget
from virnucpro.pipeline.placement import Placement, announce, threads_a_worker
from virnucpro.pipeline.schedule import STALL_SECONDS, DeviceStats
from virnucpro.pipeline.work_queue import WorkQueue

__all__ = [
    "DNABERTWorker",
    "Embedded",
    "WorkerOptions",
    "assign_files_by_sequences",
    "count_sequences",
    "embed_dnabert_files",
    "embed_files",
    "process_dnabert_files_worker",
]

#: The most tokens of a batch on a GPU. An H100 does 1.61 million tokens per second with batches of 2,048, 1.93 with
#: 8,192 and 1.98 with 32,768, where the work of the host for a batch is no longer visible: end to end 8,192 keep the
#: GPU busy for 86% of the time, 32,768 for 97%. 65,536 gain nothing (docs/performance.md).
MOST_TOKENS = 32_768


class DNABERTWorker(StreamingWorker):
    """Embeds DNA with a network of the DNABERT-S family: mean over all tokens of the last layer, in fp32.

    Source: Zhou et al. 2024, "DNABERT-S" (arXiv:2402.08777); the mean over all tokens, [CLS] and [SEP] included, is
    the input of VirNucPro's classifier (Li et al. 2025, doi:10.1093/bib/bbaf224).
    """

    def get_optimal_batch_size(self, device: Device) -> int:
        """2048 tokens, 3072 in BF16, and more on a GPU with the memory for it, up to `MOST_TOKENS`."""
        return tokens_by_memory(device, self.resolve_dtype(device), MOST_TOKENS)

    def read_model(self, dtype: torch.dtype, device: torch.device = CPU) -> Network:
        """The published tokenizer, and the network in fp32, as it is stored."""
        network = load_dnabert(self.model.weights, self.model.config, device)
        # On a CPU the network needs so much longer than any tokenizer that the start of the fast one is not worth it.
        tokenizer = DNATokenizer(self.model.tokenizer, fast=device.type != "cpu")
        tokenizer.check_fits(network.config.vocab_size)
        return Network(tokenizer, network, network.dim, _mean)


def _mean(hidden: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, used: int) -> torch.Tensor:
    """(tokens, dim) → (n, dim) fp32 means over all tokens of each sequence, [CLS] and [SEP] included."""
    return segment_mean(hidden, lengths, used)


def process_dnabert_files_worker(
    file_subset: Iterable[Path | None],
    device_id: int | str,
    batch_size: int,
    output_dir: Path,
    **kwargs: Any,
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Embed files of DNA sequences on one device; run in a spawned process or called directly.

    file_subset: paths of FASTA, FASTQ or uBAM files; any iterable, so that a queue can supply them during the run.
    device_id: a GPU's number within CUDA_VISIBLE_DEVICES, "cuda:N", or "cpu".
    batch_size: tokens per batch; 0 takes `get_optimal_batch_size`.
    output_dir: gets one `<input name>.h5` per file, written whole or not at all.
    kwargs, as in `WorkerOptions`:
        model: a registered name, a folder or weights file, or what `resolve` returned; default: the embedded one.
        models_dir: where named models are looked for first.
        dtype: auto (BF16 where the device multiplies it natively, else fp32), fp32, bf16, fp16 or, for ESM-2, fp8.
        max_tokens: longer sequences fail with a message.
        threads: CPU threads of this worker; None: all.
        attributes: written into each result, in addition to the model, dtype and versions that made it.
        progress_queue: takes the events of `pipeline.events` and log records, such as a `multiprocessing` queue.
        forward_logs: in a process of its own, send log records to it instead of handling them.

    Returns the paths written, and (input path, message) for each file that failed. A file's error is logged with
    the device and the rest goes on; ModelError and DeviceError end the call.
    """
    return process_files(DNABERTWorker, file_subset, device_id, batch_size, output_dir, **kwargs)


def embed_dnabert_files(
    files: Iterable[Path],
    devices: Sequence[str],
    output_dir: Path,
    batch_size: int = 0,
    **kwargs: Any,
) -> Embedded:
    """Embed files of DNA sequences on several devices, one worker each, balanced by their numbers of sequences.

    files: as for the worker, with names that differ; devices: "cpu", "cuda:0", …, an entry for each worker.
    output_dir: results already there are kept if they were made from the same content with the same settings.
    batch_size: tokens per batch; 0 takes `get_optimal_batch_size` of the smallest device, for all of them.
    counts: sequences of each file, if known. listen: called with each event and the index of its worker.
    stall_seconds: a worker silent for at least this long counts as hung; launch: as for `WorkQueue`. Other keywords as
    for `process_dnabert_files_worker`, except for progress and logs; dtype auto is BF16 if every device has it.

    A worker that dies is replaced, and its files are retried, on another device if there is one; a file that kills two
    workers has failed. Returns the paths written, in the order of `files`, (input path, message) for each file that
    failed, and how the devices shared the work. Raises InputError for two files of one name or one that cannot be
    counted, ModelError and DeviceError. Except on a single CPU, workers are spawned: call it under
    `if __name__ == "__main__":`.
    """
    return embed_files(DNABERTWorker, files, devices, output_dir, batch_size, **kwargs)


class Embedded(NamedTuple):
    """How an embedding of files ended.

    processed: results, in the order of the files; failed: file and reason; devices: how each shared the work.
    """

    processed: list[Path]
    failed: list[tuple[Path, str]]
    devices: list[DeviceStats]


def embed_files(
    worker: type[StreamingWorker],
    files: Iterable[Path],
    devices: Sequence[str],
    output_dir: Path,
    batch_size: int = 0,
    *,
    counts: Mapping[Path, int] | None = None,
    listen: Listener = unheard,
    stall_seconds: float = STALL_SECONDS,
    launch: Launch = launcher_for,
    **kwargs: Any,
) -> Embedded:
    """Plan, skip what is done, start workers of a class; arguments, results and errors as for `embed_dnabert_files`.

    Token budget and dtype are the same on all devices, so that a result does not depend on where it was made.
    """
    options = WorkerOptions.from_kwargs({"model": worker.default_model} | kwargs)
    model, names = options.local_model, list(devices)
    dtype = options.dtype
    if not batch_size or dtype == "auto":
        place = Placement.choose(select_devices(",".join(names)), [partial(worker, model)], dtype, batch_size)
        dtype, batch_size = place.dtype, place.budgets[0]
    batch_size = round_budget(batch_size)
    check_can_spawn(names)
    files = [Path(path) for path in files]
    refuse_equal_names(files)
    output = Embeddings(Path(output_dir), model.attributes(dtype, batch_size) | dict(options.attributes or {}))
    output.folder.mkdir(parents=True, exist_ok=True)
    done = {path for path in files if output.is_done(path)}
    if counts is None:  # in threads: decompressing takes most of the time
        counts = dict(zip(files, in_order(count_sequences, files, available_threads()), strict=True))
    announce([model], dtype, [batch_size], names, counts, done)
    total = sum(counts.values())
    listen(None, Phase(f"embedding with {model.name}", total, sum(counts[path] for path in done), tuple(names)))
    settings = {**kwargs, "model": model, "dtype": dtype, "threads": options.threads or threads_a_worker(len(names))}
    left = {path: counts[path] for path in files if path not in done}
    process = partial(process_files, worker)
    end = WorkQueue(process, names, batch_size, output.folder, left, settings, listen, stall_seconds, launch).run()
    processed = [output.result(path) for path in files if path in done or path in end.done]
    return Embedded(processed, [(path, end.failed[path]) for path in files if path in end.failed], end.stats)
