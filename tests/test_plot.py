"""`virnucpro plot`: which sequences get a picture, what the picture shows, and what is wrong with tables."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from conftest import Cli, run_cli
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from virnucpro import report
from virnucpro.calls.read import Region, Results, ScoredWindow
from virnucpro.calls.read import Sequence as Row
from virnucpro.calls.tables import REGIONS, SEQUENCES, WINDOWS
from virnucpro.cli.plot import plot as plot_command
from virnucpro.errors import InputError, UsageError
from virnucpro.input.windows import window_bounds
from virnucpro.io.tables import Table, gzip_text, number
from virnucpro.picture import DPI, OTHER, SIZE, draw, save

SVG = "{http://www.w3.org/2000/svg}"


class Called(NamedTuple):
    """A sequence with what `predict` found: a score a window, viral regions in BED coordinates."""

    id: str
    length: int
    verdict: str
    score: float | None
    scores: Sequence[float | None]
    regions: Sequence[tuple[int, int]] = ()
    note: str = ""

    @property
    def windows(self) -> list[tuple[int, int, float | None]]:
        bounds = window_bounds(self.length)
        return [(start, end, score) for (start, end), score in zip(bounds, self.scores, strict=True)]


VIRUS = Called("contig7", 1200, "virus", 0.7, [0.9, 0.8, 0.4], [(0, 800)])
PROPHAGE_SCORES = [0.1, 0.2, None, 0.1, 0.9, 0.9, 0.8, None, 0.1, 0.1]
PROPHAGE = Called(
    "chromosome", 5000, "mixed", 0.2, [0.1, 0.2, None, 0.1, 0.9, 0.9, 0.8, None, 0.1, 0.1], [(2000, 3500)]
)
OTHERS = Called("host", 900, "other", 0.1, [0.1, 0.1])
SILENT = Called("silent", 600, "not_scored", None, [None, None], note="no open frame")
ABSENT = Called("unread", 0, "not_scored", None, [], note="no sequence")
CALLED = [OTHERS, PROPHAGE, ABSENT, VIRUS, SILENT]


def write_results(folder: Path, sequences: Sequence[Called], prefix: str = "x", min_score: float = 0.5) -> Path:
    """The files that `predict` writes, as far as they are read."""
    folder.mkdir(exist_ok=True)
    record = {"command": "predict", "result": {"min_score": min_score}}
    (folder / f"{prefix}.run.json").write_text(json.dumps(record))
    with (
        open(folder / f"{prefix}.sequences.tsv", "w", encoding="utf-8", newline="") as sequences_file,
        gzip_text(folder / f"{prefix}.windows.tsv.gz") as windows_file,
        open(folder / f"{prefix}.regions.bed", "w", encoding="utf-8", newline="") as regions_file,
    ):
        tables = (Table(sequences_file, SEQUENCES), Table(windows_file, WINDOWS), Table(regions_file, REGIONS))
        for place, called in enumerate(sequences, 1):
            write_rows(tables, place, called)
    return folder


def write_rows(tables: tuple[Table, Table, Table], place: int, called: Called) -> None:
    sequences, windows, regions = tables
    counts = {"windows": len(called.scores), "regions": len(called.regions)}
    about = {"length": called.length, "verdict": called.verdict, "score": number(called.score), "note": called.note}
    who = {"number": place, "sequence_id": called.id}
    write_row(sequences, SEQUENCES, who | about | counts)
    for start, end, score in called.windows:
        write_row(windows, WINDOWS, who | {"start": start + 1, "end": end, "score": number(score)})
    for start, end in called.regions:
        write_row(regions, REGIONS, {"#sequence_id": called.id, "start": start, "end": end})


def write_row(table: Table, columns: Mapping[str, str], values: Mapping[str, object]) -> None:
    """What is not drawn stays empty."""
    assert values.keys() <= columns.keys()
    table.row(*(values.get(name, "") for name in columns))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "out", CALLED)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is drawn


def test_viral_sequences_get_pictures_of_the_promised_size(folder: Path, cli: Cli) -> None:
    done = cli("plot", folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"pictures: 2, in {folder / 'x.plots'}\n"
    assert names(folder / "x.plots") == ["000002_chromosome.png", "000004_contig7.png"]
    for path in (folder / "x.plots").iterdir():
        data = path.read_bytes()
        assert struct.unpack(">II", data[16:24]) == (SIZE[0] * DPI, SIZE[1] * DPI)
        assert b"tEXt" not in data


def test_region_stands_at_its_true_coordinates_in_an_svg(folder: Path, cli: Cli) -> None:
    assert cli("plot", folder, "--format", "svg", "--id", "chromosome").returncode == 0
    picture = ElementTree.parse(folder / "x.plots" / "000002_chromosome.svg")
    left, right = horizontal_extent(picture, "area")
    start, end = horizontal_extent(picture, "region-1")
    to_bases = PROPHAGE.length / (right - left)
    assert [(start - left) * to_bases, (end - left) * to_bases] == pytest.approx([2000, 3500], abs=0.1)
    assert picture.find(f".//{SVG}g[@id='region-2']") is None


def horizontal_extent(picture: ElementTree.ElementTree[ElementTree.Element], name: str) -> tuple[float, float]:
    path = picture.find(f".//{SVG}g[@id='{name}']/{SVG}path")
    assert path is not None
    words = path.attrib["d"].replace("z", "").split()
    places = [float(words[index + 1]) for index, word in enumerate(words) if word in "ML"]
    return min(places), max(places)


def test_windows_are_drawn_from_start_to_end_at_their_scores() -> None:
    windows = [ScoredWindow(1, start, end, score) for start, end, score in PROPHAGE.windows]
    regions = [Region("chromosome", start, end) for start, end in PROPHAGE.regions]
    axes = draw(row_of(PROPHAGE), windows, regions, min_score=0.85).axes[0]
    drawn = {lines.get_gid(): lines.get_segments() for lines in axes.collections if isinstance(lines, LineCollection)}
    assert [segment.tolist() for segment in drawn["viral"]] == [[[2000, 0.9], [2500, 0.9]], [[2500, 0.9], [3000, 0.9]]]
    assert [segment[:, 0].tolist() for segment in drawn["unscored"]] == [[1000, 1500], [3500, 4000]]
    assert (np.concatenate(drawn["unscored"])[:, 1] < 0).all()
    assert len(drawn["other"]) == 6
    assert axes.get_xlim() == (0, 5000)
    (line,) = [line for line in axes.lines if line.get_gid() == "min-score"]
    assert list(line.get_ydata()) == [0.85, 0.85]


def row_of(called: Called) -> Row:
    rows = range(len(called.scores)), range(len(called.regions))
    return Row(1, called.id, called.length, called.verdict, called.score, *rows, called.note)


def test_title_tells_what_was_called(folder: Path, cli: Cli) -> None:
    assert cli("plot", folder, "--format", "svg", "--id", "silent", "--id", "contig7").returncode == 0
    virus, silent = (
        "".join(ElementTree.parse(path).getroot().itertext()) for path in sorted((folder / "x.plots").iterdir())
    )
    for fact in ("contig7", "1,200 bp  ·  virus  ·  score 0.700", "1 viral region", "3 of 3 windows", "position (kb)"):
        assert fact in virus
    for fact in ("silent", "600 bp  ·  not scored  ·  no score", "0 of 2 windows scored", "position (bp)"):
        assert fact in silent


def test_windows_narrower_than_a_dot_are_all_visible(tmp_path: Path) -> None:
    windows = [ScoredWindow(1, start, start + 500, 0.25) for start in range(50_000, 10_000_000, 100_000)]
    save(draw(row_of(OTHERS)._replace(length=10_000_000), windows, [], 0.5), tmp_path / "many.png", "png")
    pixels = imread(tmp_path / "many.png")[:450, :, :3]  # without the legend
    color = np.array([int(OTHER[index : index + 2], 16) for index in (1, 3, 5)]) / 255
    colored = (np.abs(pixels - color).sum(axis=2) < 0.1).any(axis=0)
    assert (np.diff(colored.astype(int)) == 1).sum() == len(windows) == 100


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_bytes_depend_on_the_results_alone(folder: Path, tmp_path: Path, file_format: str) -> None:
    """Not on the time, the process, or the user's settings of matplotlib."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: black\nsvg.fonttype: path\n")
    for name, env in {"a": {}, "b": {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "TZ": "UTC-9"}}.items():
        done = run_cli("plot", folder, "--format", file_format, "-o", tmp_path / name, env=env)
        assert done.returncode == 0, done.stderr
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


