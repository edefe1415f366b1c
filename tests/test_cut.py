"""Input → work files and their indices, compared with slow code for the rules: everything is there, once, in order."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import pytest
from conftest import Records, to_fasta
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert
from slow_chain import reason_of
from test_sequence import random_sequence, reference_frames, reference_windows

from virnucpro.input import cut as cutting
from virnucpro.input.cut import SUFFIXES, WINDOWS_A_FRAME, Cutter, Rules, part_limit
from virnucpro.input.frames import ALL_STOPPED
from virnucpro.input.index import WHOLE, IndexedSequence, IndexedWindow, Plan, WorkFile, origins, read_index
from virnucpro.io.files import sha256_of
from virnucpro.runs.paths import PredictPaths

Row = IndexedSequence | IndexedWindow
RULES = Rules(60)
#: Alphabets with few stop codons or none, so that most windows have frames; also letters that are not DNA, and none.
OPEN, BAD = "AACCCGGG", ("", "MKVLE", "AC-GT")


@dataclass
class Cut:
    """The contents of the work files of an input."""

    plan: Plan
    paths: PredictPaths
    #: Rows of each work file.
    indices: list[list[Row]]
    #: Ids and sequences of each work file.
    fna: list[Records]
    faa: list[Records]

    @property
    def rows(self) -> list[Row]:
        """All rows, without the sequences that are repeated at the beginning of a work file."""
        found: list[Row] = []
        for index in self.indices:
            again = index and index[0] in found
            assert not again or index[0] == [row for row in found if isinstance(row, IndexedSequence)][-1]
            found += index[1:] if again else index
        return found


def read(path: Path) -> Records:
    lines = path.read_text().splitlines()
    assert all(line.startswith(">") for line in lines[::2])
    return [(header[1:], sequence) for header, sequence in zip(lines[::2], lines[1::2], strict=True)]


def test_it_is_told_when_there_is_work(tmp_path: Path) -> None:
    """After each work file with something to embed, when another begins; not for a single one, nor for empty ones."""
    path, paths = tmp_path / "i.fa", PredictPaths(tmp_path / "o", tmp_path / "work")
    paths.parts.mkdir(parents=True)
    told: list[int] = []
    for sequences in (["A" * 50] * 8, ["AC" * 50] * 8, ["AC" * 50] * 30):
        path.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
        rules, calls = Rules(100, min_length=60, reads="windows"), []
        plan = Cutter(rules, paths.part_file, 8, 1, lambda calls=calls: calls.append(1)).cut([path], [path])
        told.append(len(calls))
        assert len(calls) == max(0, sum(part.whole > 0 for part in plan.parts) - 1)
    assert told == [0, 0, 3]


def cut_up(folder: Path, inputs: Sequence[Path], rules: Rules = RULES, most: int = 8, devices: int = 1) -> Cut:
    paths = PredictPaths(folder / "o", folder / "work")
    paths.parts.mkdir(parents=True)
    plan = Cutter(rules, paths.part_file, most, devices).cut(inputs, inputs)
    names = [part.name for part in plan.parts]
    assert sorted(path.name for path in paths.parts.iterdir()) == sorted(
        n + suffix for n in names for suffix in SUFFIXES["frames"]
    )
    files = {suffix: [paths.part_file(name, suffix) for name in names] for suffix in SUFFIXES["frames"]}
    return Cut(
        plan,
        paths,
        [list(read_index(path)) for path in files[".index"]],
        [read(path) for path in files[".fna"]],
        [read(path) for path in files[".faa"]],
    )


@dataclass
class Reference:
    """The expected contents of the work files of FASTA files of `records`."""

    rows: list[Row] = field(default_factory=list)
    fna: Records = field(default_factory=list)
    faa: Records = field(default_factory=list)

    def record(self, number: int, input_index: int, place: int, record: tuple[str, str], rules: Rules) -> None:
        header, sequence = record
        name = header.split()[0]
        if sequence in BAD:
            self.rows.append(IndexedSequence(number, input_index, place, name, 0, "", True))
            return
        short = sum(letter in "ACGT" for letter in sequence) < rules.min_length
        what = "shorter than {} bases" if len(sequence) < rules.min_length else "fewer than {} known bases"
        reason = f"{what.format(rules.min_length)} (--min-length)" if short else ""
        self.rows.append(IndexedSequence(number, input_index, place, name, len(sequence), reason, False))
        if not short:
            self.windows(number, sequence, rules)

    def windows(self, number: int, sequence: str, rules: Rules) -> None:
        for place, window in enumerate(reference_windows("", sequence, rules.window), 1):
            key, frames = f"{number}_{place}", reference_frames(window.sequence, extra=0 if rules.exact else 1)
            names = tuple(frame.name for frame in frames)
            reason = "" if names else reason_of(window.sequence)
            unknown = sum(letter not in "ACGT" for letter in window.sequence)
            self.rows.append(IndexedWindow(key, window.start, window.end, names, reason, unknown))
            self.fna += [(key + frame.name, frame.nucleotide) for frame in frames]
            self.faa += [(key + frame.name, frame.protein) for frame in frames]
            if rules.dna_only and reason == ALL_STOPPED:
                self.fna.append((key + WHOLE, window.sequence))


def reference(inputs: Sequence[Records], rules: Rules) -> Reference:
    found, number = Reference(), 0
    for index, records in enumerate(inputs):
        for place, record in enumerate(records, 1):
            found.record(number, index, place, record, rules)
            number += 1
    return found


def without_reasons_of_failures(rows: Sequence[Row]) -> list[Row]:
    """The reader says what is wrong with a record, and the tests of the reader check the words."""
    return [row._replace(reason="") if isinstance(row, IndexedSequence) and row.failed else row for row in rows]


def check(cut: Cut, inputs: Sequence[Records], rules: Rules, most: int, devices: int) -> None:
    wanted = reference(inputs, rules)
    assert without_reasons_of_failures(cut.rows) == wanted.rows
    assert [record for part in cut.fna for record in part] == wanted.fna
    assert [record for part in cut.faa for record in part] == wanted.faa
    good = [row for row in wanted.rows if isinstance(row, IndexedSequence)]
    assert (cut.plan.sequences, cut.plan.bases) == (len(good), sum(row.length for row in good))
    check_parts(cut, most, devices)


def check_parts(cut: Cut, most: int, devices: int) -> None:
    """Each work file ends with the window that fills it, or before a sequence if its index is long."""
    before = 0
    for place, (part, index) in enumerate(zip(cut.plan.parts, cut.indices, strict=True)):
        windows = [row for row in index if isinstance(row, IndexedWindow)]
        whole = [window.key + WHOLE in dict(cut.fna[place]) for window in windows]
        load = [len(window.frames) + alone for window, alone in zip(windows, whole, strict=True)]
        assert (part.name, part.windows, part.whole) == (f"{place + 1:06d}", len(windows), sum(whole))
        assert (part.frames, part.frames + part.whole) == (len(cut.faa[place]), len(cut.fna[place]))
        assert part.sums == [sha256_of(cut.paths.part_file(part.name, suffix)) for suffix in SUFFIXES["frames"]]
        limit = part_limit(before, most, devices)
        full = [sum(load[:n]) >= limit or n >= WINDOWS_A_FRAME * limit for n in range(1, len(windows) + 1)]
        assert not any(full[:-1])
        last, long = place == len(cut.plan.parts) - 1, len(index) >= cutting.MOST_ROWS
        assert full[-1:] == [True] or long or last
        before += part.frames + part.whole


SEQUENCES = st.one_of(
    st.sampled_from(BAD),
    st.text("ACGT", min_size=1, max_size=8),
    st.builds(random_sequence, st.sampled_from([OPEN, "ACGT", "ACGTN", "N"]), st.integers(1, 400), st.integers(0, 999)),
)
INPUTS = st.lists(st.lists(SEQUENCES, min_size=1, max_size=12), min_size=1, max_size=3)


@given(
    INPUTS,
    st.builds(Rules, st.sampled_from([1, 9, 60, 500]), st.booleans(), st.sampled_from([0, 0, 50]), st.booleans()),
    st.sampled_from([1, 3, 1000]),
    st.integers(1, 3),
)
@settings(max_examples=80)
def test_everything_is_cut_by_the_rules_and_written_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, inputs: list[list[str]], rules: Rules, most: int, devices: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    records = [[(f"r{i} of", sequence) for i, sequence in enumerate(sequences)] for sequences in inputs]
    files = [to_fasta(folder / f"{i}.fa", each) for i, each in enumerate(records)]
    check(cut_up(folder, files, rules, most, devices), records, rules, most, devices)


def some(count: int, seed: int = 0, longest: int = 300) -> Records:
    rng = random.Random(seed)
    return [(f"s{i}", random_sequence(OPEN, rng.randint(3, longest), seed + i)) for i in range(count)]


def test_a_record_that_runs_over_many_work_files_is_named_in_each(tmp_path: Path) -> None:
    records = [("short", "ACG"), ("long", random_sequence(OPEN, 3000, 1)), ("after", "ACG")]
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)], most=8)
    check(cut, [records], RULES, 8, 1)
    assert len(cut.indices) > 10
    assert all(isinstance(index[0], IndexedSequence) for index in cut.indices)
    assert [index[0].id for index in cut.indices[1:-1] if isinstance(index[0], IndexedSequence)] == ["long"] * (
        len(cut.indices) - 2
    )


def test_a_work_file_that_ends_with_its_record_does_not_name_it_again(tmp_path: Path) -> None:
    records = [(f"s{i}", "ACG" * 20) for i in range(4)]  # each has one window of six frames
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)], most=6)
    assert [[row.id for row in index if isinstance(row, IndexedSequence)] for index in cut.indices] == [
        [f"s{i}"] for i in range(4)
    ]


def test_work_files_grow_with_the_input_and_are_smaller_for_more_devices(tmp_path: Path) -> None:
    records = some(300)
    path = to_fasta(tmp_path / "a.fa", records)
    one, four = (cut_up(tmp_path / name, [path], most=100, devices=n) for name, n in (("one", 1), ("four", 4)))
    check(one, [records], RULES, 100, 1)
    check(four, [records], RULES, 100, 4)
    sizes = [part.frames for part in one.plan.parts]
    assert sizes[0] < 15 < 100 <= max(sizes) < 106
    assert len(four.plan.parts) > len(one.plan.parts)


def test_input_without_frames_does_not_make_one_large_work_file(tmp_path: Path) -> None:
    records = [(f"s{i}", "TAA" * 20) for i in range(5)] + [("n", "N" * 60 * 100)]
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)], most=2)
    check(cut, [records], RULES, 2, 1)
    assert max(part.windows for part in cut.plan.parts) <= WINDOWS_A_FRAME * 2


@pytest.mark.parametrize("ahead", [cutting.AHEAD_BASES, 50 * cutting.AHEAD_BASES_A_SEQUENCE])
def test_sequences_without_windows_do_not_make_one_large_work_file(
    ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they all wait until the window before them is scanned with others."""
    monkeypatch.setattr(cutting, "AHEAD_BASES", ahead)
    monkeypatch.setattr(cutting, "MOST_ROWS", 64)
    records = [*some(3), *((f"t{i}", "ACG") for i in range(1000)), *some(5), *((f"u{i}", "") for i in range(300))]
    rules = Rules(60, False, 4)
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)], rules)
    check(cut, [records], rules, 8, 1)
    assert max(map(len, cut.indices)) <= 64 + WINDOWS_A_FRAME * 8


