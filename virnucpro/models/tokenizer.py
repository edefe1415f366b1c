"""DNA → token ids, by the BPE tokenizer that belongs to a model.

On the `tokenizers` library (Rust, exact, releases the GIL). The published file stores a fixed padding and truncation
to 2000 tokens; both are switched off: sequences are packed, never padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from virnucpro.errors import ModelError

#: The published `config.json` names 0 as padding, which is [UNK]; the tokenizer's own [PAD] is right.
PAD_TOKEN = "[PAD]"


class DNATokenizer:
    """Wraps a `tokenizer.json`; ids come out as `[CLS] sequence [SEP]`.

    `path` may be None, as it is for a protein model: that is a ModelError, like a file that cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise ModelError("the model has no tokenizer for DNA", hint="is it a model of proteins?")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"cannot read the tokenizer {path}: {error}", hint="download it again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        pad = self._tokenizer.token_to_id(PAD_TOKEN)
        if pad is None:
            raise ModelError(f"the tokenizer {path} has no {PAD_TOKEN} token", hint="is it a DNABERT tokenizer?")
        #: Id of the inert token that fills the tail of a buffer.
        self.pad_id: int = pad

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each upper-case sequence, [CLS] and [SEP] included. Any letter but ACGT becomes one [UNK]."""
        encodings = self._tokenizer.encode_batch_fast(sequences)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
