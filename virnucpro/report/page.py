"""The page: what a reader sees without a script, and the file it goes into."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from virnucpro.calls.read import HINT, Results, reading
from virnucpro.errors import InputError, OutputError
from virnucpro.io.files import atomic_path
from virnucpro.models.sets import SETS
from virnucpro.report import methods
from virnucpro.report.payload import collect, printable
from virnucpro.report.survey import MIXED, VERDICTS, VIRUS, Survey, survey

logger = logging.getLogger("virnucpro.report")

_ASSETS = Path(__file__).with_name("assets")
#: What every report begins with, and nothing else.
_BEGINNING = '<!DOCTYPE html>\n<html lang="en" data-made-by="virnucpro report">\n'
#: Rows of what failed that the page shows.
_MOST_FAILURES = 200


def write_report(folder: Path, prefix: str, output: Path | None = None) -> Path:
    """Write the page over the results `prefix` in `folder`, and return its path.

    output: the file; None: `PREFIX.report.html` beside the results. An earlier report there is replaced; anything else
    is not. Equal results give equal bytes, whatever number of devices made them. Memory: the sequences that the page
    shows, and 20 bytes for each other one.

    Raises InputError for results that are absent, damaged or not complete, OutputError for what cannot be written.
    """
    results = Results(folder, prefix)
    path = output or results.paths.report
    _refuse_other(path)
    page = Page(results).render()
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    logger.info("report: %s", path)
    return path


def _refuse_other(path: Path) -> None:
    """Raise OutputError for a file that is no report."""
    try:
        with open(path, "rb") as file:
            ours = file.read(len(_BEGINNING)) == _BEGINNING.encode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", hint="choose another name with -o") from error
    if not ours:
        raise OutputError(f"{path} exists and is no report", hint="choose another name with -o")


@dataclass(frozen=True)
class VerdictCount:
    """One of the four, as the strip shows it."""

    name: str
    words: str
    count: int
    #: Percent of all sequences; of few among many, as much as can be seen.
    width: float


class Page:
    """The page over the results of one run."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.prefix = printable(results.paths.output.name)
        self.record = results.record()
        with reading(results.paths.manifest):  # a record that lacks anything is damaged
            self.result: dict[str, Any] = self.record["result"]
            self.discovery: dict[str, Any] | None = self.result["false_discovery"]
            self.set: dict[str, Any] = self.record["model set"]
            self.verdicts = list(self._verdicts())
            self.thresholds = methods.by_length(self.result["thresholds"])
            self.settings = [(what, printable(how)) for what, how in methods.settings(self.record)]
            self.paragraph = methods.paragraph(self.record)
            self.citation = methods.citation(self.record)
        self.survey: Survey = survey(results.sequences())
        if self.survey.sequences != (counted := sum(verdict.count for verdict in self.verdicts)):
            paths = results.paths
            raise InputError(
                f"{paths.sequences} has {self.survey.sequences} rows where {paths.manifest} counts {counted}", hint=HINT
            )

    def _verdicts(self) -> Iterator[VerdictCount]:
        words = ("viral as a whole", "viral in part: a prophage, say", "not viral", "without a score")
        total = max(1, sum(self.result["verdicts"].values()))
        for name, meaning in zip(VERDICTS, words, strict=True):
            count = self.result["verdicts"][name]
            yield VerdictCount(name, meaning, count, max(100 * count / total, 0.4 if count else 0))

    @property
    def warnings(self) -> Iterator[str]:
        """What a reader must know before the first figure."""
        name = self.set["name"]
        if not self.set["trained"]:
            yield f"The model set {name} is untrained: these calls show that the tool works, and mean nothing."
        elif self.is_small:
            yield (
                f"The model set {name} is small. Its calls are hints: look at what a sequence encodes before you "
                "believe it. How often it is right, by length and group, stands in its model card."
            )

    @property
    def is_small(self) -> bool:
        """Whether the models are those that come with the package."""
        name = self.set["name"]
        return name in SETS and not SETS[name].published

    @property
    def failures(self) -> list[list[str]]:
        """The first rows of what failed: input, record, id, reason."""
        return [[printable(str(cell)) for cell in row] for row in self.result["failures"][:_MOST_FAILURES]]

    def render(self) -> str:
        """The HTML text."""
        columns = collect(self.results.called(), self.survey)
        scripts = [_asset("uplot.js"), _asset("report.js")]
        style = _asset("uplot.css") + _asset("report.css")
        environment = Environment(
            loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        environment.filters["integer"] = lambda value: f"{value:,}"
        environment.filters["share"] = lambda value: f"{value:.1%}"
        text = environment.get_template("report.html").render(
            page=self,
            policy=_policy(scripts, style),
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
            licence=_asset("uplot.LICENSE"),
            payload=columns.packed(self.survey, self._facts()),
        )
        return _BEGINNING + text

    def _facts(self) -> dict[str, Any]:
        """What the script has to know besides the columns."""
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
        """Sequences that hold a virus."""
        return self.verdicts[VIRUS].count + self.verdicts[MIXED].count

    @property
    def shown(self) -> int:
        """Sequences that the table holds."""
        return int(self.survey.rows.sum())

    @property
    def without_windows(self) -> int:
        """Sequences of the table whose windows were left out."""
        return int((self.survey.rows & ~self.survey.tracks).sum())


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: list[str], style: str) -> str:
    """A content security policy: these scripts, this style, and nothing from anywhere."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