def test_exact_frames_are_a_base_shorter_where_there_was_one(tmp_path: Path) -> None:
    path = to_fasta(tmp_path / "a.fa", some(20))
    published = cut_up(tmp_path / "published", [path]).fna
    exact = cut_up(tmp_path / "exact", [path], Rules(60, exact=True)).fna
    pairs = [pair for parts in zip(published, exact, strict=True) for pair in zip(*parts, strict=True)]
    assert {len(long) - len(short) for (_, long), (_, short) in pairs} == {0, 1}
    assert all(long.startswith(short) and len(short) % 3 == 0 for (_, long), (_, short) in pairs)


def test_a_short_sequence_is_in_the_index_and_nowhere_else(tmp_path: Path) -> None:
    records = [("short", "ACG" * 5), ("fits", "ACG" * 6)]
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)], Rules(60, False, 18))
    first = cut.rows[0]
    assert first == IndexedSequence(0, 0, 1, "short", 15, "shorter than 18 bases (--min-length)", False)
    assert {key.partition("_")[0] for key, _ in cut.fna[0]} == {"1"}


def test_repeated_ids_stay_apart_and_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [("same", sequence) for _, sequence in some(12)]
    cut = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)])
    check(cut, [records], RULES, 8, 1)
    keys = [key for part in cut.fna for key, _ in part]
    assert len(set(keys)) == len(keys)
    assert caplog.text.count("more than once") == 1


