"""The functions a Python user calls; the command line does the same through the same settings."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger("virnucpro.api")

PathLike = str | os.PathLike[str]


@overload
def embed(
    paths: PathLike | Iterable[PathLike], output: None = None, **settings: Any
) -> tuple[list[str], NDArray[np.float32]]: ...
@overload
def embed(paths: PathLike | Iterable[PathLike], output: PathLike, **settings: Any) -> Path: ...


def embed(
    paths: PathLike | Iterable[PathLike], output: PathLike | None = None, **settings: Any
) -> tuple[list[str], NDArray[np.float32]] | Path:
    """Embed the DNA sequences of one or several files.

    settings: those of `virnucpro.core.config.EmbedConfig`, as the options of `virnucpro embed` (model, device,
    dtype, batch_size, threads, …).

    Returns the ids and a (n, dim) float32 array in input order, or, with `output` (.h5, .npy, .pt), writes there
    and returns its path. Sequences that could not be embedded are left out and logged as warnings. Raises
    VirnucproError. On anything but one CPU, processes are spawned: call it under `if __name__ == "__main__":`.
    """
    if output is not None:
        _embed(paths, Path(output), settings)
        return Path(output)
    from virnucpro.io.store import read_result

    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        path = Path(folder) / "embeddings.h5"
        _embed(paths, path, settings)
        return read_result(path)


def _embed(paths: PathLike | Iterable[PathLike], output: Path, settings: dict[str, Any]) -> None:
    from virnucpro.core.config import EmbedConfig
    from virnucpro.pipeline.embed import run_embed

    result = run_embed(EmbedConfig(_inputs(paths), output, **settings))
    _warn(result.failures)


def predict(
    paths: PathLike | Iterable[PathLike], output: PathLike | None = None, **settings: Any
) -> list[dict[str, str]]:
    """Call the DNA sequences of one or several files.

    output: folder that keeps all results, as `virnucpro predict -o`; None keeps none.
    settings: those of `virnucpro.core.config.PredictConfig`, as the options of the command (model, device,
    min_score, …).

    Returns the rows of the sequences table, in input order, as text by column (docs/outputs.md). What failed is logged
    as warnings. Raises VirnucproError. On anything but one CPU, processes are spawned: call it under
    `if __name__ == "__main__":`.
    """
    with contextlib.ExitStack() as stack:
        if output is None:
            output = stack.enter_context(tempfile.TemporaryDirectory(prefix="virnucpro-"))
        return _predict(paths, Path(output), settings)


def _predict(paths: PathLike | Iterable[PathLike], output: Path, settings: dict[str, Any]) -> list[dict[str, str]]:
    from virnucpro.core.config import PredictConfig
    from virnucpro.io.tables import read_rows
    from virnucpro.pipeline.predict import run_predict

    result = run_predict(PredictConfig(_inputs(paths), output, **settings))
    if not result.trained:
        logger.warning("model set %s is UNTRAINED: its calls show that the tool works, and mean nothing", result.model)
    _warn(result.failures)
    return read_rows(result.paths.sequences)


def _inputs(paths: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    return (Path(paths),) if isinstance(paths, str | os.PathLike) else tuple(map(Path, paths))


def _warn(failures: Iterable[tuple[str, int, str, str]]) -> None:
    for name, record, sequence_id, reason in failures:
        logger.warning("%s, record %d (%s): %s", name, record, sequence_id, reason)
