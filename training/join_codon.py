"""Join codon networks that were trained apart: one encoder whose members they are, and the mean of their classifiers.

    python -m training.join_codon --members TRAINED/m0 TRAINED/m1 --out FOLDER

writes `FOLDER/{config.json,model.safetensors}` (float16) and `FOLDER/classifier.safetensors`, whose logits are the mean
of the members'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, CONFIG, CLASSIFIER = "model.safetensors", "config.json", "classifier.safetensors"


def join_encoders(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all, named after their members."""
    return {f"members.{i}.{name}": value for i, member in enumerate(members) for name, value in member.items()}


def join_classifiers(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One classifier over the vectors end to end, whose logits are the mean of the members'."""
    found = {"hidden.weight": torch.block_diag(*(member["hidden.weight"] for member in members))}  # type: ignore[no-untyped-call]
    for name in members[0]:
        values = [member[name] for member in members]
        if name == "output.weight":
            found[name] = torch.cat(values, 1) / len(members)
        elif name == "output.bias":
            found[name] = torch.stack(values).mean(0)
        elif name != "hidden.weight":
            found[name] = torch.cat(values)
    return found


def join(folders: Sequence[Path], out: Path, note: str) -> None:
    """Write the encoder and the classifier."""
    configs = [json.loads((folder / CONFIG).read_text(encoding="utf-8")) for folder in folders]
    if any(config != configs[0] for config in configs):
        raise SystemExit(f"the members differ in size: {configs}")
    out.mkdir(parents=True, exist_ok=True)
    config = {**configs[0], "members": len(folders), "trained": True}
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    encoder = join_encoders([load_file(folder / WEIGHTS) for folder in folders])
    save_file(encoder, out / WEIGHTS, {"format": "pt", "trained": "true", "note": note})
    save_file(join_classifiers([load_file(folder / CLASSIFIER) for folder in folders]), out / CLASSIFIER)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Join codon networks that were trained apart.")
    parser.add_argument("--members", type=Path, nargs="+", required=True, help="folders of training.train_codon")
    parser.add_argument("--out", type=Path, required=True, help="folder for the encoder and its classifier")
    args = parser.parse_args()
    join(args.members, args.out, f"training/train_codon.py, {len(args.members)} members")


if __name__ == "__main__":
    main()
