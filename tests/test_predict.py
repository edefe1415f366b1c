"""`virnucpro predict`: results compared with slow published steps, the same bytes whatever happens, messages."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANGS, Cli, Records, random_records, to_fasta
from safetensors.torch import load_file
from slow_chain import Line, Slow, SlowChain
from toy_set import other, toy_calls, toy_records, viral

import virnucpro
from virnucpro.calls import tables
from virnucpro.calls.kept_scores import holds_scores
from virnucpro.calls.model import ThresholdsByLength
from virnucpro.calls.scoring import Row
from virnucpro.calls.segment import ModelCaller
from virnucpro.calls.verdicts import Thresholds
from virnucpro.calls.write import ResultWriter, VanillaTables
from virnucpro.cli.predict import MUCH, worth_a_start
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.frames import ALL_STOPPED, NO_CODON
from virnucpro.io.store import read_result
from virnucpro.io.tables import FAILED, number
from virnucpro.models.card import CARD, DNA_ONLY, ClassifierCard
from virnucpro.models.classifier import save
from virnucpro.models.registry import EMBEDDED
from virnucpro.pipeline import caller
from virnucpro.pipeline.events import FileDone, Heard, Phase
from virnucpro.runs.changes import CAUSES
from virnucpro.runs.choice import choose
from virnucpro.runs.config import PredictConfig
from virnucpro.runs.names import default_prefix
from virnucpro.runs.predict import run_predict

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "vanilla_embeddings"
RECORDS = toy_records()
#: The toy set's first window.
WINDOW = 150
CPU = ("-d", "cpu", "--dtype", "fp32")
TABLES = {
    *("in.sequences.tsv", "in.windows.tsv.gz", "in.regions.bed", "in.regions.gff3", "in.scores.gz"),
    *("in.virus.fna", "in.virus_summary.tsv", "in.failed.tsv"),
}
VANILLA = {"prediction_results.txt", "prediction_results_highestscore.csv"}
KEPT = {"in.dna.h5", "in.protein.h5", "in_DNABERT_S.pt", "in_ESM.pt", "in_merged.pt"}
RECORD = {"in.run.json", "run.log"}
#: A sequence of each sort that `CLEAN` input may have; the run over them ends with exit code 0.
CLEAN: Records = [("v", viral(150, 1)), ("o", other(150, 11)), ("two", "AC")]
Files = dict[str, bytes]


def results(folder: Path) -> Files:
    """Every file of a run except for the record and the log, which contain times."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in RECORD}


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "surrogateescape")


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, by column."""
    columns, *lines = (line.split("\t") for line in text_of(path).splitlines())
    return [dict(zip(columns, line, strict=True)) for line in lines]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "in.run.json").read_text())
    return found


def config(path: Path, output: Path, toy: Path, **changes: Any) -> PredictConfig:
    return replace(PredictConfig((path,), output, model=str(toy), device="cpu", dtype="fp32"), **changes)


def everything(path: Path, output: Path, toy: Path, **changes: Any) -> PredictConfig:
    """Settings of a run that writes all outputs."""
    return config(path, output, toy, vanilla_output=True, keep_embeddings=True, **changes)


@pytest.fixture(scope="module")
def fasta(complete: Path) -> Path:
    return complete.with_name("in.fa")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return to_fasta(tmp_path / "in.fa", CLEAN)


# Compared with the published steps, done one frame at a time.


@pytest.fixture(scope="module")
def slow(fasta: Path, toy: Path) -> Slow:
    return SlowChain(fasta, RECORDS, toy, WINDOW).run()


def table(columns: Sequence[str], lines: Sequence[Line]) -> str:
    return "".join("\t".join(map(str, line)) + "\n" for line in (columns, *lines))


def test_a_run_leaves_its_results_and_nothing_else(complete: Path) -> None:
    assert {path.name for path in complete.iterdir()} == TABLES | VANILLA | KEPT | RECORD


def test_the_input_has_sequences_of_every_verdict(complete: Path) -> None:
    """Otherwise the tests below would prove little."""
    found = rows(complete / "in.sequences.tsv")
    assert {row["verdict"] for row in found} == {"virus", "mixed", "other", "not_scored"}
    assert len({row["score"] for row in found}) > 10


def check_tables(folder: Path, slow: Slow) -> None:
    assert text_of(folder / "in.windows.tsv.gz") == table(list(tables.WINDOWS), slow.windows)
    assert text_of(folder / "in.sequences.tsv") == table(list(tables.SEQUENCES), slow.sequences)
    assert text_of(folder / "in.regions.bed") == table(list(tables.REGIONS), slow.regions)
    assert text_of(folder / "in.virus.fna") == "".join(f">{name}\n{bases}\n" for name, bases in slow.viruses)
    best_first = sorted(slow.summary, key=lambda line: str(line[7]), reverse=True)
    assert text_of(folder / "in.virus_summary.tsv") == table(list(tables.VIRUSES), best_first)
    assert text_of(folder / "in.failed.tsv") == table(list(FAILED), slow.failed)


def test_the_tables_are_those_of_the_published_chain_done_slowly(complete: Path, slow: Slow) -> None:
    check_tables(complete, slow)
    assert {row["evidence"] for row in rows(complete / "in.windows.tsv.gz")} == {"dna+protein", "dna", ""}


def test_a_classifier_as_published_is_silent_on_windows_without_a_frame(tmp_path: Path, toy: Path) -> None:
    silent = shutil.copytree(toy, tmp_path / "silent")
    (silent / DNA_ONLY).unlink()
    card = json.loads((silent / CARD).read_text())
    del card["files"][DNA_ONLY]
    (silent / CARD).write_text(json.dumps(card))
    few = [record for record in RECORDS if record[0].startswith(("o", "stops", "n"))]
    path = to_fasta(tmp_path / "in.fa", few)
    run_predict(config(path, tmp_path / "out", silent))
    check_tables(tmp_path / "out", SlowChain(path, few, silent, WINDOW).run())
    evidence = {row["note"]: row["evidence"] for row in rows(tmp_path / "out" / "in.windows.tsv.gz")}
    assert evidence == {"": "dna+protein", NO_CODON: "", ALL_STOPPED: ""}


def test_every_sequence_has_a_row_in_input_order(complete: Path) -> None:
    found = rows(complete / "in.sequences.tsv")
    assert [row["sequence_id"] for row in found] == [header.split()[0] for header, _ in RECORDS]
    assert [int(row["number"]) for row in found] == [*range(1, len(RECORDS) + 1)]


def test_published_tables(complete: Path, slow: Slow) -> None:
    scores, calls = (text_of(complete / name) for name in sorted(VANILLA))
    assert scores == table(("Sequence_ID", "Prediction", "score1", "score2"), slow.scores)
    assert {label for _, label, *_ in slow.scores} == {"virus", "others"}
    assert calls == table(("Modified_ID", "Is_Virus"), sorted(slow.calls.items()))
    assert list(slow.calls) != sorted(slow.calls)


def test_published_calls_are_those_of_the_windows_table(complete: Path) -> None:
    published = dict(
        line.split("\t") for line in text_of(complete / "prediction_results_highestscore.csv").splitlines()
    )
    scored = [row for row in rows(complete / "in.windows.tsv.gz") if row["evidence"] == "dna+protein"]
    assert len(published) == len(scored) + 1
    for row in scored:
        assert published[f"{row['sequence_id']}_chunk_{row['window']}"] == str(row["call"] == "virus")


def test_kept_embeddings(complete: Path, slow: Slow) -> None:
    ids = list(slow.vectors)
    dna, protein = (np.stack(vectors) for vectors in zip(*slow.vectors.values(), strict=True))
    for which, vectors in (("dna", dna), ("protein", protein)):
        found, kept = read_result(complete / f"in.{which}.h5")
        assert found == ids
        assert np.array_equal(kept, vectors)
    published = {which: torch.load(complete / f"in_{which}.pt", weights_only=True) for which in ("DNABERT_S", "ESM")}
    assert published["DNABERT_S"] == {
        "nucleotide": ids,
        "data": [{"label": name, "mean_representation": row} for name, row in zip(ids, dna.tolist(), strict=True)],
    }
    assert list(published["ESM"]) == ["proteins", "data"]
    assert published["ESM"]["proteins"] == ids
    assert np.array_equal(torch.stack(published["ESM"]["data"]).numpy(), protein)
    merged = torch.load(complete / "in_merged.pt", weights_only=True)
    assert list(merged) == ["ids", "data"]
    assert merged["ids"] == ids
    assert np.array_equal(merged["data"].numpy(), np.concatenate((dna, protein), axis=1))


def test_the_record_of_a_run(complete: Path, fasta: Path) -> None:
    found = record(complete)
    verdicts = [row["verdict"] for row in rows(complete / "in.sequences.tsv")]
    assert found["state"] == "complete"
    assert found["result"]["verdicts"] == {name: verdicts.count(name) for name in set(verdicts)}
    assert found["result"]["windows"] == len(rows(complete / "in.windows.tsv.gz"))
    assert found["model set"] == {"name": "toy", "trained": False, "classifier": "toy"}
    assert [each["path"] for each in found["inputs"]] == [str(fasta)]
    assert list(found["stages"]) == ["reading input", "splitting", "scoring", "calling"]
    embedded = sum(device["sequences"] for device in found["devices"])
    evidence = [row["evidence"] for row in rows(complete / "in.windows.tsv.gz")]
    assert embedded == 2 * found["result"]["frames"] + evidence.count("dna")


@pytest.mark.parametrize("name", ["test_fixed_500bp", "test_with_orfs"])
def test_golden_tables_come_from_their_scores(name: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"the published tool's output is not at {GOLDEN}")
    scores, calls = (GOLDEN / name / file for file in sorted(VANILLA))
    windows: dict[str, list[tuple[str, float, float]]] = {}
    for line in scores.read_text().splitlines()[1:]:
        frame, _, *both = line.split("\t")
        windows.setdefault(frame[:-2], []).append((frame[-2:], *map(float, map(np.float32, both))))  # type: ignore[arg-type]
    written = io.StringIO(), io.StringIO()
    published = VanillaTables(*written)
    for window in sorted(windows, reverse=True):
        published.take(window, windows[window])
    published.finish()
    assert sorted(written[0].getvalue().splitlines()) == sorted(scores.read_text().splitlines())
    assert written[1].getvalue().encode() == calls.read_bytes()


# The same bytes, whatever happens.


@pytest.mark.parametrize(
    "changes",
    [{"threads": 1, "sequences_per_file": 7}, {"threads": 2}, {"device": "cpu,cpu", "sequences_per_file": 20}],
    ids=["one thread", "two threads", "two workers"],
)
def test_same_bytes(changes: dict[str, Any], complete: Path, fasta: Path, tmp_path: Path, toy: Path) -> None:
    run_predict(everything(fasta, tmp_path, toy, **changes))
    assert results(tmp_path) == results(complete)


def test_sequences_are_called_while_others_are_scored(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, done = threading.Event(), itertools.count(1)
    take = ResultWriter.take

    def taken(writer: ResultWriter, row: Row) -> None:
        called.set()
        take(writer, row)

    def hear(_worker: int | None, event: Heard) -> None:
        if isinstance(event, FileDone) and next(done) == 9:
            assert called.wait(HANGS)

    monkeypatch.setattr(ResultWriter, "take", taken)
    path = to_fasta(tmp_path / "in.fa", [(f"s{i}", viral(150, i)) for i in range(10)])
    run_predict(config(path, tmp_path / "out", toy, sequences_per_file=1), hear)
    assert next(done) > 10


@pytest.mark.heavy
def test_workers_that_start_before_a_large_input_is_read(tmp_path: Path, toy: Path, cli: Cli) -> None:
    """It is large by its Ns, which need not be scored."""
    large = to_fasta(tmp_path / "in.fa", [*random_records(20, seed=5), ("n", MUCH * "N")])
    for device in ("cpu", "cpu,cpu"):
        words = ("predict", large, "-o", tmp_path / device, "-d", device, "--model", toy, "--sequences-per-file", 20)
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    assert results(tmp_path / "cpu") == results(tmp_path / "cpu,cpu")


def test_workers_start_early_only_for_much(tmp_path: Path) -> None:
    small, large = to_fasta(tmp_path / "s.fa", [("a", "ACGT")]), to_fasta(tmp_path / "l.fa", [("a", MUCH * "N")])
    chosen = PredictConfig((small,), tmp_path / "out")
    assert [worth_a_start(replace(chosen, inputs=(path,))) for path in (small, large, Path("-"), tmp_path / "no")] == [
        False,
        True,
        True,
        False,
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "l.run.json").touch()
    assert not worth_a_start(replace(chosen, inputs=(large,)))


def by_id(folder: Path, name: str, *without: str) -> dict[str, list[dict[str, str]]]:
    """Rows of each sequence, without some columns."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows(folder / name):
        kept = {column: value for column, value in row.items() if column not in without}
        found.setdefault(row.get("sequence_id") or row["#sequence_id"], []).append(kept)
    return found