# Which sequences


def test_tables_are_read_as_they_were_written(folder: Path) -> None:
    results = Results(folder, "x")
    assert [row[1:5] for row in results.sequences()] == [called[:4] for called in CALLED]
    expected = [window for called in CALLED for window in called.windows]
    assert [window[1:] for window in results.windows()] == expected
    assert [region[1:] for region in results.regions()] == [*PROPHAGE.regions, *VIRUS.regions]


def test_top_takes_viruses_first_and_then_high_scores(tmp_path: Path, cli: Cli) -> None:
    scores = {"m2": 0.4, "v1": 0.6, "m1": 0.7, "v3": 0.9, "v2": 0.9}
    verdicts = {"m": "mixed", "v": "virus"}
    called = [Called(name, 500, verdicts[name[0]], score, [score]) for name, score in scores.items()]
    folder = write_results(tmp_path / "out", [OTHERS, *called])
    drawn = report.plot_results(folder, "x", tmp_path / "all")
    assert [path.stem[7:] for path in drawn] == ["v3", "v2", "v1", "m1", "m2"]
    done = cli("plot", folder, "--top", 4)
    assert "viral sequences left out: 1; `virnucpro plot --top 5` draws all" in done.stderr
    assert names(folder / "x.plots") == ["000003_v1.png", "000004_m1.png", "000005_v3.png", "000006_v2.png"]


