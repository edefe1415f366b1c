"""ESM-2 with random weights made on the device: the largest takes 6 GB, which are neither written nor read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.models.esm2 import ESM2, ESM2Config
from virnucpro.models.protein_tokenizer import ProteinTokenizer
from virnucpro.models.registry import resolve
from virnucpro.models.weights import CPU
from virnucpro.pipeline.base_worker import Network, set_up_worker_logging, torch_device
from virnucpro.pipeline.parallel_esm import ESMWorker, pool_proteins

#: ESM-2 3B, and a network that a smoke test can afford.
ESM2_3B = ESM2Config(vocab_size=33, dim=2560, layers=36, heads=40, intermediate=10240)
ESM2_SMALL = ESM2Config(vocab_size=33, dim=64, layers=2, heads=4, intermediate=128)

#: Residues of a protein: what an open frame of 500 bases holds.
RESIDUES = 166


class RandomESMWorker(ESMWorker):
    """The engine's worker with weights that follow from a seed; the same on every GPU of one kind."""

    def __init__(self, config: ESM2Config, dtype: str, device: torch.device, seed: int) -> None:
        super().__init__(replace(resolve("esm2-mini"), name="random ESM-2"), dtype)
        self.config, self.device, self.seed = config, device, seed

    def read_model(self, dtype: torch.dtype, device: torch.device = CPU) -> Network:
        """The network, on the device already; scores are large enough to matter."""
        half = self.config.head_dim // 2
        generator = torch.Generator(self.device).manual_seed(self.seed)
        with torch.device("meta"):
            network = ESM2(self.config, torch.empty(half))
        for name, parameter in list(network.named_parameters()):
            values = 0.03 * torch.randn(parameter.shape, generator=generator, device=self.device)
            if "norm" in name and name.endswith("weight"):
                values += 1
            owner, _, kind = name.rpartition(".")
            setattr(network.get_submodule(owner), kind, torch.nn.Parameter(values.to(dtype), requires_grad=False))
        network.inv_freq_bits = (10000.0 ** -(torch.arange(half) / half)).half().float().view(torch.int32)
        return Network(ProteinTokenizer(), network.eval(), network.dim, pool_proteins, network.quantize)


def random_esm_worker(
    file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any
) -> None:
    """A worker of the work queue; `config` and `seed` describe its network."""
    device = torch_device(device_id)
    if kwargs.get("forward_logs"):
        set_up_worker_logging(kwargs["progress_queue"], device)
    worker = RandomESMWorker(kwargs.pop("config"), kwargs["dtype"], device, kwargs.pop("seed"))
    worker.process_files_worker(file_subset, device_id, batch_size, output_dir, **kwargs)


def random_proteins(number: int, seed: int, residues: int = RESIDUES) -> dict[str, str]:
    """Id → protein, all of one length, residues uniformly random."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    return {f"p{i:06d}": bytes(rng.choice(letters, residues)).decode() for i in range(number)}


def esm_flops_per_token(config: ESM2Config, tokens: int) -> int:
    """All matrix products, a token of a protein of `tokens` tokens."""
    a_layer = 4 * config.dim**2 + 2 * config.dim * config.intermediate
    return 2 * config.layers * a_layer + 4 * config.layers * config.dim * tokens
