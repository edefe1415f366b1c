"""The report: its content, its bytes, and what prevents it. In a browser: `test_report_browser.py`."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from numpy.typing import NDArray
from toy_results import HOSTILE, RECORD, Made, made, prophage, silent, write_results

from virnucpro.calls.read import Results
from virnucpro.errors import InputError, OutputError
from virnucpro.report import survey, write_report
from virnucpro.report.payload import NO_SCORE

SEQUENCES = [
    made("host", 2600, 0.1),
    made("phage", 5200, 0.9),
    prophage("chromosome", 9000, 2000, 5000),
    silent("short", 80, "shorter than 100 bases"),
    made("framed", 1200, 0.3, frames="F1,R2"),
    silent("stops", 700, "a stop codon in every frame (2 windows)"),
    Made("unread", 0, "not_scored", None, [], note="line 7: 'M' is not a DNA letter"),
]


class Page:
    """A report and its parts."""

    def __init__(self, path: Path) -> None:
        self.html = path.read_text(encoding="utf-8")
        (packed,) = re.findall(r'<script type="application/octet-stream" id="data">([^<]*)</script>', self.html)
        data = gzip.decompress(base64.b64decode(packed))
        size = int.from_bytes(data[:4], "little")
        self.facts: dict[str, Any] = json.loads(data[4 : 4 + size])
        self.columns: dict[str, NDArray[Any]] = {}
        place = 4 + size
        for name, (kind, length) in self.facts["columns"].items():
            size = np.dtype(kind).itemsize
            planes = np.frombuffer(data, "u1", size * length, place).reshape(size, length)
            self.columns[name] = np.ascontiguousarray(planes.T).view(f"<{kind}").ravel()
            place += size * length
        assert place == len(data)

    @property
    def text(self) -> str:
        """The text that is shown without scripts."""
        parts = re.split(r"<(?:script|style)[^>]*>.*?</(?:script|style)>", self.html, flags=re.DOTALL)
        return " ".join("".join(parts).split())


def rows(path: Path) -> list[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "out", SEQUENCES)


# What it holds


def near(found: NDArray[Any], cells: list[str]) -> bool:
    expected = np.array([float(cell) if cell else np.nan for cell in cells])
    return np.allclose(found, expected, atol=1e-6, equal_nan=True)


def check_against_tables(page: Page, folder: Path, prefix: str) -> None:
    """The columns hold the values of the tables."""
    sequences, columns, facts = rows(folder / f"{prefix}.sequences.tsv"), page.columns, page.facts
    assert facts["ids"] == [row["sequence_id"] for row in sequences]
    for name, column in (
        *(("number", "number"), ("length", "length"), ("record", "record"), ("windows", "windows")),
        *(("scored", "windows_scored"), ("viral", "windows_viral"), ("regions", "regions")),
        *(("score", "score"), ("threshold", "threshold"), ("rate", "false_positive_rate")),
    ):
        assert near(columns[name], [row[column] for row in sequences]), name
    assert [facts["verdictNames"][k] for k in columns["verdict"]] == [row["verdict"] for row in sequences]
    assert [facts["notes"][k] for k in columns["note"]] == [row["note"] for row in sequences]
    assert [facts["inputs"][k] for k in columns["input"]] == [row["input"] for row in sequences]
    regions = rows(folder / f"{prefix}.regions.bed")
    for name, column in (("start", "start"), ("end", "end"), ("region_score", "region_score")):
        assert near(columns[name], [row[column] for row in regions]), name
    check_windows(page, rows(folder / f"{prefix}.windows.tsv.gz"))


def check_windows(page: Page, windows: list[dict[str, str]]) -> None:
    columns, names = page.columns, page.facts["frameNames"]
    firsts = [int(row["window"]) == 1 for row in windows]
    start = 0
    for k, row in enumerate(windows):
        start = (0 if firsts[k] else start) + int(columns["step"][k])
        assert (start + 1, start + columns["size"][k]) == (int(row["start"]), int(row["end"]))
        value = int(columns["value"][k])
        assert (value == NO_SCORE) == (row["score"] == "")
        if row["score"]:
            assert abs((value >> 1) / 1000 - float(row["score"])) <= 0.0005
            assert bool(value & 1) == (row["call"] == "virus")
        if "frames" in columns:
            frames = int(columns["frames"][k])
            assert ",".join(name for i, name in enumerate(names) if frames >> i & 1) == row["frames"]
            assert dict(enumerate(names)).get(frames >> 6, "") == row["best_frame"]
    assert len(columns["step"]) == len(windows)


def test_the_page_holds_what_the_tables_of_a_run_say(complete: Path, tmp_path: Path) -> None:
    page = Page(write_report(complete, "in", tmp_path / "r.html"))
    assert "frames" in page.columns
    check_against_tables(page, complete, "in")


def test_and_of_sequences_of_every_kind(folder: Path) -> None:
    page = Page(write_report(folder, "x"))
    check_against_tables(page, folder, "x")
    assert page.facts["complete"]
    assert page.columns["scores"].reshape(4, 1001).sum(1).tolist() == [1, 1, 2, 0]


def test_whole_windows_need_no_frames(tmp_path: Path) -> None:
    page = Page(write_report(write_results(tmp_path / "out", [made("a", 900, 0.9)]), "x"))
    assert "frames" not in page.columns


def test_what_is_read_without_a_script(folder: Path) -> None:
    text = Page(write_report(folder, "x")).text
    assert "<strong>2</strong> of 7 sequences with a virus" in text
    assert "<strong>0.5 are expected to be false</strong>, if 5.0% of the" in text
    assert "The model set mini is small." in text
    assert "shorter than 100 bases" in text
    assert "<td>&#39;M&#39; is not a DNA letter</td>" in text  # its line belongs to one record
    assert "Viral sequences were identified with virnucpro 0, an implementation of VirNucPro (Li et al. 2025)" in text
    assert "doi.org/10.1093/bib/bbaf224" in text


@pytest.mark.parametrize(
    ("model_set", "words"),
    [
        (
            {"name": "toy", "trained": False},
            "is untrained: these calls show only that the tool works, and mean nothing",
        ),
        ({"name": "mini-1", "trained": True}, "The model set mini-1 is small."),
        ({"name": "500", "trained": True}, None),
    ],
)
def test_warnings(tmp_path: Path, model_set: dict[str, Any], words: str | None) -> None:
    folder = write_results(tmp_path / "out", SEQUENCES, false_discovery=None)
    record = json.loads((folder / "x.run.json").read_text())
    (folder / "x.run.json").write_text(json.dumps(record | {"model set": model_set}))
    text = Page(write_report(folder, "x")).text
    assert "How many of the calls are false is not known" in text
    assert (words or "of 7 sequences with a virus") in text
    assert ('<p class="warning">The model set' in text) == (words is not None)


@pytest.mark.parametrize(
    ("thresholds", "points", "words"),
    [
        ({"sequence": 0.5, "long": 0.5}, [[1, 0.5]], "0.5"),
        (
            {"sequence": 0.7, "long": 0.5},
            [[1, 0.7], [7999, 0.7], [8000, 0.5]],
            "0.7 at 7,999 bases, 0.5 at 8,000 bases",
        ),
        ({"bases": [100, 800], "scores": [0.75, 0.75]}, [[100, 0.75]], "0.75"),
        ({"bases": [100, 800], "scores": [0.9, 0.75]}, [[100, 0.9], [800, 0.75]], "0.9 at 100 bases"),
    ],
)
def test_thresholds_of_one_length_or_many(
    tmp_path: Path, thresholds: dict[str, Any], points: list[list[float]], words: str
) -> None:
    folder = write_results(tmp_path / "out", SEQUENCES, thresholds={"window": 0.6, **thresholds})
    page = Page(write_report(folder, "x"))
    assert page.facts["thresholds"] == {"window": 0.6, "byLength": points}
    assert f"called viral from a score of {words}: 1 were viral" in page.text
    assert ("which depends on the length" in page.text) == (len(points) > 1)


def test_nothing_at_all(tmp_path: Path) -> None:
    page = Page(write_report(write_results(tmp_path / "out", []), "x"))
    assert "<strong>0</strong> of 0 sequences with a virus" in page.text
    assert "Everything was read and scored" in page.text


def test_what_failed_is_listed_with_its_reason(tmp_path: Path) -> None:
    failures = [["in.fa", 3, "<b>x", "line 7: no letter"], ["in.fa", 0, "", "cut off"]]
    text = Page(write_report(write_results(tmp_path / "out", SEQUENCES, failures=failures), "x")).text
    assert "<code>&lt;b&gt;x</code></td><td>line 7: no letter" in text
    assert '<td class="number">rest</td>' in text
    assert "2 records or files could not be used." in text


# Many sequences


def test_of_too_many_the_viral_ones_are_shown_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MOST_ROWS", 6)
    sequences = [*SEQUENCES, *(made(f"o{i}", 700, 0.2) for i in range(20))]
    folder = write_results(tmp_path / "out", sequences)
    page = Page(write_report(folder, "x"))
    assert page.facts["ids"] == ["phage", "chromosome"]
    assert not page.facts["complete"]
    assert page.columns["density"].sum() == 22
    assert page.columns["scores"].sum() == 24
    assert "This page holds 2 of 27 sequences, those that contain a virus;" in page.text


def test_of_too_many_viral_ones_the_best_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_ROWS", 2)
    scores = [0.8, 0.9, 0.95, 0.85]
    folder = write_results(tmp_path / "out", [made(f"v{score}", 600, score) for score in scores])
    page = Page(write_report(folder, "x"))
    assert page.facts["ids"] == ["v0.9", "v0.95"]
    assert "those that contain a virus, the highest scores first;" in page.text


def test_of_too_many_windows_those_of_viral_sequences_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MOST_WINDOWS", 12)
    folder = write_results(tmp_path / "out", [made("o", 5000, 0.1), made("v", 5000, 0.9)])
    page = Page(write_report(folder, "x"))
    assert page.columns["tracks"].tolist() == [0, 10]
    assert page.columns["windows"].tolist() == [10, 10]
    assert "The windows of 1 sequence are left out here" in page.text


def test_rare_reasons_are_one(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "out", [silent(f"s{i}", 60, f"reason {i}") for i in range(130)])
    text = Page(write_report(folder, "x")).text
    assert 'for other reasons (see the tables)</td><td class="number">30</td>' in text


# Any text in the headers


class Tags(HTMLParser):
    """What a browser reads as tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.found += [name for name, _ in attributes if name.startswith("on") or name in ("src", "href")]


