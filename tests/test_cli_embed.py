"""`virnucpro embed` with odd or bad input, its outputs, and its messages."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rich_click as click
import torch
from conftest import HANGS, Cli, Records, random_records, run_cli, to_fasta, vectors_by_id

import virnucpro
from virnucpro.cli import cli as group
from virnucpro.cli.embed import embed as embed_command
from virnucpro.core.words import counted
from virnucpro.errors import InputError
from virnucpro.io.store import read_result
from virnucpro.models.registry import EMBEDDED

CPU = ("-d", "cpu", "--dtype", "fp32")
GOOD: Records = random_records(5)
LONG = "".join(sequence for _, sequence in random_records(40, seed=9))

#: Records that cannot be used: name, lines, and words of the reason; `{}` stands for the line of the record.
BAD = [
    ("nothing", ">nothing\n", ("line {0}", "no sequence")),
    ("protein", ">protein x\nACGT\nMKVLE\n", ("line {2}", "'L'", "protein", "DNA that codes")),
    ("gap", ">gap\nAC-GT\n", ("line {1}", "'-'", "gap")),
    ("digit", ">digit\nACGT1\n", ("line {1}", "'1'", "numbering")),
    ("accent", ">accent\nACÉGT\n", ("line {1}", "'É'", "use N")),
    ("nul", ">nul\0byte\nACGT\n", ("line {0}", "NUL")),
    ("long", f">long\n{LONG}\n", ("--max-tokens 256", "windows")),
]


@pytest.fixture
def fasta(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Save the text of a FASTA file."""

    def save(text: str | bytes, name: str = "in.fa") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return save


Fasta = Callable[..., Path]


def text_of(records: Records) -> str:
    return "".join(f">{header}\n{sequence}\n" for header, sequence in records)


def embeddings(path: Path, **settings: object) -> dict[str, bytes]:
    """Bytes of each embedding by id, by the Python API."""
    ids, vectors = virnucpro.embed(path, device="cpu", dtype="fp32", **settings)
    return {name: vector.tobytes() for name, vector in zip(ids, vectors, strict=True)}


