"""Calls of measured model sets: each rule written in another way, numbers in the card, expected false calls."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError, convert
from toy_set import toy_calls

from virnucpro.calls.discovery import Discovery
from virnucpro.calls.model import (
    MOST,
    CallModel,
    FalsePositives,
    RegionModel,
    SequenceModel,
    ThresholdsByLength,
    log_odds,
    probability,
)
from virnucpro.calls.segment import ModelCaller, WindowOdds, divide
from virnucpro.calls.verdicts import Region, SequenceCall, Thresholds
from virnucpro.input.windows import window_bounds

CALLS = toy_calls(500)
HALF = Thresholds(0.5, 0.5, 0.5)
ODDS = st.integers(-48, 48).map(lambda number: number / 4)


# A probability for a sequence.


@given(st.floats(-MOST, MOST))
def test_log_odds_and_probabilities_are_two_words_for_one_thing(odds: float) -> None:
    assert log_odds(probability(odds)) == pytest.approx(odds, abs=1e-6)


def test_a_score_of_nothing_or_all_says_no_more_than_the_most() -> None:
    assert [log_odds(score) for score in (0.0, 1e-30, 1.0)] == [-MOST, -MOST, MOST]


def test_the_probability_by_hand() -> None:
    """Level and slope are polynomials of the octaves of scored bases above 500, within the lengths that were fitted."""
    model = SequenceModel((125, 4000), level=(0.5, -0.25), slope=(1.0, 0.5, 0.125))
    for bases, octave in ((500, 0), (2000, 2), (125, -2), (60, -2), (4000, 3), (90_000, 3)):
        expected = 0.5 - 0.25 * octave + (1 + 0.5 * octave + 0.125 * octave**2) * 0.75
        assert model.log_odds(bases, 0.75) == pytest.approx(expected)


def called(
    odds: Sequence[float | None],
    size: int = 500,
    calls: CallModel = CALLS,
    thresholds: Thresholds | ThresholdsByLength = HALF,
) -> SequenceCall:
    """A sequence of whole windows with these log-odds."""
    caller = ModelCaller(calls, thresholds)
    for place, each in enumerate(odds):
        score = None if each is None else probability(each)
        viral = caller.add(place * size, (place + 1) * size, score)
        assert viral is (score is not None and score >= thresholds.window)
    return caller.finish()


def test_the_score_is_the_probability_by_the_mean_of_the_windows() -> None:
    call = called([1.0, None, -0.5, 2.0])
    assert call.score == pytest.approx(probability(CALLS.sequences.log_odds(1500, 2.5 / 3)))
    assert (call.windows, call.scored, call.viral) == (4, 3, 2)
    assert call.viral_fraction == 2 / 3


def test_windows_count_by_their_bases() -> None:
    caller = ModelCaller(CALLS, HALF)
    caller.add(0, 300, probability(2.0))
    caller.add(300, 400, probability(-2.0))
    assert caller.finish().score == pytest.approx(probability(CALLS.sequences.log_odds(400, 1.0)))


def test_windows_count_by_the_bases_that_are_known() -> None:
    caller = ModelCaller(CALLS, HALF)
    caller.add(0, 500, probability(2.0), unknown=200)
    caller.add(500, 1000, probability(-2.0), unknown=400)
    assert caller.finish().score == pytest.approx(probability(CALLS.sequences.log_odds(400, 1.0)))


def test_a_sequence_without_a_score_is_not_called() -> None:
    assert called([None, None]) == SequenceCall(windows=2)
    assert called([]) == SequenceCall()


def test_a_score_has_no_cliff_at_any_length() -> None:
    """One record, cut at every length from 7.5 to 8.5 kb: the windows are alike, and the score hardly changes."""
    signal = [math.sin(place / 700) + 0.4 for place in range(8_501)]
    scores = []
    for length in range(7_500, 8_501):
        caller = ModelCaller(CALLS, HALF)
        for start, end in window_bounds(length, 500):
            caller.add(start, end, probability(signal[(start + end) // 2]))
        scores.append(caller.finish().score or 0.0)
    assert max(abs(one - two) for one, two in pairwise(scores)) < 0.002


# Thresholds.


@pytest.mark.parametrize(("bases", "score"), [(50, 0.9), (100, 0.9), (200, 0.75), (400, 0.5), (9000, 0.5)])
def test_thresholds_of_sequences_are_read_in_between_lengths(bases: int, score: float) -> None:
    """Interpolated over octaves of length and log-odds of the score (3 to 1 lies between 9 to 1 and 1 to 1)."""
    assert ThresholdsByLength(0.6, (100, 400), (0.9, 0.5)).of_sequence(bases) == pytest.approx(score)


def test_a_short_sequence_must_score_more_than_a_long_one() -> None:
    """The preset's threshold for its length holds, which the call shows; for a region that of its own length."""
    presets = {**CALLS.sequence_presets, "default": (0.95, 0.5)}
    thresholds = replace(CALLS, sequence_presets=presets).thresholds("default")
    short, long = called([1.0], thresholds=thresholds), called([1.0] * 100, thresholds=thresholds)
    assert (short.verdict.value, long.verdict.value) == ("other", "virus")
    assert short.threshold == thresholds.of_sequence(500)
    assert short.false_positives == CALLS.false_positives.at(500, thresholds.of_sequence(500))


