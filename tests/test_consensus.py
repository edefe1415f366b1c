"""Frames → windows → sequences and regions, by the rule of sets without measured calls, written in another way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from virnucpro.calls.consensus import FEWEST_VIRAL, MOST_GAP, ConsensusCaller
from virnucpro.calls.scoring import WindowScore, window_score
from virnucpro.calls.verdicts import Region, SequenceCall, Thresholds, Verdict, added
from virnucpro.input.windows import window_bounds

#: Start, end and score of a window; None if it has none.
Scored = tuple[int, int, float | None]


# Windows.

FLOAT32 = st.floats(0, 1, width=32)
LOGITS = st.tuples(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32))


def softmax(logits: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Scores (others, virus) like those of the classifier: float32 numbers."""
    return [(other, virus) for other, virus in torch.tensor(logits, dtype=torch.float32).softmax(1).tolist()]


def published_call(scores: Sequence[tuple[float, float]]) -> bool:
    """The published rule, applied to the numbers that the published tool compares."""
    others, viruses = np.array(scores, dtype=np.float32).T
    return bool(viruses.max() >= others.max())


def scored(scores: Sequence[tuple[float, float]]) -> WindowScore:
    return window_score([(f"F{i}", *each) for i, each in enumerate(scores, 1)])


@given(st.lists(LOGITS, min_size=1, max_size=6))
@example([(0.0, 0.0)])
@example([(3.0, -3.0), (-3.0, 3.0)])
def test_half_is_where_the_published_rule_calls_virus(logits: list[tuple[float, float]]) -> None:
    scores = softmax(logits)
    assert (scored(scores).score >= 0.5) is published_call(scores)


@given(FLOAT32, st.sampled_from([-1, 0, 1]))
def test_the_rule_holds_where_the_scores_all_but_tie(virus: float, step: int) -> None:
    """The highest scores of two frames need not add up to 1, and may differ in their last bit."""
    other = float(np.nextafter(np.float32(virus), np.float32(step * 2), dtype=np.float32)) if step else virus
    scores = [(max(other, 0.0), 0.0), (0.0, virus)]
    if max(other, virus) > 0:
        assert (scored(scores).score >= 0.5) is published_call(scores)


def test_a_window_takes_each_highest_score_and_names_the_first_best_frame() -> None:
    found = window_score([("F2", 0.75, 0.25), ("R1", 0.25, 0.75), ("R3", 0.25, 0.75)])
    assert found == WindowScore("R1", virus=0.75, other=0.75)
    assert found.score == 0.5


# Sequences.


class Expected(NamedTuple):
    verdict: Verdict
    score: float | None
    counts: tuple[int, int, int]
    #: Start, end, windows, viral windows and mean score of each region.
    regions: list[tuple[int, int, int, int, float]]


def mean(windows: Sequence[Scored]) -> float:
    """Weighted by bases. Scores are multiples of 1/64 here, so that sums are exact in any order."""
    weights = [end - start for start, end, _ in windows]
    return sum(score * weight for (_, _, score), weight in zip(windows, weights, strict=True) if score) / sum(weights)


def reference(windows: Sequence[Scored], min_score: float, long: float) -> Expected:
    known = [window for window in windows if window[2] is not None]
    counts = (len(windows), len(known), sum((score or 0) >= min_score for _, _, score in known))
    if not known:
        return Expected(Verdict.NOT_SCORED, None, counts, [])
    letters = "".join("v" if (score or 0) >= min_score else "." for _, _, score in known)
    regions = []
    for run in re.finditer(rf"v(\.{{0,{MOST_GAP}}}v)*", letters):
        inside = known[run.start() : run.end()]
        regions.append((inside[0][0], inside[-1][1], len(inside), run.group().count("v"), mean(inside)))
    score = mean(known)
    if score >= (long if sum(end - start for start, end, _ in known) >= 8_000 else min_score):
        return Expected(Verdict.VIRUS, score, counts, regions)
    regions = [region for region in regions if region[3] >= FEWEST_VIRAL]
    return Expected(Verdict.MIXED if regions else Verdict.OTHER, score, counts, regions)


def called(windows: Sequence[Scored], min_score: float = 0.5, long: float = 0.5) -> SequenceCall:
    caller = ConsensusCaller(Thresholds(min_score, min_score, long))
    for start, end, score in windows:
        assert caller.add(start, end, score) is (score is not None and score >= min_score)
    return caller.finish()


def as_expected(call: SequenceCall) -> Expected:
    regions = [(region.start, region.end, region.windows, region.viral, region.score) for region in call.regions]
    return Expected(call.verdict, call.score, (call.windows, call.scored, call.viral), regions)


