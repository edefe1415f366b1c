"""Write the network of `dnabert-mini` or `esm2-mini` with seeded random weights: a start for training.

The layouts are DNABERT-S's (same keys, without the unused pooler) and ESM-2's (Hugging Face's keys, without the
heads), smaller: 3 layers, 128 wide, 2 heads, and 4 layers, 160 wide, 2 heads. Few wide heads and narrow feed-forward
parts, since a CPU spends as long on the softmax of a head as on a product.
Weights are drawn from normal(0, 0.05), biases are 0, LayerNorms the identity; stored as float16.
`config.json` and the header of the weights say that nothing has been trained. The same seed gives the same
bytes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

VOCABULARY, TYPES = 4096, 2
PROTEIN_VOCABULARY = 33
STD = 0.05
DNA, PROTEIN = "dnabert-mini", "esm2-mini"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Layers of a network, their width, and the width of their feed-forward part."""

    layers: int
    width: int
    heads: int
    feed_forward: int


SIZES = {DNA: Size(3, 128, 2, 256), PROTEIN: Size(4, 160, 2, 320)}


def dnabert_config(size: Size) -> dict[str, Any]:
    """`config.json` of a DNABERT-S."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "type_vocab_size": TYPES,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": STD,
        "alibi_starting_size": 512,
        "pad_token_id": 3,
        "torch_dtype": "float16",
        "trained": False,
    }


def esm2_config(size: Size) -> dict[str, Any]:
    """`config.json` of an ESM-2."""
    return {
        "architectures": ["EsmModel"],
        "model_type": "esm",
        "vocab_size": PROTEIN_VOCABULARY,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feed_forward,
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


def norm_shapes(name: str, width: int) -> Shapes:
    """Tensors of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear_shapes(name: str, rows: int, columns: int) -> Shapes:
    """Tensors of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def dnabert_shapes(size: Size) -> Shapes:
    """Every tensor of the network, in the order of a published checkpoint."""
    width = size.width
    found: Shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, width),
        "embeddings.token_type_embeddings.weight": (TYPES, width),
        **norm_shapes("embeddings.LayerNorm", width),
    }
    for layer in range(size.layers):
        name = f"encoder.layer.{layer}"
        found |= {
            **linear_shapes(f"{name}.attention.self.Wqkv", 3 * width, width),
            **linear_shapes(f"{name}.attention.output.dense", width, width),
            **norm_shapes(f"{name}.attention.output.LayerNorm", width),
            f"{name}.mlp.gated_layers.weight": (2 * size.feed_forward, width),
            **linear_shapes(f"{name}.mlp.wo", width, size.feed_forward),
            **norm_shapes(f"{name}.mlp.layernorm", width),
        }
    return found


def esm2_shapes(size: Size) -> Shapes:
    """Every tensor of the network, in the order of a published checkpoint."""
    width = size.width
    found: Shapes = {"esm.embeddings.word_embeddings.weight": (PROTEIN_VOCABULARY, width)}
    for layer in range(size.layers):
        name = f"esm.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            found |= linear_shapes(f"{name}.attention.{part}", width, width)
        found |= {
            f"{name}.attention.self.rotary_embeddings.inv_freq": (width // size.heads // 2,),
            **norm_shapes(f"{name}.attention.LayerNorm", width),
            **linear_shapes(f"{name}.intermediate.dense", size.feed_forward, width),
            **linear_shapes(f"{name}.output.dense", width, size.feed_forward),
            **norm_shapes(f"{name}.LayerNorm", width),
        }
    return found | norm_shapes("esm.encoder.emb_layer_norm_after", width)


def layout(model: str, size: Size | None = None) -> tuple[dict[str, Any], Shapes]:
    """`config.json` and the tensors of `model`, of its own size or another."""
    size = size or SIZES[model]
    return (dnabert_config(size), dnabert_shapes(size)) if model == DNA else (esm2_config(size), esm2_shapes(size))


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


def weights(model: str, seed: int, size: Size | None = None) -> bytes:
    """A safetensors file of the network of `model` initialised from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: initial(shape, name, generator) for name, shape in layout(model, size)[1].items()}
    return to_bytes(tensors, {"format": "pt", "trained": "false", "seed": str(seed)})


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the same content gives the same bytes."""
    return sort_header(save(tensors, metadata))


def write(folder: Path, model: str, seed: int, size: Size | None = None) -> None:
    """Write both files of the untrained network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(layout(model, size)[0], indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights(model, seed, size))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a small network with random weights.")
    parser.add_argument("--model", choices=SIZES, default=DNA, help="which network (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write both files."""
    args = parse_args()
    write(args.out, args.model, args.seed)


if __name__ == "__main__":
    main()
