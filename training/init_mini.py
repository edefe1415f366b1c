"""Write the network of `dnabert-mini`, `esm2-mini` or the set `mini` with seeded random weights: a start for training.

The layouts are DNABERT-S's (same keys, without the unused pooler) and ESM-2's (Hugging Face's keys, without the
heads), smaller: 4 layers, 128 wide, 4 heads, and 6 layers, 128 wide, 8 heads.
Weights are drawn from normal(0, 0.02), biases are 0, LayerNorms the identity; stored as float16.
`config.json` and the header of the weights say that nothing has been trained. The same seed gives the same
bytes.

`mini` is the classifier over the vectors of both, in the published layout: weights from normal(0, 1 / sqrt(inputs)),
biases 0, the norm the identity; float32. Its `model.json` names the embedded encoders by checksum, so it is written
after them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from virnucpro.models import classifier
from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.registry import resolve
from virnucpro.models.sets import SETS

VOCABULARY = 4096
TYPES = 2
HIDDEN = 128
LAYERS = 4
HEADS = 4
INTERMEDIATE = 512
STD = 0.02

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "type_vocab_size": TYPES,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": STD,
    "alibi_starting_size": 512,
    "pad_token_id": 3,
    "torch_dtype": "float16",
    "trained": False,
}

ESM_LAYERS = 6
ESM_HEADS = 8
ESM_VOCABULARY = 33

CLASSIFIER_HIDDEN = 512

ESM_CONFIG = {
    "architectures": ["EsmModel"],
    "model_type": "esm",
    "vocab_size": ESM_VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": ESM_LAYERS,
    "num_attention_heads": ESM_HEADS,
    "intermediate_size": 4 * HIDDEN,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "initializer_range": STD,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "emb_layer_norm_before": False,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "torch_dtype": "float16",
    "trained": False,
}


def norm_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors of a LayerNorm."""
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def layer_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors of one encoder layer."""
    return {
        f"{name}.attention.self.Wqkv.weight": (3 * HIDDEN, HIDDEN),
        f"{name}.attention.self.Wqkv.bias": (3 * HIDDEN,),
        f"{name}.attention.output.dense.weight": (HIDDEN, HIDDEN),
        f"{name}.attention.output.dense.bias": (HIDDEN,),
        **norm_shapes(f"{name}.attention.output.LayerNorm"),
        f"{name}.mlp.gated_layers.weight": (2 * INTERMEDIATE, HIDDEN),
        f"{name}.mlp.wo.weight": (HIDDEN, INTERMEDIATE),
        f"{name}.mlp.wo.bias": (HIDDEN,),
        **norm_shapes(f"{name}.mlp.layernorm"),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the network, in the order of a published checkpoint."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.token_type_embeddings.weight": (TYPES, HIDDEN),
        **norm_shapes("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        found |= layer_shapes(f"encoder.layer.{layer}")
    return found


def linear_shapes(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def esm_layer_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors of one layer of ESM-2."""
    found: dict[str, tuple[int, ...]] = {}
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        found |= linear_shapes(f"{name}.attention.{part}", HIDDEN, HIDDEN)
    return {
        **found,
        f"{name}.attention.self.rotary_embeddings.inv_freq": (HIDDEN // ESM_HEADS // 2,),
        **norm_shapes(f"{name}.attention.LayerNorm"),
        **linear_shapes(f"{name}.intermediate.dense", 4 * HIDDEN, HIDDEN),
        **linear_shapes(f"{name}.output.dense", HIDDEN, 4 * HIDDEN),
        **norm_shapes(f"{name}.LayerNorm"),
    }


def esm_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the protein network, in the order of a published checkpoint."""
    found: dict[str, tuple[int, ...]] = {"esm.embeddings.word_embeddings.weight": (ESM_VOCABULARY, HIDDEN)}
    for layer in range(ESM_LAYERS):
        found |= esm_layer_shapes(f"esm.encoder.layer.{layer}")
    return found | norm_shapes("esm.encoder.emb_layer_norm_after")


MODELS = {"dnabert-mini": (CONFIG, shapes()), "esm2-mini": (ESM_CONFIG, esm_shapes())}


def initial(shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    """The tensor `name` before training."""
    if name.endswith(".inv_freq"):
        # Rotary frequencies, rounded as in the published files.
        return (10000.0 ** (-torch.arange(shape[0], dtype=torch.float64) / shape[0])).to(torch.float16)
    if name.endswith(".bias"):
        return torch.zeros(shape, dtype=torch.float16)
    if "norm" in name.lower():
        return torch.ones(shape, dtype=torch.float16)
    # Drawn in float64: the float32 path differs in its last bits between kinds of CPU.
    weight = torch.empty(shape, dtype=torch.float64).normal_(0, STD, generator=generator)
    return weight.to(torch.float16)


def sort_header(data: bytes) -> bytes:
    """The safetensors file `data` with a sorted header; the library writes metadata in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def weights(model: str, seed: int) -> bytes:
    """A safetensors file of the network of `model` initialised from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: initial(shape, name, generator) for name, shape in MODELS[model][1].items()}
    return sort_header(save(tensors, {"format": "pt", "trained": "false", "seed": str(seed)}))


def classifier_state(features: int, seed: int) -> dict[str, Tensor]:
    """Tensors of the classifier initialised from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for layer, rows, columns in (("hidden", CLASSIFIER_HIDDEN, features), ("output", 2, CLASSIFIER_HIDDEN)):
        weight = torch.empty(rows, columns, dtype=torch.float64).normal_(0, columns**-0.5, generator=generator)
        state |= {f"{layer}.weight": weight.float(), f"{layer}.bias": torch.zeros(rows)}
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        state[f"norm.{name}"] = torch.full((CLASSIFIER_HIDDEN,), value)
    return state


def encoder_pin(name: str) -> EncoderPin:
    """The embedded encoder as it is now."""
    return EncoderPin(name, HIDDEN, (resolve(name).sha256,))


def write_classifier(out: Path, seed: int) -> None:
    """Write the classifier of the set `mini`."""
    spec = SETS["mini"]
    card = ClassifierCard(
        name=spec.classifier,
        trained=False,
        window=(500, 300),
        dna=encoder_pin(spec.dna),
        protein=encoder_pin(spec.protein),
        citation="virnucpro; architecture: Li J et al. VirNucPro. Briefings in Bioinformatics 2025",
        licence="MIT",
        source=f"training/init_mini.py, seed {seed}",
    )
    classifier.save(out, classifier_state(card.dim, seed), card)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a small network with random weights.")
    parser.add_argument(
        "--model", choices=[*MODELS, "mini"], default="dnabert-mini", help="which network (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write both files."""
    args = parse_args()
    if args.model == "mini":
        write_classifier(args.out, args.seed)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(MODELS[args.model][0], indent=2) + "\n", encoding="utf-8")
    (args.out / "model.safetensors").write_bytes(weights(args.model, args.seed))


if __name__ == "__main__":
    main()
