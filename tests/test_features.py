"""The vectors of one file, and DNA and protein vectors joined by id: no mix-up is possible, a gap is an error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Records, random_records, to_fasta
from numpy.typing import NDArray

import virnucpro
from virnucpro.errors import InputError
from virnucpro.pipeline.features import Features, extract_dnabert_features, extract_esm_features, merge_features

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
Extract = Callable[..., Features]


def proteins(count: int) -> Records:
    rng = random.Random(count)
    return [(f"p{i} of", "".join(rng.choices(AMINO_ACIDS, k=rng.randint(5, 120)))) for i in range(count)]


ENCODERS = {
    "dnabert-mini": (extract_dnabert_features, random_records(40)),
    "esm2-mini": (extract_esm_features, proteins(40)),
}


@pytest.mark.parametrize("model", ENCODERS)
def test_one_file_has_the_vectors_that_embed_gives(model: str, tmp_path: Path) -> None:
    extract, records = ENCODERS[model]
    path = to_fasta(tmp_path / "in.fa", records)
    ids, vectors = extract(path, dtype="fp32")
    assert ids == [header.split()[0] for header, _ in records]
    expected = virnucpro.embed(path, model=model, device="cpu", dtype="fp32")
    assert ids == expected[0]
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, expected[1])
    assert len(np.unique(vectors, axis=0)) == len(records)


@pytest.mark.parametrize("model", ENCODERS)
def test_a_bad_record_is_an_error_that_names_it(model: str, tmp_path: Path) -> None:
    extract, records = ENCODERS[model]
    path = to_fasta(tmp_path / "in.fa", [*records[:2], ("bad one", "AC-DE"), *records[2:4]])
    with pytest.raises(InputError, match=r"in\.fa: record 3 \(bad\): line 6: '-' is not a (DNA|protein) letter"):
        extract(path, dtype="fp32")


@pytest.mark.parametrize("extract", [extract_dnabert_features, extract_esm_features])
@pytest.mark.parametrize("text", [None, ""], ids=["absent", "empty"])
def test_a_file_that_cannot_be_used(extract: Extract, text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "in.fa"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"in\.fa"):
        extract(path, dtype="fp32")


# Joining.


def vectors(ids: list[str], dim: int, seed: int) -> dict[str, NDArray[np.float32]]:
    drawn = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(np.float32)
    return dict(zip(ids, drawn, strict=True))


def side(found: dict[str, NDArray[np.float32]], order: list[str]) -> Features:
    return order, np.stack([found[name] for name in order])


IDS = [f"contig{i}_chunk_{j}{frame}" for i in range(9) for j in range(3) for frame in ("F1", "R2")]


@pytest.mark.parametrize("seed", range(5))
def test_vectors_are_joined_by_id_whatever_their_order(seed: int) -> None:
    rng = random.Random(seed)
    dna, protein = vectors(IDS, 4, seed), vectors(IDS, 7, seed + 100)
    first, second = rng.sample(IDS, len(IDS)), rng.sample(IDS, len(IDS))
    ids, merged = merge_features(side(dna, first), side(protein, second))
    assert ids == first
    assert merged.shape == (len(IDS), 11)
    assert merged.dtype == np.float32
    for name, row in zip(ids, merged, strict=True):
        assert np.array_equal(row, [*dna[name], *protein[name]])


@pytest.mark.parametrize(("lacking", "has"), [("protein", "DNA"), ("DNA", "protein")])
def test_a_missing_id_is_an_error_that_names_it(lacking: str, has: str) -> None:
    whole, part = side(vectors(IDS, 3, 1), IDS), side(vectors(IDS, 3, 2), [*IDS[:5], *IDS[7:]])
    dna, protein = (part, whole) if lacking == "DNA" else (whole, part)
    with pytest.raises(
        InputError, match=f"{IDS[5]!r} has no {lacking} vector \\(2 of {len(IDS)} have none\\)"
    ) as caught:
        merge_features(dna, protein)
    assert caught.value.hint


@pytest.mark.parametrize("twice", ["protein", "DNA"])
def test_an_id_that_occurs_twice_is_an_error_that_names_it(twice: str) -> None:
    once, again = side(vectors(IDS, 3, 1), IDS), side(vectors(IDS, 3, 2), [*IDS, IDS[4]])
    dna, protein = (again, once) if twice == "DNA" else (once, again)
    with pytest.raises(InputError, match=f"{IDS[4]!r} occurs twice among the {twice} vectors"):
        merge_features(dna, protein)


def test_ids_of_equal_number_but_other_names_are_no_match() -> None:
    """Joined by position they would give no error."""
    other = [name.replace("contig", "scaffold") for name in IDS]
    with pytest.raises(InputError, match="has no protein vector"):
        merge_features(side(vectors(IDS, 3, 1), IDS), side(vectors(other, 3, 1), other))


def test_nothing_joined_with_nothing_is_nothing() -> None:
    ids, merged = merge_features(([], np.empty((0, 4), np.float32)), ([], np.empty((0, 7), np.float32)))
    assert (ids, merged.shape) == ([], (0, 11))
