"""Pieces of an input, run separately and merged: the same bytes as one run over all of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, Cli, to_fasta
from msgspec import convert
from test_predict import RECORDS, config, record

from virnucpro.errors import InputError, OutputError, UsageError, VirnucproError
from virnucpro.runs.config import EmbedConfig, MergeConfig, PredictConfig, SplitConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.merge import run_merge
from virnucpro.runs.predict import run_predict
from virnucpro.runs.record import RunRecord
from virnucpro.runs.split import Split, run_split

ROOT = Path(__file__).parent.parent
#: Files that differ between any two runs.
OWN = (".json", ".log")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With bad records, one without a name, lower case, and a second file that is truncated."""
    folder = tmp_path_factory.mktemp("inputs")
    first = to_fasta(folder / "in.fa", RECORDS)
    first.write_bytes(
        b">bad\nAC!T\n" + first.read_bytes() + b">\n" + b"ACGTTGCA" * 30 + b"\n>low\n" + b"acgtgg" * 40 + b"\n"
    )
    second = to_fasta(folder / "more.fa", RECORDS[:3])
    second.write_bytes(second.read_bytes() + b">torn\nAC\0GT\n")
    return first, second


def piece_config(path: Path, toy: Path, **changes: Any) -> PredictConfig:
    return replace(config(path, path.with_suffix(""), toy, keep_embeddings=True, **changes), prefix=None)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix not in OWN and path.is_file() and path.name[0] != "."
    }


