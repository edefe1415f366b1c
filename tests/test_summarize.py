"""One table and one page over several samples, and MultiQC."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, Cli
from toy_results import HOSTILE, RECORD, made, prophage, silent, write_results

from virnucpro.calls.tables import FAILED_SAMPLES, SAMPLES
from virnucpro.errors import InputError, OutputError
from virnucpro.io.tables import Table, read_rows, text_file
from virnucpro.report import summarize
from virnucpro.report.samples import Sample

FIRST = [made("phage", 5200, 0.9), made("host", 2600, 0.1), prophage("chromosome", 9000, 2000, 5000)]
SECOND = [made("host", 2600, 0.1), silent("short", 80, "shorter than 100 bases")]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Results of two samples, and a third one that failed."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_results(folder / "second", SECOND, "second", failures=[["in.fa", 3, "x", "no DNA"]])
    write_results(folder / "first", FIRST, "first")
    write_failed(folder, "third", "third.fa does not exist (check the path)")
    return folder


def write_failed(folder: Path, *row: str) -> None:
    with text_file(folder / "samples.failed.tsv") as file:
        Table(file, FAILED_SAMPLES).row(*row)


def change(folder: Path, **changes: Any) -> None:
    """Change values in the only record of a folder."""
    (path,) = folder.glob("*.run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(read_rows(folder / "samples.tsv", SAMPLES))


def test_a_row_for_each_sample(out: Path) -> None:
    summarize([out], out)
    first, second, third = rows(out)
    assert first == {
        "sample": "first", "sequences": "3", "bases": "16800", "virus": "1", "mixed": "1", "other": "1",
        "not_scored": "0", "failed": "0", "expected_false": "0.500000", "viral_share": "0.050000", "model": "mini",
        "differs": "", "folder": "first", "note": "",
    }  # fmt: skip
    counts = [second[name] for name in ("sequences", "virus", "other", "not_scored", "failed")]
    assert counts == ["2", "0", "1", "1", "1"]
    note = "third.fa does not exist (check the path)"
    assert third == {**dict.fromkeys(first, ""), "sample": "third", "folder": "third", "note": note}


def test_settings_that_differ_are_said(out: Path) -> None:
    write_results(out / "fourth", SECOND, "fourth")
    identity = {**RECORD["identity"], "dtype": "bf16", "min length": 7}
    change(out / "fourth", identity=identity, **{"model set": {"name": "mini-1", "trained": True}})
    summarize([out], out)
    found = {row["sample"]: row["differs"] for row in rows(out)}
    assert found == {
        "first": "", "second": "", "third": "",
        "fourth": "Model set: mini-1, windows of 500 bases; Shortest sequence scored: 7 bases; "
        "Number format: bf16, 8,192 tokens a batch",
    }  # fmt: skip
    page = (out / "samples.report.html").read_text()
    assert f"differs: {found['fourth']}" in page
    assert "most samples; where others differ" in page


def test_another_estimate_is_no_other_setting(out: Path) -> None:
    (path,) = (out / "first").glob("*.run.json")
    record = json.loads(path.read_text())
    record["result"]["false_discovery"]["share"] = 0.5
    path.write_text(json.dumps(record))
    summarize([out], out)
    assert [row["differs"] for row in rows(out)] == ["", "", ""]
    record["result"]["false_discovery"]["estimated"] = False
    path.write_text(json.dumps(record))
    summarize([out], out)
    assert "Share of viral sequences: " in "".join(row["differs"] for row in rows(out))


def test_a_set_that_was_not_measured_has_no_expectation(tmp_path: Path) -> None:
    write_results(tmp_path / "x", FIRST, "x", false_discovery=None)
    summarize([tmp_path], tmp_path)
    (row,) = rows(tmp_path)
    assert (row["expected_false"], row["viral_share"]) == ("", "")
    assert "not known" in (tmp_path / "samples.report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"state": "working"}, "belongs to an unfinished run"), ({"result": {}}, "is damaged or not a result")],
)
def test_a_run_without_results_is_said(changes: dict[str, Any], words: str, out: Path) -> None:
    change(out / "first", **changes)
    (out / "second" / "second.run.json").write_text("{")
    summarize([out], out)
    first, second, _ = rows(out)
    assert (first["sequences"], words in first["note"]) == ("", True)
    assert (second["sequences"], "is damaged or not a result" in second["note"]) == ("", True)


def test_records_of_other_commands_are_passed_over(out: Path) -> None:
    (out / "o.h5.run.json").write_text(json.dumps({**RECORD, "command": "embed"}))
    assert [sample.name for sample in summarize([out], out).all] == ["first", "second", "third"]


def test_the_same_bytes_each_time_and_from_anywhere(out: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("summarize", out).returncode == 0
    names = ("samples.tsv", "samples.report.html")
    before = [(out / name).read_bytes() for name in names]
    assert cli("summarize", out, "-q").returncode == 0
    assert [(out / name).read_bytes() for name in names] == before
    other = tmp_path / "all"
    done = cli("summarize", out / "first", out / "second", "-o", other)
    assert "2 of 2 samples with results" in done.stderr
    assert [row["folder"] for row in rows(other)] == ["../out/first", "../out/second"]


def test_what_stands_in_the_way(out: Path, tmp_path: Path, cli: Cli) -> None:
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no results of `virnucpro predict` in"):
        summarize([out, empty], tmp_path)
    done = cli("summarize", out, empty)
    assert (done.returncode, "choose one with -o" in done.stderr) == (2, True)
    for name in ("samples.tsv", "samples.report.html"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(OutputError, match=f"{name} exists and is"):
            summarize([out], tmp_path)
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


# The page.


class _Parser(HTMLParser):
    """Tags and attributes of a page, and its text without scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_hostile_names_are_shown_and_not_run(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "/" not in name and len(name) < 200]
    for name in names:
        folder = write_results(tmp_path / name, FIRST, name)
        (folder / f"{name}.report.html").write_text("")
    write_failed(tmp_path, "<b>third</b>", "<i>no</i>")
    summarize([tmp_path], tmp_path)
    html = (tmp_path / "samples.report.html").read_text()
    page = _Parser(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "b", "i", "iframe"}
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert len(links) == len(names)
    assert not [link for link in links if re.match(r"[^/?#]*:", link)]
    for name in (*names, "<b>third</b>", "<i>no</i>"):
        assert name in page.text
    assert all(not value or "http" not in value for _, attributes in page.tags for value in attributes.values())


