"""The functions a Python user calls; the command line does the same through the same settings."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, overload

from virnucpro.input.windows import DEFAULT_SIZE
from virnucpro.runs import config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from virnucpro.runs.predict import PredictResult

logger = logging.getLogger("virnucpro.api")

PathLike = str | os.PathLike[str]


class SequenceRow(TypedDict):
    """A row of the sequences table (docs/outputs.md says what each column means); None where a cell is empty."""

    number: int
    sequence_id: str
    length: int
    verdict: str
    score: float | None
    threshold: float | None
    false_positive_rate: float | None
    windows: int
    windows_scored: int
    windows_viral: int
    viral_fraction: float | None
    regions: int
    input: str
    record: int
    note: str


#: How a cell of each column that holds no text is read.
_NUMBERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("number", "length", "windows", "windows_scored", "windows_viral", "regions", "record"), int),
    **dict.fromkeys(
        ("score", "threshold", "false_positive_rate", "viral_fraction"), lambda cell: float(cell) if cell else None
    ),
}


@overload
def embed(
    paths: PathLike | Iterable[PathLike],
    output: None = None,
    *,
    model: PathLike = ...,
    models_dir: PathLike | None = ...,
    device: str | int = ...,
    dtype: str = ...,
    batch_size: int | None = ...,
    max_tokens: int = ...,
    threads: int | None = ...,
    sequences_per_file: int = ...,
    work_dir: PathLike | None = ...,
    stall_minutes: float = ...,
    ray: str | None = ...,
    ray_wait: float = ...,
    resume: bool = ...,
    force: bool = ...,
) -> tuple[list[str], NDArray[np.float32]]: ...
@overload
def embed(
    paths: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    model: PathLike = ...,
    models_dir: PathLike | None = ...,
    device: str | int = ...,
    dtype: str = ...,
    batch_size: int | None = ...,
    max_tokens: int = ...,
    threads: int | None = ...,
    sequences_per_file: int = ...,
    work_dir: PathLike | None = ...,
    stall_minutes: float = ...,
    ray: str | None = ...,
    ray_wait: float = ...,
    resume: bool = ...,
    force: bool = ...,
) -> Path: ...


def embed(
    paths: PathLike | Iterable[PathLike],
    output: PathLike | None = None,
    *,
    model: PathLike = config.DEFAULT_MODEL,
    models_dir: PathLike | None = None,
    device: str | int = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    max_tokens: int = config.DEFAULT_MAX_TOKENS,
    threads: int | None = None,
    sequences_per_file: int = config.DEFAULT_SEQUENCES_PER_FILE,
    work_dir: PathLike | None = None,
    stall_minutes: float = config.DEFAULT_STALL_MINUTES,
    ray: str | None = None,
    ray_wait: float = config.DEFAULT_RAY_MINUTES,
    resume: bool = True,
    force: bool = False,
) -> tuple[list[str], NDArray[np.float32]] | Path:
    """Embed the DNA, or with an ESM-2 model the proteins, of one or several files.

    The keywords are the options of `virnucpro embed` (docs/options.md).

    Returns the ids and a (n, dim) float32 array in input order, or, with `output` (.h5, .npy, .pt), writes there
    and returns its path. Sequences that could not be embedded are left out and logged as warnings. Raises
    VirnucproError. On anything but one CPU, processes are spawned: call it under `if __name__ == "__main__":`.
    """
    settings = _keywords(locals())
    from virnucpro.runs.embed import run_embed

    with _kept_or_temporary(output, "embeddings.h5") as path:
        result = run_embed(config.EmbedConfig(_inputs(paths), path, **settings))
        _warn(result.failures)
        if output is not None:
            return result.output
        from virnucpro.io.store import read_result

        return read_result(result.output)


def predict(
    paths: PathLike | Iterable[PathLike],
    output: PathLike | None = None,
    *,
    prefix: str | None = None,
    model: PathLike = config.DEFAULT_MODEL_SET,
    models_dir: PathLike | None = None,
    window: int | None = None,
    exact: bool = False,
    min_score: float | None = None,
    preset: str | None = None,
    min_length: int | None = None,
    viral_share: float | None = None,
    vanilla_output: bool = False,
    keep_embeddings: bool = False,
    report: bool = False,
    device: str | int = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    sequences_per_file: int = config.DEFAULT_FRAMES_PER_FILE,
    work_dir: PathLike | None = None,
    stall_minutes: float = config.DEFAULT_STALL_MINUTES,
    ray: str | None = None,
    ray_wait: float = config.DEFAULT_RAY_MINUTES,
    resume: bool = True,
    force: bool = False,
) -> list[SequenceRow]:
    """Call the DNA sequences of one or several files.

    output: folder that keeps all results, as `virnucpro predict -o`; None keeps none. The keywords are the options of
    the command (docs/options.md); exact: `--frames exact`.

    Returns the rows of the sequences table, in input order. What failed is logged as warnings. Raises VirnucproError.
    On anything but one CPU, processes are spawned: call it under `if __name__ == "__main__":`.
    """
    settings = _keywords(locals())
    with _kept_or_temporary(output, "out") as folder:
        return _predict(config.PredictConfig(_inputs(paths), folder, **settings))


def predict_samples(
    samples: Mapping[str, PathLike | Iterable[PathLike]] | Iterable[PathLike],
    output: PathLike | None = None,
    *,
    model: PathLike = config.DEFAULT_MODEL_SET,
    models_dir: PathLike | None = None,
    window: int | None = None,
    exact: bool = False,
    min_score: float | None = None,
    preset: str | None = None,
    min_length: int | None = None,
    viral_share: float | None = None,
    vanilla_output: bool = False,
    keep_embeddings: bool = False,
    report: bool = False,
    device: str | int = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    sequences_per_file: int = config.DEFAULT_FRAMES_PER_FILE,
    work_dir: PathLike | None = None,
    stall_minutes: float = config.DEFAULT_STALL_MINUTES,
    resume: bool = True,
    force: bool = False,
) -> dict[str, list[SequenceRow]]:
    """Call the DNA sequences of several samples; models are loaded once.

    samples: the file, or files, of each name; or files that name themselves, as with `virnucpro predict --per-sample`.
    output, and the keywords: as for `predict`; the results of a sample are in a folder of its name.

    Returns, by sample, the rows of its sequences table. A sample that came to nothing is left out and logged as an
    error, what failed in others as warnings. Raises VirnucproError. On anything but one CPU, processes are spawned:
    call it under `if __name__ == "__main__":`.
    """
    settings = _keywords(locals())
    from virnucpro.runs.samples import named_by_file, run_samples

    if isinstance(samples, Mapping):
        named: Mapping[str, tuple[Path, ...]] = {name: _inputs(files) for name, files in samples.items()}
    else:
        named = named_by_file(map(Path, _inputs(samples)))
    with _kept_or_temporary(output, "out") as folder:
        result = run_samples(named, Path(folder), settings)
        return {name: _rows(each) for name, each in result.results.items()}


def _predict(settings: config.PredictConfig) -> list[SequenceRow]:
    from virnucpro.runs.predict import run_predict

    return _rows(run_predict(settings))


def _rows(result: PredictResult) -> list[SequenceRow]:
    from virnucpro.io.tables import read_rows

    if not result.trained:
        logger.warning("model set %s is UNTRAINED: its calls show that the tool works, and mean nothing", result.model)
    _warn(result.failures)
    return [_typed(row) for row in read_rows(result.paths.sequences)]


def orfs(
    paths: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    window: int = DEFAULT_SIZE,
    exact: bool = False,
    force: bool = False,
) -> tuple[Path, Path, Path]:
    """Cut the DNA of one or several files into windows, and find their open frames.

    output: beginning of the results' names. The keywords are the options of `virnucpro orfs` (docs/options.md); exact:
    `--frames exact`.

    Returns the paths of three FASTA files: windows, and nucleotides and proteins of the frames. What failed is logged
    as warnings. Raises VirnucproError.
    """
    settings = _keywords(locals())
    from virnucpro.io.tables import read_rows
    from virnucpro.runs.orfs import run_orfs

    result = run_orfs(config.OrfsConfig(_inputs(paths), cast(Path, output), **settings))
    if result.counts.failed:
        rows = read_rows(result.paths.failed)
        _warn((row["input"], int(row["record"]), row["sequence_id"], row["reason"]) for row in rows)
    return result.paths.results


def _typed(row: Mapping[str, str]) -> SequenceRow:
    return cast(SequenceRow, {column: _NUMBERS.get(column, str)(cell) for column, cell in row.items()})


def _keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of a function: what is neither read nor written."""
    return {name: value for name, value in given.items() if name not in ("paths", "samples", "output")}


@contextlib.contextmanager
def _kept_or_temporary(output: PathLike | None, name: str) -> Iterator[Any]:
    """Where results go, or a place for the time being."""
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        yield os.path.join(folder, name)


def _inputs(paths: PathLike | Iterable[PathLike]) -> Any:
    return (paths,) if isinstance(paths, str | os.PathLike) else paths


def _warn(failures: Iterable[tuple[str, int, str, str]]) -> None:
    for name, record, sequence_id, reason in failures:
        logger.warning("%s, record %d (%s): %s", name, record, sequence_id, reason)
