"""The columns and options in the documentation are those that exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import rich_click as click

from virnucpro.calls import tables
from virnucpro.cli import cli
from virnucpro.errors import UsageError
from virnucpro.io.tables import FAILED
from virnucpro.runs.changes import CAUSES, option
from virnucpro.runs.config import EmbedConfig, PredictConfig, TrainConfig

ROOT = Path(__file__).parent.parent
OUTPUTS = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("outputs.md", "samples.md"))
TABLES = {
    "PREFIX.sequences.tsv": tables.SEQUENCES,
    "PREFIX.windows.tsv.gz": tables.WINDOWS,
    "PREFIX.regions.bed": tables.REGIONS,
    "PREFIX.virus_summary.tsv": tables.VIRUSES,
    "PREFIX.failed.tsv": FAILED,
    "samples.tsv": tables.SAMPLES,
    "samples.failed.tsv": tables.FAILED_SAMPLES,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_explained_as_in_the_code(name: str) -> None:
    section = re.split(r"\n##+ ", OUTPUTS.split(f"# `{name}`\n")[1])[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.MULTILINE)
    assert dict(rows) == dict(TABLES[name])


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in cli.commands if f"virnucpro {name}" not in readme] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as the site and the repository's host make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "packaging/README.md", "examples/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" not in link:
            assert (page.parent / target).exists(), link
            assert not anchor or anchor in anchors(page.parent / target), link


def test_the_help_shows_every_command_in_a_group() -> None:
    groups = click.rich_click.COMMAND_GROUPS["virnucpro"]
    assert sorted(name for group in groups for name in group["commands"]) == sorted(cli.commands)


CONFIGS = {"embed": EmbedConfig, "predict": PredictConfig, "train": TrainConfig}


@pytest.mark.parametrize("name", CONFIGS)
def test_python_and_the_command_line_refuse_the_same_numbers(name: str) -> None:
    for param in cli.commands[name].params:
        if isinstance(param.type, click.IntRange | click.FloatRange) and param.name:
            for end in filter(lambda end: end is not None, (param.type.min, param.type.max)):
                for value in (end - 1, end, end + 1):
                    setting = {"inputs": ("in.fa",), "output": "out", param.name: value}
                    by_command = is_taken(click.BadParameter, partial(param.type.convert, value, param, None))
                    assert is_taken(UsageError, partial(CONFIGS[name], **setting)) == by_command, setting


@pytest.mark.parametrize("name", [*CONFIGS, "split", "orfs"])
def test_options_are_named_after_the_settings_that_they_change(name: str) -> None:
    deciding = {cause for causes in CAUSES.values() for cause in causes}
    options = {param.name: param.opts for param in cli.commands[name].params if isinstance(param, click.Option)}
    for setting in options.keys() & deciding:
        assert option(setting) in options[setting]


def is_taken(error: type[Exception], take: Callable[[], object]) -> bool:
    try:
        take()
    except error:
        return False
    return True


def test_readme_opens_with_predict() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40]
    assert any("virnucpro predict" in line for line in first_screen)