@pytest.fixture(scope="module")
def parts(inputs: tuple[Path, ...], toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pieces and their results."""
    folder = tmp_path_factory.mktemp("pieces") / "parts"
    for piece in run_split(SplitConfig(inputs, folder, pieces=4)).split.pieces:
        path = folder / piece.name
        run_predict(piece_config(path, toy))
    return folder


@pytest.fixture
def mine(parts: Path, tmp_path: Path) -> Path:
    """A copy of them to spoil."""
    shutil.copytree(parts, tmp_path / "parts")
    return tmp_path / "parts"


@pytest.mark.heavy
def test_predict_in_pieces_is_predict(inputs: tuple[Path, ...], parts: Path, toy: Path, tmp_path: Path) -> None:
    run_predict(replace(config(inputs[0], tmp_path / "one", toy), inputs=inputs, prefix=None, keep_embeddings=True))
    result = run_merge(MergeConfig(parts, tmp_path / "out"))
    assert files(tmp_path / "out") == files(tmp_path / "one")
    one, merged = record(tmp_path / "one"), record(tmp_path / "out")
    assert {name: merged[name] for name in ("identity", "choices", "result", "fingerprint")} == {
        name: one[name] for name in ("identity", "choices", "result", "fingerprint")
    }
    assert len(merged["pieces"]) == 4
    assert len(result.failures) == 5


def test_another_threshold_is_a_matter_of_the_pieces(
    parts: Path, inputs: tuple[Path, ...], toy: Path, mine: Path
) -> None:
    for path in mine.glob("0*.fa"):
        run_predict(piece_config(path, toy, min_score=0.9))
    out, one = mine.parent / "out", mine.parent / "one"
    run_merge(MergeConfig(mine, out))
    run_predict(replace(config(inputs[0], one, toy), inputs=inputs, prefix=None, keep_embeddings=True, min_score=0.9))
    assert files(out) == files(one)


@pytest.mark.parametrize("changes", [{}, {"preset": "relaxed"}, {"min_score": 0.9}])
def test_calls_of_a_measured_set_are_those_of_one_run(changes: dict[str, Any], tmp_path: Path) -> None:
    """Its thresholds go by length, and come out of a record as they went in."""
    fasta = to_fasta(tmp_path / "in.fa", [(f"s{i}", bases * 9) for i, (_, bases) in enumerate(RECORDS[:6])])
    whole = PredictConfig((fasta,), tmp_path / "one", model="mini", device="cpu", dtype="fp32", **changes)
    run_predict(whole)
    assert run_predict(whole).already_done
    for piece in run_split(SplitConfig((fasta,), tmp_path / "parts", pieces=2)).split.pieces:
        path = tmp_path / "parts" / piece.name
        run_predict(replace(whole, inputs=(path,), output=path.with_suffix("")))
    merging = MergeConfig(tmp_path / "parts", tmp_path / "out")
    run_merge(merging)
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert record(tmp_path / "out")["choices"] == record(tmp_path / "one")["choices"]
    assert run_merge(merging).already_done
    assert files(tmp_path / "out") == files(tmp_path / "one")


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_embed_in_pieces_is_embed(suffix: str, inputs: tuple[Path, ...], tmp_path: Path) -> None:
    whole = EmbedConfig(inputs, tmp_path / f"one{suffix}", device="cpu", dtype="fp32", max_tokens=40)
    run_embed(whole)
    for piece in run_split(SplitConfig(inputs, tmp_path / "parts", bases=400)).split.pieces:
        path = tmp_path / "parts" / piece.name
        run_embed(replace(whole, inputs=(path,), output=path.with_suffix(".h5")))
    result = run_merge(MergeConfig(tmp_path / "parts", tmp_path / f"out{suffix}"))
    one, out = (
        {name: data for name, data in files(tmp_path).items() if name.startswith(way)} for way in ("one", "out")
    )
    assert len(one) == (2 if suffix == ".h5" else 3)
    assert [one[name] for name in sorted(one)] == [out[name] for name in sorted(out)]
    assert len(result.failures) > 2


@pytest.mark.parametrize(("protein", "model"), [(False, "dnabert-mini"), (True, "esm2-mini")])
def test_embed_in_pieces_is_embed_in_the_layout_of_the_published_tool(
    protein: bool, model: str, tmp_path: Path
) -> None:
    fasta = to_fasta(tmp_path / "in.fa", [("a", "ACGTNACGTACGATC"), ("b", "GATTACA"), ("c", "ACGATCAGACGATC")])
    if protein:
        fasta.write_text(fasta.read_text().replace("GAT", "WLF"))
    whole = EmbedConfig((fasta,), tmp_path / "one.pt", model=model, device="cpu", dtype="fp32")
    run_embed(whole)
    for piece in run_split(SplitConfig((fasta,), tmp_path / "parts", pieces=2, protein=protein)).split.pieces:
        path = tmp_path / "parts" / piece.name
        run_embed(replace(whole, inputs=(path,), output=path.with_suffix(".h5")))
    merging = MergeConfig(tmp_path / "parts", tmp_path / "out.pt")
    assert [run_merge(merging).already_done for _ in range(2)] == [False, True]
    assert (tmp_path / "out.pt").read_bytes() == (tmp_path / "one.pt").read_bytes()


def test_pieces_hold_whole_records_and_all_of_them(inputs: tuple[Path, ...], parts: Path) -> None:
    split = convert(json.loads((parts / "split.json").read_text())["plan"], Split)
    places = [place for piece in split.pieces for place in piece.places()]
    numbers = [place.number for place in places] + [row.number for row in split.rejected if row.record]
    assert sorted(numbers) == list(range(len(numbers)))
    sizes = [piece.bases for piece in split.pieces]
    assert max(sizes) - min(sizes) < max(len(sequence) for _, sequence in RECORDS) * 2
    assert b"acgtgg" in b"".join(path.read_bytes() for path in parts.glob("0*.fa"))


def remove_results(parts: Path, toy: Path) -> None:
    shutil.rmtree(parts / "0002")


def change_piece(parts: Path, toy: Path) -> None:
    (parts / "0003.fa").write_bytes((parts / "0003.fa").read_bytes()[:-3] + b"A\n")


def other_settings(parts: Path, toy: Path) -> None:
    path = parts / "0004.fa"
    run_predict(piece_config(path, toy, window=300, force=True))


def not_complete(parts: Path, toy: Path) -> None:
    (parts / "0001" / "0001.regions.bed").unlink()
    path = parts / "0001.fa"

    def stop(_worker: object, event: object) -> None:
        if getattr(event, "name", "") == "calling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_predict(piece_config(path, toy, force=True), stop)


def damaged_scores(parts: Path, toy: Path) -> None:
    path = parts / "0002" / "0002.scores.gz"
    path.write_bytes(path.read_bytes()[:-9])


def no_split(parts: Path, toy: Path) -> None:
    (parts / "split.json").unlink()


def another_version(parts: Path, toy: Path) -> None:
    """What could not be used was written down in fewer columns."""
    found = RunRecord.load(parts / "split.json")
    assert found
    found.plan["rejected"] = [[0, 0, 1, "bad", "it holds a !"]]
    found.save()


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (remove_results, InputError, r"piece 0002\.fa has no results in .*0002 \(run `virnucpro predict .*0002\.fa"),
        (change_piece, InputError, r"0003\.fa is not what `virnucpro split` wrote"),
        (other_settings, UsageError, r"0004 and .*0001 were made with other settings \(--window\)"),
        (not_complete, InputError, r"run on piece 0001\.fa is not complete"),
        (damaged_scores, InputError, r"scores in .*0002 are damaged"),
        (no_split, InputError, r"holds no pieces of `virnucpro split`"),
        (
            another_version,
            InputError,
            r"split\.json was not written by this version of virnucpro \(split the input",
        ),
    ],
)
def test_what_is_refused(
    spoil: Callable[[Path, Path], None], kind: type[VirnucproError], words: str, mine: Path, toy: Path
) -> None:
    spoil(mine, toy)
    with pytest.raises(kind, match=words):
        run_merge(MergeConfig(mine, mine.parent / "out"))
    assert not list((mine.parent / "out").glob("in.*.tsv"))


def test_results_that_are_there_are_kept(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in.sequences.tsv").write_text("precious")
    with pytest.raises(OutputError, match=r"in\.sequences\.tsv exists"):
        run_merge(MergeConfig(parts, tmp_path / "out"))
    assert (tmp_path / "out" / "in.sequences.tsv").read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_merged_is_not_overwritten(force: bool, parts: Path) -> None:
    before = files(parts / "0001")
    with pytest.raises(UsageError, match="is also an input"):
        run_merge(MergeConfig(parts, parts / "0001", prefix="0001", force=force))
    assert files(parts / "0001") == before


def records_of(path: Path, count: int = 6) -> Path:
    path.parent.mkdir(exist_ok=True)
    return to_fasta(path, [(f"s{number}", "ACGT" * 10) for number in range(count)])


SIZES = pytest.mark.parametrize("size", [{"pieces": 4}, {"bases": 60}], ids=str)


@SIZES
def test_a_complete_split_has_nothing_to_do(size: dict[str, int], tmp_path: Path) -> None:
    """Also if some pieces would have no record, since there are few records, or long ones."""
    settings = SplitConfig((records_of(tmp_path / "in.fa", 2),), tmp_path / "parts", **size)
    split = run_split(settings).split
    assert len(split.pieces) == 2
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("0*")}
    assert run_split(settings).split == split
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("0*")} == times
    (tmp_path / "parts" / "0002.fa").unlink()
    assert run_split(settings).split == split
    with pytest.raises(OutputError, match=r"made with other settings \(--"):
        run_split(replace(settings, pieces=1, bases=None))
    run_split(replace(settings, pieces=1, bases=None, force=True))
    assert [path.name for path in (tmp_path / "parts").glob("0*")] == ["0001.fa"]


@SIZES
def test_a_piece_takes_the_name_of_no_other_file(size: dict[str, int], tmp_path: Path) -> None:
    source = records_of(tmp_path / "in.fa")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0002.fa").write_text("precious")
    with pytest.raises(OutputError, match=r"0002\.fa exists"):
        run_split(SplitConfig((source,), tmp_path / "parts", **size))
    assert (tmp_path / "parts" / "0002.fa").read_text() == "precious"


@SIZES
def test_a_piece_is_no_input(size: dict[str, int], tmp_path: Path) -> None:
    source = records_of(tmp_path / "parts" / "0002.fa")
    before = source.read_bytes()
    with pytest.raises(UsageError, match=r"the output .*0002\.fa is also an input"):
        run_split(SplitConfig((source,), tmp_path / "parts", force=True, **size))
    assert source.read_bytes() == before


def test_more_pieces_than_a_folder_should_hold(tmp_path: Path) -> None:
    source = to_fasta(tmp_path / "in.fa", [("s", "A" * 100_001)])
    with pytest.raises(UsageError, match="--bases 1 makes 100001 pieces"):
        run_split(SplitConfig((source,), tmp_path / "parts", bases=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [((), "one way to split"), (("-n", 2, "--bases", 9), "one way to split"), (("-n", 0), "'-n'")],
)
def test_split_wants_one_size(options: tuple[object, ...], words: str, inputs: tuple[Path, ...], cli: Cli) -> None:
    done = cli("split", inputs[0], "-o", inputs[0].parent / "p", *options)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


#: A stand-in for `sbatch` that runs a script at once, each task of an array; it prints the number of the job.
SBATCH = """#!/usr/bin/env bash
set -eu
tasks=1-1
while [[ $1 == -* ]]; do
    case $1 in --array=*) tasks=${1#--array=} ;; esac
    shift
done
echo "$@" >> "$SBATCH_LOG"
for task in $(seq "${tasks%-*}" "${tasks#*-}"); do SLURM_ARRAY_TASK_ID=$task bash "$@" >&2; done
echo 17
"""


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with the programs of this environment and the stand-in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH)
    (folder / "sbatch").chmod(0o755)
    (folder / "virnucpro").write_text(f'#!/bin/sh\nexec {sys.executable} -m virnucpro "$@"\n')
    (folder / "virnucpro").chmod(0o755)
    return folder


@pytest.mark.heavy
def test_the_slurm_script_runs_every_piece_and_merges(
    inputs: tuple[Path, ...], toy: Path, tmp_path: Path, bin_folder: Path
) -> None:
    options = ("--model", toy, "-d", "cpu", "--dtype", "fp32", "--min-score", 0.5, "-q")
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SBATCH_LOG": str(tmp_path / "log")}
    script = ROOT / "examples" / "cluster" / "slurm.sh"
    line = ["bash", script, inputs[0], tmp_path / "out", 3, *options]
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=HANGS, env=env)
    assert done.returncode == 0, done.stderr
    assert [words.split()[1] for words in (tmp_path / "log").read_text().splitlines()] == ["--task", "--merge"]
    run_predict(config(inputs[0], tmp_path / "one", toy, min_score=0.5))
    assert files(tmp_path / "out") == files(tmp_path / "one")


@pytest.mark.heavy
def test_the_snakefile_runs(inputs: tuple[Path, ...], toy: Path, tmp_path: Path, bin_folder: Path) -> None:
    pytest.importorskip("snakemake", reason="Snakemake is not installed")
    options = f"--model {toy} -d cpu --dtype fp32 --min-score 0.5 -q"
    settings = (f"input={inputs[0]}", f"out={tmp_path / 'out'}", "pieces=2", f"options={options}")
    snakefile = ROOT / "examples" / "cluster" / "Snakefile"
    line = [sys.executable, "-m", "snakemake", "-s", snakefile, "-d", tmp_path, "--cores", "1", "--config", *settings]
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=HANGS, env=env)
    assert done.returncode == 0, done.stderr
    run_predict(config(inputs[0], tmp_path / "one", toy, min_score=0.5))
    assert files(tmp_path / "out") == files(tmp_path / "one")
