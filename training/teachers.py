"""Teachers: networks that each have not seen one fold of the clusters, and what they say of windows of that fold.

An encoder that learns the true classes learns its windows by heart. So most of its target is what others say of a
window whose cluster they have not seen: how viral it looks, not which it is. (Predictions out of fold: stacked
generalization, Wolpert 1992. A network taught by networks: Hinton, Vinyals and Dean 2015.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training import encoders, metrics
from training.genomes import FOLDS, Genomes
from training.heldout import HeldOut, embed_rows
from training.networks import FiveMerNetwork, TrainedEncoder
from training.recipes import DNA, FIVEMER, PROTEIN, READS, TEACHER_SIZES, TEACHERS, TRUST
from training.windows import SHARES, SIZES, Draws, Examples, Sampler

#: Draws that the words of the teachers are weighed on.
WEIGHED = 8


def path_of(folder: Path, kind: str, fold: int) -> Path:
    """The file of the teacher of a kind that has not seen `fold`."""
    return folder / f"{kind}-{fold}.safetensors"


def untrained(kind: str, groups: int, seed: int) -> dict[str, nn.Module]:
    """A new teacher, with the baseline beside one that reads DNA."""
    torch.manual_seed(seed)
    part, recipe = TEACHERS[kind].part, TEACHERS[kind].recipe
    with tempfile.TemporaryDirectory() as folder:
        encoders.start(Path(folder), seed, TEACHER_SIZES)
        found: dict[str, nn.Module] = {part: encoders.trained(Path(folder), groups, recipe.dropout)[part]}
    return found | ({FIVEMER: FiveMerNetwork()} if part == DNA else {})


class Teachers:
    """The trained teachers in a folder. networks: by kind, one a fold; parts: what each kind is."""

    def __init__(self, folder: Path, genomes: Genomes, device: torch.device) -> None:
        self.device, self.fold = device, torch.from_numpy(genomes.fold).to(device)
        self.networks: dict[str, list[Any]] = {}
        self.parts: dict[str, str] = {}
        for kind in TEACHERS:
            loaded = [self._load(folder, kind, fold, len(genomes.names)) for fold in range(FOLDS)]
            for part in loaded[0]:
                name = kind if part == TEACHERS[kind].part else part
                if name not in self.networks:
                    self.networks[name], self.parts[name] = [each[part] for each in loaded], part
        self.framed, self.bare = (nn.Linear(len(self.networks), 1).to(device) for _ in range(2))

    def _load(self, folder: Path, kind: str, fold: int, groups: int) -> dict[str, nn.Module]:
        networks = nn.ModuleDict(untrained(kind, groups, seed=0))
        networks.load_state_dict(load_file(path_of(folder, kind, fold)))
        return dict(networks.to(self.device).eval().items())

    @torch.inference_mode()
    def say(self, batch: Examples) -> Tensor:
        """(n, kinds) log odds of viral by the teachers that have not seen the window's fold; 0 without a protein."""
        found = torch.zeros(len(batch.record), len(self.networks), device=self.device)
        folds = self.fold[batch.record]
        for column, (kind, networks) in enumerate(self.networks.items()):
            part = self.parts[kind]
            has = batch.framed if part == PROTEIN else torch.ones_like(batch.framed)
            for fold, network in enumerate(networks):
                rows = ((folds == fold) & has).nonzero()[:, 0]
                found[rows, column] = log_odds(network, getattr(batch, READS[part])[rows])
        return found

    def weigh(self, unseen: Sampler) -> dict[str, Any]:
        """Fit what each kind's word weighs to windows of clusters that none has seen; returns weights and AUROCs."""
        batches = [unseen.draw(unseen.window()) for _ in range(WEIGHED)]
        said = torch.cat([self.say(batch) for batch in batches])
        framed, viral = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("framed", "viral"))
        for network, rows in ((self.framed, framed), (self.bare, ~framed)):
            # Cloned, since tensors of inference mode cannot take part in training.
            fit_logistic(network, said[rows].clone(), viral[rows].float())
        words = {**dict(zip(self.networks, said.T, strict=True)), "all": self.together(said, framed)}
        truth = viral.cpu().numpy() > 0
        return {
            "weights": [network.weight[0].tolist() for network in (self.framed, self.bare)],
            "unseen": {name: metrics.auroc(each.double().cpu().numpy(), truth) for name, each in words.items()},
        }

    @torch.inference_mode()
    def together(self, said: Tensor, framed: Tensor) -> Tensor:
        """(n,) probabilities of viral from what all kinds say."""
        return torch.where(framed, self.framed(said)[:, 0], self.bare(said)[:, 0]).sigmoid()

    def target(self, batch: Examples) -> Tensor:
        """(n,) probabilities of viral to be learned."""
        return TRUST * self.together(self.say(batch), batch.framed) + (1 - TRUST) * batch.viral

    def auroc(self, held: HeldOut, codes: NDArray[np.uint8]) -> dict[str, float]:
        """Of genomes that none has seen, by the mean of all folds' words; codes: (windows, most bases)."""
        frames = len(held.frames)
        said = torch.zeros(len(held.dna), len(self.networks), device=self.device)
        for column, (kind, networks) in enumerate(self.networks.items()):
            words = torch.stack([self._of(network, self.parts[kind], held, codes) for network in networks])
            said[: words.shape[1], column] = words.mean(0)
        framed = torch.arange(len(held.dna), device=self.device) < frames
        found = {kind: said[:, column].sigmoid() for column, kind in enumerate(self.networks)}
        found["all"] = self.together(said, framed)
        return {name: metrics.auroc(held.of_rows(each.cpu().numpy()), held.viral) for name, each in found.items()}

    @torch.inference_mode()
    def _of(self, network: Any, part: str, held: HeldOut, codes: NDArray[np.uint8]) -> Tensor:
        """(frames and bare windows,) log odds; of proteins (frames,)."""
        if isinstance(network, TrainedEncoder):
            return network.logits(embed_rows(network, getattr(held, part), self.device))[:, :2].diff()[:, 0]
        windows = torch.from_numpy(codes[np.r_[held.frames, held.bare]]).to(self.device)
        return torch.cat([log_odds(network, rows) for rows in torch.split(windows, 4096)])