RATES = FalsePositives((100, 400), (0.25, 0.75), ((0.5, 0.25), (0.25, 0.0)))


@pytest.mark.parametrize(
    ("bases", "score", "rate"),
    [
        (100, 0.25, 0.5), (100, 0.75, 0.25), (400, 0.25, 0.25), (400, 0.75, 0.0),
        (100, 0.5, 0.375), (200, 0.25, 0.375), (200, 0.5, 0.25), (50, 0.1, 0.5), (9000, 0.9, 0.0),
    ],
)  # fmt: skip
def test_false_positives_are_read_in_between_and_beyond(bases: int, score: float, rate: float) -> None:
    """Interpolated over octaves of length and log-odds of the score; beyond the ends the nearest value."""
    assert RATES.at(bases, score) == pytest.approx(rate)


def test_a_call_shows_its_threshold_and_the_false_positives_that_it_stands_for() -> None:
    thresholds = Thresholds(0.9, 0.8, 0.8)
    call = called([0.5] * 4, thresholds=thresholds)
    assert (call.threshold, call.viral) == (0.8, 0)
    assert call.false_positives == CALLS.false_positives.at(2000, 0.8)


# Regions.


def evidence_of(windows: Sequence[float], model: RegionModel) -> list[float]:
    return [min(max(each, -model.clip), model.clip) - model.bias for each in windows]


def stretches(viral: Sequence[bool]) -> Iterator[tuple[int, int]]:
    start = None
    for place, each in enumerate([*viral, False]):
        if each and start is None:
            start = place
        if not each and start is not None:
            yield start, place
            start = None


def most_evidence(windows: Sequence[float], model: RegionModel) -> float:
    """The best of all divisions into viral stretches and host, tried one by one."""
    evidence = evidence_of(windows, model)
    return max(
        sum(sum(evidence[a:b]) - model.cost for a, b in stretches(viral))
        for viral in product((False, True), repeat=len(windows))
    )


def tiles(odds: Sequence[float]) -> list[WindowOdds]:
    return [WindowOdds(500 * place, 500 * place + 500, each, False) for place, each in enumerate(odds)]


@given(st.lists(ODDS, max_size=9), st.sampled_from([0.0, 2.0, 5.0]), st.sampled_from([-0.5, 0.0, 1.0]))
def test_regions_gather_the_most_evidence(odds: list[float], cost: float, bias: float) -> None:
    """With host of any length between and around regions, the division is the best of all."""
    model = RegionModel(bias, clip=4.0, cost=cost, min_bases=0, host=1.0, false_per_mbp=0.0)
    # Host at both ends that no region would include.
    padded = [-4.0] * 4 + odds + [-4.0] * 4
    found = divide(tiles(padded), 500 * len(padded), model, lambda _: True)
    evidence = evidence_of(padded, model)
    assert sum(sum(evidence[a:b]) - cost for a, b in found) == pytest.approx(most_evidence(odds, model))


