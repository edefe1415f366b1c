from __future__ import annotations

import csv
import gzip
import itertools
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, Completed
from hypothesis import example, given
from hypothesis import strategies as st

import virnucpro
from virnucpro.input import frames as frames_module
from virnucpro.input.fasta import Record, read_records
from virnucpro.input.frames import ALL_STOPPED, NO_CODON, TOO_SHORT, Frame, open_frames, scan_windows
from virnucpro.input.windows import Window, iter_windows, window_bounds

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "vanilla_windows"
SIZES = (300, 500)
Fasta = dict[str, str]

CODONS_OF = {
    **{"A": "GCA GCC GCG GCT", "C": "TGC TGT", "D": "GAC GAT", "E": "GAA GAG", "F": "TTC TTT", "G": "GGA GGC GGG GGT"},
    **{"H": "CAC CAT", "I": "ATA ATC ATT", "K": "AAA AAG", "L": "CTA CTC CTG CTT TTA TTG", "M": "ATG", "N": "AAC AAT"},
    **{"P": "CCA CCC CCG CCT", "Q": "CAA CAG", "R": "AGA AGG CGA CGC CGG CGT", "S": "AGC AGT TCA TCC TCG TCT"},
    **{"T": "ACA ACC ACG ACT", "V": "GTA GTC GTG GTT", "W": "TGG", "Y": "TAC TAT", "*": "TAA TAG TGA"},
}
AMINO_ACID_OF = {codon: letter for letter, codons in CODONS_OF.items() for codon in codons.split()}


# The rules, written as slowly and plainly as possible.


def reference_windows(name: str, sequence: str, size: int) -> list[Window]:
    length = len(sequence)
    n = math.ceil(length / size)
    rep = n * size - length
    lo = rep // n
    need = rep - lo * (n - 1)
    windows = []
    for i in range(n):
        start = i * size - (min(i, need) * (lo + 1) + max(0, i - need) * lo)
        end = min(start + size, length)
        windows.append(Window(f"{name}_chunk_{i + 1}", start, end, sequence[start:end]))
    return windows


def reverse_complement(sequence: str) -> str:
    other = {"A": "T", "C": "G", "G": "C", "T": "A"}
    return "".join(other.get(letter, letter) for letter in reversed(sequence))


def reference_frames(sequence: str, extra: int = 1) -> list[Frame]:
    sequence = sequence.upper()
    frames = []
    for name, strand in (("F", sequence), ("R", reverse_complement(sequence))):
        for offset in range(3):
            codons = [strand[at : at + 3] for at in range(offset, len(strand) - 2, 3)]
            protein = "".join(AMINO_ACID_OF.get(codon, "") for codon in codons)
            if protein and "*" not in protein:
                nucleotide = strand[offset : offset + 3 * len(protein) + extra]
                frames.append(Frame(f"{name}{offset + 1}", protein, nucleotide))
    return frames


# Sequences of any length; some alphabets have few stop codons or none, else long windows would have no open frame.

ALPHABETS = ("ACGT", "acgtACGT", "ACGTN", "ACGTRYSWKMBDHVN", "acgturyswkmbdhvnACGTURYSWKMBDHVN")
OPEN_ALPHABETS = ("ACG", "CGT", "ACGN", "cgUN", "ACCCCGGGGTccggn", "ACCCCCGGGGGU", "N", "A", "u")


def random_sequence(alphabet: str, length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


SEEDS = st.integers(0, 2**32)
LETTERS = st.sampled_from(ALPHABETS + OPEN_ALPHABETS)
LONG = st.builds(random_sequence, LETTERS, st.integers(1, 20_000), SEEDS)
SHORT = LETTERS.flatmap(lambda alphabet: st.text(alphabet, min_size=1, max_size=60))


def read_fasta(path: Path) -> Fasta:
    found: Fasta = {}
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            assert name not in found
            found[name] = ""
        else:
            found[name] += line
    return found


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"the published tool's output is not at {GOLDEN}")
    return GOLDEN


# Windows.


