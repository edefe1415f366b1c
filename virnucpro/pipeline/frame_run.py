"""What a run over windows is made of, be it to call sequences or to train: cutting, and the encoders of a set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from virnucpro.input.index import WorkFile
from virnucpro.models.local import LocalModel
from virnucpro.pipeline.caller import CalledFiles, call_files
from virnucpro.pipeline.placement import threads_a_worker
from virnucpro.pipeline.run import Run, balance
from virnucpro.runs.paths import RunPaths

Result = TypeVar("Result")


class FrameRun(Run[Result]):
    """A run that cuts sequences into frames, or windows, and has them embedded, and maybe scored, on all devices.

    `choose` of a subclass sets `encoders` and `rules` besides `placement`.
    """

    #: That of DNA, and that of proteins if the set reads frames.
    encoders: tuple[LocalModel, ...]

    @property
    def models(self) -> dict[str, LocalModel]:
        """The encoders."""
        return dict(zip(("DNA model", "protein model"), self.encoders, strict=False))

    def rules_identity(self) -> dict[str, Any]:
        """The rules of cutting, for `own_identity`."""
        return {
            "window": self.rules.window,
            "frames": "exact" if self.rules.exact else "published",
            "min length": self.rules.min_length,
            "windows without a frame": self.rules.dna_only,
            "reads": self.rules.reads,
        }

    def call(self, stage: str, classifier: Path | None, vectors: bool) -> Called:
        """Bring every work file to its end, and note in the record how the devices shared the work."""
        place, paths = self.placement, self.paths
        run = {"fingerprint": self.fingerprint}
        files = CalledFiles(paths.shards, self.encoders, place.budgets, place.dtype, classifier, vectors, run)
        counts = {paths.part_file(part.name, ".fna"): 2 * part.frames + part.whole for part in self.plan.parts}
        with self.session.stage(stage):
            end = call_files(
                files,
                {path: count for path, count in counts.items() if count},
                place.names,
                threads=threads_a_worker(len(place.devices), self._config.threads),
                listen=self.listen,
                stall_seconds=60 * self._config.stall_minutes,
            )
        self.session.own.details |= balance(end.stats)
        return Called(paths, files, {path.name: reason for path, reason in end.failed.items()})


@dataclass(frozen=True)
class Called:
    """Work files that were brought to their end; failed: names of those that failed, and why."""

    paths: RunPaths
    files: CalledFiles
    failed: dict[str, str]

    def failure(self, part: WorkFile) -> str:
        """Why a work file has no results; empty if it has."""
        reason = self.failed.get(f"{part.name}.fna")
        return f"its work file failed: {reason}" if reason else ""

    def source(self, part: WorkFile) -> Path | None:
        """The work file, if it has results; None if there was nothing in it to embed, or if it failed."""
        there = part.frames + part.whole and not self.failure(part)
        return self.paths.part_file(part.name, ".fna") if there else None
