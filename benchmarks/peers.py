"""How well `mini` and other tools tell viral sequences, on the same sequences of dev.

    python -m training.pieces --genomes dev.npz --out dev_pieces --kinds records lengths
    python -m benchmarks.peers --pieces dev_pieces --sequences 200

DeepMicroClass (Hou et al. 2024, doi:10.1093/nargab/lqae044) and Jaeger (Wijesekara et al. 2024,
doi:10.1101/2024.09.24.612722) come from PyPI with the weights that they ship, each into an environment of its own.
**Their training may hold these very sequences**, which are of public genomes; ours does not. A
sequence that is shorter than a tool takes has no score there and counts in none of its figures.

Of records of 2 to 8 kb and of pieces of some lengths as many of either class are taken, as few of a cluster as can be.
Scores alone are compared, no thresholds: AUROC of viral sequences, and of phages, against prokaryotes and against
eukaryotes, and the share of viral ones above the score that 1% or 5% of the others reach (kingdoms weighing the same).
Intervals: 95%, from drawing clusters.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import venv
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import common
from training.measure import OTHERS, Figure, Sample, against, recall_at, with_interval
from training.pieces import Piece, read
from virnucpro.calls.read import Results
from virnucpro.input.fasta import Record, read_records, write_fasta

#: What is compared: whole records, and pieces of these lengths.
RECORDS, LENGTHS, PIECES = "records", "lengths", (500, 1_000, 2_000, 4_000)
FIGURES: Mapping[str, Figure] = {
    **{f"AUROC, {kingdom}s": against(lambda sample: sample.viral, (kingdom,)) for kingdom in OTHERS},
    **{f"phages, {kingdom}s": against(lambda sample: sample.kingdom == "phage", (kingdom,)) for kingdom in OTHERS},
    "at 1%": recall_at(0.01),
    "at 5%": recall_at(0.05),
}

Scores = dict[str, float]


@dataclass(frozen=True)
class Tool:
    """A tool: the fewest bases it takes, what pip installs for it, and how it scores.

    scores: (FASTA file, folder for its results, folder of its programs) → id → score, the higher the more viral.
    """

    name: str
    least: int
    scores: Callable[[Path, Path, Path], Scores]
    packages: tuple[str, ...] = ()


def environment(packages: Sequence[str], environments: Path) -> Path:
    """The folder of programs of an environment with these packages; of this one for none."""
    if not packages:
        return Path(sys.executable).parent
    folder = environments / packages[0].partition("[")[0]
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        _call(programs / "python", "-m", "pip", "install", "--quiet", *packages)
        (folder / "complete").touch()
    return programs


def _call(*command: object) -> None:
    """Run a program; what it says is shown if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def virnucpro(model: str) -> Callable[[Path, Path, Path], Scores]:
    """A model set of this package."""

    def scores(fasta: Path, folder: Path, programs: Path) -> Scores:
        command = (programs / "python", "-m", "virnucpro", "predict", fasta, "-o", folder, "--model", model, "--quiet")
        _call(*command, "--min-length", "1", "--device", "cpu")
        return {row.id: row.score for row in Results(folder, fasta.stem).sequences() if row.score is not None}

    return scores


def deepmicroclass(fasta: Path, folder: Path, programs: Path) -> Scores:
    """The share of viral classes, of hosts of either kind, in all five; what it leaves out has zeros."""
    _call(programs / "DeepMicroClass", "predict", "-i", fasta, "-o", folder, "--device", "cpu")
    found = {}
    for row in _rows(next(folder.glob("*.tsv"))):
        names = ("Eukaryote", "EukaryoteVirus", "Plasmid", "Prokaryote", "ProkaryoteVirus")
        each = {name: float(row[name]) for name in names}
        if total := sum(each.values()):
            found[row["Sequence Name"]] = (each["EukaryoteVirus"] + each["ProkaryoteVirus"]) / total
    return found


def jaeger(fasta: Path, folder: Path, programs: Path) -> Scores:
    """The score of phages above the highest one of the other classes; it knows no other viruses."""
    _call(programs / "jaeger", "predict", "-i", fasta, "-o", folder, "--cpu", "--workers", "2", "-f")
    others = ("bacteria_score", "eukarya_score", "archaea_score")
    table = next(path for path in folder.rglob("*_jaeger.tsv") if "_phages_" not in path.name)
    return {
        row["contig_id"]: float(row["phage_score"]) - max(float(row[name]) for name in others) for row in _rows(table)
    }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as table:
        yield from csv.DictReader(table, delimiter="\t")


