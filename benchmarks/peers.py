"""How well `mini` and other tools tell viral sequences, on the same sequences of dev.

    python -m training.pieces --genomes dev.npz --out dev_pieces --kinds windows lengths records
    python -m benchmarks.peers --pieces dev_pieces --out peers --json peers.json

DeepMicroClass (Hou et al. 2024, doi:10.1093/nargab/lqae044) and Jaeger (Wijesekara et al. 2024,
doi:10.1101/2024.09.24.612722) come from PyPI with the weights that they ship, each into an environment of its own.
**Their training may hold these very sequences**, which are of public genomes; ours does not. A
sequence that is shorter than a tool takes has no score there and counts in none of its figures.

Of windows of 500 bases, of pieces of 2,000 and of whole records of 2 to 8 kb as many of each kingdom are drawn, as far
as there are. Scores alone are compared, no thresholds: AUROC of viral sequences, and of phages, against prokaryotes and
against eukaryotes, and the share of viral ones above the score that 1% or 5% of the others reach (kingdoms weighing the
same). Intervals: 95%, from drawing clusters.

Scores are kept in `OUT/TOOL-VERSION.tsv` after every batch, by the checksums of sequences: the same command goes on
from there, and of another version of a tool, or another model, scores are computed anew.
"""

from __future__ import annotations

import csv
import hashlib
import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import common
from training.kingdoms import KINGDOMS, kingdom_of
from training.measure import OTHERS, Figure, Sample, against, recall_at, with_interval
from training.pieces import Piece, read
from virnucpro.calls.read import Results
from virnucpro.input.fasta import Record, read_records, write_fasta
from virnucpro.io.files import atomic_path
from virnucpro.models.sets import resolve_set

#: What is compared: windows and pieces of these lengths, whole records.
KINDS, WINDOW, LENGTH = ("windows", "lengths", "records"), 500, 2_000
FIGURES: Mapping[str, Figure] = {
    "AUROC": against(lambda sample: sample.viral),
    **{f"AUROC, {kingdom}s": against(lambda sample: sample.viral, (kingdom,)) for kingdom in OTHERS},
    **{f"phages, {kingdom}s": against(lambda sample: sample.kingdom == "phage", (kingdom,)) for kingdom in OTHERS},
    "at 1%": recall_at(0.01),
    "at 5%": recall_at(0.05),
}
#: Sequences that a tool is given at a time.
BATCH = 100

Scores = dict[str, float]


@dataclass(frozen=True)
class Tool:
    """A tool: its version, the fewest bases it takes, what pip installs for it, and how it scores.

    scores: (FASTA file, folder for its results, folder of its programs) → id → score, the higher the more viral.
    """

    name: str
    version: Callable[[], str]
    least: int
    scores: Callable[[Path, Path, Path], Scores]
    packages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name, and the version of what pip installs."""
        return f"{self.name} {self.version()}" if self.packages else self.name


def environment(packages: Sequence[str], environments: Path) -> Path:
    """The folder of programs of an environment with these packages; of this one for none."""
    if not packages:
        return Path(sys.executable).parent
    folder = environments / re.split(r"[\[=]", packages[0])[0]
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
        rows = Results(folder, fasta.stem).sequences()
        return {row["sequence_id"]: row["score"] for row in rows if row["score"] is not None}

    return scores


def deepmicroclass(fasta: Path, folder: Path, programs: Path) -> Scores:
    """The share of viral classes, of hosts of either kind, in all five; what it leaves out has zeros."""
    _call(programs / "DeepMicroClass", "predict", "-i", fasta, "-o", folder, "--device", "cpu", "--cpu_thread", 1)
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


def of_set(name: str) -> Tool:
    """A model set of this package; its version is a checksum of its card, which holds those of its files."""
    return Tool(name, lambda: checksum(repr(replace(resolve_set(name).card, metrics={})))[:8], 100, virnucpro(name))


#: DeepMicroClass needs `requests` without saying so. Windows of Jaeger have 2,000 bases.
TOOLS = {
    tool.name: tool
    for tool in (
        of_set("mini"),
        of_set("mini-1"),
        Tool("DeepMicroClass", lambda: "1.0.6.2", 500, deepmicroclass, ("deepmicroclass==1.0.6.2", "requests")),
        Tool("Jaeger", lambda: "1.26.5", 2_000, jaeger, ("jaeger-bio[cpu]==1.26.5",)),
    )
}


def choose(pieces: Sequence[Piece], count: int, seed: int) -> list[Piece]:
    """So many of each kingdom, at random, or all that there are."""
    order = [pieces[i] for i in np.random.default_rng(seed).permutation(len(pieces)).tolist()]
    return [
        each
        for kingdom in KINGDOMS
        for each in islice((piece for piece in order if kingdom_of(piece.group) == kingdom), count)
    ]


def samples(pieces: Path, count: int, seed: int) -> dict[str, list[Piece]]:
    """What is compared, by what it is called; pieces are named after their table, too."""
    windows, lengths, records = (
        [replace(each, name=f"{kind}_{each.name}") for each in read(pieces / f"{kind}.tsv")] for kind in KINDS
    )
    parts = {
        f"windows of {WINDOW}": [each for each in windows if each.end - each.start == WINDOW],
        f"pieces of {LENGTH:,}": [each for each in lengths if each.end - each.start == LENGTH],
        "records of 2 to 8 kb": records,
    }
    return {name: choose(part, count, seed) for name, part in parts.items()}


def sequences(pieces: Path) -> dict[str, str]:
    """All of the tables' FASTA files, by their names in `samples`."""
    return {
        f"{kind}_{record.id}": record.sequence
        for kind in KINDS
        for record in read_records(pieces / f"{kind}.fa")
        if isinstance(record, Record)
    }