def tags(path: Path) -> list[str]:
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.found


def test_headers_and_reasons_never_become_markup(tmp_path: Path) -> None:
    def pages(names: tuple[str, ...]) -> Path:
        sequences = [*(made(name, 600, 0.9) for name in names), *(silent(name, 60, name) for name in names)]
        failures = [[name, 1, name, name] for name in names]
        return write_report(write_results(tmp_path / "out", sequences, failures=failures), "x")

    hostile = tags(pages(HOSTILE))
    assert hostile == tags(pages(tuple(f"harmless{i}" for i in range(len(HOSTILE)))))


def test_an_encoder_in_a_folder_that_is_no_utf8(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "out", [made("a", 900, 0.9)])
    record = json.loads((folder / "x.run.json").read_text())
    record["models"]["DNA model"]["name"] = os.fsdecode(b"/models/\xff")
    (folder / "x.run.json").write_text(json.dumps(record))
    page = write_report(folder, "x").read_text(encoding="utf-8")
    assert page.count("/models/\ufffd") == 2  # in the settings and in the paragraph for the methods


def test_a_prefix_of_any_kind(tmp_path: Path) -> None:
    write_results(tmp_path / "out", SEQUENCES, prefix="<b>&x")
    path = write_report(tmp_path / "out", "<b>&x")
    assert path.name == "<b>&x.report.html"
    assert "<h1>&lt;b&gt;&amp;x</h1>" in path.read_text()