def regions_of(pattern: str, **changes: Any) -> tuple[str, list[tuple[int, int]]]:
    """Verdict, and regions in windows, for a pattern: v viral, h host, blank no score."""
    calls = replace(CALLS, regions=replace(CALLS.regions, **changes))
    call = called([{"v": 3.0, "h": -3.0, " ": None}[letter] for letter in pattern], calls=calls)
    return call.verdict.value, [(region.start // 500, -(-region.end // 500)) for region in call.regions]


@pytest.mark.parametrize(
    ("pattern", "verdict", "regions"),
    [
        ("vvvvvvvvvvvvvvvv", "virus", [(0, 16)]),
        ("hhhhhhhhhhhhhhhh", "other", []),
        ("hhhhhhhhvvvvvvvvhhhhhhhh", "mixed", [(8, 16)]),
        ("vvvvvvvvvvvvvvhhhhhhhh", "mixed", [(0, 14)]),
        ("hhhhhhhhvvvvvvvvvvvvvvvvvv", "mixed", [(8, 26)]),
        # Too little virus, or host, to be distinguished from chance.
        ("hhhhhhhhvvvhhhhhhhh", "other", []),
        ("vvvvvvvvvvvvvvhhh", "virus", [(0, 17)]),
        ("hhhvvvvvvvvvvvvvv", "virus", [(0, 17)]),
        ("vvvvvvvvvhhhvvvvvvvvv", "virus", [(0, 21)]),
        ("hhhhhhhhvvvvvvhhhvvvvvvhhhhhhhh", "mixed", [(8, 23)]),
        ("vvvvvvvvvhhhhhhhhvvvvvvvvv", "mixed", [(0, 9), (17, 26)]),
        # Windows without a score neither end a region nor count in it.
        ("hhhhhhhhvvv vv  vvvvhhhhhhhh", "mixed", [(8, 20)]),
        ("  vvvvvvvvvvvvvvvv ", "virus", [(0, 19)]),
    ],
)
def test_regions_of_patterns(pattern: str, verdict: str, regions: list[tuple[int, int]]) -> None:
    assert regions_of(pattern) == (verdict, regions)


def test_a_region_is_long_enough() -> None:
    assert regions_of("hhhhhhhhvvvvvvvvhhhhhhhh", min_bases=4_000)[1] == [(8, 16)]
    assert regions_of("hhhhhhhhvvvvvvvvhhhhhhhh", min_bases=4_001) == ("other", [])


def test_what_is_viral_as_a_whole_is_divided_only_by_what_is_clearly_host() -> None:
    mostly_viral, mostly_host = "hhhhhhhhvvvvvvvvvvvvvvvvvv", "hhhhhhhhvvvvvvvvhhhhhhhhhhhh"
    assert regions_of(mostly_viral, host=0.2) == ("mixed", [(8, 26)])
    assert regions_of(mostly_viral, host=0.001) == ("virus", [(0, 26)])
    assert regions_of(mostly_host, host=0.001) == ("mixed", [(8, 16)])


def test_a_viral_sequence_is_one_feature_of_its_whole_length() -> None:
    call = called([0.9, 3.0, None, -0.5, 2.0])
    assert call.regions == (Region(0, 2_500, call.score or 0.0, windows=4, viral=3),)


def test_a_region_has_the_score_that_it_would_have_as_a_sequence() -> None:
    (region,) = called([-3.0] * 8 + [3.0, 2.0] * 4 + [-3.0] * 8).regions
    alone = called([3.0, 2.0] * 4)
    assert (region.score, region.windows, region.viral) == (alone.score, 8, 8)
    assert (region.start, region.end) == (4_000, 8_000)


def test_a_region_must_reach_the_threshold() -> None:
    odds = [-3.0] * 8 + [1.0] * 30 + [-3.0] * 8
    score = called(odds).regions[0].score
    assert called(odds, thresholds=Thresholds(0.5, score, score)).verdict.value == "mixed"
    above = math.nextafter(score, 1)
    assert called(odds, thresholds=Thresholds(0.5, above, above)).verdict.value == "other"


# In the card.


def in_a_card() -> Any:
    """The numbers as they are written in a card."""
    return json.loads(json.dumps(asdict(CALLS)))


def test_the_numbers_come_back_from_a_card_as_they_were() -> None:
    assert convert(in_a_card(), CallModel) == CALLS


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("min_length",), -1, "`int` >= 0 .*min_length"),
        (("min_length",), 1.5, "`int`, got `float` .*min_length"),
        (("window_presets",), {"default": 2}, "`float` <= 1.0 .*window_presets"),
        (("window_presets",), {}, "sequence_presets must be of the same names"),
        (("sequence_presets", "default"), math.nan, "`array`, got `float` .*sequence_presets"),
        (("sequence_presets", "default"), [0.5], "sequence_presets must be a score for each length"),
        (("sequence_presets", "default"), [0.5, 2], "`float` <= 1.0 .*sequence_presets"),
        (("sequence_presets", "default"), [0.5, math.nan], "`float` >= 0.0 .*sequence_presets"),
        (("sequences",), None, "`object`, got `null` .*sequences"),
        (("sequences", "bases"), [500], r"`array` of length 2, got 1 .*sequences\.bases"),
        (("sequences", "bases"), [500, 100], "bases must be the shortest and the longest length"),
        (("sequences", "level"), [], r"`array` of length >= 1 .*sequences\.level"),
        (("sequences", "slope"), [1, "2"], r"`float`, got `str` .*sequences\.slope"),
        (("sequences", "slope"), [math.inf], r"`float` <= 1000000000.0 .*sequences\.slope"),
        (("false_positives", "bases"), [500, 100], "bases and scores must be increasing"),
        (("false_positives", "scores"), [0.0, 0.5], r"`float` > 0.0 .*false_positives\.scores"),
        (("false_positives", "rates"), [[0.5, 0.25]], "rates must be a row for each length"),
        (("false_positives", "rates"), [[0.5], [0.25]], "rates must be a share for each score"),
        (("false_positives", "rates"), [[0.5, 2], [0.25, 0]], r"`float` <= 1.0 .*false_positives\.rates"),
        (("regions", "cost"), True, r"`float`, got `bool` .*regions\.cost"),
        (("regions", "clip"), -1, r"`float` >= 0.0 .*regions\.clip"),
        (("regions", "min_bases"), "many", r"`int`, got `str` .*regions\.min_bases"),
    ],
)
def test_wrong_numbers_are_refused(path: tuple[str, ...], value: object, message: str) -> None:
    inside = values = in_a_card()
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        convert(values, CallModel)