class KeptScores:
    """What a version of a tool makes of sequences, by their checksums, in a table; None: it gives no score."""

    def __init__(self, tool: Tool, out: Path) -> None:
        self.tool, self.out = tool, out
        self.path = out / f"{tool.name}-{tool.version()}.tsv"
        self.found = dict(self._read()) if self.path.exists() else {}

    def _read(self) -> Iterator[tuple[str, float | None]]:
        with open(self.path, encoding="ascii", newline="") as table:
            yield from ((key, float(score) if score else None) for key, score in csv.reader(table, delimiter="\t"))

    def of(self, wanted: Mapping[str, str]) -> Scores:
        """Scores by name, of those of the sequences that the tool takes; what is not kept is computed."""
        keys = {name: checksum(bases) for name, bases in wanted.items() if len(bases) >= self.tool.least}
        left = {key: name for name, key in keys.items() if key not in self.found}
        while batch := dict(islice(left.items(), BATCH)):
            print(f"{self.tool.name}: {len(left)} sequences left", file=sys.stderr)
            found = self._compute({name: wanted[name] for name in batch.values()})
            self._keep({key: found.get(name) for key, name in batch.items()})
            left = {key: name for key, name in left.items() if key not in batch}
        scores = {name: self.found[key] for name, key in keys.items()}
        return {name: score for name, score in scores.items() if score is not None}

    def _compute(self, batch: Mapping[str, str]) -> Scores:
        programs = environment(self.tool.packages, self.out / "environments")
        with TemporaryDirectory() as folder:
            fasta = Path(folder, "sequences.fa")
            with fasta.open("wb") as file:
                for name, bases in batch.items():
                    write_fasta(file, name, bases)
            return self.tool.scores(fasta, Path(folder, "results"), programs)

    def _keep(self, scores: Mapping[str, float | None]) -> None:
        self.found |= scores
        with atomic_path(self.path) as path, open(path, "w", encoding="ascii", newline="") as table:
            rows = ((key, "" if score is None else repr(score)) for key, score in self.found.items())
            csv.writer(table, delimiter="\t", lineterminator="\n").writerows(rows)


def checksum(text: str) -> str:
    """By which a sequence, or a card, is known."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    return {"sequences": name, "tool": tool.title, "viral": viral, "others": others, **figures}


def main() -> None:
    """Compare and report."""
    made = common.parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--pieces", type=Path, required=True, help="folder of training.pieces: windows, lengths, records")
    made.add_argument("--sequences", type=int, default=300, help="of each kingdom, of every kind (%(default)s)")
    made.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="which are compared (all)")
    made.add_argument(
        "--out", type=Path, default=Path("peers"), help="folder for scores and environments (%(default)s)"
    )
    args = made.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = samples(args.pieces, 4 if args.quick else args.sequences, args.seed)
    names = {each.name for part in chosen.values() for each in part}
    wanted = {name: bases for name, bases in sequences(args.pieces).items() if name in names}
    report, tools = common.Report("peers", args), [TOOLS[name] for name in args.tools]
    scores = {tool.name: KeptScores(tool, args.out).of(wanted) for tool in tools}
    rows = [row(name, tool, sample_of(part, scores[tool.name])) for name, part in chosen.items() for tool in tools]
    least = ", ".join(f"{tool.name} {tool.least}" for tool in TOOLS.values())
    report.table("peers", f"Fewest bases that each takes: {least}", rows)


if __name__ == "__main__":
    common.run_main(main)
