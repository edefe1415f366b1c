"""The page: what a reader sees without a script, and its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.calls.read import HINT, Results, reading
from virnucpro.core.words import counted
from virnucpro.errors import InputError
from virnucpro.report import html, methods
from virnucpro.report.payload import collect
from virnucpro.report.survey import MIXED, VERDICTS, VIRUS, Survey, survey

#: The largest number of failures that the page shows.
_MOST_FAILURES = 200


def write_report(folder: Path, prefix: str, output: Path | None = None) -> Path:
    """Write the page over the results `prefix` in `folder`, and return its path.

    output: the file; None: `PREFIX.report.html` next to the results. An earlier report there is replaced, any other
    file is not. Equal results give equal bytes, however many devices made them. Memory: the sequences that the page
    shows, and 20 bytes for each other one.

    Raises InputError for results that are missing, damaged or not complete, OutputError if the page cannot be written.
    """
    results = Results(folder, prefix)
    path = output or results.paths.report
    html.refuse_other_page(path)
    html.write(path, Page(results).render())
    return path


@dataclass(frozen=True)
class VerdictCount:
    """One of the four verdicts, as the strip shows it."""

    name: str
    words: str
    count: int
    #: Percent of all sequences; at least as much as is visible.
    width: float


class Page:
    """The page over the results of one run."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.prefix = html.printable(results.paths.output.name)
        self.record = results.record()
        with reading(results.paths.record):  # an incomplete record is damaged
            self.result: dict[str, Any] = self.record["result"]
            self.discovery: dict[str, Any] | None = self.result["false_discovery"]
            self.set: dict[str, Any] = self.record["model set"]
            self.verdicts = list(self._verdicts())
            self.thresholds = methods.by_length(self.result["thresholds"])
            self.settings = methods.settings(self.record) + methods.inputs(self.record)
            self.paragraph = methods.paragraph(self.record)
            self.citation = methods.citation(self.record["identity"]["virnucpro_version"])
        self.survey: Survey = survey(results.sequences())
        if self.survey.sequences != (called := sum(verdict.count for verdict in self.verdicts)):
            paths = results.paths
            raise InputError(
                f"{paths.sequences} has {counted(self.survey.sequences, 'rows')}, but {paths.record} counts {called}",
                hint=HINT,
            )

    def _verdicts(self) -> Iterator[VerdictCount]:
        words = ("viral as a whole", "viral in part, for example a prophage", "not viral", "without a score")
        total = max(1, sum(self.result["verdicts"].values()))
        for name, meaning in zip(VERDICTS, words, strict=True):
            count = self.result["verdicts"][name]
            yield VerdictCount(name, meaning, count, max(100 * count / total, 0.4 if count else 0))

    @property
    def warnings(self) -> Iterator[str]:
        """What a reader must know before the first figure."""
        return methods.warnings(self.record)

    @property
    def failures(self) -> list[tuple[str, int, str, str]]:
        """The first rows of what failed: input, record, id, reason."""
        return list(self.result["failures"][:_MOST_FAILURES])

    def render(self) -> str:
        """The HTML text."""
        columns = collect(self.results.called(), self.survey)
        payload = columns.packed(self.survey, self._facts())
        scripts, styles = ("uplot.js", "report.js"), ("uplot.css", "report.css")
        return html.render(
            "report.html", scripts, styles, page=self, licence=html.asset("uplot.LICENSE"), payload=payload
        )

    def _facts(self) -> dict[str, Any]:
        """What the script needs in addition to the columns."""
        return {
            "prefix": self.prefix,
            "verdictNames": list(VERDICTS),
            "verdicts": [verdict.count for verdict in self.verdicts],
            "thresholds": {"window": self.result["thresholds"]["window"], "byLength": self.thresholds},
            "discovery": self.discovery,
            "sequences": self.survey.sequences,
            "complete": self.survey.complete,
        }

    @property
    def viral(self) -> int:
        """The number of sequences with a virus."""
        return self.verdicts[VIRUS].count + self.verdicts[MIXED].count

    @property
    def shown(self) -> int:
        """The number of sequences in the table."""
        return int(self.survey.rows.sum())

    @property
    def without_windows(self) -> int:
        """The number of sequences in the table whose windows were left out."""
        return int((self.survey.rows & ~self.survey.tracks).sum())
