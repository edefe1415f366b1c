"""Byte-pair encoding of DNA in linear time, exact to the `tokenizers` library (`benchmarks/tokenizer.py` times both).

Why it is exact. A sequence of tokens is the encoding of its text if and only if every pair of neighbours is the
encoding of its own text: merges within tokens are independent of each other until one crosses a border, and whether one
does depends only on the two tokens at that border. So a table of valid pairs, made once from the merges, replaces the
merging, and the encoding is the only chain of valid pairs through the text. It is found by taking the longest token
that may follow, and by going back where no token fits; no position in the text is a dead end twice. The idea
is that of Berglund and van der Merwe 2023, "Formalizing BPE tokenization", and of GitHub's blog, "So many tokens, so
little time" (2024); the code is our own.

Compiled by Numba, which is optional; runs without the GIL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from string import ascii_letters
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: The alphabet of the merges; its letters are the first tokens, in this order.
LETTERS = "ACGT"

#: In the table of letters: a letter that the tokenizer does not know, and a character that is not a letter.
UNKNOWN, NO_LETTER = 4, 5

#: Required settings of a tokenizer file; `fuse_unk` and the like would change the result.
NEEDED = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


class Unsuitable(ValueError):
    """A tokenizer that is not a plain BPE over A, C, G and T; the message says why."""


class Tables(NamedTuple):
    """The tables of the compiled loop. Tokens have their own numbers here: letters first, then merges in order.

    valid: (tokens, tokens / 8) see `_valid_pairs`, a bit each; child: see `_trie`; lengths: (tokens,) letters of each;
    shorter: (tokens,) the longest other token that each begins with, or -1; ids: (tokens,) the tokenizer's ids;
    first, last, unknown: ids of the special tokens at the ends, and for a letter that the tokenizer does not know.
    """

    valid: NDArray[np.uint8]
    child: NDArray[np.uint16]
    lengths: NDArray[np.int32]
    shorter: NDArray[np.int32]
    ids: NDArray[np.int64]
    first: int
    last: int
    unknown: int


class FastBPE:
    """The encoder of one `tokenizer.json`. Raises Unsuitable."""

    def __init__(self, path: Path) -> None:
        self.tables = _tables(path.read_text(encoding="utf-8"))

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]] | None:
        """Ids of each sequence, special tokens included; None if one holds anything but letters."""
        if not sequences:
            return []
        text = "".join(sequences).encode("ascii", "replace")
        letters = _LETTER_CODES[np.frombuffer(text, dtype=np.uint8)]
        if NO_LETTER in letters:
            return None
        ends = np.cumsum([len(sequence) for sequence in sequences])
        ids = np.empty(len(letters) + 2 * len(sequences), dtype=np.int64)
        stops = _encode(letters, ends, ids, self.tables)
        return np.split(ids[: stops[-1]].copy(), stops[:-1])


@lru_cache(maxsize=4)  # a process that embeds several files waits for it once
def _tables(tokenizer: str) -> Tables:
    """The tables of a tokenizer by the text of its file. Raises Unsuitable, or anything if the file makes no sense."""
    content = json.loads(tokenizer)
    model = content["model"]
    _check(content, model)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    numbers = _numbers(merges)
    vocabulary = model["vocab"]

    def longest(text: str) -> int:
        """The longest token other than `text` with which `text` begins; -1 for a letter."""
        return next((numbers[text[:n]] for n in range(len(text) - 1, 0, -1) if text[:n] in numbers), -1)

    valid = _valid_pairs([(numbers[left], numbers[right]) for left, right in merges])
    return Tables(
        valid=np.packbits(valid, axis=1, bitorder="little"),
        child=_trie(numbers),
        lengths=np.array([len(text) for text in numbers], dtype=np.int32),
        shorter=np.array([longest(text) for text in numbers], dtype=np.int32),
        ids=np.array([vocabulary[text] for text in numbers], dtype=np.int64),
        first=_special(content, 0),
        last=_special(content, -1),
        unknown=int(vocabulary[model["unk_token"]]),
    )


def _check(content: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    for name, wanted in NEEDED.items():
        if model.get(name, wanted) != wanted:
            raise Unsuitable(f"its {name} is {model[name]}")
    if content.get("normalizer") is not None:
        raise Unsuitable("it has a normalizer")
    if content["pre_tokenizer"] != {"type": "Whitespace"}:
        raise Unsuitable("it does not split words at whitespace alone")
    if any(set(added["content"]).isdisjoint("[]<>") for added in content["added_tokens"]):
        raise Unsuitable("it has added tokens that could be part of a sequence")


def _special(content: Mapping[str, Any], place: int) -> int:
    """Id of the special token at one end of `[CLS] sequence [SEP]`."""
    processor = content["post_processor"] or {}
    single = processor.get("single", [])
    if [list(item) for item in single] != [["SpecialToken"], ["Sequence"], ["SpecialToken"]]:
        raise Unsuitable("it does not put one special token at each end")
    (found,) = processor["special_tokens"][single[place]["SpecialToken"]["id"]]["ids"]
    return int(found)


def _numbers(merges: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Every token's text → its number: letters first, then in the order of the merges that make them."""
    numbers = {letter: number for number, letter in enumerate(LETTERS)}
    for left, right in merges:
        if left not in numbers or right not in numbers or left + right in numbers:
            raise Unsuitable(f"its merge of {left} and {right} makes nothing new of what was made before")
        numbers[left + right] = len(numbers)
    return numbers