def test_windows_count_by_the_bases_that_are_known() -> None:
    caller = ConsensusCaller(Thresholds(0.5, 0.5, 0.5))
    caller.add(0, 500, 1.0, unknown=200)
    caller.add(500, 1000, 0.0, unknown=400)
    assert caller.finish().score == 0.75


SIXTY_FOURTHS = st.integers(0, 64).map(lambda number: number / 64)
#: Few kinds of scores, so that runs and gaps of all lengths are common.
SCORES = st.lists(st.one_of(st.sampled_from([None, 0.125, 0.125, 0.75]), SIXTY_FOURTHS), max_size=40)


def placed(scores: Sequence[float | None], size: int, surplus: int) -> list[Scored]:
    """Windows as the published rule cuts a sequence; they overlap, and the last may be short."""
    length = max(len(scores) * size - surplus % size, 0)
    bounds = window_bounds(length, size)
    return [(start, end, score) for (start, end), score in zip(bounds, scores, strict=True)]


@given(SCORES, st.integers(1, 500), st.integers(0, 499), SIXTY_FOURTHS, SIXTY_FOURTHS)
@example([], 10, 0, 0.5, 0.5)
@example([None, None], 10, 3, 0.5, 0.5)
@example([0.625] * 15, 500, 0, 0.75, 0.5)
@example([0.625] * 16, 500, 0, 0.75, 0.5)
def test_calls_follow_the_rules(
    scores: list[float | None], size: int, surplus: int, min_score: float, long: float
) -> None:
    windows = placed(scores, size, surplus)
    assert as_expected(called(windows, min_score, long)) == reference(windows, min_score, long)


def test_long_sequences_have_a_threshold_of_their_own() -> None:
    """A sequence with 8,000 scored bases is long; bases without a score do not count."""
    found = [called(placed(scores, 500, 0), 0.75, 0.5).verdict for scores in ([0.625] * 15 + [None], [0.625] * 16)]
    assert found == [Verdict.OTHER, Verdict.VIRUS]


def tiles(pattern: str) -> list[Scored]:
    """A window of 10 bases for each letter: v viral, . not viral, blank without a score."""
    scores = {"v": 0.75, ".": 0.0, " ": None}
    return [(10 * i, 10 * i + 10, scores[letter]) for i, letter in enumerate(pattern)]


@pytest.mark.parametrize(
    ("pattern", "verdict", "regions"),
    [
        ("", "not_scored", []),
        ("   ", "not_scored", []),
        ("v", "virus", [(0, 10)]),
        (".", "other", []),
        ("..........vv", "other", []),
        ("..........vvv", "mixed", [(100, 130)]),
        ("..........v..v..v", "mixed", [(100, 170)]),
        ("..........v...v..v", "other", []),
        ("...........v.v...vvv", "mixed", [(170, 200)]),
        ("..........v   v.  .v", "mixed", [(100, 200)]),
        ("          vvv..", "mixed", [(100, 130)]),
        ("          vvv.", "virus", [(100, 130)]),
        ("vvvvv...v", "virus", [(0, 50), (80, 90)]),
    ],
)
def test_regions_of_patterns(pattern: str, verdict: str, regions: list[tuple[int, int]]) -> None:
    """At most two other windows in a region, three viral ones or more in a mixed sequence; unscored never count."""
    call = called(tiles(pattern))
    assert [(region.start, region.end) for region in call.regions] == regions
    assert call.verdict.value == verdict


def test_windows_count_by_their_bases() -> None:
    call = called([(0, 300, 1.0), (300, 400, 0.0)])
    assert (call.verdict, call.score) == (Verdict.VIRUS, 0.75)
    assert called([(0, 100, 1.0), (100, 400, 0.0)]).verdict is Verdict.OTHER


def test_a_gap_counts_in_the_mean_of_its_region_and_what_follows_it_does_not() -> None:
    (region,) = called(tiles("vv.v.." + 12 * ".")).regions
    assert region == Region(0, 40, score=0.5625, windows=4, viral=3)


def test_overlapping_windows_make_one_region_of_true_coordinates() -> None:
    length = 1050
    windows = [(start, end, 0.875) for start, end in window_bounds(length, 500)]
    assert len(windows) == 3
    (region,) = called(windows).regions
    assert (region.start, region.end, region.bases) == (0, length, length)


def test_viral_fraction_is_of_scored_windows() -> None:
    assert called(tiles("v.  ")).viral_fraction == 0.5
    assert called(tiles("  ")).viral_fraction is None


def test_sums_are_the_same_on_any_python() -> None:
    """A sum that compensates for rounding, like `sum` from Python 3.12 on, would be 2."""
    assert added([1.0, 1e100, 1.0, -1e100]) == 0.0
