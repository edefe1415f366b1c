"""How a worker streams files through its model: reading ahead, packing, the forward pass, writing behind.

    files ─ reader thread ─ batches ─ forward lane(s) ─ results ─ gatherer ─ done ─ writer ─ a result a file
           (read, tokenize, pack)    (model, pooling)              thread          thread (write, rename)

The channels between the stages are bounded, so memory stays flat, and the next batch is ready when the device needs it.
Batches extend over several files, so that small files do not give half-empty batches. On a CPU there is one lane per
thread, each of which computes a whole batch on one core, so a result does not depend on the number of threads; on a GPU
there is one lane.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.threads import Aborted, Channel
from virnucpro.core.words import counted
from virnucpro.errors import InputError, VirnucproError
from virnucpro.input.fasta import Alphabet, BadRecord, Record, read_records
from virnucpro.input.frames import batches
from virnucpro.io.files import sha256_of
from virnucpro.io.store import Shard, read_shard, write_shard
from virnucpro.models.attention import PackedLayout, to_device
from virnucpro.pipeline.events import FLUSH, Event, EventSink, FileDone, FileFailed, Progress, Ready
from virnucpro.pipeline.packing import PackedBatch, Packer

logger = logging.getLogger("virnucpro.worker")

#: Batches that wait between two stages. With more, a slow device would hoard work that others could do.
QUEUED_BATCHES = 2

#: Letters that are tokenized in one call, and as how many each sequence counts at least.
LETTERS_AT_ONCE, LETTERS_OF_ONE = 1 << 20, 1 << 11

#: Attribute of a result: checksums of the files it was made from.
SOURCE = "source_sha256"


class Encoder(NamedTuple):
    """A model on a device, ready to embed."""

    #: The alphabet of the sequences.
    alphabet: Alphabet
    #: Letters of the shortest sequence that can be embedded.
    shortest: int
    #: Width of an embedding.
    dim: int
    #: Tokens of an ordinary buffer, and the id of the inert token that fills it.
    budget: int
    pad_id: int
    #: Token ids of each sequence, special tokens included.
    tokenize: Callable[[Sequence[str]], list[NDArray[np.int64]]]
    #: (size,) ids and their layout, both on the device, and the number of used ids → (n, dim) fp32 embeddings there.
    embed: Callable[[torch.Tensor, PackedLayout, int], torch.Tensor]


class Output(ABC):
    """The results of work files: HDF5 files, which say what each was made from, and how."""

    @abstractmethod
    def sources(self, path: Path) -> Sequence[Path | None]:
        """The file of a work file that each encoder reads; None if it has nothing to read. Raises OSError."""

    @abstractmethod
    def results(self, path: Path) -> Mapping[Path, Mapping[str, object]]:
        """The results of a work file, in order, and the attributes of each that say how it is made."""

    def result(self, path: Path) -> Path:
        """The last of its results: if it exists, all do."""
        return list(self.results(path))[-1]

    def write(self, path: Path, shards: Sequence[Shard]) -> None:
        """Write a shard for each result, each whole or not at all. Raises InputError, OutputError."""
        source = self._sums(path)
        for (output, attributes), shard in zip(self.results(path).items(), shards, strict=True):
            write_shard(output, shard, {**attributes, SOURCE: source})

    def is_done(self, path: Path) -> bool:
        """Whether all results of a work file exist, are whole, and were made from the same content in the same way."""
        results = self.results(path)
        if not all(output.exists() for output in results):
            return False
        try:
            source = self._sums(path)
            return all(_says(output, {**attributes, SOURCE: source}) for output, attributes in results.items())
        except InputError as error:
            logger.warning("%s", error)
            return False

    def _sums(self, path: Path) -> str:
        """Checksums of the files of a work file. Raises InputError if one is gone by now."""
        try:
            return " ".join(sha256_of(source) for source in self.sources(path) if source)
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}", hint="check the path") from error


def _says(output: Path, wanted: Mapping[str, object]) -> bool:
    """Whether a result has these attributes. Raises InputError."""
    found = read_shard(output).attributes
    same = all(found.get(name) == value for name, value in wanted.items())
    if not same:
        logger.warning("%s was made from other data or settings; it is computed again", output)
    return same


@dataclass
class _Reading:
    """The work of one encoder on a work file: how many embeddings are due, and those that have come."""

    job: _FileJob
    headers: list[str] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    received: int = 0

    def take(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        self.rows.append(np.array(rows))
        self.vectors.append(vectors)
        self.received += len(rows)

    def shard(self, dim: int) -> Shard:
        embeddings = np.empty((len(self.headers), dim), dtype=np.float32)
        for rows, vectors in zip(self.rows, self.vectors, strict=True):
            embeddings[rows] = vectors
        return Shard(self.headers, embeddings, self.failed)


@dataclass
class _FileJob:
    """A work file in progress; readings: one for each encoder."""

    path: Path
    readings: list[_Reading] = field(default_factory=list)
    read: bool = False
    error: str | None = None
    out_of_memory: bool = False
    closed: bool = False

    @property
    def complete(self) -> bool:
        return self.read and all(reading.received == len(reading.headers) for reading in self.readings)


#: A sequence in a batch: its reading, and its row there.
_Key = tuple[_Reading, int]


#: Waits for the device; returns (n, dim) vectors of a batch, and how many seconds the device was busy with it.
_Fetch = Callable[[], tuple[NDArray[np.float32], float]]


class Stream:
    """Streams work files through the encoders of a worker: the stages and what they share.

    encoders: all on `device`; lanes: batches that a CPU computes at a time; max_tokens: of a sequence; finish: makes
    what is written from the shards that the encoders made of a work file.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        output: Output,
        device: torch.device,
        lanes: int,
        max_tokens: int,
        events: EventSink | None,
        finish: Callable[[Sequence[Shard]], Sequence[Shard]] = list,
    ) -> None:
        self.encoders, self.output, self.device, self.max_tokens = encoders, output, device, max_tokens
        self.lanes = lanes if device.type == "cpu" else 1
        self.events, self.finish = events, finish
        self.batches: Channel[tuple[Encoder, PackedBatch[_Key]]] = Channel(QUEUED_BATCHES)
        #: Batches after the forward pass, with None if the device had no memory for one; and files that were read.
        self.results: Channel[tuple[PackedBatch[_Key], _Fetch | None] | _FileJob] = Channel(
            QUEUED_BATCHES + self.lanes, producers=self.lanes + 1
        )
        #: Files that are complete or have failed: while one is written, the device must not wait for its results.
        self.done: Channel[_FileJob] = Channel(1)
        self.processed: list[Path] = []
        self.failed: list[tuple[Path, str]] = []
        self.error: BaseException | None = None
        self.first = True

    def go(self, files: Iterable[Path | None]) -> tuple[list[Path], list[tuple[Path, str]]]:
        """Process every file; returns the results that were written, and the files that failed with their reasons.

        `files` may hold FLUSH if no file follows for a while. A file that cannot be read or embedded is reported, and
        the rest goes on. Raises OutputError if a result cannot be written, and what the iterable of files raises.
        """
        others = [self._write, self._gather, *[self._forward] * self.lanes]
        stages = [(self._read, (files,)), *((stage, ()) for stage in others)]
        threads = [threading.Thread(target=self._stage, args=stage, daemon=True) for stage in stages]
        threads_before = torch.get_num_threads()
        self._emit(Ready())
        try:
            for thread in threads:
                thread.start()
            while self.error is None and any(thread.is_alive() for thread in threads):
                threads[-1].join(0.05)  # short, so that a signal is noticed at once
                threads[1].join(0.05)
        finally:
            self._abort()
            # A reader that waits for its parent's next file cannot be woken; it is a daemon and ends with the process.
            threads[0].join(1.0)
            for thread in threads[1:]:
                thread.join()
            torch.set_num_threads(threads_before)
        if self.error is not None:
            raise self.error
        return self.processed, self.failed

    def _stage(self, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            if self.device.type == "cuda":
                # Each thread has its own current device. If it stayed at GPU 0, events would not wait for another GPU.
                torch.cuda.set_device(self.device)
            work(*arguments)
        except Aborted:
            pass
        except BaseException as error:
            self.error = self.error or error
            self._abort()

    def _abort(self) -> None:
        for channel in (self.batches, self.results, self.done):
            channel.abort()

    def _emit(self, event: Event) -> None:
        if self.events is not None:
            self.events.put(event)

    def _read(self, files: Iterable[Path | None]) -> None:
        packers: list[Packer[_Key]] = [Packer(encoder.budget) for encoder in self.encoders]
        for path in files:
            if path is FLUSH:
                self._flush(packers)
                continue
            job = _FileJob(Path(path))
            job.readings = [_Reading(job) for _ in self.encoders]
            try:
                self._read_file(job, packers)
            except (VirnucproError, OSError) as error:
                job.error = str(error)
            job.read = True
            self.results.put(job)
        self._flush(packers)
        self.batches.close()
        self.results.close()

    def _flush(self, packers: Iterable[Packer[_Key]]) -> None:
        for encoder, packer in zip(self.encoders, packers, strict=True):
            self._send(encoder, packer.flush())

    def _send(self, encoder: Encoder, batches: Iterable[PackedBatch[_Key]]) -> None:
        for batch in batches:
            self.batches.put((encoder, batch))

    def _read_file(self, job: _FileJob, packers: Sequence[Packer[_Key]]) -> None:
        for place, source in enumerate(self.output.sources(job.path)):
            if source is not None:
                self._read_source(source, job.readings[place], self.encoders[place], packers[place])

    def _read_source(self, source: Path, reading: _Reading, encoder: Encoder, packer: Packer[_Key]) -> None:
        records = _good_records(source, reading, encoder)
        for group in batches(records, lambda record: max(len(record.sequence), LETTERS_OF_ONE), LETTERS_AT_ONCE):
            encoded = encoder.tokenize([record.sequence for record in group])
            for record, ids in zip(group, encoded, strict=True):
                if len(ids) > self.max_tokens:
                    cure = "cut the sequence into windows, or raise --max-tokens (memory grows with it)"
                    why = f"{len(ids)} tokens are more than --max-tokens {self.max_tokens}: {cure}"
                    reading.failed.append((record.number, record.id, why))
                    continue
                reading.headers.append(record.header)
                self._send(encoder, packer.add((reading, len(reading.headers) - 1), ids))

    def _forward(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # of this lane; lanes run in parallel
        for encoder, batch in self.batches:
            fetch: _Fetch | None = None
            try:
                fetch = self._launch(encoder, batch)
            except (RuntimeError, MemoryError) as error:
                # After any other error of a device it may be useless for everything that follows: it ends the worker.
                if not _means_no_memory(error):
                    raise
            self.results.put((batch, fetch))
        self.results.close()

    @torch.no_grad()
    def _launch(self, encoder: Encoder, batch: PackedBatch[_Key]) -> _Fetch:
        """Start the forward pass; on a GPU it continues after this returns."""
        layout = PackedLayout.build(batch.lengths, batch.size, self.device.type)
        tokens = torch.from_numpy(batch.tokens(encoder.pad_id))
        if self.device.type == "cuda":
            return self._launch_cuda(encoder, tokens, layout, batch.used)
        began = time.perf_counter()
        vectors = encoder.embed(tokens, layout, batch.used).numpy()
        busy = (time.perf_counter() - began) / self.lanes
        return lambda: (vectors, busy)

    def _launch_cuda(self, encoder: Encoder, tokens: torch.Tensor, layout: PackedLayout, used: int) -> _Fetch:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        vectors = encoder.embed(to_device(tokens, self.device), layout.to(self.device), used)
        back = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        back.copy_(vectors, non_blocking=True)
        ended.record()

        def fetch() -> tuple[NDArray[np.float32], float]:
            ended.synchronize()
            return back.numpy(), began.elapsed_time(ended) / 1000

        return fetch

    def _gather(self) -> None:
        for item in self.results:
            jobs = [item] if isinstance(item, _FileJob) else self._scatter(*item)
            for job in jobs:
                if not job.closed and (job.error or job.complete):
                    job.closed = True
                    self.done.put(job)
        self.done.close()

    def _write(self) -> None:
        for job in self.done:
            self._finish(job)
        logger.debug("the last batch is done, and written")

    def _scatter(self, batch: PackedBatch[_Key], fetch: _Fetch | None) -> list[_FileJob]:
        """Hand each file its rows of a batch; returns the files that were in it."""
        members: dict[int, tuple[_Reading, list[int], list[int]]] = {}
        for position, (reading, row) in enumerate(batch.keys):
            _, rows, positions = members.setdefault(id(reading), (reading, [], []))
            rows.append(row)
            positions.append(position)
        jobs = [reading.job for reading, _, _ in members.values()]
        if fetch is None:
            cure = "lower --batch-size, or --max-tokens if it is the larger"
            for job in jobs:
                if not job.error:
                    job.error = f"out of memory on {self.device} with a batch of {batch.size} tokens ({cure})"
                    job.out_of_memory = True
            return jobs
        vectors, busy = fetch()
        if self.first:
            logger.debug("the first batch is done")
            self.first = False
        for reading, rows, positions in members.values():
            reading.take(rows, vectors[positions])
        self._emit(Progress(len(batch.keys), batch.used, busy))
        return jobs

    def _finish(self, job: _FileJob) -> None:
        """Write a file that is complete, or report it. An OutputError ends the run: others would fail, too."""
        output = self.output.result(job.path)
        try:
            if job.error:
                raise InputError(job.error)
            if output in self.processed:
                raise InputError(f"{output} is the result of another file of that name", hint="rename one of them")
            pairs = zip(job.readings, self.encoders, strict=True)
            shards = [reading.shard(encoder.dim) for reading, encoder in pairs]
            self.output.write(job.path, self.finish(shards))
        except InputError as error:
            self.failed.append((job.path, str(error)))
            logger.error("%s: %s failed: %s", self.device, job.path, error)
            self._emit(FileFailed(job.path, str(error), job.out_of_memory))
        else:
            self.processed.append(output)
            self._emit(FileDone(job.path, output))
        job.readings = []


def _good_records(source: Path, reading: _Reading, encoder: Encoder) -> Iterator[Record]:
    """Those that can be embedded; the others are noted as failed. Raises InputError for a damaged file."""
    for record in read_records(source, encoder.alphabet):
        if isinstance(record, BadRecord) and record.number == 0:
            raise InputError(record.reason)
        if isinstance(record, BadRecord):
            reading.failed.append((record.number, record.id, record.reason))
        elif len(record.sequence) < encoder.shortest:
            reading.failed.append((record.number, record.id, f"shorter than {counted(encoder.shortest, 'letters')}"))
        else:
            yield record


def _means_no_memory(error: Exception) -> bool:
    no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return no_memory or "DefaultCPUAllocator: can't allocate memory" in str(error)  # a CPU's error has no own class
