"""How files are counted, assigned, handed out and stolen; events of workers; the channel between their threads."""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import light_workers as light
import numpy as np
import pytest
import torch
from conftest import HANGS, random_records, to_fasta
from hypothesis import given
from hypothesis import strategies as st
from light_workers import SPEEDS

from virnucpro.core.log import _Sender
from virnucpro.core.threads import Aborted, Channel
from virnucpro.errors import DeviceError, InputError, Interrupted, ModelError, OutputError, UsageError, VirnucproError
from virnucpro.io.store import read_shard
from virnucpro.models.registry import resolve
from virnucpro.pipeline.events import STOP, Crashed, Fatal, FileDone, FileFailed, Phase, Progress, Ready, Request
from virnucpro.pipeline.parallel_dnabert import (
    WorkerOptions,
    assign_files_by_sequences,
    count_sequences,
    embed_dnabert_files,
    process_dnabert_files_worker,
)
from virnucpro.pipeline.stream import FLUSH
from virnucpro.pipeline.work_queue import QueueResult, WorkQueue

# Counting and assigning.

COUNTS = st.lists(st.integers(0, 50), max_size=40)
WORKERS = st.integers(1, 9)


def named(sizes: list[int]) -> dict[Path, int]:
    return {Path(f"{index}.fa"): size for index, size in enumerate(sizes)}


def slow_reference(counts: dict[Path, int], workers: int) -> list[list[Path]]:
    """Largest first, each to the worker with the least: written so that it is obviously right."""
    left, lists = list(counts), [[] for _ in range(workers)]
    while left:
        largest = next(path for path in left if counts[path] == max(counts[other] for other in left))
        left.remove(largest)
        loads = [sum(counts[path] for path in paths) for paths in lists]
        lists[min(range(workers), key=lambda worker: (loads[worker], worker))].append(largest)
    return lists


@given(COUNTS, WORKERS)
def test_assignment(sizes: list[int], workers: int) -> None:
    counts = named(sizes)
    lists = assign_files_by_sequences(counts, workers, counts)
    assert lists == slow_reference(counts, workers)
    assert sorted(path for paths in lists for path in paths) == sorted(counts)
    loads = [sum(counts[path] for path in paths) for paths in lists]
    assert max(loads) - min(loads) <= max(sizes, default=0)


@given(st.integers(1, 30), WORKERS)
def test_files_of_one_size_keep_their_order(files: int, workers: int) -> None:
    counts = named([7] * files)
    lists = assign_files_by_sequences(counts, workers, counts)
    assert lists == [list(counts)[worker::workers] for worker in range(workers)]


@pytest.mark.parametrize("workers", [0, -1])
def test_assignment_to_no_workers(workers: int) -> None:
    with pytest.raises(ValueError, match="num_workers"):
        assign_files_by_sequences([], workers)


def test_assignment_counts_the_files_itself(tmp_path: Path) -> None:
    sizes = {"a.fa": 3, "b.fa": 9, "c.fa": 5, "d.fa": 1}
    files = [to_fasta(tmp_path / name, random_records(size)) for name, size in sizes.items()]
    assert [count_sequences(path) for path in files] == list(sizes.values())
    lists = assign_files_by_sequences(iter(files), 2)
    assert [[path.name for path in paths] for paths in lists] == [["b.fa"], ["c.fa", "a.fa", "d.fa"]]
    assert assign_files_by_sequences([], 3) == [[], [], []]
    (tmp_path / "e.fa").write_text("no sequences")
    with pytest.raises(InputError, match=r"e\.fa"):
        assign_files_by_sequences([*files, tmp_path / "e.fa"], 2)


# Handing out files, with workers that compute nothing.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Path, int], QueueResult, dict[str, list[str]]]:
    """60 files over two fast workers and a slow one: their sizes, the result, and the files of each worker."""
    folder = tmp_path_factory.mktemp("shared")
    counts = named([1 + index % 7 for index in range(60)])
    queue = WorkQueue(light.teller, list(SPEEDS), 0, folder, counts, {"counts": counts})
    planned = [len(slot.files) for slot in queue.schedule.slots]
    assert max(planned) - min(planned) <= 3  # an even plan, so that any difference afterwards was stolen
    result = queue.run()
    return counts, result, {name: (folder / f"{name}.txt").read_text().split() for name in SPEEDS}


