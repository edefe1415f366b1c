"""What a run over windows is made of, be it to call sequences or to train: cutting, and the encoders of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from virnucpro.models.local import LocalModel
from virnucpro.pipeline.encode import Encoding, WorkFile
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.features import EmbeddedParts
from virnucpro.pipeline.frame_split import FramePart, FramePlan, FrameSplitter, Rules
from virnucpro.pipeline.run import Run, balance
from virnucpro.pipeline.work_queue import QueueResult
from virnucpro.runs.config import RunConfig
from virnucpro.runs.paths import RunPaths

Result = TypeVar("Result")


class FrameRun(Run[Result]):
    """A run that cuts sequences into frames, or windows, and embeds their DNA, then their proteins, on all devices.

    `choose` of a subclass sets `encoders` and `rules` besides `placement`.
    """

    #: That of DNA, and that of proteins if the set reads frames.
    encoders: tuple[LocalModel, ...]
    rules: Rules

    def __init__(self, config: RunConfig, paths: RunPaths, listener: Listener | None) -> None:
        super().__init__(config, paths, listener)
        self._most = config.sequences_per_file

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

    def split(self) -> dict[str, Any]:
        """Cut the input into work files of frames."""
        splitter = FrameSplitter(self.paths, self.rules, self._most, len(self.placement.devices))
        return splitter.split(self.inputs.paths, self.inputs.shown).to_json()

    def take_plan(self, plan: dict[str, Any]) -> None:
        """The work files."""
        self.plan = FramePlan.from_json(plan)

    def work_files(self) -> Iterator[tuple[Path, str]]:
        """All files of the work files, with their sha256."""
        for part in self.plan.parts:
            for suffix, checksum in zip(self.rules.suffixes, part.sums, strict=True):
                yield self.paths.part_file(part.name, suffix), checksum

    def encode(self) -> EmbeddedParts:
        """Embed every work file with the encoders, and note in the record how the devices shared the work."""
        dna, *others = (
            Encoding(model, self.placement, self.paths.shards, self.attributes(model)) for model in self.encoders
        )
        protein = others[0] if others else None
        ends = {}
        with self.session.stage("embedding DNA"):
            ends["DNA"] = dna.run(self._work_files(".fna", lambda part: part.frames + part.whole), self.listen)
        if protein is not None:
            with self.session.stage("embedding proteins"):
                ends["protein"] = protein.run(self._work_files(".faa", lambda part: part.frames), self.listen)
        self.session.own.details["encoders"] = {name: balance(end.stats) for name, end in ends.items()}
        return EmbeddedParts(self.paths, dna, protein, _failed(*ends.values()))

    def _work_files(self, suffix: str, count: Callable[[FramePart], int]) -> list[WorkFile]:
        found = (WorkFile(self.paths.part_file(part.name, suffix), count(part)) for part in self.plan.parts)
        return [file for file in found if file.sequences]


def _failed(*ends: QueueResult) -> dict[str, str]:
    return {path.name: reason for end in ends for path, reason in end.failed.items()}
