"""Find viral sequences with language models of DNA and protein, on any number of devices.

    import virnucpro
    rows = virnucpro.predict("contigs.fa")  # which sequences are viral
    by_sample = virnucpro.predict_samples(["a.fa", "b.fa"])
    ids, vectors = virnucpro.embed("contigs.fa")
    windows, nucleotides, proteins = virnucpro.orfs("contigs.fa", "contigs")  # files of open frames

Nothing heavy is imported until a function is called.
"""

from __future__ import annotations

from virnucpro._version import __version__
from virnucpro.api import embed, orfs, predict, predict_samples
from virnucpro.calls.read import SequenceRow
from virnucpro.errors import VirnucproError

__all__ = ["SequenceRow", "VirnucproError", "__version__", "embed", "orfs", "predict", "predict_samples"]
