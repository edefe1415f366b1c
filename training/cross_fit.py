"""Train codon networks by cross-fitting: no part of the data is only held back, all of it trains the shipped networks.

    python -m training.cross_fit pack --genomes train.npz fit.npz --out folds
    python -m training.cross_fit train --folds folds --out trained --gpus 0 1 --proteins proteins_train.npz

`pack` deals whole clusters to folds, one file each: of every group each fold has about the same. `train` trains
networks on all folds (`trained/all_0`, `all_1`), and for each fold as many on all others (`trained/without_0_0`, …),
beside each other, dealt to the GPUs. The first are shipped, joined; what those without a fold, joined in the same way,
say of it is what calibration, thresholds and the model of sequences are fitted to. A training that was stopped
(`--stop SECONDS`) goes on with the same command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.genomes import Genomes, join, load, save

FOLDS = 4
#: Steps of a network without a fold, and of one on all: as often each window.
FOLD_STEPS, FINAL_STEPS = 6_000, 8_000
#: How every network is made, and in what those that are joined differ.
COMMON = ("--channels", "192", "--stride", "6")
RECIPES = (
    ("--seed", "0", "--mutated", "0.05", "--dropout", "0.15", "--share", "0.15"),
    ("--seed", "2", "--mutated", "0.1", "--dropout", "0.15", "--share", "0.2"),
)


def deal(genomes: Genomes, folds: int) -> NDArray[np.int64]:
    """(records,) the fold of each: clusters whole, the largest of a group first, each to where its group has least."""
    clusters, place = np.unique(genomes.cluster, return_inverse=True)
    sizes = np.zeros((len(clusters), len(genomes.names)), np.int64)
    np.add.at(sizes, (place, genomes.group), genomes.lengths)
    filled, found = np.zeros((folds, len(genomes.names)), np.int64), np.zeros(len(clusters), np.int64)
    for cluster in np.argsort(-sizes.sum(1), kind="stable").tolist():
        main = int(sizes[cluster].argmax())
        found[cluster] = int(filled[:, main].argmin())
        filled[found[cluster]] += sizes[cluster]
    return found[place]


def pack(paths: Sequence[Path], out: Path, folds: int) -> None:
    """Write `fold_N.npz`."""
    out.mkdir(parents=True, exist_ok=True)
    genomes = join([load(path) for path in paths])
    fold = deal(genomes, folds)
    for number in range(folds):
        save(out / f"fold_{number}.npz", genomes.part(fold == number))


def trainings(folds: Sequence[Path], out: Path, steps: tuple[int, int]) -> list[list[str]]:
    """The words of `training.train_codon` for each network, the longest trainings first."""

    def words(name: str, parts: Sequence[Path], steps: int) -> list[list[str]]:
        train = ["--train", *map(str, parts), "--steps", str(steps)]
        return [[*train, "--out", str(out / f"{name}_{i}"), *recipe] for i, recipe in enumerate(RECIPES)]

    made = words("all", folds, steps[1])
    for number, held in enumerate(folds):
        rest = [path for path in folds if path != held]
        made += [[*each, "--measure", str(held)] for each in words(f"without_{number}", rest, steps[0])]
    return made


def train(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Train all of them, each in a process of its own; `more` goes to each. SystemExit names those that failed."""
    folds = sorted(args.folds.glob("fold_*.npz"))
    wanted = trainings(folds, args.out, (args.fold_steps, args.final_steps))
    command = [sys.executable, "-m", "training.train_codon", *COMMON]
    running = [
        subprocess.Popen([*command, *words, *more], env=os.environ | seen)
        for words, seen in zip(wanted, cycle(visible(args.gpus)), strict=False)
    ]
    failed = [words for words, process in zip(wanted, running, strict=True) if process.wait()]
    if failed:
        raise SystemExit("\n".join(f"failed: {' '.join(words)}" for words in failed))


def visible(gpus: Sequence[str]) -> list[dict[str, str]]:
    """For each GPU the variable by which a process sees it alone; nothing is hidden where none is named."""
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]


def main(words: Sequence[str] | None = None) -> None:
    """The command line; what `train` does not know is for `training.train_codon`."""
    parser = argparse.ArgumentParser(description="Train codon networks by cross-fitting.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="deal clusters to folds")
    packing.add_argument("--genomes", type=Path, nargs="+", required=True, help="packed genomes, together")
    packing.add_argument("--out", type=Path, required=True, help="folder for the folds")
    packing.add_argument("--folds", type=int, default=FOLDS, help="(%(default)s)")
    training = commands.add_parser("train", help="train a network without each fold, and networks on all")
    training.add_argument("--folds", type=Path, required=True, help="folder of pack")
    training.add_argument("--out", type=Path, required=True, help="folder for the networks")
    training.add_argument("--gpus", nargs="*", default=[], metavar="N", help="GPUs that share the networks")
    training.add_argument("--fold-steps", type=int, default=FOLD_STEPS, help="(%(default)s)")
    training.add_argument("--final-steps", type=int, default=FINAL_STEPS, help="(%(default)s)")
    args, more = parser.parse_known_args(words)
    if args.command == "train":
        train(args, more)
    elif more:
        parser.error(f"unknown: {' '.join(more)}")
    else:
        pack(args.genomes, args.out, args.folds)


if __name__ == "__main__":
    main()
