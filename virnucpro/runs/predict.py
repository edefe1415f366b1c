"""One run of `virnucpro predict`: windows and frames, their scores, calls, tables."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from virnucpro.calls.consensus import ConsensusCaller
from virnucpro.calls.discovery import FalseDiscovery
from virnucpro.calls.kept_scores import holds_scores, keep_scores, read_scores
from virnucpro.calls.model import CallModel
from virnucpro.calls.scoring import Row, scored_rows
from virnucpro.calls.segment import ModelCaller
from virnucpro.calls.verdicts import Callers, Thresholds, Verdict
from virnucpro.calls.write import ResultWriter, Summary, VanillaTables, write_virus_summary, write_viruses
from virnucpro.core.device import available_threads, select_devices
from virnucpro.errors import InputError, UsageError
from virnucpro.input.cut import Rules
from virnucpro.io.files import unfinished
from virnucpro.io.tables import gzip_text, text_file
from virnucpro.models.card import CARD, DEFAULT_PRESET, DNA_ONLY, Reads
from virnucpro.models.classifier import WEIGHTS
from virnucpro.models.local import sha256_of
from virnucpro.models.sets import ModelSet, reads_of, resolve_set
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.families import place
from virnucpro.pipeline.frame_run import Called, FrameRun
from virnucpro.pipeline.kept import keep_embeddings, kept_paths
from virnucpro.pipeline.run import Failure, work_folder, write_failed
from virnucpro.runs.config import STDIN, PredictConfig
from virnucpro.runs.names import check_names
from virnucpro.runs.paths import PredictPaths
from virnucpro.runs.record import differences

logger = logging.getLogger("virnucpro.run")

#: The published rule calls a window viral from this score on.
PUBLISHED = 0.5
#: What is taken off an input's name to name the results.
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
_FORMATS = {".fa", ".fasta", ".fna", ".ffn", ".fas", ".fq", ".fastq", ".bam", ".ubam"}


@dataclass
class PredictResult:
    """How a run ended: the paths of the results, how many sequences got which verdict, and what failed.

    discovery: how many of the calls are expected to be false; None for a set whose sequences were not measured.
    """

    paths: PredictPaths
    model: str
    trained: bool
    verdicts: dict[str, int]
    windows: int
    windows_scored: int
    discovery: FalseDiscovery | None
    failures: list[Failure] = field(default_factory=list)
    already_done: bool = False


class PredictRun(FrameRun[PredictResult]):
    """The steps of `virnucpro predict`."""

    command: ClassVar[str] = "predict"
    recalls: ClassVar[bool] = True
    cure: ClassVar[str] = "choose another name with --prefix"

    def __init__(self, config: PredictConfig, listener: Listener | None = None) -> None:
        output = config.output / (config.prefix or default_prefix(config.inputs[0]))
        self.paths: PredictPaths = PredictPaths(output, work_folder(output, config.work_dir))
        super().__init__(config, self.paths, listener)
        self.config = config

    @cached_property
    def set_reads(self) -> Reads:
        """What the model set reads, which is known before its weights are."""
        return reads_of(self.config.model)

    @property
    def results(self) -> tuple[Path, ...]:
        """The tables and the viral sequences; what was asked for besides."""
        paths = self.paths
        vanilla = (paths.vanilla_scores, paths.vanilla_calls) if self.config.vanilla_output else ()
        tables = paths.sequences, paths.windows, paths.regions, paths.features, paths.viruses, paths.virus_summary
        return (*tables, *vanilla, paths.scores, *self._kept, paths.failed)

    @property
    def _kept(self) -> tuple[Path, ...]:
        """Embeddings that are to be kept."""
        asked = self.config.keep_embeddings
        return kept_paths(self.paths, self.set_reads, self.config.vanilla_output) if asked else ()

    def finish(self, result: PredictResult) -> None:
        """Write the page, for a run that was complete before may have been stopped while it did, or had none."""
        for each in unfinished(self.paths.report):
            each.unlink(missing_ok=True)
        if self.config.report:
            from virnucpro.report import write_report

            with self.session.stage("writing the report"):
                write_report(self.paths.folder, self.paths.output.name)

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        super().check()
        if self.config.report:
            check_names(self.paths, (self.paths.report,), self.reads, self.cure)

    def choose(self) -> None:
        """Model set, rules, devices, and the one dtype and token budget of the run."""
        self.set: ModelSet = resolve_set(self.config.model, self.config.models_dir)
        self.encoders, card = self.set.encoders, self.set.card
        window = card.window[0] if self.config.window is None else self.config.window
        if window not in card.window:
            raise UsageError(
                f"--window {window}: the classifier of {self.set.name} was trained on windows of "
                f"{' and '.join(map(str, card.window))} bases",
                hint="leave --window out, or choose another --model",
            )
        if card.reads == "windows" and (self.config.exact or self.config.vanilla_output):
            option = "--frames exact" if self.config.exact else "--vanilla-output"
            raise UsageError(
                f"{option}: {self.set.name} reads whole windows and has no frames",
                hint="leave it out, or choose another --model",
            )
        self.calls: CallModel | None = card.calls.get(window)
        measured = self.calls.min_length if self.calls else 0
        min_length = measured if self.config.min_length is None else self.config.min_length
        self.rules = Rules(window, self.config.exact, min_length, self.set.scores_by_dna_alone, card.reads)
        self.thresholds = self._thresholds()
        devices = select_devices(self.config.device)
        self.placement = place(devices, self.encoders, self.config.dtype, self.config.batch_size)

    def _thresholds(self) -> Thresholds:
        asked, preset = self.config.min_score, self.config.preset
        if asked is None:
            return self._measured(preset or DEFAULT_PRESET)
        if preset is not None:
            raise UsageError("--preset and --min-score contradict each other", hint="give one of them")
        return Thresholds(asked, asked, asked)

    def _measured(self, preset: str) -> Thresholds:
        """Those of a preset; where none was measured, the default ones of the card."""
        card, window = self.set.card, self.rules.window
        first = window == card.window[0]
        presets = (
            self.calls.window_presets if self.calls else card.presets if first else card.size_presets.get(window, {})
        )
        if preset not in presets and (self.calls or self.config.preset is not None):
            known = ", ".join(presets) or f"no presets for windows of {window} bases: its scores were not measured"
            raise UsageError(f"the classifier of {self.set.name} has {known}", hint="give --min-score")
        if self.calls:
            return Thresholds(presets[preset], self.calls.sequence_presets[preset], self.calls.sequence_presets[preset])
        default = card.min_score if first else presets.get(preset, PUBLISHED)
        score = default if self.config.preset is None else presets[preset]
        return Thresholds(score, score, card.long_presets.get(preset, score))

    @property
    def _callers(self) -> Callers:
        """How sequences are called: as measured for the set, or by the rule for sets that were not."""
        if self.calls:
            return partial(ModelCaller, self.calls, self.thresholds)
        return partial(ConsensusCaller, self.thresholds)

    def own_identity(self) -> dict[str, Any]:
        """The rules of cutting, and the classifier."""
        files = (WEIGHTS, *([DNA_ONLY] if self.rules.dna_only else []))
        return self.rules_identity() | {"classifier": [sha256_of(self.set.classifier_folder / name) for name in files]}

    def own_choices(self) -> dict[str, Any]:
        """The rules of calling."""
        return {
            "card": sha256_of(self.set.classifier_folder / CARD),
            "min score": asdict(self.thresholds),
            "viral share": self.config.viral_share,
        }

    def is_computed(self) -> bool:
        """Whether an earlier run has left all scores, and the embeddings if they are to be kept."""
        record = self.session.record
        if record is None or self.config.force or not self.config.resume:
            return False
        if differences(record.identity, self.identity):
            return False
        there = all(path.exists() and path.name in record.results for path in self._kept)
        return there and holds_scores(self.paths.scores, self.fingerprint)

    def work(self) -> PredictResult:
        """Score on all devices, then call."""
        called = self.call("scoring", self.set.classifier_folder, self.config.keep_embeddings)
        rows = scored_rows(called, self.plan.parts, self.set.scores_by_dna_alone, self._threads)
        return self._call(rows, called)

    def conclude(self) -> PredictResult:
        """Call by the scores of an earlier run."""
        logger.info("calling by the scores in %s", self.paths.scores)
        return self._call(read_scores(self.paths.scores))

    def _call(self, rows: Iterable[Row], called: Called | None = None) -> PredictResult:
        """Call, write, record; called: the work files that the rows come from, None for those of an earlier run."""
        with self.session.stage("calling"):
            result, summary = self._write(rows, called)
        self._save(result, summary, called.failed if called else {})
        self._refuse_unusable(result)
        return result

    @property
    def _threads(self) -> int:
        return self.config.threads or available_threads()

    def _refuse_unusable(self, result: PredictResult) -> None:
        """Raise InputError if nothing of the input could be used; the tables, which say so, are there nevertheless."""
        if not result.windows and result.failures and not self._any_usable(result):
            raise InputError(
                f"no usable sequence in the input: {result.failures[0][3]}", hint=f"see {self.paths.failed}"
            )

    @staticmethod
    def _any_usable(result: PredictResult) -> bool:
        """Whether any sequence is not in the list of failures: too short ones are usable, though not scored."""
        return sum(result.verdicts.values()) > sum(1 for _, record, _, _ in result.failures if record)

    def _write(self, rows: Iterable[Row], called: Called | None) -> tuple[PredictResult, Summary]:
        """All results under temporary names, then all at once under their own; the report of older ones goes."""
        computed = () if called else (self.paths.scores, *self._kept)
        results = [path for path in self.results if path not in computed]
        with self.session.publishing(results, (self.paths.report,)) as temporary:
            if called:
                rows = self._keep(temporary, rows, not called.failed)
            summary = self._write_tables(temporary, rows)
            with open(temporary[self.paths.viruses], "wb", buffering=1 << 20) as file:
                write_viruses(file, self.inputs.paths, summary.viral)
            with text_file(temporary[self.paths.virus_summary]) as table:
                write_virus_summary(table, summary.viral)
            self.inputs.refuse_changed()
            failures = self.in_input_order(summary.failures)
            write_failed(temporary[self.paths.failed], failures)
            if called and self.config.keep_embeddings:
                keep_embeddings(called, self.plan.parts, self.paths, temporary, self.config.vanilla_output)
        verdicts = {verdict.value: summary.verdicts[verdict] for verdict in Verdict}
        counts = verdicts, summary.windows, summary.windows_scored
        found = PredictResult(self.paths, self.set.name, self.set.trained, *counts, self._discovery(summary), failures)
        return found, summary

    def _keep(self, temporary: dict[Path, Path], rows: Iterable[Row], whole: bool) -> Iterator[Row]:
        """The rows, which are kept in the file of scores as they pass."""
        with gzip_text(temporary[self.paths.scores]) as file:
            yield from keep_scores(file, self.fingerprint, whole, rows)

    def _discovery(self, summary: Summary) -> FalseDiscovery | None:
        if not self.calls:
            return None
        regions = summary.regions, self.calls.regions.false_per_mbp * summary.host / 1e6
        return summary.discovery.expected(*regions, share=self.config.viral_share)

    def _write_tables(self, temporary: dict[Path, Path], rows: Iterable[Row]) -> Summary:
        paths = self.paths
        with contextlib.ExitStack() as stack:

            def text(path: Path) -> Any:
                return stack.enter_context(text_file(temporary[path]))

            windows = stack.enter_context(gzip_text(temporary[paths.windows]))
            vanilla = None
            if self.config.vanilla_output:
                vanilla = VanillaTables(text(paths.vanilla_scores), text(paths.vanilla_calls))
            files = text(paths.sequences), windows, text(paths.regions), text(paths.features)
            writer = ResultWriter(*files, self.config.inputs, self._callers, vanilla)
            for row in rows:
                writer.take(row)
            writer.finish()
            if vanilla:
                vanilla.finish()
        return writer.summary

    def _save(self, result: PredictResult, found: Summary, failed: dict[str, str]) -> None:
        model_set = {"name": self.set.name, "trained": self.set.trained, "classifier": self.set.card.name}
        summary = {
            "verdicts": result.verdicts,
            "windows": result.windows,
            "windows_scored": result.windows_scored,
            "frames": found.frames,
            "bases": found.bases,
            "min_score": self.thresholds.window,
            "thresholds": asdict(self.thresholds),
            "false_discovery": asdict(result.discovery) if result.discovery else None,
            "window": self.rules.window,
            "failures": result.failures,
        }
        self.session.complete({"model set": model_set, "result": summary}, failed)

    def earlier_result(self, record: dict[str, Any]) -> PredictResult:
        """What a complete run said of its result."""
        summary = record["result"]
        failures = [tuple(row) for row in summary["failures"]]
        found = summary["false_discovery"]
        counts = summary["verdicts"], summary["windows"], summary["windows_scored"], found and FalseDiscovery(**found)
        result = PredictResult(self.paths, self.set.name, self.set.trained, *counts, failures, already_done=True)
        self._refuse_unusable(result)
        return result


def default_prefix(first: Path) -> str:
    """The name of the first input without the endings of its format; `stdin` for standard input.

    Raises UsageError for an open file without a name of its own, such as the shell makes of `<(command)`.
    """
    if first == STDIN:
        return "stdin"
    if re.fullmatch(r"/dev/fd|/proc/[^/]+/fd", str(first.parent)):
        raise UsageError(f"{first} says nothing that results could be named by", hint="name them with --prefix")
    name = Path(first.name)
    for endings in (_COMPRESSED, _FORMATS):
        if name.suffix.lower() in endings:
            name = name.with_suffix("")
    return name.name


def run_predict(config: PredictConfig, listener: Listener | None = None) -> PredictResult:
    """Call the sequences of `config.inputs`, results in `config.output`; raises VirnucproError."""
    return PredictRun(config, listener).run()
