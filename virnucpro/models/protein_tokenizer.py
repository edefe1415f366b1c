"""Protein → token ids of the ESM alphabet; one table, so no model needs a tokenizer file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Tokens of ESM-1b and ESM-2 by their ids.
ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")

CLS, PAD, EOS, UNK = range(4)


#: (256,) id of each byte; anything but a letter of the alphabet is `<unk>`.
_TABLE = np.full(256, UNK, dtype=np.int64)
for _token in filter(lambda token: len(token) == 1, ALPHABET):
    _TABLE[ord(_token)] = ALPHABET.index(_token)


class ProteinTokenizer:
    """Ids come out as `<cls> protein <eos>`."""

    #: Id of the inert token that fills the tail of a buffer.
    pad_id: int = PAD

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each upper-case sequence, `<cls>` and `<eos>` included. Any letter not in the alphabet is `<unk>`."""
        return [_encode(sequence) for sequence in sequences]


def _encode(sequence: str) -> NDArray[np.int64]:
    # A character beyond ASCII becomes one "?", which is not a letter of the alphabet either.
    letters = np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)
    ids = np.empty(len(letters) + 2, dtype=np.int64)
    ids[0], ids[-1] = CLS, EOS
    ids[1:-1] = _TABLE[letters]
    return ids
