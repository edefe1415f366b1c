"""One run of `virnucpro merge`: results of the pieces that `split` made → the results of one run over the whole input.

Every piece must be unchanged, and its run complete and made in the same way: models, dtype, batch sizes, kind of
device, versions, settings. Sequences are numbered again and called again from their scores, which needs no device; so
figures about the sample are about all of it, and the bytes are those of one run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from msgspec import convert

from virnucpro.calls.kept_scores import holds_scores, read_scores
from virnucpro.calls.model import ThresholdsByLength
from virnucpro.calls.scoring import Row, ScoredWindow
from virnucpro.calls.verdicts import Thresholds
from virnucpro.errors import InputError, UsageError
from virnucpro.input.fasta import DNA_AS_WRITTEN, Record, read_records
from virnucpro.io.files import failing_as, sha256_of
from virnucpro.io.results import OUTPUT_SUFFIXES, Layout, layout_of, result_paths, write_merged
from virnucpro.io.store import read_blocks, result_attributes
from virnucpro.models.card import CARD
from virnucpro.models.local import ATTRIBUTES, model_sha256
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.pipeline.placement import Placement
from virnucpro.runs.calling import PredictResult, Scores, call, kept, result_of, results_of
from virnucpro.runs.changes import changes
from virnucpro.runs.choice import Choice, choose
from virnucpro.runs.config import MergeConfig, PredictConfig
from virnucpro.runs.embed import EmbedResult
from virnucpro.runs.inputs import Failure, Inputs
from virnucpro.runs.names import check, default_prefix
from virnucpro.runs.paths import PredictPaths, RunPaths, SplitPaths
from virnucpro.runs.record import RunRecord, fingerprint
from virnucpro.runs.run import Job, Run, by_role
from virnucpro.runs.session import session
from virnucpro.runs.split import Piece, Split, split_of

#: Details of a run that say how it went; they differ between the pieces.
_OWN = ("started", "host", "stages", "seconds", "devices", "busy_spread")


@dataclass(frozen=True)
class PieceRun:
    """A piece and its run; results: the folder of the run, or its file of embeddings."""

    piece: Piece
    path: Path
    record: RunRecord
    results: Path

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the run."""
        return fingerprint(self.record.identity)

    @property
    def means(self) -> dict[str, Any]:
        """What decides results except for the input; without the names of results, which begin with the piece's."""
        results = [name.removeprefix(self._own) for name in self.record.results]
        return {**self.record.identity, **self.record.choices, "inputs": None, "results": results}

    @property
    def _own(self) -> str:
        return self.record.path.name.removesuffix(".run.json")

    def result(self, paths: PredictPaths, path: Path) -> Path:
        """The file of the piece that corresponds to `path` of the whole."""
        return self.results / f"{self._own}{path.name.removeprefix(paths.output.name)}"


class Pieces(Inputs):
    """The inputs that were split, and the runs over their pieces, which are read instead of the inputs."""

    def __init__(self, record: RunRecord, split: Split, runs: Sequence[PieceRun]) -> None:
        self.split, self.runs = split, runs
        self.proteins: bool = record.identity["protein"]
        self.described = record.details["inputs"]
        self.names = tuple(Path(str(each["path"])) for each in self.described)
        self.paths = list(self.names)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of one run over the whole input."""
        return {**self.runs[0].record.identity, "inputs": self.sums}

    @property
    def details(self) -> dict[str, Any]:
        """Details for the record of the whole."""
        first = self.runs[0].record.details
        pieces = {run.piece.name: {name: run.record.details.get(name) for name in _OWN} for run in self.runs}
        return {"models": first["models"], "inputs": self.described, "pieces": pieces}

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the first run; those that decide results are the same in all."""
        return self.runs[0].record.settings

    def refuse_changed(self) -> None:
        """Raise InputError unless the pieces are what `split` wrote."""
        for run in self.runs:
            with failing_as(InputError, f"cannot read {run.path}", "split the input again"):
                same = sha256_of(run.path) == run.piece.sha256
            if not same:
                raise InputError(f"{run.path} is not what `virnucpro split` wrote", hint="split the input again")

    def refuse_different(self) -> None:
        """Raise UsageError unless all pieces were run in the same way."""
        first = self.runs[0]
        for run in self.runs[1:]:
            if changed := changes(first.means, run.means, first.record.settings, run.record.settings):
                raise UsageError(
                    f"{run.results} and {first.results} were made with other settings ({', '.join(changed)})",
                    hint="run all pieces by the same command, on devices of one kind",
                )


