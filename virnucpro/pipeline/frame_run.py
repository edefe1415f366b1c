"""What a run over windows is made of, be it to call sequences or to train: cutting, and the encoders of a set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from virnucpro.input.index import WorkFile
from virnucpro.models.registry import LocalModel
from virnucpro.pipeline.encode import Encoding
from virnucpro.pipeline.encode import WorkFile as CountedFile
from virnucpro.pipeline.features import EmbeddedParts
from virnucpro.pipeline.run import Run, balance
from virnucpro.pipeline.work_queue import QueueResult

Result = TypeVar("Result")


class FrameRun(Run[Result]):
    """A run that cuts sequences into frames, or windows, and embeds their DNA, then their proteins, on all devices.

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

    def _work_files(self, suffix: str, count: Callable[[WorkFile], int]) -> list[CountedFile]:
        found = (CountedFile(self.paths.part_file(part.name, suffix), count(part)) for part in self.plan.parts)
        return [file for file in found if file.sequences]


def _failed(*ends: QueueResult) -> dict[str, str]:
    return {path.name: reason for end in ends for path, reason in end.failed.items()}
