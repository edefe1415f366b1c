"""What the documentation says of columns and options is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from virnucpro.calls import tables
from virnucpro.cli import cli
from virnucpro.io.tables import FAILED

ROOT = Path(__file__).parent.parent
OUTPUTS = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
TABLES = {
    "PREFIX.sequences.tsv": tables.SEQUENCES,
    "PREFIX.windows.tsv.gz": tables.WINDOWS,
    "PREFIX.regions.bed": tables.REGIONS,
    "PREFIX.virus_summary.tsv": tables.VIRUSES,
    "PREFIX.failed.tsv": FAILED,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_explained_as_in_the_code(name: str) -> None:
    section = OUTPUTS.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.MULTILINE)
    assert dict(rows) == dict(TABLES[name])


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in cli.commands if f"virnucpro {name}" not in readme] == []


def test_readme_opens_with_predict() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    assert any("virnucpro predict" in line for line in first_screen)