#: DeepMicroClass needs `requests` without saying so. Windows of Jaeger have 2,000 bases.
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("mini", 100, virnucpro("mini")),
        Tool("mini-1", 100, virnucpro("mini-1")),
        Tool("DeepMicroClass", 500, deepmicroclass, ("deepmicroclass", "requests")),
        Tool("Jaeger", 2_000, jaeger, ("jaeger-bio[cpu]",)),
    )
}


def choose(pieces: Sequence[Piece], count: int, seed: int) -> list[Piece]:
    """So many of each class: clusters in turn, each giving one more as long as it has any."""
    rng = np.random.default_rng(seed)
    found: list[Piece] = []
    for viral in (True, False):
        turns: dict[int, int] = {}
        ranked = []
        for each in (pieces[i] for i in rng.permutation(len(pieces)).tolist()):
            if each.viral == viral:
                turns[each.cluster] = turns.get(each.cluster, 0) + 1
                ranked.append((turns[each.cluster], each))
        found += [each for _, each in sorted(ranked, key=lambda row: row[0])[:count]]
    return found


def samples(pieces: Path, count: int, seed: int) -> dict[str, list[Piece]]:
    """What is compared, by what it is called; pieces are named after their table, too."""
    tables = {
        kind: [replace(each, name=f"{kind}_{each.name}") for each in read(pieces / f"{kind}.tsv")]
        for kind in (RECORDS, LENGTHS)
    }
    found = {"records of 2 to 8 kb": choose(tables[RECORDS], count, seed)}
    for length in PIECES:
        here = [each for each in tables[LENGTHS] if each.end - each.start == length]
        found[f"pieces of {length:,}"] = choose(here, count, seed)
    return found


def write_sequences(path: Path, pieces: Path, names: Container[str]) -> None:
    """Those of the tables' FASTA files that have one of the names."""
    with path.open("wb") as file:
        for kind in (RECORDS, LENGTHS):
            for record in read_records(pieces / f"{kind}.fa"):
                if isinstance(record, Record) and (name := f"{kind}_{record.id}") in names:
                    write_fasta(file, name, record.sequence)


def score(tool: Tool, pieces: Path, chosen: Iterable[Piece], out: Path, environments: Path) -> Scores:
    """Scores of those of the chosen that the tool takes, in one run."""
    names = {each.name for each in chosen if each.end - each.start >= tool.least}
    out.mkdir(parents=True, exist_ok=True)
    fasta = out / f"{tool.name}.fa"
    write_sequences(fasta, pieces, names)
    return tool.scores(fasta, out / tool.name, environment(tool.packages, environments))


def sample_of(pieces: Sequence[Piece], scores: Scores) -> Sample:
    """Those that have a score."""
    scored = [each for each in pieces if each.name in scores]
    return Sample(
        np.array([scores[each.name] for each in scored]),
        np.zeros(len(scored), bool),
        np.array([each.viral for each in scored], bool),
        np.array([each.end - each.start for each in scored]),
        np.array([each.cluster for each in scored], int),
        np.array([each.group for each in scored], str),
    )


def row(name: str, tool: Tool, sample: Sample) -> common.Row:
    """How well a tool tells the sequences of a sample; figures are empty where it takes none of a class."""
    viral, others = int(sample.viral.sum()), int((~sample.viral).sum())
    figures = {
        title: "{:.3f} [{:.3f}, {:.3f}]".format(*with_interval(sample, figure)) if viral and others else ""
        for title, figure in FIGURES.items()
    }
    return {"sequences": name, "tool": tool.name, "viral": viral, "others": others, **figures}


def main() -> None:
    """Compare and report."""
    made = common.parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--pieces", type=Path, required=True, help="folder of training.pieces: records and lengths")
    made.add_argument("--sequences", type=int, default=150, help="of either class, of every length")
    made.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="which are compared")
    made.add_argument("--out", type=Path, default=Path("peers"), help="folder for the runs")
    made.add_argument("--environments", type=Path, help="folder for the environments; else one that is removed")
    args = made.parse_args()
    chosen = samples(args.pieces, 4 if args.quick else args.sequences, args.seed)
    report, rows = common.Report("peers", args), []
    with TemporaryDirectory() as temporary:
        for tool in (TOOLS[name] for name in args.tools):
            every = (each for part in chosen.values() for each in part)
            scores = score(tool, args.pieces, every, args.out, args.environments or Path(temporary))
            rows += [row(name, tool, sample_of(part, scores)) for name, part in chosen.items()]
    order = list(chosen)
    rows.sort(key=lambda each: order.index(str(each["sequences"])))
    least = ", ".join(f"{tool.name} {tool.least}" for tool in TOOLS.values())
    report.table("peers", f"Fewest bases that each takes: {least}", rows)


if __name__ == "__main__":
    common.run_main(main)