def test_shuffled_input_gives_the_same_rows(complete: Path, tmp_path: Path, toy: Path) -> None:
    good = [record for record in RECORDS if record[1] not in ("", "MKVLE")]
    shuffled = random.Random(3).sample(good, len(good))
    run_predict(config(to_fasta(tmp_path / "in.fa", shuffled), tmp_path / "out", toy))
    for name in ("in.sequences.tsv", "in.windows.tsv.gz", "in.regions.bed"):
        expected = by_id(complete, name, "number", "record", "input")
        for bad in ("nothing", "protein"):
            expected.pop(bad, None)
        found = by_id(tmp_path / "out", name, "number", "record", "input")
        assert found == expected
        assert list(found) != list(expected)


def test_input_comes_in_many_ways(
    complete: Path, tmp_path: Path, toy: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files, one compressed; standard input; a pipe: the same rows, except for the name of the input."""
    few = RECORDS[:9]
    whole = to_fasta(tmp_path / "in.fa", few)
    first, packed, pipe = to_fasta(tmp_path / "one.fa", few[:4]), tmp_path / "two.fasta.gz", tmp_path / "pipe"
    packed.write_bytes(gzip.compress(to_fasta(tmp_path / "two.fa", few[4:]).read_bytes()))
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(whole.read_bytes(),))
    writer.start()
    ways: dict[str, list[object]] = {"one": [first, packed], "stdin": ["-"], "pipe": [pipe]}
    for prefix, inputs in ways.items():
        with open(whole) as file:
            monkeypatch.setattr(sys, "stdin", file)
            done = cli("predict", *inputs, "-o", tmp_path / "out", "--model", toy, *CPU)
        assert done.returncode == 6, done.stderr  # some of them are bad records
        for name in ("sequences.tsv", "windows.tsv.gz", "regions.bed"):
            found = by_id(tmp_path / "out", f"{prefix}.{name}", "input", "record", "note")
            expected = by_id(complete, f"in.{name}", "input", "record", "note")
            assert found == {key: value for key, value in expected.items() if key in found}
    writer.join()
    found_rows = rows(tmp_path / "out" / "one.sequences.tsv")
    places = [(row["input"], int(row["record"])) for row in found_rows]
    assert places == [(str(first), n) for n in range(1, 5)] + [(str(packed), n) for n in range(1, 6)]
    assert {row["input"] for row in rows(tmp_path / "out" / "stdin.sequences.tsv")} == {"-"}
    assert (tmp_path / "out" / "stdin.virus.fna").read_bytes() == (tmp_path / "out" / "pipe.virus.fna").read_bytes()


def test_repeated_ids_are_told_apart_by_number(tmp_path: Path, toy: Path, complete: Path, cli: Cli) -> None:
    few = [record for record in RECORDS if record[1] not in ("", "MKVLE")][:6]
    path = to_fasta(tmp_path / "in.fa", [("same", sequence) for _, sequence in few])
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("more than once") == 1
    expected = {row["sequence_id"]: row["score"] for row in rows(complete / "in.sequences.tsv")}
    found = rows(tmp_path / "out" / "in.sequences.tsv")
    assert [row["score"] for row in found] == [expected[header.split()[0]] for header, _ in few]
    assert [row["number"] for row in found] == [str(n + 1) for n in range(len(few))]


@pytest.mark.parametrize(("measured", "said"), [((), False), (("bf16", "fp32"), False), (("bf16", "fp8"), True)])
def test_a_dtype_that_a_set_was_not_measured_in_is_said(
    toy: Path, tmp_path: Path, measured: tuple[str, ...], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(toy, tmp_path / "set")
    (folder / CARD).write_text(replace(ClassifierCard.read(folder), dtypes=measured).to_json())
    virnucpro.predict(to_fasta(tmp_path / "in.fa", CLEAN), tmp_path, model=str(folder), device="cpu", dtype="fp32")
    line = "toy was measured in bf16 and fp8, and this run computes in fp32"
    assert any(line in record.getMessage() for record in caplog.records) is said


def test_long_sequences_have_the_threshold_of_the_preset(fasta: Path, toy: Path, tmp_path: Path) -> None:
    """If the card has one; --min-score holds for all lengths."""
    card = ClassifierCard.read(EMBEDDED / "mini-1")
    relaxed = card.presets["relaxed"]
    expected: list[tuple[str, dict[str, Any], Thresholds]] = [
        ("mini-1", {}, Thresholds(card.min_score, card.min_score, card.long_presets["default"])),
        ("mini-1", {"preset": "relaxed"}, Thresholds(relaxed, relaxed, card.long_presets["relaxed"])),
        ("mini-1", {"min_score": 0.9}, Thresholds(0.9, 0.9, 0.9)),
        (str(toy), {}, Thresholds(0.5, 0.5, 0.5)),
    ]
    for model, changes, scores in expected:
        assert choose(replace(config(fasta, tmp_path, toy, **changes), model=model)).thresholds == scores
    assert card.min_score > card.long_presets["default"] >= 0.5


def test_each_size_of_windows_has_thresholds_of_its_own(fasta: Path, toy: Path, tmp_path: Path) -> None:
    """Those of the first size are never used for another; for sizes that were not measured a score must be given."""
    folder = with_card(
        toy, tmp_path / "set", presets={"default": 0.8}, min_score=0.8, size_presets={300: {"default": 0.7}}
    )
    unknown = with_card(toy, tmp_path / "unknown", presets={"default": 0.8}, min_score=0.8, size_presets={})
    for model, window, score in ((folder, 150, 0.8), (folder, 300, 0.7), (unknown, 150, 0.8)):
        assert choose(config(fasta, tmp_path, model, window=window)).thresholds == Thresholds(score, score, score)
    for changes in ({}, {"preset": "default"}):
        with pytest.raises(UsageError, match="no presets for windows of 300 bases"):
            choose(config(fasta, tmp_path, unknown, window=300, **changes))
    given = choose(config(fasta, tmp_path, unknown, window=300, min_score=0.5))
    assert given.thresholds == Thresholds(0.5, 0.5, 0.5)


# Sets whose calls were measured.


def with_card(toy: Path, folder: Path, **changes: Any) -> Path:
    """The toy set with another card."""
    shutil.copytree(toy, folder)
    (folder / CARD).write_text(replace(ClassifierCard.read(toy), **changes).to_json())
    return folder


@pytest.fixture(scope="module")
def measured(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy set, as if its calls had been measured for windows of 150."""
    return with_card(toy, tmp_path_factory.mktemp("measured") / "set", calls={WINDOW: toy_calls(WINDOW)})


def test_a_measured_set_calls_by_its_model(fasta: Path, measured: Path, complete: Path, tmp_path: Path) -> None:
    """The windows are those of the rule of 0.1.0; sequences and regions are called from them by the model."""
    run_predict(config(fasta, tmp_path / "out", measured))
    calls = toy_calls(WINDOW)
    windows = by_id(tmp_path / "out", "in.windows.tsv.gz", "call")
    short = {
        row["sequence_id"] for row in rows(tmp_path / "out" / "in.sequences.tsv") if "(--min-length)" in row["note"]
    }
    before = by_id(complete, "in.windows.tsv.gz", "call")
    assert windows == {name: found for name, found in before.items() if name not in short}
    called = {row["sequence_id"]: row for row in rows(tmp_path / "out" / "in.sequences.tsv")}
    letters = {name.split()[0]: sequence for name, sequence in RECORDS if name}
    for name, of_one in windows.items():
        caller = ModelCaller(calls, calls.thresholds("default"))
        for row in of_one:
            start, end = int(row["start"]) - 1, int(row["end"])
            unknown = sum(letter not in "ACGTUacgtu" for letter in letters[name.split()[0]][start:end])
            caller.add(start, end, float(row["score"]) if row["score"] else None, unknown)
        expected, row = caller.finish(), called[name]
        assert (row["verdict"], int(row["regions"])) == (expected.verdict.value, len(expected.regions))
        if expected.score is not None:
            assert float(row["score"]) == pytest.approx(expected.score, abs=1e-4)
            assert float(row["threshold"]) == pytest.approx(expected.threshold, abs=1e-6)
            assert float(row["false_positive_rate"]) == pytest.approx(expected.false_positives, abs=1e-5)
    assert {row["verdict"] for row in called.values()} >= {"virus", "other", "not_scored"}


def test_viral_sequences_keep_their_case(tmp_path: Path, toy: Path) -> None:
    masked = viral(150, 1)[:100] + viral(150, 1)[100:].lower()
    path = to_fasta(tmp_path / "in.fa", [("v", masked.replace("T", "U").replace("t", "u") + "xX")])
    run_predict(config(path, tmp_path / "out", toy))
    assert text_of(tmp_path / "out" / "in.virus.fna") == f">v\n{masked}nN\n"


def test_viral_sequences_are_one_feature_each(fasta: Path, measured: Path, tmp_path: Path) -> None:
    run_predict(config(fasta, tmp_path / "out", measured))
    found = rows(tmp_path / "out" / "in.regions.bed")
    for row in rows(tmp_path / "out" / "in.sequences.tsv"):
        if row["verdict"] == "virus":
            (region,) = (each for each in found if each["#sequence_id"] == row["sequence_id"])
            assert (region["start"], region["end"]) == ("0", row["length"])
            assert region["region_score"] == row["score"]


def test_sequences_shorter_than_what_was_measured_are_not_scored(measured: Path, tmp_path: Path) -> None:
    """By default; --min-length changes that."""
    path = to_fasta(tmp_path / "in.fa", [("short", viral(99, 1)), ("enough", viral(100, 1))])
    found = []
    for name, least in (("default", None), ("asked", 50)):
        run_predict(config(path, tmp_path / name, measured, min_length=least))
        found.append([(row["verdict"], row["note"]) for row in rows(tmp_path / name / "in.sequences.tsv")])
    assert found[0][0] == ("not_scored", "shorter than 100 bases (--min-length)")
    assert found[1][0][0] != "not_scored"
    assert found[0][1] == found[1][1]


def test_presets_and_scores_hold_for_sequences(measured: Path, fasta: Path, tmp_path: Path) -> None:
    calls = toy_calls(WINDOW)
    expected: list[tuple[dict[str, Any], Thresholds | ThresholdsByLength]] = [
        ({}, calls.thresholds("default")),
        ({"preset": "conservative"}, calls.thresholds("conservative")),
        ({"min_score": 0.42}, Thresholds(0.42, 0.42, 0.42)),
    ]
    for changes, thresholds in expected:
        assert choose(config(fasta, tmp_path, measured, **changes)).thresholds == thresholds
    with pytest.raises(UsageError, match="has conservative, default, relaxed"):
        choose(config(fasta, tmp_path, measured, preset="strict"))


def test_the_expected_number_of_false_calls_is_told_with_what_is_assumed(
    measured: Path, fasta: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("predict", fasta, "-o", tmp_path / "out", "--model", measured, *CPU)
    for options, how in (((), "estimated from the scores"), (("--viral-share", 0.25, "--force"), "given")):
        done = cli(*words, *options)
        assert done.returncode == 6, done.stderr
        found = record(tmp_path / "out")["result"]["false_discovery"]
        assert found["estimated"] is (how != "given")
        assert found["calls"] == record(tmp_path / "out")["result"]["verdicts"]["virus"]
        assert 0 < found["expected_false"] < found["calls"]
        line = f"expected false calls: {found['expected_false']:.1f} of {found['calls']} called virus, assuming that"
        assert line in " ".join(done.stderr.split())
        assert how in done.stderr
    assert found["share"] == 0.25
    again = cli(*words, "--viral-share", 0.25)
    assert f"of {found['calls']} called virus" in " ".join(again.stderr.split())


def test_a_set_that_was_not_measured_tells_no_false_calls(complete: Path) -> None:
    assert record(complete)["result"]["false_discovery"] is None
    assert {row["false_positive_rate"] for row in rows(complete / "in.sequences.tsv")} == {""}


def test_other_settings_give_other_calls(complete: Path, fasta: Path, tmp_path: Path, toy: Path) -> None:
    """--min-score, --min-length, --window and --frames have an effect, and the right one."""
    strict = run_predict(
        config(fasta, tmp_path / "strict", toy, min_score=0.94, min_length=151, exact=True, window=300)
    )
    assert strict.verdicts != run_predict(everything(fasta, complete, toy)).verdicts
    found = rows(tmp_path / "strict" / "in.sequences.tsv")
    for row in found:
        short = 0 < int(row["length"]) < 151
        assert (row["note"] == "shorter than 151 bases (--min-length)") is short
        if row["score"]:
            assert (row["verdict"] == "virus") is (float(row["score"]) >= 0.94)
    windows = rows(tmp_path / "strict" / "in.windows.tsv.gz")
    assert max(int(row["end"]) - int(row["start"]) + 1 for row in windows) == 300
    assert {row["call"] for row in windows if row["score"] and 0.5 < float(row["score"]) < 0.939} == {"other"}


# Nothing viral, nothing usable.


def test_nothing_viral_is_success(tmp_path: Path, toy: Path, cli: Cli) -> None:
    path = to_fasta(tmp_path / "in.fa", CLEAN[1:])
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU)
    assert done.returncode == 0, done.stderr
    assert text_of(tmp_path / "out" / "in.regions.bed") == table(list(tables.REGIONS), [])
    assert text_of(tmp_path / "out" / "in.failed.tsv") == table(list(FAILED), [])
    assert text_of(tmp_path / "out" / "in.virus.fna") == ""
    assert text_of(tmp_path / "out" / "in.virus_summary.tsv") == table(list(tables.VIRUSES), [])
    assert text_of(tmp_path / "out" / "in.regions.gff3") == "##gff-version 3\n"
    assert [row["verdict"] for row in rows(tmp_path / "out" / "in.sequences.tsv")] == ["other", "not_scored"]


@pytest.mark.parametrize("options", [("--min-length", 200), ()], ids=["too short", "no frame"])
def test_nothing_scored_is_success(options: tuple[object, ...], tmp_path: Path, toy: Path, cli: Cli) -> None:
    records = CLEAN if options else [("two", "AC"), ("n", "N" * 400)]
    path = to_fasta(tmp_path / "in.fa", records)
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU, *options, "--vanilla-output")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "out" / "in.sequences.tsv")
    assert [row["sequence_id"] for row in found] == [header.split()[0] for header, _ in records]
    assert {row["verdict"] for row in found} == {"not_scored"}
    assert all(row["note"] for row in found)
    assert text_of(tmp_path / "out" / "prediction_results.txt").count("\n") == 1


