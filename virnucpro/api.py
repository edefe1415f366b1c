"""The functions a Python user calls; the command line does the same through the same settings."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast, overload

from virnucpro.calls.read import Results, SequenceRow
from virnucpro.runs import config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from virnucpro.runs.calling import PredictResult

logger = logging.getLogger("virnucpro.api")

PathLike = str | os.PathLike[str]
Function = TypeVar("Function", bound=Callable[..., Any])


class RunSettings(TypedDict, total=False):
    """Settings of every run that embeds; docs/options.md explains each."""

    model: PathLike
    models_dir: PathLike | None
    device: str | int
    dtype: str
    batch_size: int | None
    threads: int | None
    sequences_per_file: int
    work_dir: PathLike | None
    stall_minutes: float
    ray: str | None
    ray_wait: float
    resume: bool
    force: bool


class EmbedSettings(RunSettings, total=False):
    """Settings of `embed`."""

    max_tokens: int


class SampleSettings(RunSettings, total=False):
    """Settings of `predict_samples`."""

    window: int | None
    exact: bool
    min_score: float | None
    preset: str | None
    min_length: int | None
    viral_share: float | None
    vanilla_output: bool
    keep_embeddings: bool
    report: bool


class PredictSettings(SampleSettings, total=False):
    """Settings of `predict`."""

    prefix: str | None


class OrfsSettings(TypedDict, total=False):
    """Settings of `orfs`."""

    window: int
    exact: bool
    force: bool


def _spelled_out(made: type[Any], settings: type[Any]) -> Callable[[Function], Function]:
    """Let the signature of a function name each of its settings, with the default that the config has."""

    def spell(function: Function) -> Function:
        own = inspect.signature(function)
        defaults = {field.name: field.default for field in fields(made) if field.name in settings.__annotations__}
        named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name]) for name in defaults]
        parameters = [*list(own.parameters.values())[:-1], *named]
        function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return spell


@overload
def embed(
    paths: PathLike | Iterable[PathLike], output: None = None, **settings: Unpack[EmbedSettings]
) -> tuple[list[str], NDArray[np.float32]]: ...
@overload
def embed(paths: PathLike | Iterable[PathLike], output: PathLike, **settings: Unpack[EmbedSettings]) -> Path: ...


@_spelled_out(config.EmbedConfig, EmbedSettings)
def embed(
    paths: PathLike | Iterable[PathLike], output: PathLike | None = None, **settings: Unpack[EmbedSettings]
) -> tuple[list[str], NDArray[np.float32]] | Path:
    """Embed the DNA, or with an ESM-2 model the proteins, of one or several files.

    The keywords are the options of `virnucpro embed` (docs/options.md).

    Returns the ids and a (n, dim) float32 array in input order, or, with `output` (.h5, .npy, .pt), writes there
    and returns its path. Sequences that could not be embedded are left out and logged as warnings. Raises
    VirnucproError. Except on a single CPU, worker processes are spawned: call it under `if __name__ == "__main__":`.
    """
    from virnucpro.io.store import read_result
    from virnucpro.runs.embed import run_embed

    with _kept_or_temporary(output, "embeddings.h5") as path:
        result = run_embed(config.EmbedConfig(_inputs(paths), path, **cast(Any, settings)))
        _warn(result.failures)
        return read_result(result.output) if output is None else result.output


@_spelled_out(config.PredictConfig, PredictSettings)
def predict(
    paths: PathLike | Iterable[PathLike], output: PathLike | None = None, **settings: Unpack[PredictSettings]
) -> list[SequenceRow]:
    """Find the viral sequences in one or several files of DNA.

    output: folder for all results, as `virnucpro predict -o`; None keeps no files. The keywords are the options of
    the command (docs/options.md); exact: `--frames exact`.

    Returns the rows of the sequences table, in input order. What failed is logged as warnings. Raises VirnucproError.
    Except on a single CPU, worker processes are spawned: call it under `if __name__ == "__main__":`.
    """
    with _kept_or_temporary(output, "out") as folder:
        chosen = config.PredictConfig(_inputs(paths), folder, **cast(Any, settings))
        from virnucpro.runs.predict import run_predict

        return _rows(run_predict(chosen))


@_spelled_out(config.PredictConfig, SampleSettings)
def predict_samples(
    samples: Mapping[str, PathLike | Iterable[PathLike]] | Iterable[PathLike],
    output: PathLike | None = None,
    **settings: Unpack[SampleSettings],
) -> dict[str, list[SequenceRow]]:
    """Find the viral sequences of several samples of DNA; models are loaded once.

    samples: the file or files of each sample by name; or files, named after themselves as with `predict --per-sample`.
    output and the keywords: as for `predict`; the results of each sample go to a folder of its name.

    Returns the rows of the sequences table for each sample. A sample that failed is left out and logged as an
    error; what failed in others is logged as warnings. Raises VirnucproError. Except on a single CPU, workers are
    spawned: call it under `if __name__ == "__main__":`.
    """
    from virnucpro.runs.samples import named_by_file, run_samples

    if isinstance(samples, Mapping):
        named: Mapping[str, tuple[Path, ...]] = {name: _inputs(files) for name, files in samples.items()}
    else:
        named = named_by_file(map(Path, _inputs(samples)))
    with _kept_or_temporary(output, "out") as folder:
        result = run_samples(named, Path(folder), cast(Any, settings))
        return {name: _rows(each) for name, each in result.results.items()}


@_spelled_out(config.OrfsConfig, OrfsSettings)
def orfs(
    paths: PathLike | Iterable[PathLike], output: PathLike, **settings: Unpack[OrfsSettings]
) -> tuple[Path, Path, Path]:
    """Cut the DNA of one or several files into windows, and find their open frames.

    output: prefix of the result files. The keywords are the options of `virnucpro orfs` (docs/options.md); exact:
    `--frames exact`.

    Returns the paths of three FASTA files: windows, and nucleotides and proteins of the frames. What failed is logged
    as warnings. Raises VirnucproError.
    """
    from virnucpro.runs.orfs import run_orfs

    result = run_orfs(config.OrfsConfig(_inputs(paths), cast(Path, output), **cast(Any, settings)))
    _warn(result.failures)
    return result.paths.results


def _rows(result: PredictResult) -> list[SequenceRow]:
    from virnucpro.models.sets import UNTRAINED

    if not result.trained:
        logger.warning(UNTRAINED, result.model)
    _warn(result.failures)
    return list(Results(result.paths.folder, result.paths.output.name).sequences())


@contextlib.contextmanager
def _kept_or_temporary(output: PathLike | None, name: str) -> Iterator[Any]:
    """The place of the results, or a temporary one."""
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