def test_sequences_with_the_same_id_get_a_picture_each_with_their_own_regions(tmp_path: Path) -> None:
    twins = [VIRUS, VIRUS._replace(regions=[(400, 800), (900, 1200)]), VIRUS._replace(regions=[])]
    folder = write_results(tmp_path / "out", twins)
    drawn = report.plot_results(folder, "x", tmp_path / "plots", file_format="svg", ids=("contig7",))
    assert [path.name for path in drawn] == [f"00000{place}_contig7.svg" for place in (1, 2, 3)]
    assert [path.read_text().count('id="region-') for path in drawn] == [1, 2, 0]


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ("gi|123|ref/NC_1.1", "gi_123_ref_NC_1.1"),
        ("../../etc/passwd", "etc_passwd"),
        ("Ω病毒", ""),
        ("", ""),
        ("a\x01b\x0bc\u2028d", "a_b_c_d"),
        ("$x^2$<&>\\", "x_2"),
        ("y" * 10_000, "y" * 60),
    ],
)
def test_odd_ids_make_harmless_names_and_whole_pictures(tmp_path: Path, odd: str, name: str) -> None:
    folder = write_results(tmp_path / "out", [VIRUS._replace(id=odd)])
    (drawn,) = report.plot_results(folder, "x", tmp_path / "plots", file_format="svg", ids=(odd,))
    assert drawn == tmp_path / "plots" / f"{'_'.join(filter(None, ('000001', name)))}.svg"
    shown = [text.text or "" for text in ElementTree.parse(drawn).iter(f"{SVG}text")]
    assert max(map(len, shown)) < 100
    if odd.isprintable() and 0 < len(odd) < 70:
        assert odd in shown
    report.plot_results(folder, "x", tmp_path / "plots")
    assert names(tmp_path / "plots") == sorted((drawn.name, drawn.with_suffix(".png").name))


