"""Fit the classifiers of the set `mini-1` to frozen encoders: one for open frames, one for windows without.

    python -m training.fit_mini --train train.npz --dev dev.npz --out FOLDER

`FOLDER` holds the encoders, and gets `classifier.safetensors` and `dna_only.safetensors`. They are fitted to windows of
clusters that the encoders have not seen, since vectors of what an encoder knows by heart are too sure. Scores are
calibrated by a temperature each, on dev.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from training import encoders, fit, metrics
from training.heldout import HeldOut, embed_rows
from training.networks import TrainedDNABERT, TrainedESM2
from training.train_mini import Data, parser, prepare
from training.windows import SIZES


@dataclass(frozen=True)
class DevFeatures:
    """Held-out windows with the features of their frames, and the DNA vectors of windows without one."""

    held: HeldOut
    framed: Tensor
    bare: Tensor

    @classmethod
    def of(cls, held: HeldOut, dna: TrainedDNABERT, protein: TrainedESM2, device: torch.device) -> DevFeatures:
        """Embed."""
        vectors, frames = embed_rows(dna, held.dna, device), len(held.frames)
        return cls(held, torch.cat((vectors[:frames], embed_rows(protein, held.protein, device)), 1), vectors[frames:])

    def auroc(self, both: fit.Published, alone: fit.Published) -> dict[str, float]:
        """Of all windows, of those with an open frame, of those without."""
        with torch.no_grad():
            framed, bare = (net(x).softmax(1).cpu().numpy() for net, x in ((both, self.framed), (alone, self.bare)))
        scores, viral = self.held.scores(framed, bare[:, 1]), self.held.viral
        without = np.isin(np.arange(len(viral)), self.held.bare)
        parts = {"all": without | True, "with frame": ~without, "without": without}
        return {name: metrics.auroc(scores[part], viral[part]) for name, part in parts.items()}

    def calibrate(self, both: fit.Published, alone: fit.Published) -> tuple[float, float]:
        """Calibrate both, on frames and on windows without one; both classes of windows weigh the same."""
        counts = np.bincount(self.held.viral, minlength=2)
        weight = torch.from_numpy(len(self.held.viral) / (2 * counts)).float().to(self.framed.device)
        return (
            fit.calibrate(both, (self.framed, self._viral(self.held.frames)), weight),
            fit.calibrate(alone, (self.bare, self._viral(self.held.bare)), weight),
        )

    def _viral(self, windows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.held.viral[windows].astype(np.int64)).to(self.framed.device)


def fit_mini(data: Data, args: argparse.Namespace) -> None:
    """Fit to the chosen records, calibrate, write."""
    networks = encoders.trained(args.out, len(data.genomes.names), 0)
    dna, protein = networks["dna"].to(data.device).eval(), networks["protein"].to(data.device).eval()
    assert isinstance(dna, TrainedDNABERT)
    assert isinstance(protein, TrainedESM2)
    dev = {size: DevFeatures.of(held, dna, protein, data.device) for size, held in data.dev.items()}
    unseen = data.sampler(data.genomes.kept_back, data.seed + 1)
    framed, bare = fit.collect(dna, protein, unseen, args.batches)
    both, alone = fit.fit(framed, args.epochs, data.seed), fit.fit(bare, args.epochs, data.seed)
    data.log(frames=len(framed[0]), bare=len(bare[0]))
    temperatures = dev[SIZES[0]].calibrate(both, alone)
    data.log(temperatures=temperatures, dev_auroc={size: each.auroc(both, alone) for size, each in dev.items()})
    save_file(both.state(), args.out / "classifier.safetensors")
    save_file(alone.state(), args.out / "dna_only.safetensors")


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = parser("Fit the classifiers of the set mini-1.")
    found.add_argument("--batches", type=int, default=50, help="batches of windows to fit to (%(default)s)")
    found.add_argument("--epochs", type=int, default=3, help="epochs of a classifier (%(default)s)")
    return found.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Read, fit."""
    args = parse_args(words)
    fit_mini(prepare(args, "fit", sizes=SIZES), args)


if __name__ == "__main__":
    main()
