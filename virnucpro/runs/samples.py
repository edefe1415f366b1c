"""Several samples: a run of `predict` for each, one after the other, with the same workers.

A sample is a run like any other, in its own folder: its bytes, how it is resumed, what is forced or refused, and
what is listed as failed are those of a single run, without any code here. What takes long at the start of a run is done
once: workers stay, with their models, until the last sample is done (`pipeline/launch_local.py`).

One run over all samples, whose scores would be divided at the end, would also keep the devices busy while the next
sample is cut, for a second or so. But no sample would be done before all are, the work files of all would be on the
disk, and one sample more or less would make it another run, which could not continue from the earlier one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnucpro.calls.tables import FAILED_SAMPLES
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.io.files import atomic_path, failing_as, make_folder, remove_unfinished
from virnucpro.io.tables import refuse_other_table, write_table
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.pipeline.launch_local import Workers
from virnucpro.report.samples import check_summary, summarize
from virnucpro.runs.calling import PredictResult
from virnucpro.runs.choice import choose
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.names import default_prefix
from virnucpro.runs.paths import SamplePaths
from virnucpro.runs.predict import run_predict

logger = logging.getLogger("virnucpro.run")

#: Inputs of each sample, by its name.
Samples = Mapping[str, tuple[Path, ...]]

#: A sheet whose first line begins like this has a header.
_HEADER = ["sample", "path"]


@dataclass
class SamplesResult:
    """How each sample ended: its results, or why it failed."""

    paths: SamplePaths
    results: dict[str, PredictResult] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def some_failed(self) -> bool:
        """Whether a sample, or anything in one, failed."""
        return bool(self.failed) or any(result.failures for result in self.results.values())


def run_samples(
    samples: Samples, output: Path, settings: Mapping[str, Any], listener: Listener = unheard
) -> SamplesResult:
    """Call each sample, and write its results into a folder with its name in `output`; raises VirnucproError.

    settings: the other settings of a `PredictConfig`. A sample with a faulty input or output is noted, and the others
    go on; an error of settings, models or devices, which all samples share, is raised.
    """
    configs = [PredictConfig(paths, output / name, prefix=name, **settings) for name, paths in samples.items()]
    if not configs:
        raise UsageError("no sample is given", hint="name at least one")
    choose(configs[0])  # errors of settings, which all samples share
    result = SamplesResult(SamplePaths(output / "samples"))
    check_summary(result.paths)  # an error at the end is reported before anything is computed
    refuse_other_table(result.paths.failed, FAILED_SAMPLES)
    with Workers() as workers:
        for place, (name, config) in enumerate(zip(samples, configs, strict=True), 1):
            logger.info("sample %d of %d: %s", place, len(configs), name)
            try:
                result.results[name] = run_predict(config, listener, workers.launch)
            except (InputError, OutputError) as error:
                logger.error("sample %s: %s", name, error)
                result.failed[name] = str(error)
    _write(result, report=configs[0].report)
    return result


def _write(result: SamplesResult, report: bool) -> None:
    """Write the files about all samples."""
    make_folder(result.paths.folder)
    remove_unfinished((result.paths.failed,))
    with atomic_path(result.paths.failed) as temporary:
        write_table(temporary, FAILED_SAMPLES, result.failed.items())
    summarize([result.paths.folder], result.paths.folder, report)


# What is a sample.


def named_by_file(paths: Iterable[Path]) -> Samples:
    """A sample for each file, named after it. Raises UsageError for two with the same name."""
    samples: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        name = default_prefix(path)
        if name in samples:
            both = f"{samples[name][0]} and {path}"
            raise UsageError(f"{both} would both be the sample {name}", hint="name samples in a sheet, by --samples")
        samples[name] = (path,)
    return samples


def read_sheet(path: Path) -> Samples:
    """The samples of a sheet: each line has a name and, after tabs, one or more files.

    Empty lines and those that begin with # are skipped. Raises InputError for a sheet that cannot be read, UsageError
    for one without samples, or with the same one twice.
    """
    samples: dict[str, tuple[Path, ...]] = {}
    for number, (name, *files) in _lines(path):
        if not name or not files:
            raise UsageError(f"{path}, line {number} is not a sample", hint="write its name, a tab, and its file")
        if name in samples:
            where = f"{path}, line {number}"
            raise UsageError(f"{where}: the sample {name} is listed twice", hint="give all its files on one line")
        samples[name] = tuple(map(Path, files))
    if not samples:
        raise UsageError(f"{path} names no sample", hint="write a name, a tab and a file on each line")
    return samples


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The numbers of the lines with samples, and their cells."""
    with failing_as(InputError, f"cannot read {path}", "check the path of the sheet"):
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if any(cells) and not line.startswith("#") and (number > 1 or cells[:2] != _HEADER):
            yield number, [cells[0], *filter(None, cells[1:])]