def run_merge(config: MergeConfig, listener: Listener = unheard) -> PredictResult | EmbedResult:
    """Merge the results of the pieces in `config.pieces`; raises VirnucproError."""
    record = RunRecord.load(SplitPaths(config.pieces / "split").record)
    if record is None or record.command != "split" or record.state != "complete":
        raise InputError(f"{config.pieces} holds no pieces of `virnucpro split`", hint="give the folder of its -o")
    embeds = config.output.suffix in OUTPUT_SUFFIXES
    split = split_of(record)
    pieces = Pieces(record, split, [_piece_run(config.pieces, piece, embeds) for piece in split.pieces])
    pieces.refuse_different()
    pieces.refuse_changed()
    return (_merge_embeddings if embeds else _merge_calls)(config, listener, pieces)


def _piece_run(folder: Path, piece: Piece, embeds: bool) -> PieceRun:
    """The complete run over a piece."""
    path = folder / piece.name
    results = path.with_suffix(".h5") if embeds else path.with_suffix("")
    command = f"virnucpro {'embed' if embeds else 'predict'} {path} -o {results}"
    records = [RunPaths(results).record] if embeds else sorted(results.glob("*.run.json"))
    record = RunRecord.load(records[0]) if len(records) == 1 else None
    if record is None or record.command != ("embed" if embeds else "predict"):
        raise InputError(f"piece {piece.name} has no results in {results}", hint=f"run `{command}`")
    if record.state != "complete" or record.failed_work_files:
        raise InputError(f"the run on piece {piece.name} is not complete", hint=f"run `{command}` again")
    if record.identity["inputs"] != [piece.sha256]:
        raise InputError(f"{results} was made from a file other than {path}", hint=f"run `{command}` again")
    return PieceRun(piece, path, record, results)


# Of `predict`.


def _merge_calls(config: MergeConfig, listener: Listener, pieces: Pieces) -> PredictResult:
    record, runs, identity = pieces.runs[0].record, pieces.runs, pieces.identity
    as_one = _config(config, record, pieces)
    paths = PredictPaths(as_one.output / (as_one.prefix or default_prefix(pieces.names[0])))
    if any(name.endswith(".pt") for name in record.results):
        raise UsageError("embeddings in .pt files are not merged", hint="run the pieces without --vanilla-output")
    results = results_of(as_one, paths)
    read = [run.result(paths, path) for run in runs for path in results]
    inputs, hint = [run.path for run in runs], "choose another folder or --prefix"
    check(paths, results, inputs, force=config.force, others=read, hint=hint)
    choice = _choice(as_one, record)
    placement = Placement((), identity["dtype"], tuple(identity["token_budget"]))
    choices = {name: value for name, value in record.choices.items() if name != "results"}
    models = by_role(choice.model_set.encoders)
    job = Job("predict", as_one, paths, results, models, choice.rules, placement, {}, choices)
    with session("predict", paths, pieces.settings, force=config.force, listen=listener) as opened:
        run = Run(job, opened, pieces, identity)
        if done := run.already_done(recall=True):
            return result_of(run, choice, done.details["result"], already_done=True)
        opened.begin(results, identity, choices, {}, pieces.details)
        for each in runs:
            if not holds_scores(each.result(paths, paths.scores), each.fingerprint):
                raise InputError(f"the scores in {each.results} are damaged", hint="run that piece again with --force")

        def keep(names: Mapping[Path, Path]) -> None:
            for path in kept(as_one, paths):
                _write_embeddings([names[path]], "hdf5", [each.result(paths, path) for each in runs], run.fingerprint)

        return call(run, choice, Scores(_rows(pieces, paths), _records(runs), {}, keep))


