"""Train the teachers of the mini encoders: of each kind one without each fold of the clusters.

python -m training.train_teachers --train train.npz --dev dev.npz --out TEACHERS
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from training.genomes import FOLDS
from training.recipes import DNA, TEACHERS
from training.teachers import path_of, untrained
from training.train_mini import Training, parser, prepare, sampler


def train(args: argparse.Namespace) -> None:
    """Train and write, one teacher after the other."""
    for name in args.kind:
        kind = TEACHERS[name]
        data = prepare(args, name, dna=kind.part == DNA)
        for fold in args.fold:
            data.log(kind=name, fold=fold, recipe=asdict(kind.recipe))
            seed = args.seed + fold
            without = replace(data, seen=data.seen & (data.genomes.fold != fold), seed=seed)
            networks = untrained(name, len(data.genomes.names), seed)
            write = partial(save, path_of(args.out, name, fold))
            training = Training(kind.recipe, without, networks, sampler(without, kind.part), write)
            training.run(args.steps or kind.steps, 0, args.evaluations)


def save(path: Path, networks: dict[str, nn.Module], note: str) -> None:
    """Write a teacher whole, with what it is trained by."""
    state = nn.ModuleDict(networks).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path, {"note": note})


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = parser("Train the teachers of dnabert-mini and esm2-mini.")
    found.add_argument("--kind", choices=TEACHERS, nargs="+", default=list(TEACHERS), help="which kinds (all)")
    found.add_argument(
        "--fold", type=int, choices=range(FOLDS), nargs="+", default=range(FOLDS), help="without which folds (each)"
    )
    found.add_argument("--steps", type=int, help="steps of each, instead of those of its kind")
    found.add_argument(
        "--evaluations", type=int, default=1, help="measurements on dev of each, and writes (%(default)s)"
    )
    return found.parse_args(words)


if __name__ == "__main__":
    train(parse_args())
