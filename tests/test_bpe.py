"""The fast BPE compared with the `tokenizers` library: equal ids for everything, or a reason why not."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from virnucpro.models import registry
from virnucpro.models.tokenizer import DNATokenizer

pytest.importorskip("numba", reason="Numba is not installed")

from virnucpro.models.bpe import FastBPE, Unsuitable, _numbers, _valid_pairs, examples

MINI = registry.EMBEDDED / "dnabert-mini" / "tokenizer.json"
PUBLISHED = Path(__file__).parents[2] / "shared" / "reference" / "dnabert_s" / "tokenizer.json"

FILES = [
    pytest.param(MINI, id="mini"),
    pytest.param(
        PUBLISHED,
        id="published",
        marks=pytest.mark.skipif(not PUBLISHED.exists(), reason="the published tokenizer is not beside the repository"),
    ),
]


class Both:
    """The library and the fast tokenizer, made from one file."""

    def __init__(self, path: Path) -> None:
        self.path, self.fast = path, FastBPE(path)
        self.library = Tokenizer.from_file(str(path))
        self.library.no_padding()
        self.library.no_truncation()

    def check(self, sequences: list[str]) -> None:
        found = self.fast.encode(sequences)
        assert found is not None
        wanted = self.library.encode_batch_fast(sequences)
        for sequence, ours, theirs in zip(sequences, found, wanted, strict=True):
            assert ours.tolist() == theirs.ids, sequence


@pytest.fixture(scope="module", params=FILES)
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def words(letters: str, most: int) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(letters), max_size=most)


@settings(max_examples=150)
@given(data=st.data())
def test_any_sequences(both: Both, data: st.DataObject) -> None:
    letters = st.sampled_from(["ACGT", "ACGTN", "AC", "ACGTacgtNRYKMSWBDHV"])
    both.check(data.draw(letters.flatmap(lambda some: st.lists(words(some, 200), max_size=5))))


@settings(max_examples=150)
@given(unit=words("ACGT", 12), repeats=st.integers(0, 60), before=words("ACGTN", 9), behind=words("ACGTN", 9))
def test_repetitive_sequences(both: Both, unit: str, repeats: int, before: str, behind: str) -> None:
    both.check([before + unit * repeats + behind])


def test_every_short_sequence(both: Both) -> None:
    for length in range(8):
        both.check(["".join(letters) for letters in itertools.product("ACGT", repeat=length)])


def test_many_and_long_sequences(both: Both) -> None:
    rng = random.Random(0)
    both.check(["".join(rng.choices("ACGT", k=500)) for _ in range(1000)])
    both.check(["".join(rng.choices("ACGTN", (9, 9, 9, 9, 1), k=100_000)), "A" * 100_000])


def test_the_table_of_pairs_says_what_the_library_does(both: Both) -> None:
    """Whether the text of two neighbouring tokens is encoded as these two."""
    vocabulary = both.library.get_vocab()
    texts = [text for text in vocabulary if set(text) <= set("ACGT")]
    valid = np.unpackbits(both.fast.tables.valid, axis=1, bitorder="little")
    numbers = {int(identifier): number for number, identifier in enumerate(both.fast.tables.ids)}
    rng = random.Random(0)
    pairs = [rng.choices(texts, k=2) for _ in range(5000)]
    encoded = both.library.encode_batch_fast([left + right for left, right in pairs], add_special_tokens=False)
    for (left, right), encoding in zip(pairs, encoded, strict=True):
        ids = [vocabulary[left], vocabulary[right]]
        assert valid[numbers[ids[0]], numbers[ids[1]]] == (encoding.ids == ids)


def test_a_tie_goes_to_the_left() -> None:
    numbers = _numbers([("A", "A")])
    valid = _valid_pairs([(0, 0)])
    assert valid[numbers["AA"], numbers["A"]]
    assert not valid[numbers["A"], numbers["AA"]]


def test_what_is_no_letter_is_left_to_the_library(both: Both) -> None:
    assert both.fast.encode(["ACGT", "AC GT"]) is None
    assert both.fast.encode(["ACé"]) is None
    (ids,) = DNATokenizer(both.path).encode(["AC GT"])
    assert ids.tolist() == both.library.encode("AC GT").ids


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("other model", lambda c: c["model"].update(type="WordPiece"), "type"),
    ("dropout", lambda c: c["model"].update(dropout=0.1), "dropout"),
    ("fused unknowns", lambda c: c["model"].update(fuse_unk=True), "fuse_unk"),
    ("normalizer", lambda c: c.update(normalizer={"type": "Lowercase"}), "normalizer"),
    ("other words", lambda c: c.update(pre_tokenizer={"type": "WhitespaceSplit"}), "whitespace"),
    ("a merge twice", lambda c: c["model"]["merges"].append(c["model"]["merges"][0]), "nothing new"),
    ("no order", lambda c: c["model"]["merges"].reverse(), "nothing new"),
    ("an added word", lambda c: c["added_tokens"].append(c["added_tokens"][0] | {"content": "ACA"}), "added tokens"),
    ("no special tokens", lambda c: c["post_processor"]["single"].pop(), "special token"),
]


@pytest.mark.parametrize(("change", "words"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_other_tokenizers_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    content = json.loads(MINI.read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Unsuitable, match=words):
        FastBPE(tmp_path / "tokenizer.json")


def test_an_unsuitable_tokenizer_still_works_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(MINI.read_text())
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with caplog.at_level(logging.INFO, "virnucpro"):
        slow = DNATokenizer(tmp_path / "tokenizer.json")
    assert "the Numba tokenizer does not support" in caplog.text
    tried = list(examples())
    for ours, theirs in zip(slow.encode(tried), DNATokenizer(MINI).encode(tried), strict=True):
        assert np.array_equal(ours, theirs)