# Whole records.


@given(INPUTS, st.sampled_from([1, 3, 1000]), st.integers(1, 3), st.sampled_from([3, 50_000]))
@settings(max_examples=80)
def test_records_are_written_once_in_order_and_their_places_are_known(
    tmp_path_factory: pytest.TempPathFactory, inputs: list[list[str]], most: int, devices: int, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    records = [[(f"r{i} of\tit", sequence) for i, sequence in enumerate(sequences)] for sequences in inputs]
    files = [to_fasta(folder / f"{i}.fa", each) for i, each in enumerate(records)]
    paths = PredictPaths(folder / "o", folder)
    paths.parts.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "MOST_ROWS", rows)
        plan = Cutter(Rules(reads="records"), paths.part_file, most, devices).cut(files, files)
    good: Records = []
    bad: list[tuple[int, int, str]] = []
    places: list[tuple[int, int]] = []
    for part in plan.parts:
        found = read(paths.part_file(part.name, ".fa"))
        assert (len(found), len(found), 0) == (part.windows, part.whole, part.frames)
        assert len(found) <= part_limit(len(good), most, devices)
        assert part.sums == [sha256_of(paths.part_file(part.name, suffix)) for suffix in SUFFIXES["records"]]
        index = [row for row in read_index(paths.part_file(part.name, ".index")) if isinstance(row, IndexedSequence)]
        assert len(index) <= rows
        bad += [(row.input_index, row.record, row.id) for row in index if row.failed]
        places += islice(origins(index), len(found))
        good += found
    all_of_them = [(i, n, record) for i, each in enumerate(records) for n, record in enumerate(each, 1)]
    assert good == [record for _, _, record in all_of_them if record[1] not in BAD]
    assert places == [(i, n) for i, n, record in all_of_them if record[1] not in BAD]
    assert bad == [(i, n, record[0].split()[0]) for i, n, record in all_of_them if record[1] in BAD]


