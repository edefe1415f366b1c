"""One run of `virnucpro merge`: results of the pieces that `split` made → the results of one run over all of the input.

Every piece must have been run to its end, unchanged, and by the same means: models, dtype, batch sizes, kind of device,
versions, settings. Scores are numbered anew and called once more, which needs no device; so sample-wide figures are
those of all of it, and the bytes those of one run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from virnucpro.calls.kept_scores import holds_scores, read_scores
from virnucpro.calls.scoring import Row, ScoredWindow
from virnucpro.calls.verdicts import Thresholds
from virnucpro.errors import InputError, UsageError
from virnucpro.input.fasta import DNA_AS_WRITTEN, Record, read_records
from virnucpro.input.index import IndexedSequence
from virnucpro.io.files import sha256_of
from virnucpro.io.results import OUTPUT_SUFFIXES, ids_path, layout_of, write_merged
from virnucpro.io.store import read_blocks, result_attributes
from virnucpro.models.card import CARD
from virnucpro.models.local import ATTRIBUTES
from virnucpro.models.local import sha256_of as model_sha256
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.pipeline.placement import Placement
from virnucpro.runs.config import MergeConfig, PredictConfig
from virnucpro.runs.embed import EmbedResult
from virnucpro.runs.inputs import Failure, Inputs, write_failed
from virnucpro.runs.names import check
from virnucpro.runs.paths import PredictPaths, RunPaths, SplitPaths
from virnucpro.runs.predict import (
    Choice,
    PredictResult,
    Scores,
    call,
    choose,
    default_prefix,
    keep_nothing,
    kept,
    results_of,
)
from virnucpro.runs.record import Record as RunRecord
from virnucpro.runs.record import differences, fingerprint
from virnucpro.runs.run import Job, Run, by_part
from virnucpro.runs.session import Session, session
from virnucpro.runs.split import Piece, Split

#: What of a run's details says how it was done: each piece has its own.
_OWN = ("started", "host", "stages", "seconds", "devices", "busy_spread")


@dataclass(frozen=True)
class PieceRun:
    """A piece, and the run over it; results: its folder, or its file of embeddings."""

    piece: Piece
    path: Path
    record: RunRecord
    results: Path

    @property
    def fingerprint(self) -> str:
        """Of the run."""
        return fingerprint(self.record.identity)

    def result(self, paths: PredictPaths, path: Path) -> Path:
        """What, of the piece, has the name that `path` has of the whole."""
        mine = self.record.path.name.removesuffix(".run.json")
        return self.results / f"{mine}{path.name.removeprefix(paths.output.name)}"


class SplitInputs(Inputs):
    """The inputs that were split: not read again, for the pieces are."""

    def __init__(self, described: Sequence[Mapping[str, object]], runs: Sequence[PieceRun]) -> None:
        self.described = [dict(each) for each in described]
        self.names = tuple(Path(str(each["path"])) for each in described)
        self.paths = list(self.names)
        self.runs = runs

    def refuse_changed(self) -> None:
        """Raise InputError unless the pieces are what `split` wrote."""
        for run in self.runs:
            _refuse_changed(run.path, run.piece)


def run_merge(config: MergeConfig, listener: Listener = unheard) -> PredictResult | EmbedResult:
    """Merge the results of the pieces in `config.pieces`; raises VirnucproError."""
    split_record = _split_record(config.pieces)
    split = Split.from_json(split_record.plan)
    embeds = config.output.suffix in OUTPUT_SUFFIXES
    runs = [_piece_run(config.pieces, piece, embeds) for piece in split.pieces]
    _refuse_different(runs)
    inputs = SplitInputs(split_record.details["inputs"], runs)
    inputs.refuse_changed()
    identity = {**runs[0].record.identity, "inputs": inputs.sums}
    merge = _merge_embeddings if embeds else _merge_calls
    return merge(config, listener, split, runs, inputs, identity)


# What is merged.


def _split_record(folder: Path) -> RunRecord:
    record = RunRecord.load(SplitPaths(folder / "split").manifest)
    if record is None or record.command != "split" or record.state != "complete":
        raise InputError(f"{folder} holds no pieces of `virnucpro split`", hint="give the folder of its -o")
    return record


def _piece_run(folder: Path, piece: Piece, embeds: bool) -> PieceRun:
    """The complete run over a piece."""
    path = folder / piece.name
    results = path.with_suffix(".h5") if embeds else path.with_suffix("")
    command = f"virnucpro {'embed' if embeds else 'predict'} {path} -o {results}"
    manifests = [RunPaths(results).manifest] if embeds else sorted(results.glob("*.run.json"))
    record = RunRecord.load(manifests[0]) if len(manifests) == 1 else None
    if record is None or record.command != ("embed" if embeds else "predict"):
        raise InputError(f"piece {piece.name} has no results in {results}", hint=f"run `{command}`")
    if record.state != "complete" or record.failed_work_files:
        raise InputError(f"the run over piece {piece.name} is not complete", hint=f"run `{command}` again")
    if record.identity["inputs"] != [piece.sha256]:
        raise InputError(f"{results} was made from another file than {path}", hint=f"run `{command}` again")
    return PieceRun(piece, path, record, results)


def _refuse_changed(path: Path, piece: Piece) -> None:
    try:
        same = sha256_of(path) == piece.sha256
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="split the input again") from error
    if not same:
        raise InputError(f"{path} is not what `virnucpro split` wrote", hint="split the input again")


def _refuse_different(runs: Sequence[PieceRun]) -> None:
    """Raise UsageError unless all pieces were run by the same means."""
    first = runs[0]
    for run in runs[1:]:
        mine, its = (_means(each.record) for each in (run, first))
        if changed := differences(its, mine):
            raise UsageError(
                f"{run.results} and {first.results} were made from other settings ({', '.join(changed)})",
                hint="run all pieces by the same command, on devices of one kind",
            )


def _means(record: RunRecord) -> dict[str, Any]:
    """What decides results besides the input; names of results begin with that of the piece."""
    own = record.path.name.removesuffix(".run.json")
    results = [name.removeprefix(own) for name in record.results]
    return {**record.identity, **record.choices, "inputs": None, "results": results}


def _details(runs: Sequence[PieceRun], inputs: Inputs) -> dict[str, Any]:
    """For the record of the whole."""
    details = runs[0].record.details
    pieces = {run.piece.name: {name: run.record.details.get(name) for name in _OWN} for run in runs}
    return {"settings": details["settings"], "inputs": inputs.described, "models": details["models"], "pieces": pieces}


# Of `predict`.


def _merge_calls(
    config: MergeConfig,
    listener: Listener,
    split: Split,
    runs: Sequence[PieceRun],
    inputs: SplitInputs,
    identity: dict[str, Any],
) -> PredictResult:
    record = runs[0].record
    as_one = _config(config, record, inputs)
    paths = PredictPaths(as_one.output / (as_one.prefix or default_prefix(inputs.names[0])))
    if any(name.endswith(".pt") for name in record.results):
        raise UsageError("embeddings in .pt files are not merged", hint="run the pieces without --vanilla-output")
    results = results_of(as_one, paths)
    read = [run.result(paths, path) for run in runs for path in results]
    pieces, hint = [run.path for run in runs], "choose another folder or --prefix"
    check(paths, results, pieces, force=config.force, others=read, hint=hint)
    choice = _choice(as_one, record)
    placement = Placement((), identity["dtype"], tuple(identity["token_budget"]))
    choices = {name: value for name, value in record.choices.items() if name != "results"}
    models = by_part(choice.model_set.encoders)
    job = Job("predict", as_one, paths, results, models, choice.rules, placement, {}, choices)
    with session("predict", paths, force=config.force, listen=listener) as opened:
        run = Run(job, opened, inputs, identity)
        opened.already_done(results, identity, choices, recall=True)
        opened.begin(results, identity, choices, {}, _details(runs, inputs))
        for each in runs:
            if not holds_scores(each.result(paths, paths.scores), each.fingerprint):
                raise InputError(f"the scores in {each.results} are damaged", hint="run that piece again with --force")
        keep = partial(_keep_embeddings, runs, paths, kept(as_one, paths), run.fingerprint)
        wanted = keep if as_one.keep_embeddings else keep_nothing
        return call(run, choice, Scores(_rows(split, runs, paths), _records(runs), {}, wanted))


def _config(config: MergeConfig, record: RunRecord, inputs: Inputs) -> PredictConfig:
    """What one run over all of the input would have been asked for."""
    identity, results = record.identity, record.results
    return PredictConfig(
        inputs.names,
        config.output,
        prefix=config.prefix,
        model=record.details["settings"]["model"],
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
        raise UsageError(f"{card} is not the card by which the pieces were called", hint="give their --models-dir")
    return replace(choice, thresholds=Thresholds(**record.choices["min score"]))


def _rows(split: Split, runs: Sequence[PieceRun], paths: PredictPaths) -> Iterator[Row]:
    """The rows of all of the input, in its order, numbered as there."""
    rejected = (
        (number, IndexedSequence(number, index, record, name, 0, reason, True))
        for number, index, record, name, reason in split.rejected
    )
    scored = (row for run in runs for row in _piece_rows(run, run.result(paths, paths.scores)))
    merged = heapq.merge(rejected, scored, key=lambda pair: pair[0])
    return (row for _, row in merged)


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
    """The records of all pieces, as they are written there, by their places in all of the input."""
    for run in runs:
        for place, record in zip(run.piece.places(), read_records(run.path, DNA_AS_WRITTEN), strict=True):
            if isinstance(record, Record):
                yield place.number, record


def _keep_embeddings(
    runs: Sequence[PieceRun], paths: PredictPaths, kept: Iterable[Path], fingerprint: str, names: Mapping[Path, Path]
) -> None:
    for path in kept:
        _write_embeddings(names[path], path, [run.result(paths, path) for run in runs], fingerprint)


# Of `embed`.


def _merge_embeddings(
    config: MergeConfig,
    listener: Listener,
    split: Split,
    runs: Sequence[PieceRun],
    inputs: SplitInputs,
    identity: dict[str, Any],
) -> EmbedResult:
    output, paths = config.output, RunPaths(config.output)
    results = (output, ids_path(output)) if output.suffix == ".npy" else (output,)
    check(paths, results, [run.path for run in runs], force=config.force, others=[run.results for run in runs])
    with session("embed", paths, force=config.force, listen=listener) as opened:
        opened.already_done(results, identity, {})
        opened.begin(results, identity, {}, {}, _details(runs, inputs))
        failures = _failures(split, runs, inputs)
        return _publish(opened, paths, results, runs, fingerprint(identity), failures)


def _publish(
    opened: Session,
    paths: RunPaths,
    results: tuple[Path, ...],
    runs: Sequence[PieceRun],
    fingerprint: str,
    failures: list[Failure],
) -> EmbedResult:
    output, summaries = paths.output, [run.record.details["result"] for run in runs]
    rows, dim = sum(each["sequences"] for each in summaries), max(each["dim"] for each in summaries)
    published = (*results, *([paths.failed] if failures else []))
    with opened.publishing(published, replaced=[paths.failed]) as names:
        if failures:
            write_failed(names[paths.failed], failures)
        files = [run.results for run in runs]
        _write_embeddings(names[output], output, files, fingerprint, names.get(ids_path(output)))
    opened.complete({"result": {"sequences": rows, "dim": dim, "failures": failures}})
    return EmbedResult(output, rows, dim, failures)


def _write_embeddings(
    path: Path, output: Path, files: Sequence[Path], fingerprint: str, ids: Path | None = None
) -> None:
    """Embeddings of all pieces, in their order, into `path`, which is to be `output`."""
    found = result_attributes(files[0])
    attributes = {**{name: found[name] for name in ATTRIBUTES}, "fingerprint": fingerprint}
    blocks = (block for file in files for block in read_blocks(file))
    write_merged(path, blocks, attributes, layout_of(output), ids)


def _failures(split: Split, runs: Sequence[PieceRun], inputs: Inputs) -> list[Failure]:
    """What has no embedding, in the order of the inputs."""
    found = [(index, record, name, reason) for _, index, record, name, reason in split.rejected]
    for run in runs:
        places = list(run.piece.places())
        for _, record, name, reason in run.record.details["result"]["failures"]:
            found.append((places[record - 1].input_index, places[record - 1].record, name, reason))
    return inputs.failures(found)