def _config(config: MergeConfig, record: RunRecord, inputs: Pieces) -> PredictConfig:
    """The settings of one run over the whole input."""
    identity, results = record.identity, record.results
    return PredictConfig(
        inputs.names,
        config.output,
        prefix=config.prefix,
        model=record.settings["model"],
        models_dir=config.models_dir,
        window=identity["window"],
        exact=identity["frames"] == "exact",
        min_length=identity["min length"],
        min_score=0,
        viral_share=record.choices["viral share"],
        vanilla_output="prediction_results.txt" in results,
        keep_embeddings=any(name.endswith(".dna.h5") for name in results),
        force=config.force,
    )


def _choice(config: PredictConfig, record: RunRecord) -> Choice:
    """The model set, as it was for the pieces, with the thresholds that were applied there."""
    choice = choose(config)
    card = choice.model_set.classifier_folder / CARD
    if model_sha256(card) != record.choices["card"]:
        raise UsageError(f"{card} is not the card that the pieces were called with", hint="give their --models-dir")
    applied = record.choices["min score"]
    kind: type[Thresholds | ThresholdsByLength] = ThresholdsByLength if "bases" in applied else Thresholds
    return replace(choice, thresholds=convert(applied, kind))


def _rows(pieces: Pieces, paths: PredictPaths) -> Iterator[Row]:
    """The rows of the whole input, in its order, with its numbers."""
    rejected = ((sequence.number, sequence) for sequence in pieces.split.rejected)
    scored = (row for run in pieces.runs for row in _piece_rows(run, run.result(paths, paths.scores)))
    return (row for _, row in heapq.merge(rejected, scored, key=itemgetter(0)))


def _piece_rows(run: PieceRun, scores: Path) -> Iterator[tuple[int, Row]]:
    places, number, at = run.piece.places(), 0, -1
    for row in read_scores(scores):
        if isinstance(row, ScoredWindow):
            window = row.window._replace(key=f"{number}_{row.window.number}")
            yield number, replace(row, window=window)
            continue
        at += 1
        number, index, record = next(places)
        note = run.piece.notes.get(str(at), "")
        yield number, row._replace(number=number, input_index=index, record=record, note=note)


def _records(runs: Sequence[PieceRun]) -> Iterator[tuple[int, Record]]:
    """The records of all pieces, as they are written there, with their places in the whole input."""
    for run in runs:
        for place, record in zip(run.piece.places(), read_records(run.path, DNA_AS_WRITTEN), strict=True):
            if isinstance(record, Record):
                yield place.number, record


# Of `embed`.


def _merge_embeddings(config: MergeConfig, listener: Listener, pieces: Pieces) -> EmbedResult:
    output, paths, runs, identity = config.output, RunPaths(config.output), pieces.runs, pieces.identity
    results = result_paths(output)
    files = [run.results for run in runs]
    check(paths, results, [run.path for run in runs], force=config.force, others=files)
    with session("embed", paths, pieces.settings, force=config.force, listen=listener) as opened:
        if done := opened.already_done(results, identity, {}):
            return EmbedResult.earlier(output, done.details["result"])
        opened.begin(results, identity, {}, {}, pieces.details)
        failures, summaries = _failures(pieces), [run.record.details["result"] for run in runs]
        with opened.publishing(results, failures) as names:
            layout = layout_of(output, pieces.proteins)
            _write_embeddings([names[path] for path in results], layout, files, fingerprint(identity))
        rows, dim = sum(each["sequences"] for each in summaries), max(each["dim"] for each in summaries)
        opened.complete({"result": {"sequences": rows, "dim": dim, "failures": failures}})
    return EmbedResult(output, rows, dim, failures)


def _write_embeddings(paths: Sequence[Path], layout: Layout, files: Sequence[Path], fingerprint: str) -> None:
    """Write the embeddings of all pieces, in order, into the files of one result."""
    found = result_attributes(files[0])
    attributes = {**{name: found[name] for name in ATTRIBUTES}, "fingerprint": fingerprint}
    blocks = (block for file in files for block in read_blocks(file))
    write_merged(paths, blocks, attributes, layout)


def _failures(pieces: Pieces) -> list[Failure]:
    """Everything without an embedding, in input order."""
    found = [sequence.failure for sequence in pieces.split.rejected]
    for run in pieces.runs:
        places = list(run.piece.places())
        for _, record, name, reason in run.record.details["result"]["failures"]:
            found.append((places[record - 1].input_index, places[record - 1].record, name, reason))
    return pieces.failures(found)