def test_the_index_of_records_is_small_and_long_records_are_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MOST_BASES", 100)
    paths = PredictPaths(tmp_path / "o", tmp_path)
    paths.parts.mkdir()
    path = to_fasta(tmp_path / "a.fa", [(f"s{i}", "ACG" * 20) for i in range(100)])
    plan = Cutter(Rules(reads="records"), paths.part_file, 1000, 1).cut([path], [path])
    assert [part.whole for part in plan.parts] == [2] * 50
    assert all(len(list(read_index(paths.part_file(part.name, ".index")))) == 1 for part in plan.parts)


# Files that are damaged or empty.


def test_a_file_that_is_cut_off_is_told_of_between_its_records_and_the_next_file(tmp_path: Path) -> None:
    records = some(800)
    cut_file, next_file = tmp_path / "cut.fa.gz", to_fasta(tmp_path / "next.fa", records[:2])
    packed = gzip.compress(to_fasta(tmp_path / "all.fa", records).read_bytes())
    cut_file.write_bytes(packed[: len(packed) // 2])
    found = cut_up(tmp_path, [cut_file, next_file])
    sequences = [row for row in found.rows if isinstance(row, IndexedSequence)]
    (damage,) = (row for row in sequences if row.record == 0)
    read = damage.number
    assert 50 < read < 800
    assert (damage.input_index, damage.length, damage.failed) == (0, 0, True)
    assert damage.reason.startswith(f"{cut_file}: reading stopped after {read} records: ")
    assert sequences.index(damage) == read
    rest = [row for row in found.rows if row is not damage]
    assert rest == reference([records[:read], records[:2]], RULES).rows
    assert found.plan.sequences == read + 2


@pytest.mark.parametrize(("place", "number"), [(0, 0), (1, 3), (2, 6)])
def test_an_empty_file_among_others(place: int, number: int, tmp_path: Path) -> None:
    files = [to_fasta(tmp_path / f"{i}.fa", some(3, seed=i)) for i in range(2)]
    files.insert(place, to_fasta(tmp_path / "empty.fa", []))
    found = cut_up(tmp_path, files)
    (empty,) = (row for row in found.rows if isinstance(row, IndexedSequence) and row.record == 0)
    assert (empty.input_index, empty.number) == (place, number)
    assert "holds no sequences" in empty.reason
    assert found.plan.sequences == 6


def test_nothing_but_an_empty_file(tmp_path: Path) -> None:
    found = cut_up(tmp_path, [to_fasta(tmp_path / "empty.fa", [])])
    assert [row.record for row in found.rows if isinstance(row, IndexedSequence)] == [0]
    assert [(part.windows, part.frames) for part in found.plan.parts] == [(0, 0)]


def test_a_copy_of_an_input_is_called_as_the_user_calls_it(tmp_path: Path) -> None:
    paths = PredictPaths(tmp_path / "o", tmp_path / "work")
    paths.parts.mkdir(parents=True)
    copy = to_fasta(tmp_path / "copy", [])
    Cutter(RULES, paths.part_file, 8, 1).cut([copy], [Path("-")])
    (row,) = read_index(paths.part_file("000001", ".index"))
    assert isinstance(row, IndexedSequence)
    assert row.reason.startswith("- holds no sequences")


def test_ids_of_any_kind_come_back_as_they_were(tmp_path: Path) -> None:
    ids = ["a/1", '"q"', "[1,2]", "ünï", "17_3R1", "\\n", "x" * 5000]
    records = [(name, "ACG" * 30) for name in ids]
    found = cut_up(tmp_path, [to_fasta(tmp_path / "a.fa", records)])
    assert [row.id for row in found.rows if isinstance(row, IndexedSequence)] == ids


def test_a_plan_survives_the_run_record() -> None:
    plan = Plan([WorkFile("000001", 3, 4, 1, ["a", "b", "c"])], 7, 900)
    assert convert(json.loads(json.dumps(asdict(plan))), Plan) == plan
    assert plan.whole == 1
