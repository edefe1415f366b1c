"""What a run shows while it is active: bars on a terminal, a line now and then elsewhere; all on stderr."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from virnucpro.core import log
from virnucpro.core.words import counted
from virnucpro.models.sets import UNTRAINED
from virnucpro.pipeline import events

if TYPE_CHECKING:
    from virnucpro.runs.calling import PredictResult
    from virnucpro.runs.embed import EmbedResult
    from virnucpro.runs.samples import SamplesResult
    from virnucpro.runs.train import TrainResult

logger = logging.getLogger("virnucpro.cli")

#: Seconds between two lines if there is no terminal.
LINE_SECONDS = 30.0


class Reporter:
    """Listens to a run and shows how far it is; if `quiet`, only errors are shown."""

    def __init__(self, quiet: bool, log_format: str) -> None:
        self.console = Console(stderr=True)
        log.set_up(self.console, quiet, log_format)
        bars = self.console.is_terminal and not quiet and log_format == "text"
        self.bars = _bars(self.console) if bars else None
        self.all: TaskID | None = None
        self.each: list[TaskID] = []
        self.total = self.done = 0
        self.unit = self.note = ""
        self.began = self.last_line = time.monotonic()
        self.done_before = 0

    def __enter__(self) -> Reporter:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, worker: int | None, event: events.Heard) -> None:
        """Take one event of a run."""
        match event:
            case events.Phase():
                self._phase(event)
            case events.Progress():
                self._advance(worker, event.sequences)
            case events.Step():
                self.note = event.note
                self._advance(worker, 1)

    def _phase(self, event: events.Phase) -> None:
        logger.debug("%s", event.name)
        if not event.total:
            return
        self.total, self.done, self.done_before = event.total, event.done, event.done
        self.unit, self.note = event.unit, ""
        self.began = self.last_line = time.monotonic()
        if self.bars:
            for task in self.bars.task_ids:  # of an earlier phase
                self.bars.remove_task(task)
            self.all = self.bars.add_task(event.name, total=event.total, completed=event.done, note="")
            devices = event.workers if len(event.workers) > 1 else ()
            self.each = [self.bars.add_task(f"  {name}", total=None, note="") for name in devices]

    def _advance(self, worker: int | None, units: int) -> None:
        self.done += units
        if self.bars and self.all is not None:
            self.bars.update(self.all, advance=units, note=self.note)
            if worker is not None and worker < len(self.each):  # otherwise its host has joined meanwhile
                self.bars.advance(self.each[worker], units)
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            logger.info("%s", self._line())

    def _line(self) -> str:
        rate = (self.done - self.done_before) / max(1e-9, time.monotonic() - self.began)
        left = (self.total - self.done) / rate / 60 if rate else 0
        share, speed = 100 * self.done / max(1, self.total), f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        note = f", {self.note}" if self.note else ""
        return f"{self.done} of {self.total} {self.unit} ({share:.0f}%), {speed}/s, {left:.0f} min left{note}"


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True)


def tell_embedded(result: EmbedResult) -> None:
    """The end of `virnucpro embed` or a merge of its results: the result, what failed, and the work of each device."""
    busy: list[float] = [stats.busy_seconds for stats in result.devices]
    for stats in result.devices:
        logger.info(
            "%s: %s, %s, %s, busy %.1f of %.1f s (%.0f%%)",
            stats.device,
            counted(stats.files, "files"),
            counted(stats.sequences, "sequences"),
            counted(stats.tokens, "tokens"),
            *(stats.busy_seconds, stats.seconds, 100 * stats.busy_share),
        )
    if len(busy) > 1 and sum(busy) > 0:
        logger.info("busy time, longest over mean: %.3f", max(busy) * len(busy) / sum(busy))
    logger.info("%s of %d numbers in %s", counted(result.sequences, "embeddings"), result.dim, result.output)
    if result.failures:
        logger.warning("%d failed; see %s.failed.tsv", len(result.failures), result.output)


def tell_called(result: PredictResult) -> None:
    """The end of `virnucpro predict`: how many sequences got which verdict, and where the tables are."""
    if not result.trained:
        logger.warning(UNTRAINED, result.model)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in result.verdicts.items())
    logger.info("%s: %s", counted(sum(result.verdicts.values()), "sequences"), verdicts)
    logger.info("%d of %s scored", result.windows_scored, counted(result.windows, "windows"))
    if result.discovery:
        logger.info("%s", result.discovery)
    logger.info("results: %s.*", result.paths.output)
    if result.failures:
        logger.warning("%d failed; see %s", len(result.failures), result.paths.failed)


def tell_samples(result: SamplesResult) -> None:
    """The end of several samples: how many have results, and where the files about all are."""
    if untrained := [each.model for each in result.results.values() if not each.trained]:
        logger.warning(UNTRAINED, untrained[0])
    samples = counted(len(result.results) + len(result.failed), "samples")
    logger.info("%d of %s with results, listed in %s", len(result.results), samples, result.paths.table)
    if result.failed:
        logger.warning("%d failed; see %s", len(result.failed), result.paths.failed)


def tell_trained(result: TrainResult) -> None:
    """The end of `virnucpro train`: how accurate the classifier is, and where it is."""
    for name, found in result.metrics.items():
        if "auroc" in found:
            logger.info("AUROC, %s: %.4f (95%% interval %.4f to %.4f)", name, *found["auroc"])
    logger.info("classifier: %s", result.folder)
    if result.failures:
        logger.warning("%d failed; see %s", len(result.failures), result.folder / "train.failed.tsv")
