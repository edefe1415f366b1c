"""Find viral sequences with language models of DNA and protein, on any number of devices.

    import virnucpro
    rows = virnucpro.predict("contigs.fa")  # which sequences are viral
    by_sample = virnucpro.predict_samples(["a.fa", "b.fa"])
    ids, vectors = virnucpro.embed("contigs.fa")
    windows, nucleotides, proteins = virnucpro.orfs("contigs.fa", "contigs")  # files of open frames

Each of these is imported when it is first used: the command line takes Ctrl-C before it imports anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virnucpro._version import __version__
from virnucpro.errors import VirnucproError

if TYPE_CHECKING:
    from virnucpro.api import embed, orfs, predict, predict_samples
    from virnucpro.calls.read import SequenceRow

__all__ = ["SequenceRow", "VirnucproError", "__version__", "embed", "orfs", "predict", "predict_samples"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from virnucpro import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
