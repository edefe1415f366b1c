"""The curves of a trained classifier as one SVG: losses by epoch, and ROC and precision-recall of the windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from virnucpro.train.metrics import Floats, Ints, auprc, auroc

#: Name of a subset → its labels and scores.
Scored = Mapping[str, tuple[Ints, Floats]]

# Colours that colour-blind readers can distinguish: Okabe and Ito, https://jfly.uni-koeln.de/color/.
_COLORS = ("#0072b2", "#d55e00")
#: Pixels of a panel, and of the area inside it.
_WIDTH, _HEIGHT = 380, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 50, 48
#: Points of a curve: more would not be visible.
_MOST_POINTS = 2000


#: Shares, from 0 to 1.
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

#: A line through points: its name, x, y.
Curve = tuple[str, Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """Curves over axes that go from their first tick to their last."""

    title: str
    labels: tuple[str, str]
    curves: Sequence[Curve]
    x_ticks: Sequence[float] = _SHARES
    y_ticks: Sequence[float] = _SHARES

    def at(self, x: float, y: float) -> str:
        """The position of a point in pixels."""
        across = (x - self.x_ticks[0]) / ((self.x_ticks[-1] - self.x_ticks[0]) or 1)
        up = (y - self.y_ticks[0]) / ((self.y_ticks[-1] - self.y_ticks[0]) or 1)
        left = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        return f"{left:.1f},{_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM):.1f}"


def write_curves(path: Path, losses: Mapping[str, Sequence[float]], scored: Scored) -> None:
    """Write the curves; equal curves give equal bytes. Raises OSError."""
    path.write_text("\n".join(_drawing((_losses(losses), *_of_scores(scored)))) + "\n", encoding="utf-8")


def _losses(losses: Mapping[str, Sequence[float]]) -> Panel:
    curves = [(name, range(1, len(values) + 1), values) for name, values in losses.items()]
    epochs, most = max(map(len, losses.values())), max(map(max, losses.values()))
    return Panel("losses", ("epoch", "cross entropy"), curves, _ticks(epochs), _ticks(most))


def _ticks(most: float) -> list[float]:
    """About five round numbers, from 0 to the first one that is not below `most`."""
    power = 10 ** np.floor(np.log10(most / 5)) if most > 0 else 1.0
    step = next(float(power * each) for each in (1, 2, 5, 10) if 5 * power * each >= most)
    return [step * i for i in range(int(np.ceil(most / step)) + 1)]


def _of_scores(scored: Scored) -> tuple[Panel, Panel]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    roc: list[Curve] = []
    found: list[Curve] = []
    for name, (labels, scores) in scored.items():
        false, true, _ = roc_curve(labels, scores)
        precision, recall, _ = precision_recall_curve(labels, scores)
        roc.append((f"{name}, area {auroc(labels, scores):.3f}", false, true))
        found.append((f"{name}, average {auprc(labels, scores):.3f}", recall[::-1], precision[::-1]))
    return (
        Panel("ROC", ("false positive rate", "true positive rate"), roc),
        Panel("precision and recall", ("recall", "precision"), found),
    )


def _drawing(panels: Sequence[Panel]) -> Iterator[str]:
    width = _WIDTH * len(panels)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    yield f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>'
    for place, panel in enumerate(panels):
        yield f'<g transform="translate({place * _WIDTH} 0)">'
        yield from _axes(panel)
        for number, curve in enumerate(panel.curves):
            yield from _curve(panel, curve, number)
        yield "</g>"
    yield "</svg>"


def _axes(panel: Panel) -> Iterator[str]:
    middle, base = (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM
    yield _text(middle, 18, panel.title, 'text-anchor="middle" font-weight="bold"')
    yield _text(middle, _HEIGHT - 10, panel.labels[0], 'text-anchor="middle"')
    turned = f'text-anchor="middle" transform="rotate(-90 14 {(_TOP + base) / 2})"'
    yield _text(14, (_TOP + base) / 2, panel.labels[1], turned)
    for tick in panel.x_ticks:
        x = float(panel.at(tick, panel.y_ticks[0]).split(",")[0])
        yield f'<path d="M{x} {_TOP}V{base}" stroke="#e3e6e8"/>'
        yield _text(x, base + 18, f"{tick:g}", 'text-anchor="middle"')
    for tick in panel.y_ticks:
        y = float(panel.at(panel.x_ticks[0], tick).split(",")[1])
        yield f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#e3e6e8"/>'
        yield _text(_LEFT - 8, y + 4, f"{tick:g}", 'text-anchor="end"')


def _curve(panel: Panel, curve: Curve, number: int) -> Iterator[str]:
    (name, x, y), color = curve, _COLORS[number % len(_COLORS)]
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).astype(int))
    points = " ".join(panel.at(float(x[place]), float(y[place])) for place in places)
    yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"/>'
    yield _text(_LEFT + number * (_WIDTH - _LEFT - _RIGHT) / 2, 38, name, f'fill="{color}"')


def _text(x: float, y: float, words: str, more: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(words)}</text>'