def test_an_id_without_its_letters_in_the_font_says_nothing(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "out", [VIRUS._replace(id="病毒")])
    done = run_cli("plot", folder, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("sequences", [[], [OTHERS, SILENT, ABSENT]])
def test_nothing_viral_is_no_error(tmp_path: Path, cli: Cli, sequences: list[Called]) -> None:
    folder = write_results(tmp_path / "out", sequences)
    done = cli("plot", folder)
    assert (done.returncode, done.stderr) == (0, f"none of {len(sequences)} sequences is viral, so no picture\n")
    assert not (folder / "x.plots").exists()


# Options


def test_one_prefix_needs_no_name_and_several_do(folder: Path, cli: Cli) -> None:
    write_results(folder, [VIRUS], prefix="y")
    done = cli("plot", folder)
    assert done.returncode == 2
    assert "holds several results: x, y" in done.stderr
    assert cli("plot", folder, "-p", "y").returncode == 0
    assert names(folder / "y.plots") == ["000001_contig7.png"]


def test_pictures_are_overwritten_by_force_only(folder: Path, tmp_path: Path, cli: Cli) -> None:
    output = tmp_path / "deep" / "plots"
    assert cli("plot", folder, "-o", output, "--id", "contig7").returncode == 0
    (output / "000004_contig7.png").write_text("old")
    (output / "mine.txt").write_text("kept")
    done = cli("plot", folder, "-o", output)
    assert done.returncode == 3
    assert f"{output / '000004_contig7.png'} exists" in done.stderr
    assert names(output) == ["000004_contig7.png", "mine.txt"]
    assert cli("plot", folder, "-o", output, "--force").returncode == 0
    assert names(output) == ["000002_chromosome.png", "000004_contig7.png", "mine.txt"]
    assert (output / "000004_contig7.png").read_bytes().startswith(b"\x89PNG")


def test_quiet_says_nothing(folder: Path, cli: Cli) -> None:
    done = cli("plot", folder, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_id_and_top_contradict_each_other(folder: Path, cli: Cli) -> None:
    done = cli("plot", folder, "--id", "host", "--top", 3)
    assert done.returncode == 2
    assert "contradict" in done.stderr


def test_every_option_is_in_the_help() -> None:
    shown = run_cli("plot", "--help", env={"COLUMNS": "200"}).stdout
    options = [param for param in plot_command.params if isinstance(param, click.Option)]
    assert len(options) == 7
    assert [name for option in options for name in option.opts if name not in shown] == []
    assert [option.name for option in options if not option.help] == []


# What can be wrong


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_the_backend_of_a_notebook_does_not_matter(folder: Path, backend: str) -> None:
    done = run_cli("plot", folder, env={"MPLBACKEND": backend})
    assert done.returncode == 0, done.stderr
    assert len(names(folder / "x.plots")) > 0


def test_without_matplotlib_the_cure_is_named(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError):
        report.check_matplotlib()
    done = cli("plot", folder)
    assert done.returncode == 2
    assert "pip install 'virnucpro[report]'" in done.stderr


def test_an_id_that_is_not_there_is_named_with_those_like_it(folder: Path, cli: Cli) -> None:
    done = cli("plot", folder, "--id", "contig7", "--id", "chromosom")
    assert done.returncode == 3
    assert "no sequence 'chromosom' in" in done.stderr
    assert "did you mean chromosome?" in done.stderr
    assert not (folder / "x.plots").exists()


def test_a_sequence_without_windows_cannot_be_drawn(folder: Path, cli: Cli) -> None:
    done = cli("plot", folder, "--id", "unread")
    assert done.returncode == 3
    assert "unread has no windows to draw" in done.stderr
    assert "no sequence" in done.stderr


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_folder_without_results(tmp_path: Path, cli: Cli, place: str) -> None:
    done = cli("plot", tmp_path / place)
    assert done.returncode == 3
    assert f"no results of `virnucpro predict` in {tmp_path / place}" in done.stderr


@pytest.mark.parametrize("suffix", [".run.json", ".sequences.tsv", ".windows.tsv.gz", ".regions.bed"])
def test_a_file_that_is_absent_or_no_result_is_named(folder: Path, suffix: str) -> None:
    path = folder / f"x{suffix}"
    for content in (b"", b"sequence\tscore\n", b"\x80\xff", b"[]\n", gzip.compress(b"sequence\tscore\n")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=suffix) as error:
            report.plot_results(folder, "x", folder / "plots")
        assert "virnucpro predict" in str(error.value.hint)
    path.unlink()
    with pytest.raises(InputError, match=f"{suffix} does not exist"):
        report.plot_results(folder, "x", folder / "plots")
    assert not (folder / "plots").exists()


def test_the_record_of_another_command(folder: Path) -> None:
    (folder / "x.run.json").write_text('{"command": "embed"}')
    with pytest.raises(InputError, match="record of `virnucpro embed`"):
        report.plot_results(folder, "x", folder / "plots")


@pytest.mark.parametrize("suffix", [".sequences.tsv", ".windows.tsv.gz", ".regions.bed"])
def test_a_table_that_is_cut_off_is_noticed_wherever_the_cut_is(folder: Path, suffix: str) -> None:
    path = folder / f"x{suffix}"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"x\."):
            report.plot_results(folder, "x", folder / "plots", ids=("contig7", "chromosome"))
    path.write_bytes(whole)
    assert len(report.plot_results(folder, "x", folder / "plots", ids=("contig7", "chromosome"))) == 2


def test_a_windows_table_cut_between_rows(folder: Path) -> None:
    path = folder / "x.windows.tsv.gz"
    rows = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(rows[:-1])))
    with pytest.raises(InputError, match=r"windows\.tsv\.gz has 16 rows where .* counts 17"):
        report.plot_results(folder, "x", folder / "plots")