@given(st.one_of(SHORT, LONG), st.integers(1, 1200))
def test_windows_follow_the_published_rule(sequence: str, size: int) -> None:
    assert list(iter_windows("r", sequence, size)) == reference_windows("r", sequence, size)


def test_windows_of_every_small_length_and_size() -> None:
    for length, size in itertools.product(range(1, 90), range(1, 40)):
        wanted = [(window.start, window.end) for window in reference_windows("r", "A" * length, size)]
        assert list(window_bounds(length, size)) == wanted, (length, size)


@given(st.integers(1, 20_000), st.integers(1, 1200))
def test_windows_cover_the_whole_record(length: int, size: int) -> None:
    reached = 0
    for start, end in window_bounds(length, size):
        assert start <= reached < end <= start + size
        reached = end
    assert reached == length


def test_last_window_may_be_shorter() -> None:
    assert list(window_bounds(501, 500)) == [(0, 500), (250, 501)]


def test_empty_record_has_no_windows() -> None:
    assert list(iter_windows("r", "", 500)) == []


@pytest.mark.parametrize("size", [0, -500])
def test_window_size_must_be_positive(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 base"):
        list(iter_windows("r", "ACGT", size))


# Frames.


@given(st.lists(st.one_of(SHORT, LONG), min_size=1, max_size=6), st.integers(1, 3000), st.booleans())
@example([""], 1, False)
@example(["", "ACGT", "", "NNNN"], 1, True)
def test_frames_follow_the_published_rule(sequences: list[str], batch_bases: int, exact: bool) -> None:
    """Whatever is in a batch together, and wherever batches end."""
    windows = [Window(f"w{index}", 0, len(text), text) for index, text in enumerate(sequences)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_module, "BATCH_BASES", batch_bases)
        scans = list(scan_windows(windows, exact=exact))
    assert [scan.window for scan in scans] == windows
    assert [scan.frames for scan in scans] == [reference_frames(text, extra=not exact) for text in sequences]


@given(LONG, st.integers(1, 600))
def test_frames_of_windows_of_long_records(sequence: str, size: int) -> None:
    for scan in scan_windows(iter_windows("r", sequence, size)):
        assert scan.frames == reference_frames(scan.window.sequence)


def test_every_codon_of_five_letters_on_both_strands() -> None:
    """The whole table, in both cases, each codon alone."""
    for letters in itertools.product("ACGTN", repeat=3):
        codon = "".join(letters)
        for text in (codon, codon.lower()):
            assert open_frames(Window("w", 0, 3, text)) == reference_frames(codon)


def test_deleted_codons_join_their_neighbours_and_shorten_the_nucleotides() -> None:
    (frame, *_) = open_frames(Window("w", 0, 12, "ATGNNNCCCAAA"))
    assert frame == Frame("F1", "MPK", "ATGNNNCCCA")


def test_exact_frames_lack_only_the_extra_base() -> None:
    window = Window("w", 0, 5, "TATTT")
    published, exact = open_frames(window), open_frames(window, exact=True)
    assert [frame.nucleotide for frame in published] == ["TATT", "ATTT", "TTT", "AAAT", "AATA", "ATA"]
    assert [frame.nucleotide for frame in exact] == ["TAT", "ATT", "TTT", "AAA", "AAT", "ATA"]
    assert [frame[:2] for frame in exact] == [frame[:2] for frame in published]


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        ("", TOO_SHORT),
        ("AC", TOO_SHORT),
        ("NNN", NO_CODON),
        ("ANCANGTNA", NO_CODON),
        ("TAATTAATTAATTAA", ALL_STOPPED),
        ("TTANNNTAA", ALL_STOPPED),
        ("ACG", ""),
    ],
)
def test_a_window_without_open_frame_says_why(sequence: str, reason: str) -> None:
    (scan,) = scan_windows([Window("w", 0, len(sequence), sequence)])
    assert scan.reason == reason
    assert bool(scan.frames) == (not reason)


