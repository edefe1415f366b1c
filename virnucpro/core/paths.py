"""Every file name of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    def lock(self) -> Path:
        """Held by the run that is on."""
        return self.work / "lock"

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

    def part(self, number: int) -> Path:
        """Work file `number`."""
        return self.parts / f"{number:06d}.fa"

    def shard(self, part: Path) -> Path:
        """Result of a work file, as workers name it."""
        return self.shards / f"{part.name}.h5"

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)