# How many calls are false.


def sample(viral: int, other: int, seed: int) -> tuple[Discovery, int]:
    """Sequences whose log-odds are right, viral ones around 2, others around -2; and how many calls are false."""
    rng, discovery, false = random.Random(seed), Discovery(), 0
    for is_viral in [True] * viral + [False] * other:
        odds = rng.gauss(2 if is_viral else -2, 2)
        called_viral = odds >= 1.5
        discovery.add(probability(odds), called_viral)
        false += called_viral and not is_viral
    return discovery, false


@pytest.mark.parametrize(("viral", "other"), [(5_000, 5_000), (400, 9_600), (9_000, 1_000), (0, 10_000)])
def test_the_expected_number_of_false_calls_is_about_the_true_one(viral: int, other: int) -> None:
    discovery, false = sample(viral, other, seed=viral)
    found = discovery.expected(0, 0.0)
    assert found.estimated
    assert found.share == pytest.approx(viral / 10_000, abs=0.02)
    assert found.expected_false == pytest.approx(false, rel=0.2, abs=25)


def test_it_works_on_ten_sequences() -> None:
    discovery, _ = sample(3, 7, seed=1)
    found = discovery.expected(0, 0.0)
    assert 0 < found.share < 1
    assert 0 <= found.expected_false <= found.calls


def test_it_works_on_none() -> None:
    found = Discovery().expected(0, 0.0)
    assert (found.share, found.calls, found.expected_false) == (0.5, 0, 0.0)


def test_a_given_share_is_taken() -> None:
    """By Bayes' rule: with scores of 0.9, and one sequence of ten viral, every second call is false."""
    discovery = Discovery()
    for _ in range(8):
        discovery.add(0.9, True)
    found = discovery.expected(2, 0.5, share=0.1)
    assert (found.share, found.estimated, found.calls) == (0.1, False, 8)
    assert found.expected_false == pytest.approx(4.0, abs=0.02)
    assert str(found) == (
        "expected false calls: 4.0 of 8 called virus, assuming that 10.0% of the sequences are viral (given); "
        "0.5 of 2 regions in mixed sequences"
    )
    assert str(discovery.expected(0, 0.1)).endswith(
        "(estimated from the scores)"
    )  # nothing about regions if there are none