def log_odds(network: Any, rows: Tensor) -> Tensor:
    """(n,) log odds of viral of rows of ids or, for the baseline, bases."""
    fast = rows.device.type == "cuda" and isinstance(network, TrainedEncoder)
    with torch.autocast(rows.device.type, torch.bfloat16, fast):
        found: Tensor = network.classes(rows).float().diff(dim=1)[:, 0]
    return found


def fit_logistic(network: nn.Linear, x: Tensor, target: Tensor) -> None:
    """Logistic regression."""
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(network(x)[:, 0], target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    step: Callable[[Callable[[], Tensor]], Tensor] = optimizer.step
    step(closure)


class Pool(Draws):
    """Windows drawn once and given targets by teachers, to be drawn from again and again."""

    #: What is kept smaller than it is used.
    SMALL: ClassVar = {"dna": torch.int16, "protein": torch.uint8}

    def __init__(self, source: Sampler, teachers: Teachers, windows: int, size: int) -> None:
        super().__init__(source.random, source.choice, size)
        counts = {each: round(windows * share) for each, share in zip(SIZES, SHARES, strict=True)}
        self.examples = {each: self._drawn(source, teachers, each, count) for each, count in counts.items()}

    def _drawn(self, source: Sampler, teachers: Teachers, size: int, windows: int) -> dict[str, Tensor]:
        """At least so many windows of at most `size` bases."""
        parts: dict[str, list[Tensor]] = {field.name: [] for field in fields(Examples)}
        for _ in range(-(-windows // source.size)):
            batch = source.draw(size)
            for name, values in parts.items():
                each = teachers.target(batch) if name == "target" else getattr(batch, name)
                values.append(each.to(self.SMALL.get(name, each.dtype)))
        return {name: torch.cat(values) for name, values in parts.items()}

    def draw(self, size: int) -> Examples:
        """A batch of windows of at most `size` bases."""
        kept = self.examples[size]
        device = kept["target"].device
        rows = torch.randint(len(kept["target"]), (self.size,), generator=self.random, device=device)
        found = {name: each[rows] for name, each in kept.items()}
        return Examples(**found | {name: found[name].long() for name in self.SMALL})