def test_reasons_keep_to_their_windows() -> None:
    sequences = ["TAATTAATTAATTAA", "NNNNNN", "AC", "ACGACG", "TAATTAATTAATTAA"]
    scans = scan_windows(Window(str(i), 0, len(text), text) for i, text in enumerate(sequences))
    assert [scan.reason for scan in scans] == [ALL_STOPPED, NO_CODON, TOO_SHORT, "", ALL_STOPPED]


def test_letters_beyond_ascii_are_refused() -> None:
    with pytest.raises(ValueError, match="ascii"):
        open_frames(Window("w", 0, 4, "ACGß"))


def test_memory_stays_flat() -> None:
    sequence = random_sequence("ACCCGGGT", 2000, seed=1)

    def windows(number: int) -> Iterator[Window]:
        return (window for index in range(number) for window in iter_windows(f"r{index}", sequence))

    def peak(number: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in scan_windows(windows(number))) == 4 * number
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(2000) < 1.2 * peak(200)


# Results of the published tool.


@pytest.mark.parametrize("size", SIZES)
def test_golden(golden: Path, size: int) -> None:
    """Ids, sequences and their order, from the records as they are written in the file."""
    windows: Fasta = {}
    nucleotides: Fasta = {}
    proteins: Fasta = {}
    records = read_fasta(golden / "input.fa")
    for scan in scan_windows(window for name, text in records.items() for window in iter_windows(name, text, size)):
        windows[scan.window.id] = scan.window.sequence
        for frame in scan.frames:
            nucleotides[scan.window.id + frame.name] = frame.nucleotide
            proteins[scan.window.id + frame.name] = frame.protein
    for made, file in (
        (windows, f"windows_{size}.fa"),
        (nucleotides, f"orfs_{size}.fna"),
        (proteins, f"orfs_{size}.faa"),
    ):
        wanted = read_fasta(golden / file)
        assert wanted
        assert list(made.items()) == list(wanted.items())


# The command.

PROGRAM = "from virnucpro.cli import cli, main; from virnucpro.cli.orfs import orfs; cli.add_command(orfs); main()"
RESULTS = ("windows.fa", "orfs.fna", "orfs.faa")
RECORD = ("orfs.log", "orfs.run.json")


