"""Every file name of a run, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.runs.config import STDIN


@dataclass(frozen=True)
class RunPaths:
    """Files of a run that writes `output`; all stand beside it, the work folder where the user wants it."""

    output: Path
    work_dir: Path | None = None

    @property
    def work(self) -> Path:
        """Folder of what is needed only while the run is on."""
        return self.work_dir or self._beside(".work")

    @property
    def parts(self) -> Path:
        """Folder of the work files."""
        return self.work / "parts"

    @property
    def shards(self) -> Path:
        """Folder of the results, one a work file."""
        return self.work / "shards"

    @property
    def streams(self) -> Path:
        """Folder of copies of inputs that can be read only once: standard input, pipes."""
        return self.work / "streams"

    def stream(self, index: int) -> Path:
        """Copy of input `index`."""
        return self.streams / str(index)

    @property
    def kept(self) -> tuple[Path, ...]:
        """The folders in `work` that a later run can go on from."""
        return self.parts, self.shards

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders in `work`: they hold what is needed only while the run is on."""
        return *self.kept, self.streams

    @property
    def lock(self) -> Path:
        """Held by the run that is on: beside the output, since that is what it guards."""
        return self.output.with_name(f".{self.output.name}.lock")

    @property
    def manifest(self) -> Path:
        """The run record."""
        return self._beside(".run.json")

    @property
    def failed(self) -> Path:
        """What came to nothing, and why."""
        return self._beside(".failed.tsv")

    @property
    def log(self) -> Path:
        """Everything that was said."""
        return self._beside(".log")

    def part_file(self, name: str, suffix: str) -> Path:
        """One of the files of a work file."""
        return self.parts / f"{name}{suffix}"

    def shard(self, part: Path) -> Path:
        """Result of a work file, as workers name it."""
        return self.shards / f"{part.name}.h5"

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)


@dataclass(frozen=True)
class TrainPaths(RunPaths):
    """Files of `virnucpro train`: `output` is the folder of the classifier and, in it, `train`."""

    @property
    def folder(self) -> Path:
        """Where the classifier is written."""
        return self.output.parent

    @property
    def text(self) -> Path:
        """The model card, to read."""
        return self.folder / "MODEL_CARD.md"

    @property
    def curves(self) -> Path:
        """The curves, as a picture."""
        return self.folder / "curves.svg"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those of every run, and that of the features."""
        return *super().folders, self.work / "features"

    def features(self, name: str) -> Path:
        """Features of all work files in one array, while the run is on."""
        return self.work / "features" / f"{name}.npy"


@dataclass(frozen=True)
class OrfsPaths(RunPaths):
    """Files of `virnucpro orfs`, whose results `output` begins; the record is named unlike that of `predict`."""

    @property
    def results(self) -> tuple[Path, Path, Path]:
        """What a complete run leaves for the user, whatever came out."""
        return self.windows, self.nucleotides, self.proteins

    @property
    def windows(self) -> Path:
        """The windows."""
        return self._beside(".windows.fa")

    @property
    def nucleotides(self) -> Path:
        """Nucleotides of the open frames."""
        return self._beside(".orfs.fna")

    @property
    def proteins(self) -> Path:
        """Their proteins."""
        return self._beside(".orfs.faa")

    @property
    def manifest(self) -> Path:
        """The run record."""
        return self._beside(".orfs.run.json")

    @property
    def log(self) -> Path:
        """Everything that was said."""
        return self._beside(".orfs.log")

    @property
    def work(self) -> Path:
        """Folder of what is needed only while the run is on."""
        return self._beside(".orfs.work")


@dataclass(frozen=True)
class SplitPaths(RunPaths):
    """Files of `virnucpro split`: `output` is the folder of the pieces and, in it, `split`."""

    @property
    def folder(self) -> Path:
        """Where the pieces stand."""
        return self.output.parent

    @property
    def manifest(self) -> Path:
        """What the pieces are, and what they were cut from."""
        return self._beside(".json")

    def pieces(self, most: int) -> tuple[Path, ...]:
        """The pieces, where there are so many."""
        return tuple(self.folder / f"{number:04d}.fa" for number in range(1, most + 1))


@dataclass(frozen=True)
class PredictPaths(RunPaths):
    """Files of `virnucpro predict`: `output` is the folder and, in it, what the results' names begin with."""

    @property
    def folder(self) -> Path:
        """Where the results stand."""
        return self.output.parent

    @property
    def log(self) -> Path:
        """Everything that was said."""
        return self.folder / "run.log"

    @property
    def sequences(self) -> Path:
        """A row for each sequence."""
        return self._beside(".sequences.tsv")

    @property
    def windows(self) -> Path:
        """A row for each window."""
        return self._beside(".windows.tsv.gz")

    @property
    def regions(self) -> Path:
        """Viral regions."""
        return self._beside(".regions.bed")

    @property
    def features(self) -> Path:
        """Viral sequences and regions as annotation."""
        return self._beside(".regions.gff3")

    @property
    def viruses(self) -> Path:
        """The viral sequences."""
        return self._beside(".virus.fna")

    @property
    def scores(self) -> Path:
        """Every score, exact, for whoever calls them again."""
        return self._beside(".scores.gz")

    @property
    def virus_summary(self) -> Path:
        """A row for each of the viral sequences."""
        return self._beside(".virus_summary.tsv")

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return self._beside(".report.html")

    @property
    def vanilla_scores(self) -> Path:
        """The published tool's table of frames."""
        return self.folder / "prediction_results.txt"

    @property
    def vanilla_calls(self) -> Path:
        """The published tool's table of windows."""
        return self.folder / "prediction_results_highestscore.csv"

    def embeddings(self, which: str, suffix: str) -> Path:
        """Embeddings to keep: `which` is dna or protein (.h5), DNABERT_S, ESM or merged (.pt)."""
        return self._beside(f".{which}{suffix}" if suffix == ".h5" else f"_{which}{suffix}")


@dataclass(frozen=True)
class SamplePaths:
    """What tells about all samples, in the folder that holds theirs."""

    folder: Path

    @property
    def table(self) -> Path:
        """A row for each sample."""
        return self.folder / "samples.tsv"

    @property
    def failed(self) -> Path:
        """Samples that came to nothing, and why."""
        return self.folder / "samples.failed.tsv"

    @property
    def report(self) -> Path:
        """The page over all of them."""
        return self.folder / "samples.report.html"


def check_input(path: Path) -> None:
    """Raise InputError for a file that is not there or is a folder."""
    if path != STDIN and not os.path.exists(path):
        raise InputError(f"{path} does not exist", hint="check the path")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder", hint="give its files, for example with a pattern")