def test_nothing_scored_has_empty_embeddings(tmp_path: Path, toy: Path) -> None:
    run_predict(everything(to_fasta(tmp_path / "in.fa", [("n", "N" * 400)]), tmp_path / "out", toy))
    assert read_result(tmp_path / "out" / "in.dna.h5")[0] == []
    assert torch.load(tmp_path / "out" / "in_ESM.pt", weights_only=True) == {"proteins": [], "data": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no sequences"),
        (">p\nMKVLEMKVLE\n>q\nMKVLE\n", "this looks like protein; give the DNA that codes for it"),
        (">a\n>b\n", "no sequence follows this header"),
        ("Dear reader,\n", "neither '>' nor '@'"),
    ],
    ids=["empty file", "protein", "no bases", "prose"],
)
def test_nothing_usable_is_an_error_each_time(text: str, words: str, tmp_path: Path, toy: Path, cli: Cli) -> None:
    path = tmp_path / "in.fa"
    path.write_text(text)
    for _ in range(2):
        done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU)
        assert done.returncode == 3, done.stderr
        assert "no usable sequence in the input" in done.stderr
        assert words in done.stderr
        assert "→ " in done.stderr
        assert "Traceback" not in done.stderr
    assert words in text_of(tmp_path / "out" / "in.failed.tsv")
    assert not (tmp_path / "out" / "in.work").exists()


