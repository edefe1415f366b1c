"""Made-up results in the format of `predict`: any number of sequences with any ids, scores and regions."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.calls.tables import REGIONS, SEQUENCES, WINDOWS
from virnucpro.input.windows import window_bounds
from virnucpro.io.tables import FAILED, Table, gzip_text, number, text_file

SIZE = 500
THRESHOLD = 0.75
WINDOW_THRESHOLD = 0.6

#: Malicious or careless headers.
HOSTILE = (
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "'\"><svg/onload=alert(3)>",
    "javascript:alert(4)",
    "{{7*7}}{%endraw%}",
    '=HYPERLINK("http://example.com")',
    "&lt;b&gt;&#60;",
    "ünï/ç\u202eødé\x07",
    "x" * 400,
)


@dataclass(frozen=True)
class Made:
    """A sequence with a score for each window; regions: (start, end, score), as in BED."""

    id: str
    length: int
    verdict: str
    score: float | None
    scores: Sequence[float | None]
    regions: Sequence[tuple[int, int, float]] = ()
    note: str = ""
    frames: str = ""


def made(id: str, length: int, score: float, seed: int = 0, **more: Any) -> Made:
    """A sequence of one kind; its windows scatter around its score."""
    rng = random.Random(f"{id} {seed}")
    scores = [min(1.0, max(0.0, rng.gauss(score, 0.15))) for _ in window_bounds(length, SIZE)]
    viral = score >= THRESHOLD
    return Made(id, length, "virus" if viral else "other", score, scores, [(0, length, score)] if viral else [], **more)


def prophage(id: str, length: int, start: int, end: int, score: float = 0.95) -> Made:
    """A sequence that is viral from `start` to `end`."""
    rng = random.Random(id)
    bounds = list(window_bounds(length, SIZE))
    scores = [min(1.0, max(0.0, rng.gauss(0.85 if start <= low < end else 0.1, 0.1))) for low, _ in bounds]
    return Made(id, length, "mixed", 0.2, scores, [(start, end, score)])


def silent(id: str, length: int, note: str) -> Made:
    """A sequence without a score."""
    return Made(id, length, "not_scored", None, [None for _ in window_bounds(length, SIZE)], note=note)


def many(count: int, seed: int = 1) -> list[Made]:
    """A metagenome: most sequences short and not viral."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        length = min(200_000, int(500 * rng.paretovariate(1.2)))
        name = f"NODE_{i + 1}_length_{length}_cov_{rng.random() * 40:.6f}"
        kind = rng.random()
        if kind < 0.04:
            found.append(made(name, length, rng.uniform(THRESHOLD, 1)))
        elif kind < 0.05 and length > 10_000:
            start = rng.randrange(0, length // 2, 500)
            found.append(prophage(name, length, start, start + length // 4, rng.uniform(THRESHOLD, 1)))
        else:
            found.append(made(name, length, rng.betavariate(0.4, 4) * THRESHOLD))
    return found


def write_results(folder: Path, sequences: Iterable[Made], prefix: str = "x", **record: Any) -> Path:
    """Write all that a report is made from; returns the folder. record: other values of the record's `result`."""
    folder.mkdir(exist_ok=True)
    beside = folder / prefix
    verdicts: Counter[str] = Counter()
    windows = bases = 0
    with (
        text_file(beside.with_name(f"{prefix}.sequences.tsv")) as sequences_file,
        gzip_text(beside.with_name(f"{prefix}.windows.tsv.gz")) as windows_file,
        text_file(beside.with_name(f"{prefix}.regions.bed")) as regions_file,
        text_file(beside.with_name(f"{prefix}.failed.tsv")) as failed_file,
    ):
        tables = (Table(sequences_file, SEQUENCES), Table(windows_file, WINDOWS), Table(regions_file, REGIONS))
        Table(failed_file, FAILED)
        for place, each in enumerate(sequences, 1):
            _write(tables, place, each)
            verdicts[each.verdict] += 1
            windows += len(each.scores)
            bases += each.length
    result = {
        "verdicts": {name: verdicts[name] for name in ("virus", "mixed", "other", "not_scored")},
        "windows": windows,
        "windows_scored": windows,
        "bases": bases,
        **RESULT,
        **record,
    }
    (folder / f"{prefix}.run.json").write_text(json.dumps({**RECORD, "result": result}))
    return folder


def _write(tables: tuple[Table, Table, Table], place: int, each: Made) -> None:
    sequences, windows, regions = tables
    scored = [score for score in each.scores if score is not None]
    viral = sum(score >= WINDOW_THRESHOLD for score in scored)
    rate = number(min(0.3, 40 / each.length)) if scored else ""
    calls = number(each.score), number(THRESHOLD) if scored else "", rate
    counts = len(each.scores), len(scored), viral, number(viral / len(scored)) if scored else "", len(each.regions)
    sequences.row(place, each.id, each.length, each.verdict, *calls, *counts, "in.fa", place, each.note)
    for i, ((start, end), score) in enumerate(zip(window_bounds(each.length, SIZE), each.scores, strict=True), 1):
        best = each.frames.split(",")[-1]
        call = "not_scored" if score is None else "virus" if score >= WINDOW_THRESHOLD else "other"
        shown = number(score), call, ""
        windows.row(place, each.id, i, start + 1, end, each.frames, "dna", best, number(score), "", *shown)
    for start, end, score in each.regions:
        inside = [
            s for (a, b), s in zip(window_bounds(each.length, SIZE), each.scores, strict=True) if start <= a < end
        ]
        viral = sum(s is not None and s >= WINDOW_THRESHOLD for s in inside)
        name = f"{each.id}:{start + 1}-{end}"
        regions.row(each.id, start, end, name, round(1000 * score), ".", number(score), len(inside), viral)


RESULT: dict[str, Any] = {
    "thresholds": {"window": WINDOW_THRESHOLD, "sequence": THRESHOLD, "long": THRESHOLD},
    "false_discovery": {
        "share": 0.05, "estimated": True, "calls": 4, "expected_false": 0.5,
        "regions": 1, "expected_false_regions": 0.1,
    },
    "window": SIZE,
    "failures": [],
}  # fmt: skip

RECORD: dict[str, Any] = {
    "state": "complete",
    "command": "predict",
    "identity": {
        "virnucpro_version": "0", "torch_version": "0", "triton_version": None, "dtype": "fp32", "token_budget": [8192],
        "device_kinds": ["a CPU"], "min length": 100, "reads": "windows", "frames": "published",
        "classifier": ["c" * 64],
    },
    "models": {"DNA model": {"name": "codon-mini", "sha256": "e" * 64}},
    "model set": {"name": "mini", "trained": True},
    "inputs": [{"path": "in.fa", "size": 1, "sha256": "a" * 64}],
}  # fmt: skip
