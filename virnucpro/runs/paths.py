"""Every file name of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Name:
    """A file in the folder of the output; {} in its name is replaced by the name of the output."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __get__(self, paths: RunPaths, _owner: type[RunPaths]) -> Path:
        return paths.output.with_name(self.pattern.format(paths.output.name))


@dataclass(frozen=True)
class RunPaths:
    """Files of a run that writes `output`: all are next to it, except for a work folder that the user has chosen."""

    output: Path
    work_dir: Path | None = None

    #: What messages call the output.
    shown = Name("{}")
    #: The run record.
    record = Name("{}.run.json")
    #: What failed, and why.
    failed = Name("{}.failed.tsv")
    #: All messages.
    log = Name("{}.log")
    #: Held by the active run; next to the output, which it guards.
    lock = Name(".{}.lock")
    #: The work folder, unless the user wants another.
    own_work = Name("{}.work")

    @property
    def folder(self) -> Path:
        """The folder of the output."""
        return self.output.parent

    @property
    def work(self) -> Path:
        """Folder of the files that are needed only during the run."""
        return self.work_dir or self.own_work

    @property
    def parts(self) -> Path:
        """Folder of the work files."""
        return self.work / "parts"

    @property
    def shards(self) -> Path:
        """Folder of the results of work files, one for each."""
        return self.work / "shards"

    @property
    def streams(self) -> Path:
        """Folder of copies of inputs that can be read only once: standard input, pipes."""
        return self.work / "streams"

    @property
    def kept(self) -> tuple[Path, ...]:
        """The folders in `work` from which a later run can continue."""
        return self.parts, self.shards

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders in `work`."""
        return *self.kept, self.streams

    def part_file(self, name: str, suffix: str) -> Path:
        """One of the files of a work file."""
        return self.parts / f"{name}{suffix}"

    def shard(self, part: Path) -> Path:
        """Result of a work file, as workers name it."""
        return self.shards / f"{part.name}.h5"


class TrainPaths(RunPaths):
    """Files of `virnucpro train`: `output` is the folder of the classifier and, in it, `train`."""

    shown = RunPaths.folder
    #: The model card for readers.
    text = Name("MODEL_CARD.md")
    curves = Name("curves.svg")

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those of every run, and that of the features."""
        return *super().folders, self.work / "features"

    def features(self, name: str) -> Path:
        """Features of all work files in one array, during the run."""
        return self.work / "features" / f"{name}.npy"


class OrfsPaths(RunPaths):
    """Files of `virnucpro orfs`: `output` is the prefix of all; the record is named differently from `predict`'s."""

    shown = Name("{}.*")
    windows = Name("{}.windows.fa")
    #: Nucleotides of the open frames.
    nucleotides = Name("{}.orfs.fna")
    #: Their proteins.
    proteins = Name("{}.orfs.faa")
    record = Name("{}.orfs.run.json")
    log = Name("{}.orfs.log")
    own_work = Name("{}.orfs.work")

    @property
    def results(self) -> tuple[Path, Path, Path]:
        """The results of every complete run."""
        return self.windows, self.nucleotides, self.proteins


class SplitPaths(RunPaths):
    """Files of `virnucpro split`: `output` is the folder of the pieces and, in it, `split`."""

    shown = RunPaths.folder
    #: What the pieces are, and what they were cut from.
    record = Name("{}.json")

    def pieces(self, most: int) -> tuple[Path, ...]:
        """The paths of so many pieces."""
        return tuple(self.folder / f"{number:04d}.fa" for number in range(1, most + 1))


class PredictPaths(RunPaths):
    """Files of `virnucpro predict`: `output` is the folder and, in it, the prefix of the results."""

    shown = Name("{}.*")
    log = Name("run.log")
    #: A row for each sequence, each window, each viral region.
    sequences = Name("{}.sequences.tsv")
    windows = Name("{}.windows.tsv.gz")
    regions = Name("{}.regions.bed")
    #: Viral sequences and regions as annotation.
    annotation = Name("{}.regions.gff3")
    #: The viral sequences, and a row for each of them.
    viruses = Name("{}.virus.fna")
    virus_summary = Name("{}.virus_summary.tsv")
    #: Every score, exact, for making calls again.
    scores = Name("{}.scores.gz")
    #: The page that shows it all.
    report = Name("{}.report.html")
    #: The published tool's tables of frames and of windows.
    vanilla_scores = Name("prediction_results.txt")
    vanilla_calls = Name("prediction_results_highestscore.csv")

    def embeddings(self, which: str, suffix: str) -> Path:
        """Embeddings to keep: `which` is dna or protein (.h5), DNABERT_S, ESM or merged (.pt)."""
        between = "." if suffix == ".h5" else "_"
        return self.output.with_name(f"{self.output.name}{between}{which}{suffix}")


class SamplePaths(RunPaths):
    """Files about all samples: `output` is the folder that holds the samples' own and, in it, `samples`."""

    table = Name("{}.tsv")
    report = Name("{}.report.html")
