"""Embedded work files → the data of a classifier: windows with labels and groups, and their features.

The subsets for training, validation and test consist of whole groups: windows of one record, or of related ones, are
similar, and a subset that shares a record with another one measures nothing.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.words import counted
from virnucpro.errors import InputError, UsageError
from virnucpro.input.fasta import decoded
from virnucpro.input.index import IndexedSequence, WorkFile, read_index, window_key
from virnucpro.io.files import failing_as
from virnucpro.models.classifier import Classifier
from virnucpro.pipeline.caller import Processed
from virnucpro.pipeline.features import Features, join
from virnucpro.runs.paths import TrainPaths
from virnucpro.train.fit import Examples
from virnucpro.train.metrics import Floats, Ints

#: Arrays of features, in the work folder: of frames, and of whole windows.
FEATURES = ("frames", "whole")

#: Groups of a class that are needed for three subsets.
FEWEST_GROUPS = 3


class Subset(IntEnum):
    """What a group is used for."""

    TRAINING = 0
    VALIDATION = 1
    TEST = 2


@dataclass
class FeatureRows:
    """Features and the window of each: (n, dim) and (n,)."""

    features: NDArray[np.float32]
    window: Ints

    def examples(self, labels: Ints, chosen: NDArray[np.bool_]) -> Examples:
        """The examples of the chosen windows, with the windows' labels; mask and labels are by window."""
        rows = np.flatnonzero(chosen[self.window])
        return Examples(self.features[rows], labels[self.window[rows]])


@dataclass
class Windows:
    """Windows (n,): label (1 is virus), group, sequence, bases that are known."""

    label: Ints
    group: Ints
    sequence: Ints
    bases: Ints


@dataclass
class Dataset(Windows):
    """Windows with the features of frames and of whole windows."""

    frames: FeatureRows
    whole: FeatureRows

    def scores(self, classifier: Classifier, dna_only: Classifier | None) -> Floats:
        """(n,) score of each window, as in `predict`; NaN if there is none."""
        best = np.full((2, len(self.label)), -np.inf)
        for table, scorer in ((self.frames, classifier), (self.whole, dna_only)):
            if scorer is not None and len(table.window):
                found = scorer.score(table.features).astype(np.float64)
                for kind in range(2):
                    np.maximum.at(best[kind], table.window, found[:, kind])
        best[np.isinf(best)] = np.nan
        return np.asarray(best[1] / (best[0] + best[1]))


def read_windows(paths: TrainPaths, parts: Sequence[WorkFile], virus: int, groups: Mapping[str, str] | None) -> Windows:
    """The windows of all work files; the first `virus` inputs are viral, and without `groups` each record is a group.

    Raises InputError if a record with windows is missing in `groups`.
    """
    rows: list[tuple[int, int, int, int]] = []
    numbers: dict[str, int] = {}
    lacking: dict[int, str] = {}
    for part in parts:
        for row in read_index(paths.part_file(part.name, ".index")):
            if isinstance(row, IndexedSequence):
                sequence = row
                continue
            group = sequence.number
            if groups is not None:
                name = groups.get(sequence.id)
                if name is None:
                    lacking[sequence.number] = sequence.id
                group = numbers.setdefault(str(name), len(numbers))
            rows.append((int(sequence.input_index < virus), group, sequence.number, row.end - row.start - row.unknown))
    if lacking:
        first = next(iter(lacking.values()))
        raise InputError(
            f"--group-by has no group for record {first!r} ({counted(len(lacking), 'records')} without one)",
            hint="add a line for each: its id, a tab, a group",
        )
    return Windows(*np.array(rows, np.int64).reshape(-1, 4).T)


