"""The functions a Python user calls; the command line does the same through the same settings."""

from __future__ import annotations

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
    VirnucproError. With more than one device, processes are spawned: call it under `if __name__ == "__main__":`.
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

    inputs = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    result = run_embed(EmbedConfig(tuple(Path(path) for path in inputs), output, **settings))
    for name, record, sequence_id, reason in result.failures:
        logger.warning("%s, record %d (%s): %s", name, record, sequence_id, reason)
