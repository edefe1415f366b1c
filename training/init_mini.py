"""Write the network of `dnabert-mini` with seeded random weights: a starting point for training.

The layout is DNABERT-S's (same keys, without the unused pooler), smaller: 4 layers, 128 wide, 4 heads.
Weights are drawn from normal(0, 0.02), biases are 0, LayerNorms the identity; stored as float16.
`config.json` and the header of the weights say that nothing has been trained. The same seed gives the same
bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

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


def initial(shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    """The tensor `name` before training."""
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


def weights(seed: int) -> bytes:
    """A safetensors file of the network initialised from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: initial(shape, name, generator) for name, shape in shapes().items()}
    return sort_header(save(tensors, {"format": "pt", "trained": "false", "seed": str(seed)}))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write dnabert-mini with random weights.")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write both files."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    (args.out / "model.safetensors").write_bytes(weights(args.seed))


if __name__ == "__main__":
    main()