Shared = tuple[dict[Path, int], QueueResult, dict[str, list[str]]]


def test_every_file_is_handed_out_once(shared: Shared) -> None:
    counts, result, handed = shared
    assert sorted(name for names in handed.values() for name in names) == sorted(path.name for path in counts)
    assert result.done.keys() == counts.keys()
    assert result.failed == {}


def test_idle_workers_take_from_the_slow_one(shared: Shared) -> None:
    _counts, result, handed = shared
    assert len(handed["slow"]) == 1  # a third was assigned
    assert handed["fast"]
    assert handed["also fast"]
    assert [stats.device for stats in result.stats] == list(SPEEDS)


def test_each_device_is_accounted_for(shared: Shared) -> None:
    counts, result, handed = shared
    for stats in result.stats:
        sequences = sum(counts[Path(name)] for name in handed[stats.device])
        assert (stats.files, stats.sequences) == (len(handed[stats.device]), sequences)
        assert stats.tokens == 10 * sequences
        assert stats.busy_seconds == pytest.approx(sequences * SPEEDS[stats.device])
        assert 0 < stats.busy_share <= 1


def test_a_worker_takes_its_files_in_input_order(tmp_path: Path) -> None:
    """However their sizes differ: what is made of them is then taken while others are made."""
    counts = {tmp_path / f"{number}.fa": size for number, size in enumerate([2, 5, 1, 4, 3])}
    done: list[object] = []
    WorkQueue(light.copier, ["cpu"], 0, tmp_path, counts, {}, lambda _, event: done.append(event)).run()
    assert [event.path for event in done if isinstance(event, FileDone)] == list(counts)


def test_nothing_to_do_starts_no_worker(tmp_path: Path) -> None:
    result = WorkQueue(light.teller, list(SPEEDS), 0, tmp_path, {}, {}).run()
    assert (result.done, result.failed) == ({}, {})
    assert list(tmp_path.iterdir()) == []


# What crosses between processes.


def test_all_that_crosses_can_be_pickled() -> None:
    model = resolve("dnabert-mini")
    assert len(model.sha256) == 64  # computed once, and kept in the object
    path = Path("a.fa")
    for item in (
        Ready(), Progress(1, 2, 0.5), FileDone(path, path), FileFailed(path, "why"), Request(), Crashed("a"),
        FLUSH, STOP, WorkerOptions(model=model, attributes={"a": 1}), process_dnabert_files_worker,
    ):  # fmt: skip
        assert pickle.loads(pickle.dumps(item)) == item
    assert issubclass(Interrupted, VirnucproError)
    for kind in (VirnucproError, UsageError, InputError, OutputError, ModelError, DeviceError):
        error = pickle.loads(pickle.dumps(Fatal(kind("what", hint="hint")))).error
        assert (type(error), error.message, error.hint) == (kind, "what", "hint")
    assert pickle.loads(pickle.dumps(Interrupted(15))).exit_code == 143


class Events(list[object]):
    """Takes events in this process, after pickling and unpickling each."""

    def put(self, item: object, /) -> None:
        self.append(pickle.loads(pickle.dumps(item)))


def test_log_records_cross_whatever_their_arguments() -> None:
    events = Events()
    logger = logging.getLogger("elsewhere")
    logger.addHandler(handler := _Sender(events.put))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logger.exception("%s is no argument that can be pickled", threading.Lock())
    logger.removeHandler(handler)
    (record,) = events
    assert isinstance(record, logging.LogRecord)
    assert "no argument" in record.getMessage()
    assert "ZeroDivisionError" in record.getMessage()


def test_progress_through_a_real_queue_from_a_spawned_process(tmp_path: Path) -> None:
    files = [to_fasta(tmp_path / f"{name}.fa", random_records(20, seed)) for seed, name in enumerate("abc")]
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    options = {"dtype": "fp32", "threads": 1, "progress_queue": queue, "forward_logs": True}
    process = context.Process(
        target=process_dnabert_files_worker, args=(files, "cpu", 512, tmp_path / "out"), kwargs=options
    )
    process.start()
    events = until_done(queue, files=3)
    process.join(HANGS)
    assert process.exitcode == 0
    kinds = [type(event) for event in events]
    assert kinds.count(Ready) == 1
    assert [event.path for event in events if isinstance(event, FileDone)] == files
    assert sum(event.sequences for event in events if isinstance(event, Progress)) == 60
    assert all(event.tokens and event.busy_seconds > 0 for event in events if isinstance(event, Progress))
    said = [event.getMessage() for event in events if isinstance(event, logging.LogRecord)]
    assert said
    assert all(message.startswith("[cpu] ") for message in said)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.fa.h5", "b.fa.h5", "c.fa.h5"}


