"""Several samples: a row for each, from the records of their runs, as a table and as one page."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from virnucpro.calls.read import Results, reading
from virnucpro.calls.tables import FAILED_SAMPLES, SAMPLES
from virnucpro.errors import InputError
from virnucpro.io.files import atomic_path, make_folder, remove_unfinished
from virnucpro.io.tables import number, read_rows, refuse_other_table, write_table
from virnucpro.report import html, methods
from virnucpro.report.survey import VERDICTS
from virnucpro.runs.paths import PredictPaths, SamplePaths

#: Suffix of the records of runs.
RECORD = PredictPaths(Path("*")).record.name[1:]
#: Columns that are sums over all samples.
COUNTED = ("sequences", "bases", *VERDICTS, "failed")


@dataclass(frozen=True)
class Sample:
    """A sample with the results of its complete run; without one, `note` says why, and everything else is empty.

    counts: numbers by column, None if one is not known; settings: what decided the results besides the input, as (what,
    how); warnings: what a reader must know about the model set; version: of virnucpro.
    """

    name: str
    folder: Path
    note: str
    model: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def of(cls, name: str, folder: Path, note: str) -> Sample:
        """The sample in a folder. Raises InputError unless its run is complete."""
        results = Results(folder, name)
        record = results.record()
        with reading(results.paths.record):  # an incomplete record is damaged
            settings, warnings = tuple(methods.settings(record)), tuple(methods.warnings(record))
            model, counts = record["model set"]["name"], _counts(record["result"])
            version = record["identity"]["virnucpro_version"]
            return cls(name, folder, note, model, counts, settings, warnings, version)

    def share(self, verdict: str) -> float:
        """The share of its sequences with this verdict; 0 without results."""
        return self.counts[verdict] / max(1, self.counts["sequences"]) if self.counts else 0.0

    @property
    def viral(self) -> float:
        """The share of sequences with a virus."""
        return self.share("virus") + self.share("mixed")

    def link(self, output: Path) -> str:
        """The path of its own page, relative to `output`; empty if it has none."""
        page = PredictPaths(self.folder / self.name).report
        # Quoted, so that a name cannot be read as a scheme, such as "javascript:".
        return quote(os.fsencode(os.path.relpath(page, output))) if page.exists() else ""


def _counts(result: Mapping[str, Any]) -> dict[str, Any]:
    verdicts, false = result["verdicts"], result["false_discovery"] or {}
    return {
        "sequences": sum(verdicts.values()),
        "bases": result["bases"],
        **{name: verdicts[name] for name in VERDICTS},
        "failed": len(result["failures"]),
        "expected_false": false.get("expected_false"),
        "viral_share": false.get("share"),
    }


class Samples:
    """All samples that are in some folders.

    The settings of most of them are the usual ones; for each other sample the difference is reported.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.all = samples
        self.complete = [sample for sample in samples if sample.counts]
        kinds = Counter(sample.settings for sample in self.complete)
        self.usual = kinds.most_common(1)[0][0] if kinds else ()

    def differs(self, sample: Sample) -> str:
        """Settings that are not the usual ones, and what they are."""
        return "; ".join(f"{what}: {how}" for what, how in sample.settings if (what, how) not in self.usual)

    @property
    def differ(self) -> bool:
        """Whether settings of some sample differ from those of most."""
        return any(map(self.differs, self.all))

    def total(self, column: str) -> Any:
        """The sum of a column over all samples; None if one is not known, or if there are no samples."""
        known = [sample.counts[column] for sample in self.complete]
        return None if None in known or not known else sum(known)

    def each(self, found: Callable[[Sample], Iterable[str]]) -> list[str]:
        """What is found for all samples with results, without repetitions."""
        return sorted({each for sample in self.complete for each in found(sample)})


def find_samples(folders: Iterable[Path]) -> Samples:
    """The samples in folders of results of `predict`, and in folders of such folders.

    Raises InputError for a folder without any.
    """
    return Samples([sample for folder in folders for sample in _in(folder)])


def _in(folder: Path) -> list[Sample]:
    failed = _failed(SamplePaths(folder / "samples").failed)
    records = sorted([*folder.glob(f"*{RECORD}"), *folder.glob(f"*/*{RECORD}")])
    found = [_sample(path, failed) for path in records if _is_of_predict(path)]
    found += [Sample(name, folder / name, reason) for name, reason in failed.items()]
    if not found:
        raise InputError(
            f"no results of `virnucpro predict` in {folder}", hint="give the output folder (-o) of a finished run"
        )
    return found


def _failed(path: Path) -> dict[str, str]:
    """Why samples failed, by name."""
    if not path.exists():
        return {}
    with reading(path):
        return {row["sample"]: row["reason"] for row in read_rows(path, FAILED_SAMPLES)}


def _is_of_predict(path: Path) -> bool:
    """Whether a record is one of `predict`, or damaged, which has to be reported."""
    try:
        return bool(json.loads(path.read_bytes())["command"] == "predict")
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _sample(path: Path, failed: dict[str, str]) -> Sample:
    name, folder = path.name.removesuffix(RECORD), path.parent
    note = failed.pop(name, "")
    try:
        return Sample.of(name, folder, note)
    except InputError as error:
        return Sample(name, folder, note or str(error))


def summarize(folders: Sequence[Path], output: Path, report: bool = True) -> Samples:
    """Write the table, and with `report` the page, over all samples in `folders` into the folder `output`.

    folders: of results of `predict`, or of such folders. Equal results give equal bytes. Raises InputError for a folder
    without results, OutputError.
    """
    samples, paths = find_samples(folders), SamplePaths(output / "samples")
    check_summary(paths)
    make_folder(output)
    remove_unfinished((paths.table, paths.report))
    with atomic_path(paths.table) as temporary:
        write_table(temporary, SAMPLES, (_cells(samples, sample, output) for sample in samples.all))
    if report:
        html.write(paths.report, _page(samples, output))
    return samples


def check_summary(paths: SamplePaths) -> None:
    """Raise OutputError for a file that `summarize` would overwrite and that is not a summary."""
    refuse_other_table(paths.table, SAMPLES)
    html.refuse_other_page(paths.report)


def _cells(samples: Samples, sample: Sample, output: Path) -> Iterator[object]:
    counts = sample.counts
    yield sample.name
    yield from (counts.get(column, "") for column in COUNTED)
    yield from (number(counts.get(column)) for column in ("expected_false", "viral_share"))
    yield sample.model
    yield samples.differs(sample)
    yield os.path.relpath(sample.folder, output)
    yield sample.note


def _page(samples: Samples, output: Path) -> str:
    return html.render(
        "samples.html",
        ("samples.js",),
        ("report.css",),
        samples=samples,
        output=output,
        total={column: samples.total(column) or 0 for column in COUNTED},
        expected_false=samples.total("expected_false"),
        most=max((sample.viral for sample in samples.all), default=0) or 1,
        citations=samples.each(lambda sample: [methods.citation(sample.version)]),
        warnings=samples.each(lambda sample: sample.warnings),
    )