def _valid_pairs(parts: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(tokens, tokens) whether the texts of two tokens, one behind the other, are encoded as these two.

    parts: the two numbers that each merge joins. Merges take place in the order of their numbers, all along the text,
    the leftmost first. So while a token grows, the piece at its right end is `x` from the merge that makes `x` to the
    merge that swallows it; a border between two tokens is crossed by the merge of x and y exactly if both lie there at
    its turn. A tie is the same merge inside and across, as in A|AA: leftmost first.
    """
    letters = len(LETTERS)
    tokens = letters + len(parts)
    rights, lefts = ([merge[side] for merge in parts] for side in (1, 0))
    right_ends, left_ends = _ends(rights, tokens), _ends(lefts, tokens)
    valid = np.ones((tokens, tokens), dtype=np.bool_)
    for merge, (x, y) in enumerate(parts, start=letters):
        before, swallowed_before = right_ends[x]
        behind, swallowed_behind = left_ends[y]
        valid[before[swallowed_before > merge][:, None], behind[swallowed_behind >= merge]] = False
    return valid


def _ends(inner: Sequence[int], tokens: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each piece: the tokens that have it at one end as they grow, and the merges that swallow it there.

    inner: the part of each merged token at that end. The whole token is never swallowed.
    """
    found: list[list[tuple[int, int]]] = [[] for _ in range(tokens)]
    for token in range(tokens):
        piece, swallowed = token, tokens
        found[piece].append((token, swallowed))
        while piece >= len(LETTERS):
            piece, swallowed = inner[piece - len(LETTERS)], piece
            found[piece].append((token, swallowed))
    return [tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T) for pairs in found]


def _trie(numbers: Mapping[str, int]) -> NDArray[np.uint16]:
    """(nodes, 4) the node behind each letter, 0 for none.

    Node 0 is the root and node n + 1 the end of token n; the rest, beyond these, are the ends of no token. Small
    enough for the nearest cache. Raises Unsuitable for a vocabulary too large for that.
    """
    nodes = {text: number + 1 for text, number in numbers.items()}
    for text in numbers:
        for end in range(1, len(text)):
            nodes.setdefault(text[:end], len(nodes) + 1)
    if len(nodes) >= 1 << 16:
        raise Unsuitable("it has too many tokens")
    child = np.zeros((len(nodes) + 1, len(LETTERS)), dtype=np.uint16)
    for text, node in nodes.items():
        child[nodes.get(text[:-1], 0), LETTERS.index(text[-1])] = node
    return child


