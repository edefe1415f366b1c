"""The families of networks: which worker embeds with one, and what drives it on several devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from virnucpro.core.device import Device
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.base_worker import BaseEmbeddingWorker
from virnucpro.pipeline.parallel_codon import CodonWorker, embed_codon_files
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker, Embedded, embed_dnabert_files
from virnucpro.pipeline.parallel_esm import ESMWorker, embed_esm_files
from virnucpro.pipeline.placement import Placement


class Family(NamedTuple):
    """worker: of one device; drive: `embed_dnabert_files` or its like."""

    worker: type[BaseEmbeddingWorker]
    drive: Callable[..., Embedded]


#: By `LocalModel.kind`.
FAMILIES: Mapping[str, Family] = {
    "dnabert": Family(DNABERTWorker, embed_dnabert_files),
    "esm2": Family(ESMWorker, embed_esm_files),
    "codon": Family(CodonWorker, embed_codon_files),
}


def place(
    devices: Sequence[Device], models: Iterable[LocalModel], dtype: str = "auto", batch_size: int | None = None
) -> Placement:
    """Devices, dtype and token budgets for some models; all as `Placement.choose`."""
    return Placement.choose(
        devices, [partial(FAMILIES[model.kind].worker, model) for model in models], dtype, batch_size
    )
