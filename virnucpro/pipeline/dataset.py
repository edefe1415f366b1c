"""Embedded work files → what a classifier is trained and tested on: windows with labels and groups, and their features.

The parts for training, validation and test are made of whole groups: windows of one record, or of related records, are
alike, and a part that shares a record with another measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.paths import TrainPaths
from virnucpro.errors import InputError, UsageError
from virnucpro.models.classifier import Classifier
from virnucpro.models.fit import Examples
from virnucpro.pipeline.features import EmbeddedParts, Features
from virnucpro.pipeline.frame_split import FramePart, IndexedSequence, read_index, window_key

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Arrays of features, in the work folder: of frames, and of whole windows.
FEATURES = ("frames", "whole")

#: Groups of a class that must be there for three parts.
FEWEST_GROUPS = 3


class Part(IntEnum):
    """What a group is used for."""

    TRAINING = 0
    VALIDATION = 1
    TEST = 2


@dataclass
class Table:
    """Features, each with the window it belongs to: (n, dim) and (n,)."""

    features: NDArray[np.float32]
    window: Ints

    def examples(self, labels: Ints, chosen: NDArray[np.bool_]) -> Examples:
        """Those of the chosen windows, with their windows' labels; both masks and labels are by window."""
        rows = np.flatnonzero(chosen[self.window])
        return Examples(self.features[rows], labels[self.window[rows]])


@dataclass
class Dataset:
    """Windows (n,): label (1 is virus), group, sequence, bases; and the features of frames and of whole windows."""

    label: Ints
    group: Ints
    sequence: Ints
    bases: Ints
    frames: Table
    whole: Table

    def scores(self, classifier: Classifier, dna_only: Classifier | None) -> Floats:
        """(n,) score of each window as `predict` has it; NaN where there is none."""
        best = np.full((2, len(self.label)), -np.inf)
        for table, scorer in ((self.frames, classifier), (self.whole, dna_only)):
            if scorer is not None and len(table.window):
                found = scorer.score(table.features).astype(np.float64)
                for kind in range(2):
                    np.maximum.at(best[kind], table.window, found[:, kind])
        best[np.isinf(best)] = np.nan
        return np.asarray(best[1] / (best[0] + best[1]))


@dataclass
class _Windows:
    """Columns of a dataset on their way."""

    label: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


class Gatherer:
    """Reads embedded work files into a dataset; the first `virus` inputs are viral."""

    def __init__(
        self, embedded: EmbeddedParts, paths: TrainPaths, virus: int, groups: Mapping[str, str] | None
    ) -> None:
        self.embedded, self.paths, self.virus, self.groups = embedded, paths, virus, groups
        self._windows = _Windows()
        #: What could not be used: (index of the input, record, id, reason).
        self.failures: list[tuple[int, int, str, str]] = []

    def gather(self, parts: Sequence[FramePart]) -> Dataset:
        """The dataset; features stand in files of the work folder. InputError if nothing could be embedded."""
        counts = sum(part.frames for part in parts), sum(part.whole for part in parts)
        frames, whole = (
            _Column(self.paths.features(name), count) for name, count in zip(FEATURES, counts, strict=True)
        )
        for part in parts:
            of_frames, of_whole, _ = self.embedded.features(part)
            rows = self._index(part)
            frames.add(of_frames, rows)
            whole.add(of_whole, rows)
        label, group, sequence, bases = (np.array(column, np.int64) for column in self._columns())
        return Dataset(label, group, sequence, bases, frames.table(), whole.table())

    def _columns(self) -> tuple[list[int], ...]:
        windows = self._windows
        return windows.label, windows.group, windows.sequence, windows.bases

    def _index(self, part: FramePart) -> dict[str, int]:
        """Take the windows of a work file in; returns their rows by key."""
        rows: dict[str, int] = {}
        label = group = 0
        for row in read_index(self.paths.part_file(part.name, ".index")):
            if isinstance(row, IndexedSequence):
                label, group, sequence = int(row.input_index < self.virus), self._group(row), row.number
                self._note_failure(row, row.reason if row.failed else self.embedded.failure(part))
                continue
            rows[row.key] = len(self._windows.label)
            values = (label, group, sequence, row.end - row.start)
            for column, value in zip(self._columns(), values, strict=True):
                column.append(value)
        return rows

    def _note_failure(self, sequence: IndexedSequence, reason: str) -> None:
        if reason:
            self.failures.append((sequence.input_index, sequence.record, sequence.id, reason))

    def _group(self, sequence: IndexedSequence) -> int:
        if self.groups is None:
            return sequence.number
        name = self.groups.get(sequence.id)
        if name is None and sequence.record:
            raise InputError(
                f"--group-by has no group for record {sequence.id!r}", hint="add a line: its id, a tab, a group"
            )
        return self._windows.numbers.setdefault(str(name), len(self._windows.numbers))


class _Column:
    """Features of all work files, written to one array on disk."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._array: NDArray[np.float32] | None = None
        self._window: list[int] = []

    def add(self, features: Features | None, rows: Mapping[str, int]) -> None:
        if features is None or not features[0]:
            return
        keys, vectors = features
        if self._array is None:
            shape = (self._most, vectors.shape[1])
            self._path.parent.mkdir(exist_ok=True)
            self._array = np.lib.format.open_memmap(self._path, "w+", np.float32, shape)
        start = len(self._window)
        self._array[start : start + len(keys)] = vectors
        self._window += [rows[window_key(key)] for key in keys]

    def table(self) -> Table:
        features = np.empty((0, 0), np.float32) if self._array is None else self._array[: len(self._window)]
        return Table(features, np.array(self._window, np.int64))


def read_groups(path: Path) -> dict[str, str]:
    """Record id → group, of a table of two columns without a header. Raises InputError."""
    groups: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) != 2:
                    raise InputError(f"{path}, line {number}: {len(cells)} columns", hint="give id, tab, group")
                groups[cells[0]] = cells[1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    return groups


def divide(data: Dataset, validation: float, test: float, seed: int) -> Ints:
    """(n,) part of each window: whole groups drawn at random, of either class about the shares asked for.

    Raises UsageError where a class has fewer than three groups.
    """
    parts = np.full(len(data.label), Part.TRAINING, dtype=np.int64)
    rng = np.random.default_rng(seed)
    for label in (1, 0):
        for part, group in _drawn(data, label, {Part.TEST: test, Part.VALIDATION: validation}, rng):
            parts[data.group == group] = part
    return parts


def _drawn(
    data: Dataset, label: int, shares: Mapping[Part, float], rng: np.random.Generator
) -> Iterator[tuple[Part, int]]:
    """Groups of a class and the part they go to; a group with both classes goes by the more frequent one."""
    groups, place = np.unique(data.group, return_inverse=True)
    size = np.bincount(place)
    viral = np.bincount(place, weights=data.label)
    mine = groups[(2 * viral > size) == bool(label)]
    if len(mine) < FEWEST_GROUPS:
        name = "viral" if label else "other"
        raise UsageError(
            f"{len(mine)} groups of {name} sequences cannot make three parts", hint="give more records, or finer groups"
        )
    sizes = dict(zip(groups.tolist(), size.tolist(), strict=True))
    order = [int(group) for group in rng.permutation(mine)]
    total = sum(sizes[group] for group in order)
    for left, (part, share) in zip((2, 1), shares.items(), strict=True):
        used = 0
        while used < share * total and len(order) > left:  # one at least is left for each of the other parts
            group = order.pop()
            used += sizes[group]
            yield part, group