def failed_rows(output: Path) -> list[list[str]]:
    header, *rows = Path(f"{output}.failed.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "input\trecord\tsequence_id\treason"
    return [row.split("\t") for row in rows]


# Bad records are named and listed, and do not affect the good ones.


def test_bad_records_are_listed_and_good_ones_kept(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    good = [(f"after-{name}", sequence) for (name, _, _), (_, sequence) in zip(BAD, random_records(7), strict=True)]
    text, reasons = "", []
    for (_, lines, words), record in zip(BAD, good, strict=True):
        line = text.count("\n") + 1
        reasons.append([word.format(line, line + 1, line + 2) for word in words])
        text += lines + text_of([record])
    path, output = fasta(text), tmp_path / "o.h5"
    done = cli("embed", path, "-o", output, *CPU, "--max-tokens", 256)
    assert done.returncode == 6
    assert "7 failed; see" in done.stderr
    rows = failed_rows(output)
    assert [row[:3] for row in rows] == [[str(path), str(2 * i + 1), name] for i, (name, _, _) in enumerate(BAD)]
    for row, words in zip(rows, reasons, strict=True):
        assert all(word in row[3] for word in words), (row, words)
    alone = embeddings(to_fasta(tmp_path / "good.fa", good), max_tokens=256)
    assert list(vectors_by_id(output).items()) == list(alone.items())


def test_only_bad_records(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    done = cli("embed", fasta(">p\nMKVLE\n"), "-o", tmp_path / "o.h5", *CPU)
    assert done.returncode == 3
    assert "no usable sequence" in done.stderr
    assert [row[2] for row in failed_rows(tmp_path / "o.h5")] == ["p"]
    assert not (tmp_path / "o.h5").exists()
    assert not (tmp_path / "o.h5.work").exists()


def test_all_records_too_long(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    done = cli("embed", fasta(f">a\n{LONG}\n"), "-o", tmp_path / "o.h5", *CPU, "--max-tokens", 16)
    assert done.returncode == 6
    ids, vectors = read_result(tmp_path / "o.h5")
    assert (ids, vectors.shape) == ([], (0, 128))


def test_a_bad_record_of_an_earlier_run_is_forgotten(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "o.h5"
    assert cli("embed", fasta(text_of(GOOD) + ">p\nMKVLE\n"), "-o", output, *CPU).returncode == 6
    assert cli("embed", fasta(text_of(GOOD)), "-o", output, *CPU, "--force").returncode == 0
    assert not Path(f"{output}.failed.tsv").exists()


@pytest.mark.parametrize("stdin", [False, True])
def test_cut_gzip(fasta: Fasta, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: bool) -> None:
    records = random_records(600)
    path, output = fasta(gzip.compress(text_of(records).encode())[:20_000], "cut.fa.gz"), tmp_path / "o.h5"
    name = "-" if stdin else str(path)
    with open(path) as file:
        monkeypatch.setattr(sys, "stdin", file)
        done = cli("embed", name, "-o", output, *CPU)
    assert done.returncode == 6
    ((source, number, sequence_id, reason),) = failed_rows(output)
    assert (source, number, sequence_id) == (name, "0", "")
    found = vectors_by_id(output)
    assert reason.startswith(f"{'standard input' if stdin else name}: reading stopped after {len(found)} records: ")
    assert "again" in reason
    assert len(found) > 50
    whole = to_fasta(tmp_path / "whole.fa", records[: len(found)])
    assert list(found.items()) == list(embeddings(whole).items())


def test_of_several_files_the_bad_one_is_named(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    first, empty, third = fasta(text_of(GOOD[:2]), "a.fa"), fasta("", "b.fa"), fasta(text_of(GOOD[2:]) + ">x\n", "c.fa")
    output = tmp_path / "o.h5"
    assert cli("embed", first, empty, third, "-o", output, *CPU).returncode == 6
    rows = failed_rows(output)
    assert [row[:3] for row in rows] == [[str(empty), "0", ""], [str(third), "4", "x"]]
    assert "holds no sequences" in rows[0][3]
    assert list(vectors_by_id(output)) == ["s0", "s1", "s2", "s3", "s4"]


# Odd input that is accepted.


def test_case_and_uracil_make_no_difference(fasta: Fasta) -> None:
    dna = GOOD[0][1]
    same = {
        "upper": dna,
        "lower": dna.lower(),
        "rna": dna.replace("T", "U"),
        "lower-rna": dna.lower().replace("t", "u"),
    }
    found = embeddings(fasta(text_of([*same.items(), ("other", GOOD[1][1])])))
    assert len({found[name] for name in same}) == 1
    assert found["other"] != found["upper"]


def test_ambiguous_bases_are_accepted(fasta: Fasta) -> None:
    found = embeddings(fasta(text_of([("iupac", "ACGTRYSWKMBDHVN"), ("n", "N" * 50), ("one", "A")])))
    assert list(found) == ["iupac", "n", "one"]
    assert len(set(found.values())) == 3


def test_headers_are_kept_as_they_are(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    headers = ["a/1 x/y", "gi|12|ref|NC_1.1| name", "tab\there", "x" * 10_240, "..", "ünï cödé", "", "a,b;c", "'q\"t'"]
    output = tmp_path / "o.h5"
    records = [(header, sequence) for header, (_, sequence) in zip(headers, random_records(9), strict=True)]
    assert cli("embed", fasta(text_of(records)), "-o", output, *CPU).returncode == 0
    with h5py.File(output) as file:
        headers[6] = "record_7"
        assert list(file["headers"].asstr()[...]) == headers
        assert list(file["ids"].asstr()[...]) == [header.split()[0] for header in headers]


def test_repeated_ids_are_kept_in_order_and_told_once(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    records = [("same", sequence) for _, sequence in GOOD] + [("twice", "ACGT"), ("twice", "TTTT")]
    done = cli("embed", fasta(text_of(records)), "-o", tmp_path / "o.h5", *CPU)
    assert done.returncode == 0
    assert done.stderr.count("more than once") == 1
    ids, vectors = read_result(tmp_path / "o.h5")
    assert ids == [name for name, _ in records]
    alone = embeddings(fasta(text_of([(str(i), sequence) for i, (_, sequence) in enumerate(records)])))
    assert [vector.tobytes() for vector in vectors] == list(alone.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\n\n" + text.replace("\n>", "\n\n>") + "\n\n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace("ACG", "AC\nG"),
    ],
    ids=["crlf", "no last line end", "blank lines", "byte order mark", "wrapped"],
)
def test_layout_makes_no_difference(fasta: Fasta, change: Callable[[str], str]) -> None:
    text = text_of(GOOD)
    assert change(text) != text
    assert embeddings(fasta(change(text))) == embeddings(fasta(text))


def test_named_pipe_as_the_shell_makes_of_a_command(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    pipe, output = tmp_path / "pipe", tmp_path / "o.h5"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text_of(GOOD),))
    writer.start()
    assert cli("embed", pipe, "-o", output, *CPU).returncode == 0
    writer.join()
    assert vectors_by_id(output) == embeddings(fasta(text_of(GOOD)))


# What is refused: exit code, reason and hint, and nothing is left behind.


def unusable(case: str, folder: Path) -> tuple[list[object], str]:
    """Arguments of a command that must end with exit code 3, and words of its message."""
    good, output = folder / "good.fa", folder / "o.h5"
    to_fasta(good, GOOD)
    (folder / "empty.fa").write_text("")
    (folder / "prose.txt").write_text("Dear reader,\n")
    (folder / "folder.h5").mkdir()
    return {
        "empty file": ([folder / "empty.fa", "-o", output], "holds no sequences"),
        "unknown format": ([folder / "prose.txt", "-o", output], "neither '>' nor '@'"),
        "folder as input": ([folder, "-o", output], f"{folder} is a folder"),
        "missing input": ([folder / "nowhere.fa", "-o", output], "nowhere.fa does not exist"),
        "missing folder": ([good, "-o", folder / "no" / "o.h5"], "does not exist"),
        "output below a file": ([good, "-o", good / "o.h5"], "does not exist"),
        "folder that takes no files": ([good, "-o", "/proc/o.h5"], "/proc"),
        "log that cannot be written": ([good, "-o", "/proc/o.h5", "--work-dir", folder / "w"], "/proc"),
        "output is a folder": ([good, "-o", folder / "folder.h5", "--force"], "is a folder"),
        "work folder below a file": ([good, "-o", output, "--work-dir", good / "w"], "cannot write work files in"),
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        "empty file",
        "unknown format",
        "folder as input",
        "missing input",
        "missing folder",
        "output below a file",
        "folder that takes no files",
        "log that cannot be written",
        "output is a folder",
        "work folder below a file",
    ],
)
def test_input_or_output_that_cannot_be_used(case: str, cli: Cli, tmp_path: Path) -> None:
    arguments, words = unusable(case, tmp_path)
    done = cli("embed", *arguments, *CPU)
    assert done.returncode == 3, done.stderr
    assert "virnucpro: error: " in done.stderr
    assert words in done.stderr
    assert "→ " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.h5").exists()
    assert not (tmp_path / "o.h5.work").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission(cli: Cli, tmp_path: Path) -> None:
    path = to_fasta(tmp_path / "a.fa", GOOD)
    (tmp_path / "closed").mkdir(mode=0o500)
    done = cli("embed", path, "-o", tmp_path / "closed" / "o.h5", *CPU)
    assert done.returncode == 3
    assert "cannot be written\n  → choose another folder with -o\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "o.txt"], 2, ".h5, .npy or .pt"),
        (["-o", "in.fa"], 2, "suffix"),
        ([], 2, "--output"),
        (["-o", "o.h5", "--batch-size", "0"], 2, "--batch-size"),
        (["-o", "o.h5", "--model", "dnabert-x", "-d", "cpu"], 4, "did you mean dnabert-s?"),
        (["-o", "o.h5", "--model", ".", "-d", "cpu"], 4, "config.json"),
        (["-o", "o.h5", "-d", "7"], 5, "there is no GPU 7"),
        (["-o", "o.h5", "-d", "cuda"], 5, "no GPU is visible"),
        (["-o", "o.h5", "-d", "cpu", "--dtype", "fp16"], 5, "fp16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_cannot_be_followed(
    arguments: list[str], code: int, words: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    to_fasta(tmp_path / "in.fa", GOOD)
    done = cli("embed", "in.fa", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa"]


def test_input_as_output(cli: Cli, tmp_path: Path) -> None:
    path = to_fasta(tmp_path / "in.h5", GOOD)
    done = cli("embed", path, "-o", path, "--force", *CPU)
    assert done.returncode == 2
    assert "is also an input" in done.stderr
    assert path.read_text().startswith(">s0")


def test_existing_output_is_overwritten_by_force_only(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    path, output = fasta(text_of(GOOD)), tmp_path / "o.h5"
    output.write_text("precious")
    done = cli("embed", path, "-o", output, *CPU)
    assert done.returncode == 3
    assert "--force" in done.stderr
    assert output.read_text() == "precious"
    assert cli("embed", path, "-o", output, *CPU, "--force").returncode == 0
    assert vectors_by_id(output) == embeddings(path)


# Results.


def test_formats_hold_the_same(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    records = [*random_records(9), ("a/1 x", "ACGTACGT"), ("a/1 y", "TTTT")]
    path = fasta(text_of(records))
    for suffix in (".h5", ".hdf5", ".npy", ".pt"):
        assert cli("embed", path, "-o", tmp_path / f"o{suffix}", *CPU).returncode == 0
    ids, vectors = read_result(tmp_path / "o.h5")
    assert (ids, vectors.shape, vectors.dtype) == ([h.split()[0] for h, _ in records], (11, 128), np.float32)
    assert (tmp_path / "o.h5").read_bytes() == (tmp_path / "o.hdf5").read_bytes()
    assert np.array_equal(np.load(tmp_path / "o.npy"), vectors)
    assert (tmp_path / "o.ids.txt").read_text().splitlines() == ids
    published = torch.load(tmp_path / "o.pt", weights_only=True)
    assert list(published) == ["nucleotide", "data"]
    assert published["nucleotide"] == ids
    assert [set(entry) for entry in published["data"]] == [{"label", "mean_representation"}] * 11
    assert [entry["label"] for entry in published["data"]] == ids
    assert np.array_equal(np.array([e["mean_representation"] for e in published["data"]], dtype=np.float32), vectors)


def test_result_says_what_made_it(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    assert cli("embed", fasta(text_of(GOOD)), "-o", tmp_path / "o.h5", *CPU, "--batch-size", 300).returncode == 0
    with h5py.File(tmp_path / "o.h5") as file:
        said = dict(file.attrs)
    assert (said["model"], said["dtype"], said["token_budget"]) == ("dnabert-mini", "fp32", 512)
    assert said["virnucpro_version"] == virnucpro.__version__
    assert said["model_trained"]


def test_library_function(fasta: Fasta, tmp_path: Path) -> None:
    first, second = fasta(text_of(GOOD[:2]), "a.fa"), fasta(text_of(GOOD[2:]), "b.fa")
    ids, vectors = virnucpro.embed([first, str(second)], device="cpu", dtype="fp32")
    assert (ids, vectors.shape) == (["s0", "s1", "s2", "s3", "s4"], (5, 128))
    output = virnucpro.embed(first, str(tmp_path / "o.h5"), device="cpu", dtype="fp32")
    assert output == tmp_path / "o.h5"
    assert np.array_equal(read_result(output)[1], vectors[:2])
    with pytest.raises(InputError, match="does not exist"):
        virnucpro.embed(tmp_path / "nowhere.fa")
    with pytest.raises(TypeError, match="colour"):
        virnucpro.embed(first, colour="red")


# Messages.


def test_standard_input_and_json_messages(fasta: Fasta, tmp_path: Path) -> None:
    """In a process of its own: standard output stays free for data; each line of standard error is a JSON object."""
    output = tmp_path / ":warning: [b]o.h5"
    done = run_cli("embed", "-", "-o", output, *CPU, "--log-format", "json", input=text_of(GOOD) + ">p\nMKVLE\n")
    assert (done.returncode, done.stdout) == (6, "")
    messages = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(set(entry) == {"time", "level", "logger", "message"} for entry in messages)
    assert {entry["level"] for entry in messages} == {"info", "warning"}
    assert any(str(output) in entry["message"] for entry in messages)
    assert any(" in 1 work file; " in entry["message"] for entry in messages)
    assert vectors_by_id(output) == embeddings(fasta(text_of(GOOD)))
    log = Path(f"{output}.log").read_text()
    assert all(entry["message"] in log for entry in messages if entry["logger"] != "virnucpro.cli")


def test_errors_are_json_too(cli: Cli, tmp_path: Path) -> None:
    done = cli("embed", tmp_path / "nowhere.fa", "-o", tmp_path / "o.h5", "--log-format", "json")
    assert done.returncode == 3
    (message,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert message["level"] == "error"
    assert "nowhere.fa does not exist" in message["message"]


def test_closed_standard_input(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = cli("embed", "-", "-o", tmp_path / "o.h5", *CPU)
    assert done.returncode == 3
    assert "standard input is closed" in done.stderr


def untrained_copy(folder: Path) -> Path:
    """A copy of the embedded DNA model with a config that says that it is not trained."""
    shutil.copytree(EMBEDDED / "dnabert-mini", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"trained": False}))
    return folder


def test_quiet(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    path = fasta(text_of(GOOD))
    model = untrained_copy(tmp_path / "model")
    said = {}
    for level in ("--quiet", None):
        options = (*CPU, "--force", "--model", model, *([level] if level else []))
        done = cli("embed", path, "-o", tmp_path / "o.h5", *options)
        assert (done.returncode, done.stdout) == (0, "")
        said[level] = done.stderr
    assert said["--quiet"] == ""
    assert "UNTRAINED" in said[None]
    assert "5 embeddings of 128 numbers" in said[None]


def test_one_is_no_plural(fasta: Fasta, cli: Cli, tmp_path: Path) -> None:
    done = cli("embed", fasta(text_of(GOOD[:1])), "-o", tmp_path / "o.h5", *CPU)
    assert "1 sequence in 1 work file; " in done.stderr
    assert "worker 0 is assigned 1 file: 1 sequence to embed (100%)" in done.stderr
    assert "cpu: 1 file, 1 sequence, " in done.stderr
    assert "1 embedding of 128 numbers" in done.stderr
    assert counted(1, "windows and proteins") == "1 window and protein"
    assert counted(1200, "windows", ",") == "1,200 windows"


HELP = """
import sys
from virnucpro.cli import main
for command in [], *([name] for name in sys.argv[1:]):
    sys.argv = ["virnucpro", *command, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, command
    print(*command, "imports", sorted({"torch", "h5py", "tokenizers"} & sys.modules.keys()))
"""


def test_help_answers_without_torch() -> None:
    command = [sys.executable, "-c", HELP, *group.commands]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == 1 + len(group.commands)
    for name in group.commands:
        assert f"Usage: virnucpro {name} " in done.stdout
        assert f"\n{name} imports []\n" in done.stdout


def test_every_option_is_in_the_help() -> None:
    shown = run_cli("embed", "--help", env={"COLUMNS": "200"})
    assert (shown.returncode, shown.stderr) == (0, "")
    options = [param for param in embed_command.params if isinstance(param, click.Option)]
    names = [name for option in options for name in (*option.opts, *option.secondary_opts)]
    assert len(names) >= 20
    assert [name for name in names if name not in shown.stdout] == []
    assert [option.name for option in options if not option.help] == []


def test_version() -> None:
    done = run_cli("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert virnucpro.__version__ in done.stdout
