"""A sequence's windows and viral regions as a figure. Needs matplotlib, and leaves its global state alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from virnucpro.calls.read import Region, ScoredWindow, Sequence

# Colours that colour-blind readers can tell apart: Okabe and Ito, https://jfly.uni-koeln.de/color/.
VIRAL = "#D55E00"
OTHER = "#0072B2"
REGION = "#E69F00"
UNSCORED = "#999999"

#: Inches: the width of a printed page between its margins.
SIZE = (7.2, 3.0)
DPI = 200

#: Where windows without a score lie, below the scores' axis from 0 to 1.
_RUG = -0.06
_LONGEST_ID = 70

# Whatever the user's matplotlibrc says; the salt makes the ids in an SVG the same each time.
_STYLE = (
    "default",
    {
        "font.size": 8,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "svg.fonttype": "none",
        "svg.hashsalt": "virnucpro",
    },
)


@style.context(_STYLE)
def draw(sequence: Sequence, windows: list[ScoredWindow], regions: list[Region], min_score: float) -> Figure:
    """The figure of a sequence; its horizontal axis counts bases from 0, whatever the unit of the labels.

    Artists carry ids, which an SVG keeps: region-1, region-2 …, viral, other, unscored, min-score, area.
    """
    figure = Figure(figsize=SIZE, dpi=DPI)
    axes = figure.add_axes((0.075, 0.25, 0.9, 0.57))
    _prepare(axes, sequence.length)
    _title(axes, sequence, windows)
    shown = [*_draw_regions(axes, regions), *_draw_windows(axes, windows, min_score), _draw_line(axes, min_score)]
    figure.legend(handles=shown, loc="lower center", ncols=len(shown), frameon=False, handlelength=1.5)
    return figure


@style.context(_STYLE)
def save(figure: Figure, path: Path, file_format: str) -> None:
    """Write the figure, equal bytes for equal figures. Raises OSError."""
    no_dates = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with warnings.catch_warnings():
        # An id in a script that the font lacks comes out as boxes; the number in the file's name tells the sequence.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, format=file_format, metadata=no_dates[file_format])


def _prepare(axes: Axes, length: int) -> None:
    scale, unit = _unit(length)
    axes.set(xlim=(0, length), ylim=(-0.1, 1.03), xlabel=f"position ({unit})", ylabel="virus score")
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda base, _: f"{base / scale:g}"))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.patch.set_gid("area")


def _unit(length: int) -> tuple[int, str]:
    """Bases in the unit that gives the shortest numbers, and its name."""
    units = ((1_000_000, "Mb"), (1_000, "kb"))
    return next(((scale, name) for scale, name in units if length >= scale), (1, "bp"))


def _title(axes: Axes, sequence: Sequence, windows: list[ScoredWindow]) -> None:
    scored = sum(window.score is not None for window in windows)
    facts = [
        f"{sequence.length:,} bp",
        sequence.verdict.replace("_", " "),
        "no score" if sequence.score is None else f"score {sequence.score:.3f}",
        _count(len(sequence.regions), "viral region"),
        f"{scored:,} of {_count(len(windows), 'window')} scored",
    ]
    # No mathematics: an id may hold dollar signs.
    axes.set_title(_short(sequence.id), loc="left", pad=17, fontsize=9.5, fontweight="bold", parse_math=False)
    axes.text(0, 1.055, "  ·  ".join(facts), transform=axes.transAxes, color="#444444")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _short(name: str) -> str:
    """An id that fits: its middle left out, and what cannot be printed (nor stand in XML) replaced."""
    if len(name) > _LONGEST_ID:
        name = f"{name[: _LONGEST_ID - 21]}…{name[-20:]}"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name) or "(no id)"


def _draw_regions(axes: Axes, regions: list[Region]) -> list[Artist]:
    """Shade the regions; returns what stands for them in the legend."""
    for number, region in enumerate(regions, 1):
        # The thin edge keeps a region visible that is narrower than a dot.
        patch = Rectangle((region.start, 0), region.end - region.start, 1, transform=axes.get_xaxis_transform())
        patch.set(facecolor=(REGION, 0.3), edgecolor=REGION, linewidth=0.6, zorder=1)
        patch.set(gid=f"region-{number}", label="viral region")
        axes.add_patch(patch)
    return list(axes.patches[:1])


def _draw_windows(axes: Axes, windows: list[ScoredWindow], min_score: float) -> list[Artist]:
    """Draw each window from its start to its end, at the height of its score; returns what stands in the legend."""
    viral = [(window, window.score) for window in windows if window.score is not None and window.score >= min_score]
    other = [(window, window.score) for window in windows if window.score is not None and window.score < min_score]
    unscored = [(window, _RUG) for window in windows if window.score is None]
    kinds = (
        _segments(viral, VIRAL, "viral", "viral window"),
        _segments(other, OTHER, "other", "other window"),
        _segments(unscored, UNSCORED, "unscored", "window without a score"),
    )
    shown = [lines for lines in kinds if lines.get_segments()]
    for lines in shown:
        axes.add_collection(lines, autolim=False)
    return list(shown)


def _segments(windows: Iterable[tuple[ScoredWindow, float]], color: str, gid: str, label: str) -> LineCollection:
    lines = [((window.start, height), (window.end, height)) for window, height in windows]
    collection = LineCollection(lines, colors=color, linewidths=1.6, gid=gid, label=label, zorder=3)
    # Round ends keep a window visible that is narrower than a dot; snapped to whole dots, it would have no length and
    # vanish.
    collection.set(capstyle="round", snap=False)
    return collection


def _draw_line(axes: Axes, min_score: float) -> Artist:
    line = axes.axhline(min_score, color="black", linewidth=0.8, linestyle="--", zorder=2)
    line.set(gid="min-score", label=f"minimum score of a window {min_score:g}")
    return line
