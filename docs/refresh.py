"""Makes again what the pages show of runs: `python docs/refresh.py`, when the model set or a message has changed.

The commands of quickstart.md are run and what they quote is replaced; the numbers of the worked example in calls.md and
the two drawings are made from the same run. The prose around them is not: read it again.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from virnucpro.calls.model import ORIGIN, CallModel, log_odds, probability
from virnucpro.models.card import ClassifierCard
from virnucpro.models.registry import EMBEDDED

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<lines>(?:.+\n)+)```$", re.MULTILINE)
EXAMPLE = re.compile(r"(?<=<!-- docs/refresh.py -->\n).+(?=<!-- end -->)", re.DOTALL)
#: Numbers of the records in examples/mixed.fa that are drawn.
GENE, PROPHAGE = "5", "11"
VIRUS, OTHER, REGION, HOST = "#d55e00", "#0072b2", "#e69f00", "#cfe0ea"


class Window(NamedTuple):
    """First and last base, from 1, and the score."""

    start: int
    end: int
    score: float

    @property
    def bases(self) -> int:
        """Of the window."""
        return self.end - self.start + 1


def quoted(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a page, and the lines that it quotes."""
    for block in BLOCK.finditer(page):
        yield block["command"], block["lines"].splitlines()


def shown(command: str, folder: Path) -> list[str]:
    """What a command shows in `folder`, which has examples/; on one CPU in fp32, as every machine can."""
    exact = re.sub(r"^virnucpro predict", f"{sys.executable} -m virnucpro predict -d cpu --dtype fp32", command)
    plain = exact.removesuffix(" | column -t")
    done = subprocess.run(plain, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    return lines if plain == exact else list(_aligned([line.split("\t") for line in lines]))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def quote(command: str, lines: list[str], folder: Path) -> str:
    """The block of a command, with its lines as they are now."""
    now = shown(command, folder)
    if command.startswith("virnucpro"):
        now = [get_close_matches(line, now, 1, 0)[0] for line in lines]
    return "\n".join(("```console", f"$ {command}", *now, "```"))


def windows(folder: Path, number: str) -> list[Window]:
    """Those of a record of the run in `folder`."""
    with gzip.open(folder / "out" / "mixed.windows.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["number"] == number]
    return [Window(int(row["start"]), int(row["end"]), float(row["score"])) for row in rows]


def regions(folder: Path, name: str) -> list[tuple[int, int]]:
    """First and last base, from 1, of the viral regions of a record of the run."""
    with open(folder / "out" / "mixed.regions.bed", encoding="utf-8") as file:
        rows = [line.split("\t") for line in file if line.startswith(name)]
    return [(int(row[1]) + 1, int(row[2])) for row in rows]


def calls_of_mini() -> CallModel:
    """The numbers by which `mini` calls."""
    calls = ClassifierCard.read(EMBEDDED / "mini").calls
    assert calls is not None
    return calls[500]


def example(found: Sequence[Window]) -> str:
    """The worked example: table, sums and verdict."""
    model = calls_of_mini()
    odds, bases = [log_odds(each.score) for each in found], sum(each.bases for each in found)
    mean = sum(each.bases * value for each, value in zip(found, odds, strict=True)) / bases
    level, z = model.sequences.log_odds(bases, 0), model.sequences.log_odds(bases, mean)
    threshold = model.thresholds("default").of_sequence(bases)
    terms = " + ".join(f"{each.bases} · {value:.3f}" for each, value in zip(found, odds, strict=True))
    left = [
        (f"m     = ({terms})".replace("+ ", "+ ") + f" / {bases}", mean),
        (f"x     = log2({bases} / {ORIGIN})", math.log2(bases / ORIGIN)),
        (f"level = {_polynomial(model.sequences.level)}", level),
        (f"slope = {_polynomial(model.sequences.slope)}", (z - level) / mean),
        (f"z     = {level:.3f} + {(z - level) / mean:.3f} · {mean:.3f}", z),
        (f"score = 1 / (1 + exp(-{z:.3f}))", probability(z)),
    ]
    rows = [
        f"| {place} | {each.start} to {each.end} | {each.score:.3f} | {value:.3f} |"
        for place, (each, value) in enumerate(zip(found, odds, strict=True), 1)
    ]
    width = max(len(words) for words, _ in left[1:])
    sums = [f"    {words.ljust(width)} = {value:.3f}" for words, value in left]
    verdict = "virus" if probability(z) >= threshold else "other"
    return "\n".join(
        (
            *("| window | bases | score | log-odds |", "|---|---|---|---|", *rows, ""),
            *(f"{bases:,} bases were scored, those of the overlaps twice:", "", *sums, ""),
            f"The threshold at this length is {threshold:.3f}, so it is `{verdict}`.\n",
        )
    )


def _polynomial(coefficients: Sequence[float]) -> str:
    return " + ".join(f"{value:g}" + ("", " x", " x²")[power] for power, value in enumerate(coefficients))


def drawing(title: str, height: int, parts: Sequence[str]) -> str:
    """An SVG of 720 units in width."""
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join((begin, f"<title>{title}</title>", _box(0, 0, 720, height, "#fff"), *parts, "</svg>\n"))


def _box(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}" fill-opacity="{opacity}"/>'
    )


def _text(x: float, y: float, words: str, anchor: str = "start", fill: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def draw_windows(found: Sequence[Window]) -> str:
    """A sequence, its windows, their scores and log-odds."""
    least, last = calls_of_mini().window_presets["default"], found[-1].end
    bases = sum(each.bases for each in found)
    mean = sum(each.bases * log_odds(each.score) for each in found) / bases

    def place(base: int) -> float:
        return 20 + (base - 1) * 680 / last

    parts = [_text(20, 20, f"sequence, {last:,} bases"), _box(20, 28, 680, 12, "#999")]
    parts.append(_text(20, 68, f"windows of 500 bases: {len(found)} cover it, with even overlaps"))
    for count, each in enumerate(found):
        colour, top = VIRUS if each.score >= least else OTHER, 78 + count % 2 * 18
        left, right, odds = place(each.start), place(each.end + 1), log_odds(each.score)
        middle, high = (left + right) / 2, abs(odds) * 14
        parts += [
            _box(left, top, right - left, 14, colour, 0.8),
            _text(middle, top + 11, f"{each.score:.3f}", "middle", "#fff"),
        ]
        parts.append(_box(middle - 18, 200 - max(odds, 0) * 14, 36, max(high, 1), colour, 0.8))
        parts.append(_text(middle, 196 - high if odds > 0 else 213 + high, f"{odds:.2f}".replace("-", "−"), "middle"))
    parts += [_text(20, 142, "log-odds of each, and their mean"), _box(20, 200, 680, 1, "#999")]
    parts += [_box(20, 200 - mean * 14, 680, 1, "#333"), _text(700, 195 - mean * 14, f"m = {mean:.2f}", "end")]
    return drawing("A sequence, its windows, their scores, and the mean of their log-odds", 246, parts)


def draw_regions(found: Sequence[Window], called: Sequence[tuple[int, int]], phage: tuple[int, int]) -> str:
    """The evidence of windows along a contig, and where it was called."""
    model, last = calls_of_mini().regions, found[-1].end

    def evidence(each: Window) -> float:
        return min(max(log_odds(each.score), -model.clip), model.clip) - model.bias

    def place(base: int) -> float:
        return 20 + (base - 1) * 680 / last

    def span(ends: tuple[int, int], top: float, height: float, fill: str, opacity: float = 1) -> str:
        return _box(place(ends[0]), top, place(ends[1] + 1) - place(ends[0]), height, fill, opacity)

    parts = [_text(20, 20, f"evidence of each window: its log-odds, cut at ±{model.clip:g}, less {model.bias:g}")]
    parts += [span(ends, 30, 135, REGION, 0.25) for ends in called]
    for each in found:
        value = evidence(each)
        top, colour = 105 - max(value, 0) * 20, VIRUS if value > 0 else OTHER
        parts.append(_box(place(each.start), top, 680 / len(found) - 0.8, max(abs(value) * 20, 0.5), colour))
    parts.append(_box(20, 105, 680, 1, "#666"))
    parts += [_text(place(base + 1), 182, f"{base:,}", "middle", "#666") for base in range(10_000, last, 10_000)]
    parts += [
        _text(20, 208, "what is there: a phage in a bacterium"),
        _box(20, 214, 680, 10, HOST),
        span(phage, 214, 10, "#999"),
    ]
    parts += [_text(20, 248, f"what is found: regions with {model.cost:g} of evidence or more, and host beside them")]
    parts += [_box(20, 254, 680, 10, HOST), *(span(ends, 254, 10, REGION) for ends in called)]
    for start, end in called:
        total = sum(evidence(each) for each in found if start <= each.start and each.end <= end)
        parts.append(_text(place((start + end) // 2), 280, f"{start:,} to {end:,}: {total:.1f}", "middle"))
    return drawing("Evidence of each window along a contig with a prophage, and what was called", 290, parts)


def main() -> None:
    """Rewrite pages and drawings."""
    quickstart, calls = DOCS / "quickstart.md", DOCS / "calls.md"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(DOCS.parent / "examples")
        text = quickstart.read_text(encoding="utf-8")
        called: list[tuple[int, int]] = []
        for block in list(BLOCK.finditer(text)):
            text = text.replace(block[0], quote(block["command"], block["lines"].splitlines(), folder))
            # Of the first run: a later one has another threshold.
            called = called or regions(folder, "Mycobacterium_leprae_with_lambda")
        gene, prophage = windows(folder, GENE), windows(folder, PROPHAGE)
    quickstart.write_text(text, encoding="utf-8")
    page = calls.read_text(encoding="utf-8")
    calls.write_text(EXAMPLE.sub(lambda _: example(gene), page), encoding="utf-8")
    (DOCS / "windows.svg").write_text(draw_windows(gene), encoding="utf-8")
    (DOCS / "regions.svg").write_text(draw_regions(prophage, called, (20_001, 50_000)), encoding="utf-8")


if __name__ == "__main__":
    main()