def test_only_its_own_scripts_and_style_may_run(folder: Path) -> None:
    html = write_report(folder, "x").read_text(encoding="utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    for directive, texts in (("script-src", scripts), ("style-src", styles)):
        sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        allowed = " ".join(f"'sha256-{each}'" for each in sums)
        assert f"; {directive} {allowed};" in policy
    assert len(scripts) == 2
    assert "unsafe" not in policy


# Its bytes, and where they go


def test_equal_results_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    first = write_report(folder, "x").read_bytes()
    assert write_report(folder, "x").read_bytes() == first
    assert write_report(shutil.copytree(folder, tmp_path / "copy"), "x", tmp_path / "r.html").read_bytes() == first


@pytest.mark.heavy
def test_a_run_on_two_workers_has_the_same_report(tmp_path: Path, toy: Path, complete: Path, cli: Cli) -> None:
    fasta, out = complete.with_name("in.fa"), tmp_path / "out"
    words = ("--model", toy, "--dtype", "fp32", "--vanilla-output", "--keep-embeddings", "--report")
    assert cli("predict", fasta, "-o", out, "-d", "cpu,cpu", *words).returncode == 6
    of_one = write_report(complete, "in", tmp_path / "r.html")
    assert (out / "in.report.html").read_bytes() == of_one.read_bytes()


def test_only_a_report_is_overwritten(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("<!DOCTYPE html>\n<html>mine")
    with pytest.raises(OutputError, match="exists and is not a report"):
        write_report(folder, "x", path)
    assert path.read_text().endswith("mine")
    write_report(folder, "x", tmp_path / "other.html")
    write_results(folder, SEQUENCES[:1])
    assert "<strong>0</strong> of 1 sequence with" in Page(write_report(folder, "x", tmp_path / "other.html")).text


@pytest.mark.parametrize("where", ["file/r.html", "absent/r.html", "folder"])
def test_a_page_that_cannot_be_written(folder: Path, tmp_path: Path, where: str, cli: Cli) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    done = cli("report", folder, "-o", tmp_path / where)
    assert done.returncode == 3
    assert f"cannot write {tmp_path / where}" in done.stderr


def test_the_command(folder: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("report", folder)
    assert (done.returncode, f"report: {folder / 'x.report.html'}" in done.stderr) == (0, True)
    done = cli("report", folder, "-o", tmp_path / "r.html", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "r.html").read_bytes() == (folder / "x.report.html").read_bytes()
    write_results(folder, SEQUENCES, prefix="y")
    done = cli("report", folder)
    assert (done.returncode, "holds several results: x, y" in done.stderr) == (2, True)
    assert cli("report", folder, "-p", "y").returncode == 0
    done = cli("report", tmp_path)
    assert (done.returncode, "no results of `virnucpro predict`" in done.stderr) == (3, True)


# Results that are not complete


@pytest.mark.parametrize("suffix", [".run.json", ".sequences.tsv", ".windows.tsv.gz", ".regions.bed"])
def test_tables_that_are_damaged_absent_or_of_others(folder: Path, suffix: str) -> None:
    path = folder / f"x{suffix}"
    whole = path.read_bytes()
    for content in (b"", b"\xff" * 50, b"a\tb\n1\t2\n", b"{}", b"[]"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(path))) as error:
            write_report(folder, "x")
        assert "virnucpro predict" in str(error.value.hint)
    path.unlink()
    with pytest.raises(InputError, match=f"{suffix} does not exist"):
        write_report(folder, "x")
    path.write_bytes(whole)
    assert write_report(folder, "x").exists()


@pytest.mark.parametrize("suffix", [".sequences.tsv", ".windows.tsv.gz", ".regions.bed"])
def test_a_table_that_is_cut_off_is_noticed_wherever_the_cut_is(tmp_path: Path, suffix: str) -> None:
    folder = write_results(tmp_path / "out", SEQUENCES[:-1])
    path = folder / f"x{suffix}"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"x\."):
            list(Results(folder, "x").called())
    path.write_bytes(whole)
    assert len(list(Results(folder, "x").called())) == len(SEQUENCES) - 1


def test_a_sequence_without_windows_that_is_gone(folder: Path) -> None:
    path = folder / "x.sequences.tsv"
    path.write_bytes(without_last_row(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.sequences\.tsv has 6 rows, but .*x\.run\.json counts 7"):
        write_report(folder, "x")


def without_last_row(table: bytes) -> bytes:
    return b"".join(table.splitlines(keepends=True)[:-1])


def with_one_more(table: bytes) -> bytes:
    return table + table.splitlines(keepends=True)[-1]


def of_another(table: bytes) -> bytes:
    return table.replace(b"phage", b"other").replace(b"\n2\t", b"\n4\t")


@pytest.mark.parametrize("change", [without_last_row, with_one_more, of_another])
@pytest.mark.parametrize("suffix", [".windows.tsv.gz", ".regions.bed"])
def test_tables_that_do_not_belong_together(folder: Path, suffix: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / f"x{suffix}"
    data = path.read_bytes()
    path.write_bytes(gzip.compress(change(gzip.decompress(data))) if suffix.endswith("gz") else change(data))
    with pytest.raises(InputError, match=r"has other rows than .*x\.sequences\.tsv counts"):
        write_report(folder, "x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"command": "embed"}, "record of `virnucpro embed`"), ({"state": "working"}, "belongs to an unfinished run")],
)
def test_a_record_of_something_else(folder: Path, changes: dict[str, str], words: str) -> None:
    (folder / "x.run.json").write_text(json.dumps(RECORD | changes))
    with pytest.raises(InputError, match=words):
        write_report(folder, "x")


# With `virnucpro predict --report`


def test_predict_writes_what_is_missing(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.fa").write_text(f">open\n{'GCA' * 400}\n")
    predict = ("predict", tmp_path / "a.fa", "-o", tmp_path / "out", "--device", "cpu", "--report")
    report = tmp_path / "out" / "a.report.html"
    assert cli(*predict[:-1]).returncode == 0
    assert not report.exists()
    done = cli(*predict)  # only the page is left to do
    assert (done.returncode, f"report: {report}" in done.stderr) == (0, True)
    first = report.read_bytes()
    report.unlink()
    assert cli(*predict, "--force").returncode == 0
    assert report.read_bytes() == first
    assert cli(*predict[:-1], "--force", "--min-score", 0.25).returncode == 0
    assert not report.exists()  # it would not belong to these results


def test_predict_refuses_at_once_a_report_that_cannot_be_written(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    (tmp_path / "out" / "a.report.html").mkdir(parents=True)
    done = cli("predict", tmp_path / "a.fa", "-o", tmp_path / "out", "--device", "cpu", "--report")
    assert (done.returncode, "a.report.html is a folder" in done.stderr) == (3, True)
    assert not (tmp_path / "out" / "a.sequences.tsv").exists()
