"""The site builds without a warning, and is true: the quickstart's run, options, messages in the FAQ."""

from __future__ import annotations

import math
import re
import runpy
import subprocess
import sys
from html import unescape
from itertools import pairwise
from pathlib import Path

import click
import pytest
from conftest import HANGS

from virnucpro.calls.model import ORIGIN, CallModel, log_odds, probability
from virnucpro.calls.segment import ModelCaller
from virnucpro.cli import cli
from virnucpro.models.card import ClassifierCard
from virnucpro.models.registry import EMBEDDED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFRESH = runpy.run_path(str(DOCS / "refresh.py"))


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# What the site says


def test_the_worked_example_is_what_the_code_computes() -> None:
    section = page("calls.md").split("\n## A worked example\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d \| (\d+) to (\d+) \| (0\.\d+) \| (-?\d\.\d+) \|$", section, re.MULTILINE)
    windows = [(int(start) - 1, int(end), float(score)) for start, end, score, _ in rows]
    assert [round(log_odds(score), 1) for *_, score in windows] == [round(float(row[3]), 1) for row in rows]
    calls = ClassifierCard.read(EMBEDDED / "mini").calls
    assert calls is not None
    model: CallModel = calls[500]
    caller = ModelCaller(model, model.thresholds("default"))
    for window in windows:
        caller.add(*window)
    call = caller.finish()
    bases = sum(end - start for start, end, _ in windows)
    mean = sum((end - start) * float(row[3]) for (start, end, _), row in zip(windows, rows, strict=True)) / bases
    results = [float(line.rsplit("= ")[-1]) for line in section.splitlines() if line.startswith("    ")]
    odds = model.sequences.log_odds(bases, mean)
    level = model.sequences.log_odds(bases, 0)
    expected = [mean, math.log2(bases / ORIGIN), level, (odds - level) / mean, odds, probability(odds)]
    assert results == pytest.approx(expected, abs=6e-4)
    assert call.score == pytest.approx(results[-1], abs=1e-3)
    assert f"The threshold at this length is {call.threshold:.3f}, so it is `{call.verdict.value}`" in section


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "virnucpro").rglob("*.py")))


def test_messages_of_the_faq_are_those_of_the_code() -> None:
    section = page("faq.md").split("\n## By message\n")[1].split("\n## ")[0]
    messages = [line.strip("`") for line, following in pairwise(section.splitlines()) if following.startswith(": ")]
    code = re.sub(r'"\n\s*f?"', "", sources())
    parts = [part.strip() for message in messages for part in re.split(r"…|: ", message) if part.strip()]
    assert len(messages) >= 10
    assert [part for part in parts if part not in code] == []


def test_every_exit_code_is_in_the_faq() -> None:
    said = re.findall(r"^\| ([\d, ]+) \|", page("faq.md"), re.MULTILINE)
    from virnucpro.cli import EXIT_CODES

    assert re.findall(r"\d+", " ".join(said)) == re.findall(r"(\d+)(?=[ /])", EXIT_CODES.split("(")[0])


def test_every_page_is_reached() -> None:
    listed = re.findall(r"^(?:.*<)?(\w+)>?$", page("index.md"), re.MULTILINE)
    assert sorted({path.stem for path in DOCS.glob("*.md")} - set(listed)) == ["index"]


# The site itself


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    for module in ("sphinx", "furo", "myst_parser", "sphinx_click"):
        pytest.importorskip(module, reason=f"needs {module}: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "trees", DOCS, out / "html"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stderr) == (0, "")
    return out / "html"


def options(command: click.Command, names: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """The long options of a command and of those below it, by its name."""
    own = {name for each in command.params for name in each.opts if name.startswith("--")}
    found = {"-".join(names): own - {"--help"}}
    for name, inside in (command.commands if isinstance(command, click.Group) else {}).items():
        found |= options(inside, (*names, name))
    return found


@pytest.mark.heavy
def test_every_option_has_a_place_on_the_site(site: Path) -> None:
    text = (site / "options.html").read_text(encoding="utf-8")
    for command, names in options(cli, ("virnucpro",)).items():
        assert {name for name in names if f'id="cmdoption-{command}{name[1:]}"' not in text} == set()
    words = unescape(re.sub(r"<[^>]+>", "", text))
    assert "Lowest score at which a window, sequence or region is called viral" in " ".join(words.split())


@pytest.mark.heavy
def test_the_site_asks_for_nothing_from_elsewhere(site: Path) -> None:
    loads = r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"'
    assert [found for each in site.glob("*.html") for found in re.findall(loads, each.read_text("utf-8"))] == []


# The quickstart


def same(said: str, shown: str) -> bool:
    """Whether two lines have the same words, and numbers that differ at most in their last digits."""
    words, others = said.split(), shown.split()
    return len(words) == len(others) and all(map(_same_word, words, others))


def _same_word(word: str, other: str) -> bool:
    numbers = [re.findall(r"\d+\.\d+", each) for each in (word, other)]
    if not (numbers[0] and numbers[1]):
        return word == other
    rest = [re.sub(r"\d+\.\d+", "", each) for each in (word, other)]
    return rest[0] == rest[1] and list(map(float, numbers[0])) == pytest.approx(list(map(float, numbers[1])), abs=2e-3)


@pytest.mark.heavy
def test_the_quickstart_shows_what_the_commands_show(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = list(REFRESH["quoted"](page("quickstart.md")))
    assert len(blocks) == 4
    for command, lines in blocks:
        shown = REFRESH["shown"](command, tmp_path)
        assert [line for line in lines if not any(same(line, each) for each in shown)] == []
    assert (tmp_path / "out" / "mixed.report.html").is_file()
