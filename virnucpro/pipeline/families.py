"""The families of networks: which worker embeds with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from virnucpro.core.device import Device
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.base_worker import StreamingWorker
from virnucpro.pipeline.parallel_codon import CodonWorker
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker
from virnucpro.pipeline.parallel_esm import ESMWorker
from virnucpro.pipeline.placement import Placement

#: By `LocalModel.kind`.
FAMILIES: Mapping[str, type[StreamingWorker]] = {"dnabert": DNABERTWorker, "esm2": ESMWorker, "codon": CodonWorker}


def place(
    devices: Sequence[Device], models: Iterable[LocalModel], dtype: str = "auto", batch_size: int | None = None
) -> Placement:
    """Devices, dtype and token budgets for some models; all as for `Placement.choose`."""
    return Placement.choose(devices, [partial(FAMILIES[model.kind], model) for model in models], dtype, batch_size)