def test_it_asks_for_nothing(out: Path) -> None:
    summarize([out], out)
    html = unescape((out / "samples.report.html").read_text())
    assert html.startswith('<!DOCTYPE html>\n<html lang="en" data-made-by="virnucpro report">')
    assert "default-src 'none'; script-src 'sha256-" in html
    assert " style=" not in html
    assert "Without results: 1 of 3 samples." in _Parser(html).text


# MultiQC.


@pytest.mark.heavy
def test_multiqc_finds_the_records(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("multiqc", reason="needs MultiQC, from PyPI")
    write_results(tmp_path / "out" / "fourth", SECOND, "fourth")
    change(out / "fourth", state="working")
    (out / "o.h5.run.json").write_text(json.dumps({**RECORD, "command": "embed"}, indent=1))
    for path in out.glob("*/*.run.json"):  # as it is written
        path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    target = tmp_path / "multiqc"
    words = [sys.executable, "-m", "multiqc", str(out), "-o", str(target), "-m", "virnucpro", "--no-ansi"]
    env = os.environ | {"HOME": str(tmp_path), "MULTIQC_CONFIG_PATH": ""}
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANGS, env=env)
    assert done.returncode == 0, done.stderr
    assert "Found 2 reports" in done.stdout + done.stderr
    data = json.loads((target / "multiqc_data" / "multiqc_data.json").read_text())
    found = data["report_saved_raw_data"]["multiqc_virnucpro"]
    assert {name: Sample.of(name, out / name, "").counts for name in ("first", "second")} == found
    assert "virnucpro-verdicts" in (target / "multiqc_report.html").read_text()
