"""The page over several samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from virnucpro.calls.tables import SAMPLES
from virnucpro.io.files import make_folder, remove_unfinished
from virnucpro.io.tables import refuse_other
from virnucpro.report import html, methods
from virnucpro.report.samples import COUNTED, Sample, Samples, find_samples, write_table
from virnucpro.runs.paths import SamplePaths


def summarize(folders: Sequence[Path], output: Path, report: bool = True) -> Samples:
    """Write the table, and with `report` the page, over all samples in `folders` into the folder `output`.

    folders: of results of `predict`, or of such folders. Equal results give equal bytes. Raises InputError for a folder
    without results, OutputError.
    """
    samples, paths = find_samples(folders), SamplePaths(output / "samples")
    check_summary(paths)
    make_folder(output)
    remove_unfinished((paths.table, paths.report))
    write_table(samples, paths.table)
    if report:
        html.write(paths.report, Page(samples, output).render())
    return samples


def check_summary(paths: SamplePaths) -> None:
    """Raise OutputError for a file that `summarize` would overwrite and that is no summary."""
    refuse_other(paths.table, SAMPLES)
    html.refuse_other(paths.report)


@dataclass(frozen=True)
class Line:
    """A sample, as the page shows it.

    link: its own page, if it has one; counts: empty without results; bars: widths of virus and mixed, in percent of the
    largest share of viral sequences in any sample.
    """

    name: str
    link: str
    counts: Mapping[str, Any]
    bars: tuple[float, float]
    differs: str
    note: str

    @property
    def viral(self) -> float:
        """Share of the sequences that hold a virus."""
        return _share(self.counts, "virus") + _share(self.counts, "mixed")


class Page:
    """The page over all samples, to be written into `output`."""

    def __init__(self, samples: Samples, output: Path) -> None:
        self.samples, self.output = samples, output
        counts = [sample.counts for sample in samples.complete]
        self.total: dict[str, int] = {name: sum(each[name] for each in counts) for name in COUNTED}
        self.expected_false = _sum(each["expected_false"] for each in counts)
        self.most = max((_share(each, "virus") + _share(each, "mixed") for each in counts), default=0) or 1
        self.lines = [self._line(sample) for sample in samples.all]
        self.citations = sorted({methods.citation(sample.version) for sample in samples.complete})
        self.warnings = sorted({each for sample in samples.complete for each in sample.warnings})

    def _line(self, sample: Sample) -> Line:
        page, counts = sample.paths.report, sample.counts
        # Quoted, a name cannot be taken for a scheme, such as "javascript:".
        link = quote(os.fsencode(os.path.relpath(page, self.output))) if page.exists() else ""
        virus, mixed = (round(100 * _share(counts, name) / self.most, 3) for name in ("virus", "mixed"))
        return Line(sample.name, link, counts, (virus, mixed), self.samples.differs(sample), sample.note)

    @property
    def viral(self) -> int:
        """Sequences that hold a virus, in all samples."""
        return self.total["virus"] + self.total["mixed"]

    @property
    def different(self) -> bool:
        """Whether settings of some sample differ from those of most."""
        return any(line.differs for line in self.lines)

    def render(self) -> str:
        """The HTML text."""
        return html.render("samples.html", ("samples.js",), ("report.css",), page=self)


def _share(counts: Mapping[str, Any], name: str) -> float:
    return counts[name] / max(1, counts["sequences"]) if counts else 0.0


def _sum(numbers: Iterable[float | None]) -> float | None:
    """None if one is not known, or if there is none."""
    known = list(numbers)
    return None if None in known or not known else sum(filter(None, known))