def test_regions_of_another_run(folder: Path) -> None:
    path = folder / "x.regions.bed"
    path.write_text(path.read_text().replace("contig7", "contig8"))
    with pytest.raises(InputError, match="not of the run"):
        report.plot_results(folder, "x", folder / "plots")


@pytest.mark.parametrize("output", ["file", "file/plots", "taken"])
def test_pictures_that_cannot_be_written(folder: Path, tmp_path: Path, cli: Cli, output: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "taken" / "000002_chromosome.png").mkdir(parents=True)
    done = cli("plot", folder, "-o", tmp_path / output, "--force")
    assert done.returncode == 3
    assert f"cannot {'write' if output == 'taken' else 'make the folder'} {tmp_path / output}" in done.stderr
    assert (tmp_path / "file").read_text() == "no folder"


# With `virnucpro predict --report`


def test_predict_draws_what_is_missing_and_replaces_what_is_there(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.fa").write_text(f">open\n{'GCA' * 400}\n")
    predict = ("predict", tmp_path / "a.fa", "-o", tmp_path / "out", "--device", "cpu", "--min-score", 0, "--report")
    picture = tmp_path / "out" / "a.plots" / "000001_open.png"
    for arguments in (predict, predict, (*predict, "--force")):
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
        assert f"pictures: 1, in {picture.parent}" in done.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.write_text("old")
    shutil.rmtree(picture.parent)
    assert cli(*predict).returncode == 0
    assert names(picture.parent) == [picture.name]


def test_predict_asks_for_matplotlib_before_it_works(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    done = cli("predict", tmp_path / "a.fa", "-o", tmp_path / "out", "--report")
    assert done.returncode == 2
    assert "pip install 'virnucpro[report]'" in done.stderr
    assert not (tmp_path / "out" / "a.sequences.tsv").exists()
