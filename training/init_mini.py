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
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

VOCABULARY = 4096
TYPES = 2
HIDDEN = 128
LAYERS = 3
HEADS = 2
INTERMEDIATE = 256
STD = 0.05

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

ESM_HIDDEN = 160
ESM_LAYERS = 4
ESM_HEADS = 2
ESM_INTERMEDIATE = 320
ESM_VOCABULARY = 33

ESM_CONFIG = {
    "architectures": ["EsmModel"],
    "model_type": "esm",
    "vocab_size": ESM_VOCABULARY,
    "hidden_size": ESM_HIDDEN,
    "num_hidden_layers": ESM_LAYERS,
    "num_attention_heads": ESM_HEADS,
    "intermediate_size": ESM_INTERMEDIATE,
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


def norm_shapes(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a LayerNorm."""
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def layer_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors of one encoder layer."""
    return {
        f"{name}.attention.self.Wqkv.weight": (3 * HIDDEN, HIDDEN),
        f"{name}.attention.self.Wqkv.bias": (3 * HIDDEN,),
        f"{name}.attention.output.dense.weight": (HIDDEN, HIDDEN),
        f"{name}.attention.output.dense.bias": (HIDDEN,),
        **norm_shapes(f"{name}.attention.output.LayerNorm", HIDDEN),
        f"{name}.mlp.gated_layers.weight": (2 * INTERMEDIATE, HIDDEN),
        f"{name}.mlp.wo.weight": (HIDDEN, INTERMEDIATE),
        f"{name}.mlp.wo.bias": (HIDDEN,),
        **norm_shapes(f"{name}.mlp.layernorm", HIDDEN),
    }


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the network, in the order of a published checkpoint."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.token_type_embeddings.weight": (TYPES, HIDDEN),
        **norm_shapes("embeddings.LayerNorm", HIDDEN),
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
        found |= linear_shapes(f"{name}.attention.{part}", ESM_HIDDEN, ESM_HIDDEN)
    return {
        **found,
        f"{name}.attention.self.rotary_embeddings.inv_freq": (ESM_HIDDEN // ESM_HEADS // 2,),
        **norm_shapes(f"{name}.attention.LayerNorm", ESM_HIDDEN),
        **linear_shapes(f"{name}.intermediate.dense", ESM_INTERMEDIATE, ESM_HIDDEN),
        **linear_shapes(f"{name}.output.dense", ESM_HIDDEN, ESM_INTERMEDIATE),
        **norm_shapes(f"{name}.LayerNorm", ESM_HIDDEN),
    }


def esm_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the protein network, in the order of a published checkpoint."""
    found: dict[str, tuple[int, ...]] = {"esm.embeddings.word_embeddings.weight": (ESM_VOCABULARY, ESM_HIDDEN)}
    for layer in range(ESM_LAYERS):
        found |= esm_layer_shapes(f"esm.encoder.layer.{layer}")
    return found | norm_shapes("esm.encoder.emb_layer_norm_after", ESM_HIDDEN)


MODELS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "dnabert-mini": (CONFIG, shapes()),
    "esm2-mini": (ESM_CONFIG, esm_shapes()),
}


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
    return to_bytes(tensors, {"format": "pt", "trained": "false", "seed": str(seed)})


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the same content gives the same bytes."""
    return sort_header(save(tensors, metadata))


def write(folder: Path, model: str, seed: int) -> None:
    """Write both files of the untrained network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODELS[model][0], indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights(model, seed))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a small network with random weights.")
    parser.add_argument("--model", choices=MODELS, default="dnabert-mini", help="which network (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write both files."""
    args = parse_args()
    write(args.out, args.model, args.seed)


if __name__ == "__main__":
    main()
