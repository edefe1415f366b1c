"""A short run of the fuzzer; CONTRIBUTING.md says how to start a long one."""

from __future__ import annotations

import pytest
from fuzz import run


def test_damaged_inputs_through_the_reader() -> None:
    ends, findings = run(reader=300, command=0, seed=1)
    assert findings == []
    assert set(ends) == {"read", "damaged", "refused"}


@pytest.mark.usefixtures("_own_signals_and_logging")
def test_damaged_inputs_through_the_commands() -> None:
    ends, findings = run(reader=0, command=8, seed=1)
    assert findings == []
    assert len(ends) > 1
