"""The report in a browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import HANGS
from light_workers import wait_for
from toy_results import HOSTILE, Made, made, many, prophage, silent, write_results
from toy_set import toy_records

from virnucpro.input.fasta import first_word
from virnucpro.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, from PyPI")

pytestmark = pytest.mark.heavy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SEQUENCES = [
    made("host", 6000, 0.1),
    made("phage", 5200, 0.9),
    made("second", 4000, 0.8),
    prophage("chromosome", 40_000, 10_000, 25_000),
    silent("short", 80, "shorter than 100 bases"),
    Made("framed", 1000, "other", 0.4, [0.7, 0.1], frames="F1,R2"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=HANGS * 1000)
        yield browser
        browser.close()


#: Keeps the text that a button shows only for a moment.
HEAR = """() => {
  window.heard = [];
  const hear = ([change]) => window.heard.push(change.target.textContent);
  new MutationObserver(hear).observe(document.getElementById("copy-ids"), { childList: true });
}"""


@dataclass
class Opened:
    """A report in the browser, and what it did that is not allowed."""

    page: Any
    requests: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))

    @property
    def ids(self) -> list[str]:
        """The ids of the rows that are in the table."""
        return list(self.page.locator("#visible .row > :nth-child(2)").all_text_contents())

    def saved(self, button: str) -> str:
        """The file that a button saves."""
        with self.page.expect_download(timeout=HANGS * 1000) as download:
            self.page.click(button)
        return Path(download.value.path()).read_text(encoding="utf-8")


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a report of made-up sequences, or an existing one; the page must make no requests and cause no errors."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    found: list[Opened] = []

    def open_report(what: Any = SEQUENCES) -> Opened:
        path = what if isinstance(what, Path) else write_report(write_results(tmp_path / "out", what), "x")
        page = context.new_page()
        opened = Opened(page)
        found.append(opened)
        page.set_default_timeout(HANGS * 1000)
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("console", lambda message: opened.troubles.append(message.text))
        page.on("pageerror", lambda error: opened.troubles.append(str(error)))
        page.on("dialog", lambda dialog: (opened.troubles.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        return opened

    yield open_report
    for each in found:
        assert each.troubles == []
        assert [url for url in each.requests if not url.startswith("blob:")] == each.requests[:1]
    context.close()


def test_the_best_sequence_is_shown_first(opened: Any) -> None:
    report = opened()
    assert report.ids == ["phage", "second", "chromosome", "framed", "host", "short"]
    assert report.text("#name") == "phage"
    assert report.text("#matches") == "6 sequences"
    assert report.page.is_hidden("#trouble")


def test_a_click_on_the_second_row(opened: Any) -> None:
    report = opened()
    report.page.click("#visible .row:nth-child(2)")
    assert report.text("#name") == "second"
    assert "virus · 4,000 bp · score 0.800 (threshold 0.750) · " in report.text("#about")
    assert report.page.get_attribute("#visible .row:nth-child(2)", "aria-selected") == "true"
    report.page.keyboard.press("Tab")
    report.page.focus("#rows")
    report.page.keyboard.press("ArrowDown")
    assert report.text("#name") == "chromosome"
    report.page.keyboard.press("ArrowUp")
    assert report.text("#name") == "second"


def test_the_filter(opened: Any) -> None:
    report = opened()
    report.page.fill("#find", "SHORTER than")
    assert (report.ids, report.text("#matches")) == (["short"], "1 of 6 sequences")
    report.page.fill("#find", "")
    report.page.click("#chips button:nth-child(3)")
    assert report.ids == ["phage", "second", "chromosome", "short"]
    report.page.fill("#shortest", "5000")
    assert report.ids == ["phage", "chromosome"]
    report.page.fill("#lowest", "0.5")
    assert report.ids == ["phage"]


def test_sorting(opened: Any) -> None:
    report = opened()
    report.page.click("#columns button:nth-child(3)")
    assert report.ids == ["chromosome", "host", "phage", "second", "framed", "short"]
    report.page.click("#columns button:nth-child(3)")
    assert report.ids[0] == "short"
    report.page.click("#columns button:nth-child(5)")
    assert report.ids[-1] == "short"  # without a score, in either direction
    report.page.click("#columns button:nth-child(5)")
    assert report.ids[-1] == "short"


def test_the_slider_tells_and_changes_no_file(opened: Any, tmp_path: Path) -> None:
    report = opened()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert report.text("#counts") == "As in the run: 2 sequences called virus, of which 0.5 are expected to be false."
    report.page.fill("#threshold", "850")
    assert "At 0.850: 1 sequence would be called virus (−1), of which about " in report.text("#counts")
    report.page.fill("#threshold", "300")
    assert "At 0.300: 3 sequences would be called virus (+1), of which about " in report.text("#counts")
    report.page.click("#as-run")
    assert report.text("#counts").startswith("As in the run: 2 sequences")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_point_of_the_figure_leads_to_its_sequence(opened: Any) -> None:
    report = opened()
    box = report.page.locator("#scatter .u-over").bounding_box()
    height = box["y"] + box["height"] * (1.03 - 0.2) / 1.06
    # The chromosome is the longest: its point lies farthest to the right, at a score of 0.2.
    for step in range(40):
        report.page.mouse.click(box["x"] + box["width"] * (1 - step / 80), height)
        if report.text("#name") == "chromosome":
            return
    pytest.fail("no point of the chromosome")


def test_a_region_can_be_zoomed_to_and_saved(opened: Any) -> None:
    report = opened()
    report.page.click(".part button")
    assert report.text("#name") == "chromosome"
    whole = ElementTree.fromstring(report.saved("#save-svg"))
    report.page.click("#regions button")
    part = ElementTree.fromstring(report.saved("#save-svg"))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(whole.findall(f"{svg}rect")) == 80 + 1
    assert 30 + 1 <= len(part.findall(f"{svg}rect")) < 45
    assert [whole.find(f"{svg}text").text, part.find(f"{svg}text").text] == ["chromosome"] * 2  # type: ignore[union-attr]


def test_windows_tell_their_score_under_the_pointer(opened: Any) -> None:
    report = opened()
    report.page.fill("#find", "framed")
    report.page.click("#visible .row")
    box = report.page.locator("#track .u-over").bounding_box()
    report.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    expected = "window 1, bases 1 to 500: score 0.700, viral · open frames F1 R2, best R2"
    assert report.text("#under") == expected
    report.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40)
    assert report.text("#under").startswith("window 2, bases 501 to 1,000: score 0.100, not viral")


def test_the_selection_as_csv_and_ids(opened: Any) -> None:
    report = opened()
    report.page.click("#chips button:nth-child(3)")
    report.page.click("#chips button:nth-child(4)")
    lines = list(csv.DictReader(io.StringIO(report.saved("#save-csv"))))
    assert [line["sequence_id"] for line in lines] == ["phage", "second", "chromosome"]
    assert (lines[0]["score"], lines[0]["threshold"], lines[0]["input"]) == ("0.900000", "0.750000", "in.fa")
    label = report.text("#copy-ids")
    report.page.evaluate(HEAR)
    report.page.click("#copy-ids", click_count=2)
    wait_for(lambda: report.page.evaluate("window.heard.length") == 4)
    heard = report.page.evaluate("window.heard")
    assert (heard[0], sorted(heard), heard[-1]) == ("Copied", sorted(["Copied", label] * 2), label)
    report.page.focus("#find")
    report.page.keyboard.press("Control+V")
    assert report.page.input_value("#find").split() in (["phage", "second", "chromosome"], ["phagesecondchromosome"])


def test_hostile_headers_are_shown_and_not_run(opened: Any) -> None:
    sequences = [
        *(made(name, 600 + i, 0.9, note=name) for i, name in enumerate(HOSTILE)),
        prophage(HOSTILE[0], 9000, 0, 4000),
    ]
    report = opened(sequences)
    report.page.click("#columns button:nth-child(1)")
    names = [name.replace("\r", " ") for name in HOSTILE]
    assert report.ids == [*names, names[0]]
    for place, name in enumerate(names, 1):
        report.page.click(f"#visible .row:nth-child({place})")
        assert (report.text("#name"), report.text("#note")) == (name, name)
        drawing = ElementTree.fromstring(report.saved("#save-svg"))
        assert {part.tag.rpartition("}")[2] for part in drawing.iter()} == {"svg", "text", "rect", "line"}
    lines = list(csv.DictReader(io.StringIO(report.saved("#save-csv"))))
    assert [line["sequence_id"] for line in lines] == ["'" * name.startswith("=") + name for name in (*names, names[0])]
    assert report.page.title() == "x · virnucpro"


def test_no_sequences_at_all(opened: Any) -> None:
    report = opened([])
    assert report.ids == []
    assert report.page.is_hidden("#sequence")


def test_a_run_of_every_verdict(opened: Any, complete: Path, tmp_path: Path) -> None:
    report = opened(write_report(complete, "in", tmp_path / "r.html"))
    report.page.focus("#rows")
    found = [report.text("#name")]
    for _ in toy_records()[1:]:
        report.page.keyboard.press("ArrowDown")
        found.append(report.text("#name"))
    assert sorted(found) == sorted(first_word(header) for header, _ in toy_records())


def test_a_hundred_thousand_contigs(opened: Any, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "out", many(100_000))
    path = write_report(folder, "x")
    assert path.stat().st_size <= 5_000_000
    report = opened(path)
    assert report.text("#matches") == "100,000 sequences"
    report.page.click("#columns button:nth-child(1)")
    report.page.evaluate("document.getElementById('rows').scrollTop = 1e9")
    report.page.wait_for_selector("#visible .row:has-text('NODE_100000_')")
    report.page.click("#visible .row:last-child")
    assert report.text("#name").startswith("NODE_100000_")
    report.page.fill("#find", "NODE_77777_")
    assert len(report.ids) == 1
    report.page.click("#visible .row")
    assert report.text("#name").startswith("NODE_77777_")
    report.page.fill("#threshold", "500")
    assert "At 0.500: " in report.text("#counts")