def until_done(queue: Any, files: int) -> list[object]:
    """The events up to the end of the last file."""
    events: list[object] = []
    while sum(isinstance(event, FileDone) for event in events) < files:
        events.append(queue.get(timeout=HANGS))
    return events


# The worker called as it is.


def test_direct_call_with_a_generator_and_a_corrupt_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [to_fasta(tmp_path / f"good{i}.fa", random_records(30, seed=i)) for i in range(4)]
    corrupt = tmp_path / "corrupt.fa"
    corrupt.write_bytes(b"\x1f\x8b\x08 this is no gzip")
    files = [good[0], corrupt, *good[1:]]
    events = Events()
    with caplog.at_level(logging.INFO, "virnucpro"):
        processed, failed = process_dnabert_files_worker(
            (path for path in files), "cpu", 0, tmp_path / "out", dtype="fp32", progress_queue=events
        )
    assert sorted(processed) == [tmp_path / "out" / f"{path.name}.h5" for path in good]
    ((path, reason),) = failed
    assert path == corrupt
    assert "corrupt.fa" in reason
    assert f"cpu: {corrupt} failed: " in caplog.text
    assert "cpu (CPU), BF16" in caplog.text
    assert [event.path for event in events if isinstance(event, FileFailed)] == [corrupt]
    for file, output in zip(good, sorted(processed), strict=True):
        assert read_shard(output).ids == [f"s{i}" for i in range(30)]
        with h5py.File(output) as opened:  # also by any reader of HDF5
            assert opened["embeddings"].shape == (30, 128)
        alone, _ = process_dnabert_files_worker([file], "cpu", 0, tmp_path / "alone", dtype="fp32")
        assert np.array_equal(read_shard(alone[0]).embeddings, read_shard(output).embeddings)


def test_direct_call_fails_a_file_as_a_whole(tmp_path: Path) -> None:
    """A truncated file has no result, although some of its records could be read."""
    cut, whole = tmp_path / "cut.fa.gz", to_fasta(tmp_path / "whole.fa", random_records(600))
    cut.write_bytes(gzip.compress(whole.read_bytes())[:20_000])
    processed, failed = process_dnabert_files_worker([cut, whole], "cpu", 256, tmp_path / "out", dtype="fp32")
    assert processed == [tmp_path / "out" / "whole.fa.h5"]
    assert [path for path, _ in failed] == [cut]
    assert "reading stopped after" in failed[0][1]
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_direct_call_keeps_bad_records_with_the_result(tmp_path: Path) -> None:
    path = tmp_path / "mixed.fa"
    path.write_text(">a\nACGT\n>b\nMKVLE\n>c\nTTTT\n>d\n" + "ACGT" * 200 + "\n")
    (output,), failed = process_dnabert_files_worker([path], "cpu", 0, tmp_path, dtype="fp32", max_tokens=64)
    assert failed == []
    shard = read_shard(output)
    assert shard.ids == ["a", "c"]
    assert [(number, name) for number, name, _ in shard.failed] == [(2, "b"), (4, "d")]


def test_files_of_one_name_are_not_confused(tmp_path: Path) -> None:
    files = []
    for seed, folder in enumerate("xy"):
        (tmp_path / folder).mkdir()
        files.append(to_fasta(tmp_path / folder / "same.fa", random_records(5 + seed, seed)))
    processed, failed = process_dnabert_files_worker(files, "cpu", 0, tmp_path / "out", dtype="fp32")
    assert len(processed) == len(failed) == 1
    assert "rename" in failed[0][1]


