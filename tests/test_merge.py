"""Merging overlaps embedding: rows come in any order, and the bytes are those of a result written at once."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from conftest import random_records, set_size, to_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.errors import InputError
from virnucpro.input.fasta import first_word
from virnucpro.io.results import MERGE_ROWS, open_result, result_paths, write_merged
from virnucpro.io.store import Shard, hdf5, write_shard
from virnucpro.pipeline.events import FileDone
from virnucpro.pipeline.merge import InTurn, Merge
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed

ATTRIBUTES = {"model": "none", "token_budget": 3}


def make_shards(sizes: Sequence[int], dim: int, longest: int = 20) -> list[Shard]:
    rng, numbers = random.Random(dim), np.random.default_rng(dim)
    starts = accumulate(sizes, initial=0)
    return [
        Shard(
            [f"s{start + i} ü" + "x" * rng.randint(0, longest) for i in range(size)],
            numbers.random((size, dim), dtype=np.float32),
        )
        for start, size in zip(starts, sizes, strict=False)
    ]


def written_at_once(shards: Sequence[Shard]) -> bytes:
    """The file that HDF5 writes if the number of rows is known from the start."""
    headers = [header for shard in shards for header in shard.headers]
    vectors = np.concatenate([shard.embeddings for shard in shards])
    content = io.BytesIO()
    with hdf5(content, *vectors.shape, ATTRIBUTES) as file:
        for start in range(0, len(headers), MERGE_ROWS):
            rows = slice(start, start + MERGE_ROWS)
            file["embeddings"][rows] = vectors[rows]
            file["ids"][rows] = [first_word(header) for header in headers[rows]]
            file["headers"][rows] = headers[rows]
    return content.getvalue()


@pytest.mark.parametrize(
    ("sizes", "dim", "longest"),
    [([0], 4, 9), ([1], 1, 0), ([3, 0, 5], 160, 3000), ([4096], 5, 20), ([1, 4096, 5000], 7, 60), ([30, 7], 2560, 9)],
)
def test_bytes_are_those_of_hdf5(sizes: list[int], dim: int, longest: int, tmp_path: Path) -> None:
    shards = make_shards(sizes, dim, longest)
    write_merged([tmp_path / "a.h5"], shards, ATTRIBUTES, "hdf5")
    assert (tmp_path / "a.h5").read_bytes() == written_at_once(shards)


@pytest.mark.parametrize("sizes", [[0], [1], [900, 200, 1]])
def test_bytes_are_those_of_numpy(sizes: list[int], tmp_path: Path) -> None:
    shards = make_shards(sizes, 3)
    write_merged(result_paths(tmp_path / "a.npy"), shards, {}, "npy")
    np.save(tmp_path / "b.npy", np.concatenate([shard.embeddings for shard in shards]))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "a.ids.txt").read_text().split() == [name for shard in shards for name in shard.ids]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merge")


@given(data=st.data())
def test_work_files_are_taken_in_turn(data: st.DataObject) -> None:
    """Each as soon as it and all before it are done; those without anything to embed delay nothing."""
    names: list[Path | None] = [Path(str(number)) for number in range(data.draw(st.integers(0, 6)))]
    waiting = [data.draw(st.sampled_from([name, None])) for name in names]
    turn, done, taken = InTurn((name, number) for number, name in enumerate(waiting)), set[Path | None]([None]), 0
    for name in data.draw(st.permutations(sorted({name for name in waiting if name}))):
        done.add(name)
        given_out = list(turn.hear(FileDone(name, name)))
        first = next((number for number, each in enumerate(waiting) if each not in done), len(waiting))
        assert given_out == list(range(taken, first))
        taken = first
    assert turn.left == list(range(taken, len(waiting)))


@settings(max_examples=30)
@given(data=st.data())
def test_any_order_and_any_failures(data: st.DataObject, folder: Path) -> None:
    """Work files end in any order; some fail, and for some no event comes, since an earlier run has done them."""
    shards = make_shards(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)), 2)
    paths = [folder / f"{number}.h5" for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        write_shard(path, shard, {})
    there = data.draw(st.sets(st.sampled_from(paths), min_size=1))
    heard = data.draw(st.permutations(sorted(data.draw(st.sets(st.sampled_from(sorted(there)))))))
    with Merge(open_result([folder / "a.h5"], ATTRIBUTES, "hdf5"), {path: path for path in paths}) as merge:
        for path in heard:
            merge.hear(FileDone(path, path))
        good = [path for path in paths if path in there]
        merge.finish(good)
        merge.result.finish()
        assert merge.left_out == {path.name: [] for path in good}
        expected = written_at_once([shards[paths.index(path)] for path in good])
        assert (folder / "a.h5").read_bytes() == expected
    assert not (folder / "a.h5").exists()  # it was not renamed


def wait_for(rows: int, merge: Merge) -> None:
    while merge.result.rows < rows:
        time.sleep(0.001)


def test_rows_are_written_while_others_are_being_made(tmp_path: Path) -> None:
    shards = make_shards([5, 6, 7], 1000)
    paths = [tmp_path / f"{number}.h5" for number in range(3)]
    with Merge(open_result([tmp_path / "a.h5"], ATTRIBUTES, "hdf5"), {path: path for path in paths}) as merge:
        for number, rows in ((1, 0), (0, 11)):
            write_shard(paths[number], shards[number], {})
            merge.hear(FileDone(paths[number], paths[number]))
            wait_for(rows, merge)
        assert merge.result.rows == 11
        assert shards[1].embeddings.tobytes() in (tmp_path / "a.h5").read_bytes()


def test_damaged_shard_is_an_error_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "0.h5"
    write_shard(path, make_shards([3], 4)[0], {})
    path.write_bytes(path.read_bytes()[:-1])
    with Merge(open_result([tmp_path / "a.h5"], ATTRIBUTES, "hdf5"), {path: path}) as merge:
        merge.hear(FileDone(path, path))
        with pytest.raises(InputError, match=r"0\.h5 is damaged"):
            merge.finish([path])


def test_full_disk_gives_back_the_room(tmp_path: Path, small_disk: Path) -> None:
    """So that the remaining work files can be written."""
    shards = make_shards([50, 50, 200], 1000)
    paths = [tmp_path / f"{number}.h5" for number in range(3)]
    with Merge(open_result([small_disk / "a.h5"], ATTRIBUTES, "hdf5"), {path: path for path in paths}) as merge:
        for path, shard in zip(paths, shards, strict=True):
            write_shard(path, shard, {})
            merge.hear(FileDone(path, path))
        with pytest.raises(OSError, match="No space left"):
            merge.finish(paths)
        (small_disk / "other").write_bytes(b"x" * 900_000)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".pt"])
def test_disk_fills_up_and_the_run_goes_on(suffix: str, tmp_path: Path, small_disk: Path) -> None:
    set_size(small_disk, 16)
    config = EmbedConfig(
        (to_fasta(tmp_path / "in.fa", random_records(60)),), small_disk / f"o{suffix}", device="cpu", dtype="fp32",
        work_dir=tmp_path / "work", sequences_per_file=20,
    )  # fmt: skip
    with pytest.raises(Exception, match="No space left"):
        run_embed(config)
    assert not list(small_disk.glob("*.tmp"))
    assert not list(small_disk.glob(".*.tmp"))
    set_size(small_disk, 4096)
    assert run_embed(config).sequences == 60
    elsewhere = run_embed(EmbedConfig(config.inputs, tmp_path / f"o{suffix}", device="cpu", dtype="fp32")).output
    assert config.output.read_bytes() == elsewhere.read_bytes()


def test_what_a_killed_run_left_goes_before_the_next_writes(tmp_path: Path) -> None:
    config = EmbedConfig((to_fasta(tmp_path / "in.fa", random_records(3)),), tmp_path / "o.h5", device="cpu")
    left = tmp_path / ".o.h5.01234567-1.tmp"
    left.write_bytes(b"half")
    seen = []
    run_embed(config, lambda _worker, event: seen.append((isinstance(event, FileDone), left.exists())))
    assert (True, False) in seen
    assert (True, True) not in seen