def gather(
    windows: Windows, processed: Processed, paths: TrainPaths, parts: Sequence[WorkFile]
) -> tuple[Dataset, list[tuple[int, int, str, str]]]:
    """The windows with their features, and what could not be used: (index of the input, record, id, reason).

    Features are kept in files of the work folder.
    """
    counts = sum(part.frames for part in parts), sum(part.whole for part in parts)
    frames, whole = (_Column(paths.features(name), count) for name, count in zip(FEATURES, counts, strict=True))
    failures: list[tuple[int, int, str, str]] = []
    first = 0
    for part in parts:
        rows: dict[str, int] = {}
        for row in read_index(paths.part_file(part.name, ".index")):
            if not isinstance(row, IndexedSequence):
                rows[row.key] = first + len(rows)
            elif reason := row.reason if row.failed else processed.failure(part):
                failures.append((row.input_index, row.record, row.id, reason))
        first += len(rows)
        if source := processed.source(part):
            joined = join(processed.files.read_vectors(source))
            frames.add(joined.frames, rows)
            whole.add(joined.whole, rows)
    columns = windows.label, windows.group, windows.sequence, windows.bases
    return Dataset(*columns, frames.rows(), whole.rows()), failures


class _Column:
    """Features of all work files, written to one array on disk."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._array: NDArray[np.float32] | None = None
        self._window: list[int] = []

    def add(self, features: Features, rows: Mapping[str, int]) -> None:
        keys, vectors = features
        if not keys:
            return
        if self._array is None:
            shape = (self._most, vectors.shape[1])
            self._path.parent.mkdir(exist_ok=True)
            self._array = np.lib.format.open_memmap(self._path, "w+", np.float32, shape)
        start = len(self._window)
        self._array[start : start + len(keys)] = vectors
        self._window += [rows[window_key(key)] for key in keys]

    def rows(self) -> FeatureRows:
        features = np.empty((0, 0), np.float32) if self._array is None else self._array[: len(self._window)]
        return FeatureRows(features, np.array(self._window, np.int64))


def read_groups(path: Path) -> dict[str, str]:
    """Record id → group, of a table of two columns without a header, encoded as the records are. Raises InputError."""
    with failing_as(InputError, f"cannot read {path}", "check the path"):
        data = path.read_bytes()
    if b"\0" in data:
        raise InputError(
            f"{path} is not UTF-8 text", hint="convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"
        )
    groups: dict[str, str] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        cells = [cell.strip() for cell in decoded(line).split("\t")]
        if cells == [""]:
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"{path}, line {number} is not an id, a tab and a group", hint="write just these on each line"
            )
        name, group = cells
        if groups.setdefault(name, group) != group:
            raise InputError(
                f"{path}, line {number}: record {name!r} is in group {group!r} and, further up, in {groups[name]!r}",
                hint="give each record one group",
            )
    return groups


def assign_subsets(data: Windows, validation: float, test: float, seed: int) -> Ints:
    """(n,) subset of each window: whole groups drawn at random, with about the requested shares of each class.

    Raises UsageError if a class has fewer than three groups.
    """
    subsets = np.full(len(data.label), Subset.TRAINING, dtype=np.int64)
    rng = np.random.default_rng(seed)
    for label in (1, 0):
        for subset, group in _drawn(data, label, {Subset.TEST: test, Subset.VALIDATION: validation}, rng):
            subsets[data.group == group] = subset
    return subsets


def _drawn(
    data: Windows, label: int, shares: Mapping[Subset, float], rng: np.random.Generator
) -> Iterator[tuple[Subset, int]]:
    """Groups of a class and the subset they go to; a group with both classes goes by the more frequent one."""
    groups, place = np.unique(data.group, return_inverse=True)
    size = np.bincount(place)
    viral = np.bincount(place, weights=data.label)
    mine = groups[(2 * viral > size) == bool(label)]
    if len(mine) < FEWEST_GROUPS:
        few = f"{counted(len(mine), 'groups')} of {'viral' if label else 'other'} sequences"
        raise UsageError(f"{few} cannot make three parts", hint="give more records, or finer groups")
    sizes = dict(zip(groups.tolist(), size.tolist(), strict=True))
    order = [int(group) for group in rng.permutation(mine)]
    total = sum(sizes[group] for group in order)
    for left, (subset, share) in zip((2, 1), shares.items(), strict=True):
        used = 0
        while used < share * total and len(order) > left:  # at least one is left for each of the other subsets
            group = order.pop()
            used += sizes[group]
            yield subset, group