def test_unknown_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="colour, size"):
        process_dnabert_files_worker([], "cpu", 0, tmp_path, colour="red", size=3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot use cuda:3"):
        process_dnabert_files_worker([], 3, 0, tmp_path)


# The channel.


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start `work`; its result or error is put into the list."""
    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(work())
        except Exception as error:
            ends.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ends


def ended(thread: threading.Thread, ends: list[object]) -> object:
    thread.join(HANGS)
    assert not thread.is_alive(), "it waits without a way out"
    return ends[0]


def test_channel_keeps_order_and_its_bound() -> None:
    channel: Channel[int] = Channel(3)
    put: list[int] = []

    def produce() -> None:
        for number in range(200):
            channel.put(number)
            put.append(number)
        channel.close()

    producer = in_thread(produce)
    taken = []
    for number in channel:
        taken.append(number)
        assert len(put) <= len(taken) + 3
    assert taken == list(range(200))
    assert ended(*producer) is None


def test_channel_ends_when_the_last_producer_closes_it() -> None:
    channel: Channel[int] = Channel(100, producers=3)

    def produce(start: int) -> None:
        for number in range(start, start + 10):
            channel.put(number)
        channel.close()

    consumers = [in_thread(lambda: list(channel)) for _ in range(4)]
    producers = [in_thread(lambda start=start: produce(start)) for start in (0, 10)]
    for producer in producers:
        ended(*producer)
    time.sleep(0.05)
    assert all(thread.is_alive() for thread, _ in consumers)  # the third has not closed yet
    produce(20)
    taken = [ended(*consumer) for consumer in consumers]
    assert sorted(number for numbers in taken for number in numbers) == list(range(30))  # type: ignore[attr-defined]


def test_channel_abort_wakes_all() -> None:
    full: Channel[int] = Channel(1)
    full.put(1)
    empty: Channel[int] = Channel(1)
    waiting = [in_thread(lambda: full.put(2)), in_thread(lambda: full.put(3)), in_thread(lambda: list(empty))]
    time.sleep(0.05)
    assert all(thread.is_alive() for thread, _ in waiting)
    full.abort()
    empty.abort()
    assert [type(ended(*one)) for one in waiting] == [Aborted] * 3
    with pytest.raises(Aborted):
        full.put(4)
    with pytest.raises(Aborted):
        next(iter(full))


@pytest.mark.heavy
def test_files_by_hand_on_two_workers_as_on_one(tmp_path: Path) -> None:
    files = [to_fasta(tmp_path / f"{size}.fa", random_records(size, seed=size)) for size in (3, 12, 5)]
    bad = tmp_path / "bad.fa"
    bad.write_bytes(gzip.compress(b">a\nACGT\n" * 2000)[:-20])
    for devices in (["cpu"], ["cpu", "cpu"]):
        out = tmp_path / f"out{len(devices)}"
        processed, failed, stats = embed_dnabert_files(files, devices, out, 512, dtype="fp32", threads=1)
        assert processed == [out / f"{path.name}.h5" for path in files]
        assert failed == []
        assert sum(each.sequences for each in stats) == 20
    for path in files:
        one, two = (tmp_path / f"out{count}" / f"{path.name}.h5" for count in (1, 2))
        assert one.read_bytes() == two.read_bytes()
    with pytest.raises(InputError, match="cannot count"):
        embed_dnabert_files([*files, bad], ["cpu"], tmp_path / "out3")


def test_results_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    """But those of other content, another model or other settings are."""
    files = [to_fasta(tmp_path / f"{size}.fa", random_records(size, seed=size)) for size in (3, 5)]
    heard: list[Phase] = []

    def embed(**changes: Any) -> list[bool]:
        """The results that were made."""
        before = [path.stat().st_mtime_ns if path.exists() else 0 for path in outputs]
        options = {"dtype": "fp32", "attributes": {"run": "a"}} | changes
        processed, failed, _ = embed_dnabert_files(files, ["cpu"], tmp_path / "out", 512, listen=listen, **options)
        assert (processed, failed) == (outputs, [])
        return [path.stat().st_mtime_ns != stamp for path, stamp in zip(outputs, before, strict=True)]

    def listen(_worker: int | None, event: object) -> None:
        if isinstance(event, Phase):
            heard.append(event)

    outputs = [tmp_path / "out" / f"{path.name}.h5" for path in files]
    assert embed() == [True, True]
    assert embed() == [False, False]
    assert (heard[-1].done, heard[-1].total) == (8, 8)
    files[0].write_text(files[0].read_text() + ">more\nACGTACGT\n")
    assert embed() == [True, False]
    outputs[1].write_bytes(outputs[1].read_bytes()[:-1])
    assert embed() == [False, True]
    assert embed(attributes={"run": "b"}) == [True, True]
