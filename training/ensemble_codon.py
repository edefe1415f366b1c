"""Measure what several codon networks say together: the mean of their logits.

python -m training.ensemble_codon --measure fit.npz dev.npz --members FOLDER1 FOLDER2 FOLDER3
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from training.codon import CodonNetwork, Size
from training.genomes import load
from training.kingdoms import separation
from training.train_codon import Windows


def read_member(folder: Path, device: torch.device) -> CodonNetwork:
    """The averaged network of a training."""
    state = torch.load(folder / "average.pt", map_location="cpu", weights_only=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = Size(config["channels"], config["blocks"], config["stride"], len(state["hidden.bias"]))
    network = CodonNetwork(size, len(state["groups.bias"]))
    network.load_state_dict(state)
    return network.to(device).eval()


def main() -> None:
    """Measure every subset of the members."""
    parser = argparse.ArgumentParser(description="Measure codon networks together.")
    parser.add_argument("--measure", type=Path, nargs="+", required=True, help="packed genomes")
    parser.add_argument("--members", type=Path, nargs="+", required=True, help="folders of training.train_codon")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--most", type=int, default=30_000, help="windows (%(default)s)")
    args = parser.parse_args()
    device = torch.device(args.device)
    members = {folder.name: read_member(folder, device) for folder in args.members}
    for path in args.measure:
        windows = Windows(load(path), args.most)
        logits = {name: windows.logits(network, device) for name, network in members.items()}
        for count in range(1, len(members) + 1):
            for chosen in itertools.combinations(members, count):
                found = np.mean([logits[name] for name in chosen], axis=0)
                print(
                    path.stem, "+".join(chosen), json.dumps(separation(found, windows.viral, windows.names)), flush=True
                )


if __name__ == "__main__":
    main()