@pytest.fixture
def run_orfs(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    def run(*args: object, stdin: bytes = b"") -> Completed:
        fed = tmp_path_factory.mktemp("fed") / "stdin"
        fed.write_bytes(stdin)
        with open(fed) as file:
            monkeypatch.setattr(sys, "stdin", file)
            return cli("orfs", *args)

    return run


def results(prefix: Path) -> list[str]:
    return [prefix.with_name(f"{prefix.name}.{kind}").read_text() for kind in RESULTS]


def expected(records: list[Record], size: int, extra: int = 1) -> list[str]:
    windows, nucleotides, proteins = [], [], []
    for record in records:
        for window in reference_windows(record.id, record.sequence, size):
            windows.append(f">{window.id}\n{window.sequence}\n")
            for frame in reference_frames(window.sequence, extra):
                nucleotides.append(f">{window.id}{frame.name}\n{frame.nucleotide}\n")
                proteins.append(f">{window.id}{frame.name}\n{frame.protein}\n")
    return ["".join(windows), "".join(nucleotides), "".join(proteins)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.fa"
    sequences = [random_sequence(letters, 700 + 13 * i, seed=i) for i, letters in enumerate(ALPHABETS + OPEN_ALPHABETS)]
    path.write_text("".join(f">r{i} of a sample\n{text}\n" for i, text in enumerate(sequences)))
    return path


def usable(path: Path) -> list[Record]:
    return [record for record in read_records(path) if isinstance(record, Record)]


@pytest.mark.parametrize(("options", "size", "extra"), [((), 500, 1), (("--window", 300, "--frames", "exact"), 300, 0)])
def test_command(
    sample: Path, tmp_path: Path, options: tuple[object, ...], size: int, extra: int, run_orfs: Cli
) -> None:
    done = run_orfs(sample, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    wanted = expected(usable(sample), size, extra)
    assert results(tmp_path / "out") == wanted
    assert names(tmp_path) == sorted([sample.name, *(f"out.{kind}" for kind in (*RESULTS, *RECORD))])
    silent = sum(not reference_frames(text) for text in read_fasta(tmp_path / "out.windows.fa").values())
    assert 0 < silent < wanted[0].count(">")
    assert done.stderr.splitlines() == [
        f"{len(usable(sample))} records, {wanted[0].count('>')} windows ({silent} without an open frame), "
        f"{wanted[1].count('>')} frames in {tmp_path / 'out'}.*"
    ]


@pytest.mark.parametrize("size", SIZES)
def test_command_golden(golden: Path, tmp_path: Path, size: int, run_orfs: Cli) -> None:
    """As published, except that reading gives upper case, and T for U, whose codons the published tool leaves out."""
    assert run_orfs(golden / "input.fa", "-o", tmp_path / "out", "--window", size).returncode == 0
    for made, file in (("windows.fa", "windows_{}.fa"), ("orfs.fna", "orfs_{}.fna"), ("orfs.faa", "orfs_{}.faa")):
        found, wanted = read_fasta(tmp_path / f"out.{made}"), read_fasta(golden / file.format(size))
        dna = [(name, text.upper()) for name, text in wanted.items() if not name.startswith("rna_U")]
        assert len(dna) > 100
        assert [item for item in found.items() if not item[0].startswith("rna_U")] == dna
    rna = next(record for record in usable(golden / "input.fa") if record.id == "rna_U")
    for text, wanted_rna in zip(results(tmp_path / "out"), expected([rna], size), strict=True):
        assert text.endswith(wanted_rna)


def test_the_function_does_as_the_command(
    sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, run_orfs: Cli
) -> None:
    (tmp_path / "bad.fa").write_text(">bad\nMKV*\n>good\nACGTACGTACG\n")
    inputs = [sample, str(tmp_path / "bad.fa")]
    for _ in range(2):  # the second time it is done
        found = virnucpro.orfs(inputs, tmp_path / "python", window=300, exact=True)
    assert caplog.text.count("bad.fa, record 1 (bad): line 2: ") == 2
    assert run_orfs(*inputs, "-o", tmp_path / "command", "--window", 300, "--frames", "exact").returncode == 6
    assert tuple(map(Path.read_text, found)) == tuple(results(tmp_path / "command"))
    with pytest.raises(virnucpro.VirnucproError, match="window must be"):
        virnucpro.orfs(sample, tmp_path / "python", window=0)


def test_command_takes_several_inputs_and_standard_input(sample: Path, tmp_path: Path, run_orfs: Cli) -> None:
    packed = tmp_path / "packed.fa.gz"
    packed.write_bytes(gzip.compress(b">p\nACGACGACG\n"))
    done = run_orfs(packed, "-", sample, "-o", tmp_path / "out", "-q", stdin=b">s\nACGTTTGCA\n")
    assert (done.returncode, done.stderr) == (0, "")
    records = [Record("p", "ACGACGACG", 1), Record("s", "ACGTTTGCA", 1), *usable(sample)]
    assert results(tmp_path / "out") == expected(records, 500)


def test_command_lists_what_it_cannot_use(tmp_path: Path, run_orfs: Cli) -> None:
    mixed, broken = tmp_path / "mixed.fa", tmp_path / "broken.fa.gz"
    mixed.write_text(">good\nACGACG\n>empty\n>protein x\nMKLE\n>good2\nCCCCCC\n")
    broken.write_bytes(gzip.compress(b">b\nACG\n")[:-9])
    done = run_orfs(mixed, broken, "-", "-o", tmp_path / "out", stdin=b"no sequences")
    assert done.returncode == 6
    assert "4 failed, see" in done.stderr
    rows = list(csv.reader((tmp_path / "out.failed.tsv").open(newline=""), delimiter="\t"))
    wanted = [(mixed, "2", "empty"), (mixed, "3", "protein"), (broken, "0", ""), ("-", "0", "")]
    assert rows[0] == ["input", "record", "sequence_id", "reason"]
    assert [tuple(row[:3]) for row in rows[1:]] == [(str(path), number, name) for path, number, name in wanted]
    reasons = (
        "no sequence follows",
        "looks like protein",
        "damaged or truncated",
        "standard input has an unknown format",
    )
    for row, reason in zip(rows[1:], reasons, strict=True):
        assert reason in row[3]
    assert results(tmp_path / "out") == expected([Record("good", "ACGACG", 1), Record("good2", "CCCCCC", 4)], 500)


def test_command_takes_a_name_that_is_no_utf8(tmp_path: Path, run_orfs: Cli) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.fa")
    Path(path).write_bytes(b">a\nACGACG\n>bad\nAC-T\n>\nACG\n")
    done = run_orfs(path, "-o", tmp_path / "out")
    assert done.returncode == 6, done.stderr
    assert (tmp_path / "out.failed.tsv").read_bytes().splitlines()[1].startswith(os.fsencode(path) + b"\t2\tbad\t")
    assert b">record_3_chunk_1\n" in (tmp_path / "out.windows.fa").read_bytes()


def test_command_without_usable_record_leaves_only_the_list(tmp_path: Path, run_orfs: Cli) -> None:
    (tmp_path / "empty.fa").write_text(">a\n>b\n")
    done = run_orfs(tmp_path / "empty.fa", "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "no usable sequence" in done.stderr
    assert names(tmp_path) == ["empty.fa", "out.failed.tsv", *(f"out.{kind}" for kind in RECORD)]


def test_command_overwrites_only_if_told(sample: Path, tmp_path: Path, run_orfs: Cli) -> None:
    (tmp_path / "out.orfs.faa").write_text("mine")
    (tmp_path / "out.failed.tsv").write_text("old")
    done = run_orfs(sample, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "--force" in done.stderr
    assert (tmp_path / "out.orfs.faa").read_text() == "mine"
    assert run_orfs(sample, "-o", tmp_path / "out", "--force").returncode == 0
    assert results(tmp_path / "out") == expected(usable(sample), 500)
    assert not (tmp_path / "out.failed.tsv").exists()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("{}/sample.fa", "-o", "{}/absent/out"), 3, "absent does not exist"),
        (("{}/sample.fa", "-o", "/"), 2, "add a name"),
        (("{}/none.fa", "-o", "{}/out"), 3, "none.fa does not exist"),
        (("{}", "-o", "{}/out"), 3, "is a folder"),
        (("{}/sample.fa", "{}/out.windows.fa", "-o", "{}/out", "--force"), 2, "is also an input"),
        (("{}/sample.fa", "-o", "{}/taken", "--force"), 3, "taken.orfs.fna is a folder"),
        (("{}/sample.fa", "-o", "{}/out", "--window", "0"), 2, "--window"),
        (("{}/sample.fa", "-o", "{}/out", "--frames", "best"), 2, "--frames"),
        (("-o", "{}/out"), 2, "INPUT"),
    ],
)
def test_command_refuses_before_it_reads(
    sample: Path, tmp_path: Path, args: tuple[str, ...], code: int, message: str, run_orfs: Cli
) -> None:
    (tmp_path / "out.windows.fa").write_text(">w\nACGT\n")
    (tmp_path / "taken.orfs.fna").mkdir()
    before = names(tmp_path)
    done = run_orfs(*(arg.format(tmp_path) for arg in args))
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert names(tmp_path) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on the size of files, as Linux keeps it")
def test_command_leaves_nothing_when_it_cannot_write(sample: Path, tmp_path: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    command = [sys.executable, "-c", limit + PROGRAM, "orfs", str(sample), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "cannot write" in done.stderr
    assert names(tmp_path) == [*(f"out.{kind}" for kind in RECORD), sample.name]


def test_command_help_explains_the_ids(run_orfs: Cli) -> None:
    done = run_orfs("--help")
    assert done.returncode == 0
    for word in ("_chunk_1", "contig7_chunk_2R1", "--frames", "PREFIX.orfs.faa"):
        assert word in done.stdout
