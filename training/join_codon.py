"""Join codon networks that were trained apart: one encoder and the mean of their classifiers.

    python -m training.join_codon --members TRAINED/all_0 TRAINED/all_1

writes the encoder `codon-mini` (float16) and the set `mini`, whose logits are the mean of the members'. Its card
says nothing yet of how sequences are called: that is fitted next. `--out FOLDER` writes both there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.classifier import save
from virnucpro.models.registry import EMBEDDED, resolve

ENCODER, SET = "codon-mini", "mini"
WEIGHTS, CONFIG, CLASSIFIER = "model.safetensors", "config.json", "classifier.safetensors"


def join_encoders(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all, named after their members."""
    return {f"members.{i}.{name}": value for i, member in enumerate(members) for name, value in member.items()}


def join_classifiers(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One classifier over the vectors end to end, whose logits are the mean of the members'."""
    hidden = [member["hidden.weight"] for member in members]
    found = {"hidden.weight": torch.block_diag(*hidden)}  # type: ignore[no-untyped-call]
    for name in members[0]:
        values = [member[name] for member in members]
        if name == "output.weight":
            found[name] = torch.cat(values, 1) / len(members)
        elif name == "output.bias":
            found[name] = torch.stack(values).mean(0)
        elif name != "hidden.weight":
            found[name] = torch.cat(values)
    return found


def write_encoder(folders: Sequence[Path], out: Path) -> None:
    """Write `config.json` and `model.safetensors`."""
    configs = [json.loads((folder / CONFIG).read_text(encoding="utf-8")) for folder in folders]
    if any(config != configs[0] for config in configs):
        raise SystemExit(f"the members differ in size: {configs}")
    out.mkdir(parents=True, exist_ok=True)
    config = {**configs[0], "members": len(folders), "trained": True}
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    note = f"training/train_codon.py, {len(folders)} members"
    encoder = join_encoders([load_file(folder / WEIGHTS) for folder in folders])
    save_file(encoder, out / WEIGHTS, {"format": "pt", "trained": "true", "note": note})


def write_set(folders: Sequence[Path], out: Path, encoder: str) -> None:
    """Write the classifier and its card. encoder: its registered name, or its folder."""
    state = join_classifiers([load_file(folder / CLASSIFIER) for folder in folders])
    card = ClassifierCard(
        name=SET,
        trained=True,
        window=(500, 300),
        dna=EncoderPin(encoder, state["hidden.weight"].shape[1], (resolve(encoder).sha256,)),
        protein=None,
        reads="windows",
        citation="virnucpro; windows as in: Li J et al. VirNucPro. Briefings in Bioinformatics 2025",
        licence="MIT",
        source="training/, on RefSeq and GenBank genomes; see MODEL_CARD.md",
    )
    save(out, state, card)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Join codon networks that were trained apart.")
    parser.add_argument("--members", type=Path, nargs="+", required=True, help="folders of training.train_codon")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder for the encoder and the set (the package's)")
    args = parser.parse_args()
    encoder = args.out.resolve() / ENCODER
    write_encoder(args.members, encoder)
    write_set(args.members, args.out / SET, ENCODER if args.out == EMBEDDED else str(encoder))


if __name__ == "__main__":
    main()
