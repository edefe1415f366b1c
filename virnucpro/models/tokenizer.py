"""DNA → token ids, by the BPE tokenizer that belongs to a model.

Uses the `tokenizers` library (Rust, exact, releases the GIL), or `models/bpe.py`, which is faster, if Numba is
installed and the two agree. The published file has a fixed padding and truncation to 2000 tokens; both are switched
off, since sequences are packed, never padded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from virnucpro.core.caches import settle_caches
from virnucpro.errors import ModelError
from virnucpro.models.local import cure

if TYPE_CHECKING:
    from virnucpro.models.bpe import FastBPE

logger = logging.getLogger("virnucpro.worker.tokenizer")

#: The published `config.json` names 0 as padding, which is [UNK]; the tokenizer's own [PAD] is right.
PAD_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"


class DNATokenizer:
    """Wraps a `tokenizer.json`; ids come out as `[CLS] sequence [SEP]`.

    `path` may be None, as it is for a protein model: that is a ModelError, like a file that cannot be read. fast: with
    Numba, which takes a second of each process to start.
    """

    def __init__(self, path: Path | None, fast: bool = True) -> None:
        if path is None:
            raise ModelError("the model has no tokenizer for DNA", hint="is it a protein model?")
        self._path = path
        with self._reading():
            self._tokenizer = Tokenizer.from_file(str(path))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        pad = self._tokenizer.token_to_id(PAD_TOKEN)
        if pad is None:
            raise ModelError(f"the tokenizer {path} has no {PAD_TOKEN} token", hint="is it a DNABERT tokenizer?")
        #: Id of the inert token that fills the tail of a buffer.
        self.pad_id: int = pad
        self._check_letters()
        self._fast = self._fast_encoder(path) if fast else None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise ModelError for whatever the library raises for a damaged file: bare Exceptions and panics."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            hint = cure(self._path, "download it again")
            raise ModelError(f"cannot read the tokenizer {self._path}: {error}", hint=hint) from error

    def _check_letters(self) -> None:
        """Raise a ModelError unless DNA becomes tokens with distinct ids."""
        with self._reading():
            known = self._tokenizer.get_vocab(with_added_tokens=True)
            first, *found, last = self._encode(["ACGT"])[0].tolist()
        unknown = self._tokenizer.token_to_id(UNKNOWN_TOKEN)
        if len(set(known.values())) < len(known) or not found or {first, last, unknown} & {*found}:
            raise ModelError(f"the tokenizer {self._path} is not a DNA tokenizer", hint="download it again")

    def check_fits(self, vocabulary: int) -> None:
        """Raise a ModelError if it has tokens that a network with so many tokens has not."""
        if (most := max(self._tokenizer.get_vocab(with_added_tokens=True).values())) >= vocabulary:
            raise ModelError(
                f"the tokenizer {self._path} has token {most}, the network {vocabulary} in all",
                hint="give the tokenizer.json and the weights of one and the same model",
            )

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each upper-case sequence, [CLS] and [SEP] included. Any letter but ACGT becomes one [UNK]."""
        found = self._fast.encode(sequences) if self._fast else None
        # The fast tokenizer leaves other characters than letters to the library, which has its own rules for them.
        return self._encode(sequences) if found is None else found

    def _encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        encodings = self._tokenizer.encode_batch_fast(sequences)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def _fast_encoder(self, path: Path) -> FastBPE | None:
        """The fast tokenizer if it is available and right on examples; else None, and a line in the log."""
        settle_caches()
        try:
            from virnucpro.models.bpe import FastBPE, Unsuitable, examples

            fast, tried = FastBPE(path), list(examples())
            pairs = zip(fast.encode(tried) or [], self._encode(tried), strict=True)
            if not all(np.array_equal(found, wanted) for found, wanted in pairs):
                raise Unsuitable("the Numba tokenizer and the tokenizers library disagree on it")
        except ImportError:
            logger.info("Numba is not installed: tokenizing more slowly; pip install 'virnucpro[fast]'")
            return None
        except Exception as error:  # whatever is in the file or fails in Numba, the library can be used
            logger.warning("tokenizing more slowly: the Numba tokenizer does not support %s: %s", path, error)
            return None
        return fast
