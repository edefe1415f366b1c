"""Runs that are killed for real, at operations that are named and not timed; see `kills.py`, which does all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import COMMANDS, Trials, random_stops, stop_and_go_on


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    with Trials() as server:
        yield server


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_while_it_publishes(name: str, trials: Trials, tmp_path: Path) -> None:
    """At some of the last operations: results and the record get their names, work files are removed."""
    found = list(stop_and_go_on(trials, name, tmp_path, slice(-24, None, 12)))
    assert len(found) == 2
    assert not "".join(found)


@pytest.mark.heavy
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_more_moments(name: str, trials: Trials, tmp_path: Path) -> None:
    """Over the whole run, from the first operation on."""
    assert not "".join(stop_and_go_on(trials, name, tmp_path, slice(None, None, 12 if name == "train" else 4)))


@pytest.mark.heavy
def test_stopped_at_random_moments(tmp_path: Path) -> None:
    assert not "".join(random_stops(tmp_path, stops=2, seed=5, commands=("embed",)))
