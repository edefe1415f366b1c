"""Runs that are really stopped, at named operations, not at times; `kills.py` does that at every operation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import COMMANDS, STOPS, Trials, random_stops, stop_and_go_on, tree, words_of


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    with Trials() as server:
        yield server


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])  # all of them take long: see below
def test_killed_while_it_publishes(name: str, trials: Trials, tmp_path: Path) -> None:
    """At some of the last operations: results and the record are renamed, work files are removed."""
    found = list(stop_and_go_on(trials, name, tmp_path, slice(-24, None, 12)))
    assert len(found) == 2
    assert not "".join(found)


@pytest.mark.heavy
@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_at_more_moments(name: str, how: str, trials: Trials, tmp_path: Path) -> None:
    """In the whole run; the moments of one way to stop lie between those of the other."""
    apart = 24 if name == "train" else 8
    first = {"kill": 0, "full": apart // 2}[how]
    assert not "".join(stop_and_go_on(trials, name, tmp_path, slice(first, None, apart), how))


@pytest.mark.heavy
def test_a_full_disk_for_the_last_word_costs_no_work(trials: Trials, tmp_path: Path) -> None:
    """Results are renamed, but the record cannot say that the run is complete: the next run computes nothing."""
    (tmp_path / "inputs").mkdir()
    words = words_of("embed", tmp_path / "inputs")
    for folder in (undisturbed := tmp_path / "undisturbed", stopped := tmp_path / "stopped"):
        folder.mkdir()
    _, operations, _ = trials.run(undisturbed, words)
    last = max(at for at, operation in enumerate(operations, 1) if operation.startswith("open .o.h5.run.json"))
    code, _, said = trials.run(stopped, words, last, "full")
    assert (code, "o.h5.run.json: File too large" in said) == (3, True), said
    _, operations, said = trials.run(stopped, words)
    assert "resuming" in said, said
    assert not [operation for operation in operations if operation.startswith("open") and "shards" in operation]
    assert tree(stopped) == tree(undisturbed)


@pytest.mark.heavy
def test_stopped_at_random_moments(tmp_path: Path) -> None:
    assert not "".join(random_stops(tmp_path, stops=2, seed=5, commands=("embed",)))