def test_a_file_that_is_cut_off_gives_what_was_read(tmp_path: Path, toy: Path, cli: Cli) -> None:
    path = tmp_path / "in.fa.gz"
    records = random_records(400)
    path.write_bytes(gzip.compress(to_fasta(tmp_path / "all.fa", records).read_bytes())[:9000])
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU)
    assert done.returncode == 6, done.stderr
    found = rows(tmp_path / "out" / "in.sequences.tsv")
    assert 20 < len(found) < 400
    assert [row["sequence_id"] for row in found] == [f"s{i}" for i in range(len(found))]
    ((place),) = rows(tmp_path / "out" / "in.failed.tsv")
    assert (place["record"], place["sequence_id"]) == ("0", "")
    assert f"reading stopped after {len(found)} records" in place["reason"]


# What is refused: exit code, reason and hint, and nothing is begun.


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.fa", "-o", "out"], 3, "nowhere.fa does not exist"),
        (["in.fa", "nowhere.fa", "-o", "out"], 3, "nowhere.fa does not exist"),
        ([".", "-o", "out"], 3, "is a folder"),
        (["in.fa", "-o", "in.fa"], 2, "is a file"),
        (["in.fa", "-o", "in.fa/out"], 3, "cannot create the folder in.fa/out"),
        (["in.fa", "-o", "/proc/out"], 3, "/proc/out"),
        (["in.fa", "-o", "/proc"], 3, "/proc"),
        (["in.fa"], 2, "--output"),
        (["in.fa", "-o", "out", "--window", 200], 2, "trained on windows of 150 and 300 bases"),
        (["in.fa", "-o", "out", "--window", 0], 2, "--window"),
        (["in.fa", "-o", "out", "--min-score", 1.5], 2, "--min-score"),
        (["in.fa", "-o", "out", "--prefix", "a/b"], 2, "must be the beginning of a file name"),
        (["in.fa", "-o", "out", "--prefix", ""], 2, "must be the beginning of a file name"),
        (["in.fa", "-o", "out", "--prefix", ".."], 2, "must be the beginning of a file name"),
        (["in.fa", "-o", "out", "--model", "minni"], 4, "did you mean mini?"),
        (["in.fa", "-o", "out", "--model", "esm2-mini"], 4, "is only an encoder; a model set also has a classifier"),
        (["in.fa", "-o", "out", "-d", "7"], 5, "there is no GPU 7"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_what_cannot_be_done(
    arguments: list[object],
    code: int,
    words: str,
    clean: Path,
    toy: Path,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = () if "--model" in arguments else ("--model", toy)
    done = cli("predict", *model, *(CPU if "-d" not in arguments else ()), *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == [clean.name]


def test_a_result_that_is_an_input(tmp_path: Path, toy: Path, cli: Cli) -> None:
    path = to_fasta(tmp_path / "in.virus.fna", CLEAN)
    before = path.read_bytes()
    done = cli("predict", path, "-o", tmp_path, "--prefix", "in", "--force", "--model", toy, *CPU)
    assert done.returncode == 2
    assert f"the output {path} is also an input" in done.stderr
    assert path.read_bytes() == before


def test_a_classifier_of_other_encoders_is_refused(tmp_path: Path, toy: Path, clean: Path, cli: Cli) -> None:
    stranger = shutil.copytree(toy, tmp_path / "stranger")
    card = json.loads((stranger / CARD).read_text())
    card["encoders"]["protein"]["sha256"] = ["0" * 64]
    (stranger / CARD).write_text(json.dumps(card))
    done = cli("predict", clean, "-o", tmp_path / "out", "--model", stranger, *CPU)
    assert done.returncode == 4
    assert "toy was not trained on" in done.stderr
    assert "esm2-mini with sha256 " + "0" * 64 in done.stderr
    assert "→ take a classifier that was trained on these weights" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_input_that_changes_during_the_run_is_an_error(tmp_path: Path, toy: Path, clean: Path) -> None:
    """The viral sequences are read again at the end; they must not be lost silently."""

    def lose(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "calling":
            clean.unlink()

    with pytest.raises(InputError, match=r"in\.fa"):
        run_predict(config(clean, tmp_path / "out", toy), lose)
    assert not list((tmp_path / "out").glob("in.*.[tbf]*"))


# Names.


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("-", "stdin"),
        ("contigs.fa", "contigs"),
        ("a/b/contigs.FASTA.GZ", "contigs"),
        ("reads.fq.zst", "reads"),
        ("sample.1.fna", "sample.1"),
        ("ERR1.1", "ERR1.1"),
        ("x.bam", "x"),
        ("contigs", "contigs"),
        (".fa", ".fa"),
    ],
)
def test_results_are_called_after_the_first_input(name: str, prefix: str) -> None:
    assert default_prefix(Path(name)) == prefix


def test_prefixes_share_a_folder(tmp_path: Path, toy: Path, clean: Path, cli: Cli) -> None:
    for prefix in ("a", "b.1"):
        done = cli("predict", clean, "-o", tmp_path / "out", "-p", prefix, "--model", toy, *CPU)
        assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    suffixes = {name.removeprefix("in.") for name in TABLES | {"in.run.json"}}
    assert found.keys() == {f"{prefix}.{suffix}" for prefix in ("a", "b.1") for suffix in suffixes} | {"run.log"}
    assert found["a.sequences.tsv"] == found["b.1.sequences.tsv"]


def test_published_tables_of_another_prefix_are_not_overwritten(
    tmp_path: Path, toy: Path, clean: Path, cli: Cli
) -> None:
    words = ("predict", clean, "-o", tmp_path / "out", "--model", toy, *CPU, "--vanilla-output")
    assert cli(*words, "-p", "a").returncode == 0
    before = results(tmp_path / "out")
    done = cli(*words, "-p", "b", "--min-score", 1)
    assert done.returncode == 3
    assert "prediction_results.txt exists" in done.stderr
    assert results(tmp_path / "out") == before


def test_a_file_name_that_is_no_utf8(tmp_path: Path, toy: Path, cli: Cli) -> None:
    """Names are bytes to Linux; old ones may be Latin-1."""
    path = to_fasta(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.fa")), [*CLEAN, ("p", "MKVLE")])
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU, "--report")
    assert done.returncode == 6, done.stderr
    assert len(list((tmp_path / "out").glob("*.report.html"))) == 1
    assert cli("report", tmp_path / "out").returncode == 0
    assert rb"caf\udce9.report.html" in (tmp_path / "out" / "run.log").read_bytes()
    for name in ("sequences", "failed"):
        table_of = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out/caf\xe9.%s.tsv" % name.encode()))
        assert os.fsencode(path) in table_of.read_bytes()


def test_headers_of_any_kind(tmp_path: Path, toy: Path, cli: Cli) -> None:
    headers = ["a/1 x\ty", "", "..", "ünï cödé", 'q"q', "x" * 300, "v\u2028w z"]
    bad = [(f"{header.split()[0]}bad", "MKVLE") for header in headers if header]
    path = to_fasta(tmp_path / "in.fa", [(header, viral(150, 1)) for header in headers] + bad)
    done = cli("predict", path, "-o", tmp_path / "out", "--model", toy, *CPU, "--vanilla-output", "--keep-embeddings")
    assert done.returncode == 6, done.stderr
    headers[1] = "record_2"
    ids = [header.split()[0] for header in headers]
    for name, expected in (("sequences", ids + [name for name, _ in bad]), ("failed", [name for name, _ in bad])):
        columns, *lines = (line.split("\t") for line in text_of(tmp_path / "out" / f"in.{name}.tsv").split("\n")[:-1])
        place = columns.index("sequence_id")
        assert [line[place] for line in lines] == expected
    assert "no name in its header" in text_of(tmp_path / "out" / "in.sequences.tsv").split("\n")[2]
    assert "has no name in its header and is called record_2" in done.stderr
    written = text_of(tmp_path / "out" / "in.virus.fna").split("\n")[:-1:2]
    assert written == [f">{header}" for header in headers]
    frames = read_result(tmp_path / "out" / "in.dna.h5")[0]
    assert list(dict.fromkeys(frame[:-2] for frame in frames)) == [f"{name}_chunk_1" for name in ids]


# A complete run, and others with the same output.


def complete_run(folder: Path, toy: Path) -> PredictConfig:
    """Settings of a complete run."""
    settings = config(to_fasta(folder / "in.fa", CLEAN), folder / "out", toy)
    run_predict(settings)
    return settings


@pytest.fixture
def done_before(tmp_path: Path, toy: Path) -> PredictConfig:
    """Settings of a complete run."""
    return complete_run(tmp_path, toy)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> PredictConfig:
    """The same, of one run for all tests that leave it as it is."""
    return complete_run(tmp_path_factory.mktemp("settled"), toy)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "run.log"}


def test_a_complete_run_has_nothing_to_do(settled: PredictConfig, toy: Path, cli: Cli) -> None:
    before = stamps(settled.output)
    result = run_predict(replace(settled, sequences_per_file=3, threads=1))
    assert result.already_done
    done = cli("predict", *settled.inputs, "-o", settled.output, "--model", toy, *CPU)
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert f"3 sequences: {result.verdicts['virus']} virus" in done.stderr
    assert stamps(settled.output) == before


def test_a_complete_run_of_a_measured_set_has_nothing_to_do(clean: Path, measured: Path, tmp_path: Path) -> None:
    """Its thresholds by length are the same when they are read from the record."""
    settings = config(clean, tmp_path / "out", measured, window=WINDOW)
    assert not run_predict(settings).already_done
    assert run_predict(settings).already_done


def test_a_complete_run_with_failures_says_so_again(complete: Path, fasta: Path, toy: Path, cli: Cli) -> None:
    before = results(complete)
    done = cli("predict", fasta, "-o", complete, "--model", toy, *CPU, "--vanilla-output", "--keep-embeddings")
    assert (done.returncode, "nothing to do" in done.stderr) == (6, True)
    assert f"2 failed; see {complete}/in.failed.tsv" in done.stderr
    assert results(complete) == before


CHANGES: dict[str, tuple[object, ...]] = {
    "--window": ("--window", 300),
    "--min-length": ("--min-length", 5),
    "--frames": ("--frames", "exact"),
    "--batch-size": ("--batch-size", 256),
    "--frames, --window": ("--window", 300, "--frames", "exact"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_settings_need_force(what: str, settled: PredictConfig, toy: Path, cli: Cli) -> None:
    before, words = stamps(settled.output), ("predict", *settled.inputs, "-o", settled.output, *CPU)
    done = cli(*words, "--model", toy, *CHANGES[what])
    assert done.returncode == 3
    assert f"was made with other settings ({what})" in done.stderr
    assert "--force" in done.stderr
    assert stamps(settled.output) == before


RECALLS: dict[str, dict[str, Any]] = {
    "score": {"min_score": 0.25},
    "preset": {"min_score": 0.9},
    "outputs": {"vanilla_output": True},
    "both": {"min_score": 0.25, "vanilla_output": True},
}


@pytest.fixture(scope="module")
def there(fasta: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> PredictConfig:
    """Settings of a complete run, to which tests return after other calls."""
    settings = config(fasta, tmp_path_factory.mktemp("there") / "out", toy)
    run_predict(settings)
    return settings


@pytest.mark.parametrize("what", RECALLS)
def test_other_calls_need_no_model(
    what: str, there: PredictConfig, fasta: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the kept scores: the same bytes as from a run of its own, and back again."""
    before = results(there.output)
    run_predict(config(fasta, tmp_path / "fresh", toy, **RECALLS[what]))
    with monkeypatch.context() as changed:
        changed.setattr(caller, "score_files_worker", None)
        assert not run_predict(replace(there, **RECALLS[what])).already_done
        assert results(there.output) == results(tmp_path / "fresh")
        assert run_predict(replace(there, **RECALLS[what])).already_done
        assert not run_predict(there).already_done
    assert results(there.output) == before


def test_kept_embeddings_stay_when_calls_change(clean: Path, toy: Path, tmp_path: Path) -> None:
    settings = config(clean, tmp_path / "out", toy, keep_embeddings=True)
    run_predict(settings)
    kept = [settings.output / name for name in ("in.dna.h5", "in.protein.h5")]
    before = [path.stat().st_mtime_ns for path in kept]
    run_predict(replace(settings, min_score=0.25))
    assert [path.stat().st_mtime_ns for path in kept] == before
    run_predict(replace(settings, keep_embeddings=False))
    assert not any(path.exists() for path in kept)
    run_predict(settings)
    assert all(path.exists() for path in kept)


def test_damaged_scores_are_computed_again(clean: Path, toy: Path, tmp_path: Path) -> None:
    settings = config(clean, tmp_path / "out", toy)
    run_predict(settings)
    before, scores = results(settings.output), settings.output / "in.scores.gz"
    for damage in (lambda data: data[:-20], lambda data: data[:40] + b"damage" + data[46:], lambda data: b""):
        scores.write_bytes(damage(before["in.scores.gz"]))
        assert not holds_scores(scores, record(settings.output)["fingerprint"])
        run_predict(replace(settings, min_score=0.25))
        run_predict(settings)
        assert results(settings.output) == before


def test_foreign_files_are_not_taken_by_other_calls(done_before: PredictConfig, tmp_path: Path) -> None:
    (foreign := done_before.output / "prediction_results.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"prediction_results.txt exists"):
        run_predict(replace(done_before, vanilla_output=True))
    assert foreign.read_text() == "precious"


def test_another_classifier_or_input_needs_force(done_before: PredictConfig, tmp_path: Path, cli: Cli) -> None:
    before, words = stamps(done_before.output), ("predict", *done_before.inputs, "-o", done_before.output, *CPU)
    done = cli(*words, "--model", "mini-1")
    assert (done.returncode, "other settings (--model)" in done.stderr) == (3, True), done.stderr
    to_fasta(done_before.inputs[0], CLEAN[:2])
    done = cli(*words, "--model", done_before.model)
    assert (done.returncode, "other settings (inputs)" in done.stderr) == (3, True), done.stderr
    assert stamps(done_before.output) == before


def test_another_set_of_the_same_name_is_named_by_its_files(
    done_before: PredictConfig, toy: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("predict", *done_before.inputs, "-o", tmp_path / "mine", *CPU, "--model", tmp_path / "set")
    shutil.copytree(toy, tmp_path / "set")
    assert cli(*words).returncode == 0
    card = ClassifierCard.read(tmp_path / "set")
    weights = load_file(tmp_path / "set" / "model.safetensors")
    save(tmp_path / "set", {name: 2 * tensor for name, tensor in weights.items()}, replace(card, min_score=0.3))
    done = cli(*words)
    assert (done.returncode, "other settings (classifier)" in done.stderr) == (3, True), done.stderr


def test_what_decides_results_is_known_to_follow_from_options(settled: PredictConfig) -> None:
    """Except for values that no option changes."""
    found = record(settled.output)
    alone = {"inputs", "virnucpro_version", "torch_version"}
    assert {*found["identity"], *found["choices"]} - alone <= set(CAUSES)


def test_a_result_that_is_gone_is_made_again(done_before: PredictConfig) -> None:
    before = results(done_before.output)
    (done_before.output / "in.regions.bed").unlink()
    assert not run_predict(done_before).already_done
    assert results(done_before.output) == before


def test_precious_files_are_not_overwritten(tmp_path: Path, toy: Path, clean: Path, cli: Cli) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.sequences.tsv").write_text("precious")
    done = cli("predict", clean, "-o", tmp_path / "out", "--model", toy, *CPU)
    assert done.returncode == 3
    assert "in.sequences.tsv exists" in done.stderr
    assert results(tmp_path / "out") == {"in.sequences.tsv": b"precious"}


def test_the_work_folder_may_be_elsewhere(tmp_path: Path, toy: Path, clean: Path) -> None:
    seen: list[str] = []

    def look(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "calling":
            seen.extend(path.name for path in (tmp_path / "fast").rglob("*") if path.is_file())

    run_predict(config(clean, tmp_path / "out", toy, work_dir=tmp_path / "fast"), look)
    assert {"000001.fna", "000001.faa", "000001.index", "000001.scores.h5"} <= set(seen)
    assert list((tmp_path / "fast").iterdir()) == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == TABLES | RECORD


# The Python API.


def test_the_library_returns_the_rows(tmp_path: Path, toy: Path, clean: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"model": str(toy), "device": "cpu", "dtype": "fp32"}
    found = virnucpro.predict(clean, tmp_path / "out", **settings)
    assert [as_text(row) for row in found] == rows(tmp_path / "out" / "in.sequences.tsv")
    for row in found:
        assert row.keys() == virnucpro.SequenceRow.__annotations__.keys()
        assert all(type(row[name]) is int for name in ("number", "length", "windows", "regions", "record"))
        assert (row["score"] is None) is (row["verdict"] == "not_scored")
    assert virnucpro.predict([str(clean)], **settings) == found
    assert "toy is UNTRAINED" in caplog.text


#: Columns with numbers that are not integers.
FRACTIONS = ("score", "threshold", "false_positive_rate", "viral_fraction")


def as_text(row: virnucpro.SequenceRow) -> dict[str, str]:
    """The cells of a row."""
    return {name: number(value) if name in FRACTIONS else str(value) for name, value in row.items()}


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float32"}, {"batch_size": -1}, {"work_dir": 5}, {"output": ""}, {"model": "no-such-set"}]
)
def test_the_library_has_one_error(wrong: dict[str, Any], clean: Path) -> None:
    for function in (virnucpro.predict, virnucpro.embed):
        with pytest.raises(virnucpro.VirnucproError):
            function(clean, **wrong)
    with pytest.raises(TypeError, match="colour"):
        virnucpro.predict(clean, colour="red")
