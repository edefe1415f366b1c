"""Draw windows.svg and regions.svg of calls.md from a run over examples/mixed.fa with `mini`.

virnucpro predict -d cpu --dtype fp32 examples/mixed.fa -o out
python docs/drawings.py out
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from virnucpro.calls import read
from virnucpro.calls.model import CallModel, log_odds
from virnucpro.calls.read import Region, Results, ScoredWindow
from virnucpro.models.card import ClassifierCard
from virnucpro.models.registry import EMBEDDED

HERE = Path(__file__).parent
#: Records of the worked example and of the prophage, and where the phage is.
GENE, PROPHAGE, PHAGE = (
    "unknown_virus_GeneID_16607659",
    "Mycobacterium_leprae_with_lambda_at_20001_50000",
    (20_000, 50_000),
)
LEFT, WIDTH = 20.0, 680.0
VIRAL, OTHER, REGION, PLAIN = "#d55e00", "#0072b2", "#e69f00", "#333"


def text(x: float, y: float, words: str, fill: str = PLAIN, more: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{words}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    """A filled rectangle."""
    veil = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"{veil}/>'


def bar(x: float, zero: float, width: float, value: float, fill: str, opacity: float = 1) -> str:
    """From a zero line up or down."""
    return rect(x, zero - max(value, 0), width, abs(value), fill, opacity)


def svg(height: int, title: str, parts: Iterator[str]) -> str:
    """The whole drawing."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="sans-serif" font-size="12">'
    )
    lines = [head, f"<title>{title}</title>", f'<rect width="720" height="{height}" fill="#fff"/>', *parts, "</svg>"]
    return "\n".join(lines) + "\n"


def draw_windows(row: read.Sequence, windows: Sequence[ScoredWindow], model: CallModel) -> Iterator[str]:
    """A sequence, its windows, their scores, and the call."""
    scale, middle = WIDTH / row.length, ' text-anchor="middle"'
    odds = [log_odds(window.score) for window in windows if window.score is not None]
    bases = sum(window.end - window.start for window in windows)
    mean = sum(each * (window.end - window.start) for each, window in zip(odds, windows, strict=True)) / bases
    yield text(20, 20, f"sequence, {row.length:,} bases")
    yield rect(LEFT, 28, WIDTH, 12, "#999")
    yield text(20, 68, "windows of 500 bases: five cover it, with even overlaps")
    yield text(20, 142, "log-odds of each, and their mean")
    yield '<line x1="20" x2="700" y1="200" y2="200" stroke="#999"/>'
    for index, (window, each) in enumerate(zip(windows, odds, strict=True)):
        x, width, fill = LEFT + scale * window.start, scale * (window.end - window.start), VIRAL if each > 0 else OTHER
        yield rect(x, 78 + 18 * (index % 2), width, 14, fill, 0.75)
        yield text(x + width / 2, 89 + 18 * (index % 2), f"{window.score:.3f}", "#fff", middle)
        yield bar(x + width / 2 - 18, 200, 36, 14 * each, fill, 0.75)
        below = 200 - 14 * each + (-4 if each > 0 else 13)
        yield text(x + width / 2, below, f"{each:.2f}".replace("-", "−"), PLAIN, middle)
    line = 200 - 14 * mean
    yield f'<line x1="20" x2="700" y1="{line:.0f}" y2="{line:.0f}" stroke="{PLAIN}" stroke-dasharray="5 4"/>'
    yield text(698, line - 5, f"m = {mean:.2f}", PLAIN, ' text-anchor="end"')
    z = model.sequences.log_odds(bases, mean)
    score = f"score = 1 / (1 + e^−z) = {1 / (1 + math.exp(-z)):.3f}"
    yield text(20, 262, f"z = level(x) + slope(x) · m = {z:.2f}   →   {score}")
    yield text(20, 284, f"threshold at this length: {row.threshold:.3f}   →   {row.verdict}")


def draw_regions(
    row: read.Sequence, windows: Sequence[ScoredWindow], regions: Sequence[Region], model: CallModel
) -> Iterator[str]:
    """The evidence of each window, what is there, and what is found."""
    rule, scale = model.regions, WIDTH / row.length

    def evidence(window: ScoredWindow) -> float:
        assert window.score is not None
        return max(-rule.clip, min(rule.clip, log_odds(window.score))) - rule.bias

    yield text(20, 20, f"evidence of each window: log-odds, cut at ±{rule.clip:g}, plus {-rule.bias:g}")
    for region in regions:
        yield rect(LEFT + scale * region.start, 30, scale * (region.end - region.start), 135, REGION, 0.25)
    for window in windows:
        value = 20 * evidence(window)
        yield bar(LEFT + scale * window.start, 105, 4.1, value, VIRAL if value > 0 else OTHER)
    yield '<line x1="20" x2="700" y1="105" y2="105" stroke="#666"/>'
    for at in range(0, row.length + 1, 10_000):
        side = {0: "start", row.length: "end"}.get(at, "middle")
        yield text(LEFT + scale * at, 182, f"{at:,}", "#666", f' text-anchor="{side}" font-size="11"')
    yield text(20, 208, "what is there: a phage in a bacterium")
    yield rect(LEFT, 214, WIDTH, 10, "#cfe0ea") + rect(
        LEFT + scale * PHAGE[0], 214, scale * (PHAGE[1] - PHAGE[0]), 10, "#999"
    )
    yield text(20, 248, f"what is found: regions with at least {rule.cost:g} of evidence, and host beside them")
    yield rect(LEFT, 254, WIDTH, 10, "#cfe0ea")
    for region in regions:
        inside = [window for window in windows if region.start <= window.start and window.end <= region.end]
        x, width = LEFT + scale * region.start, scale * (region.end - region.start)
        yield rect(x, 254, width, 10, REGION)
        words = f"{region.start + 1:,} to {region.end:,}: {sum(map(evidence, inside)):.1f}"
        yield text(x + width / 2, 280, words, PLAIN, ' text-anchor="middle" font-size="11"')


def main() -> None:
    """Read the run, draw."""
    calls = ClassifierCard.read(EMBEDDED / "mini").calls
    model = calls[500]
    for row, windows, regions in Results(Path(sys.argv[1]), "mixed").called():
        scored = list(windows)
        if row.id == GENE:
            drawn = svg(300, "A sequence, its windows, their scores, and the call", draw_windows(row, scored, model))
            (HERE / "windows.svg").write_text(drawn, encoding="utf-8")
        if row.id == PROPHAGE:
            title = "Evidence of each window along a contig with a prophage, and the regions that gather the most"
            drawn = svg(290, title, draw_regions(row, scored, list(regions), model))
            (HERE / "regions.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