#: By bytes.
_LETTER_CODES = np.full(256, NO_LETTER, dtype=np.uint8)
_LETTER_CODES[[*ascii_letters.encode()]] = UNKNOWN
_LETTER_CODES[[*LETTERS.encode()]] = range(len(LETTERS))


def _compiled(function: Callable[..., Any]) -> Any:
    """Let Numba compile a function at its first call, and keep the code if a folder for it can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_compiled
def _encode(
    letters: NDArray[np.uint8], ends: NDArray[np.int64], ids: NDArray[np.int64], tables: Tables
) -> NDArray[np.int64]:
    """Write the ids of every sequence to the front of `ids`; returns where each ends there.

    letters: codes of all sequences back to back, which end at `ends`.
    """
    chain = np.empty(len(letters), dtype=np.int32)
    dead = np.zeros(len(letters) + 1, dtype=np.bool_)
    stops = np.empty(len(ends), dtype=np.int64)
    begin = place = 0
    for sequence in range(len(ends)):
        ids[place] = tables.first
        place += 1
        while begin < ends[sequence]:
            stop = begin
            while stop < ends[sequence] and letters[stop] < UNKNOWN:
                stop += 1
            for i in range(_chain(letters, begin, stop, chain, dead, tables)):
                ids[place] = tables.ids[chain[i]]
                place += 1
            if stop < ends[sequence]:
                ids[place] = tables.unknown
                place += 1
            begin = stop + 1
        begin = ends[sequence]
        ids[place] = tables.last
        place += 1
        stops[sequence] = place
    return stops


@_compiled
def _chain(
    letters: NDArray[np.uint8],
    begin: int,
    stop: int,
    chain: NDArray[np.int32],
    dead: NDArray[np.bool_],
    tables: Tables,
) -> int:
    """Write the numbers of the tokens of letters[begin:stop] to the front of `chain`; returns how many.

    dead: positions from which no chain reaches the end; all False at first.
    """
    count, place = 0, begin
    token = _longest(letters, place, stop, tables)
    while place < stop:
        while token >= 0 and (
            dead[place + tables.lengths[token]]
            or (count > 0 and not tables.valid[chain[count - 1], token >> 3] >> (token & 7) & 1)
        ):
            token = tables.shorter[token]
        if token >= 0:
            chain[count] = token
            count += 1
            place += tables.lengths[token]
            token = _longest(letters, place, stop, tables)
        else:
            dead[place] = True
            count -= 1
            place -= tables.lengths[chain[count]]
            token = tables.shorter[chain[count]]
    return count


@_compiled
def _longest(letters: NDArray[np.uint8], place: int, stop: int, tables: Tables) -> int:
    """The longest token at `place`; -1 at `stop`."""
    node, found, tokens = 0, 0, len(tables.ids)
    while place < stop:
        node = tables.child[node, letters[place]]
        if node == 0:
            break
        if node <= tokens:
            found = node
        place += 1
    return found - 1


def is_kept() -> bool:
    """Whether compiled code is kept on disk for the next start."""
    return bool(_encode.stats.cache_path)


def examples(seed: int = 0) -> Iterator[str]:
    """Sequences for testing an encoder: random, of few letters, repetitive, with unknown letters in between."""
    rng = np.random.default_rng(seed)
    for alphabet in ("ACGT", "AT", "GC", "AAAAT", "ACGTN", "NA"):
        for length in (1, 2, 7, 33, 500):
            yield "".join(rng.choice(list(alphabet), length))
    for unit in ("A", "T", "AC", "CAG", "TTAGGG", "".join(rng.choice(list("ACGT"), 17))):
        yield (unit * 200)[:700]
