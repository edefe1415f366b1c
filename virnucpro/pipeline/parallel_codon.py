"""The worker of the codon network; `pipeline/parallel_dnabert.py` says how a worker gets its files."""

from __future__ import annotations

from typing import ClassVar

import torch

from virnucpro.core.device import Device
from virnucpro.input.windows import SHORTEST
from virnucpro.models.codon import CodonTokenizer, load_codon
from virnucpro.models.weights import CPU
from virnucpro.pipeline.base_worker import Network, StreamingWorker, Tokenizer, tokens_by_memory
from virnucpro.runs.config import DEFAULT_CODON_MODEL

#: Bases of each window in the batch that is tried before a run.
TRIAL_BASES = 500

#: Tokens of a batch on a CPU: eight windows of 500 bases. Fewer are slower, more delay results.
CPU_TOKENS = 8704

#: On a GPU, a batch has so many times the tokens that a transformer with up to 32,768 would have: they are the codons
#: of six frames, two per base, and cost little (docs/performance.md).
FACTOR, MOST_TOKENS = 16, 32_768


class CodonWorker(StreamingWorker):
    """Embeds windows of DNA, of any length from 8 bases on, by the codons of all six frames.

    An embedding is the mean and the maximum, over the six frames, of the mean and the maximum over each frame, in fp32.
    """

    default_model: ClassVar[str] = DEFAULT_CODON_MODEL
    shortest: ClassVar[int] = SHORTEST

    def get_optimal_batch_size(self, device: Device) -> int:
        """8704 tokens on a CPU, and on a GPU 8192 per GiB of its memory, up to 524,288; a base has about two."""
        return CPU_TOKENS if device.type == "cpu" else FACTOR * tokens_by_memory(device, "fp32", MOST_TOKENS)

    def read_model(self, dtype: torch.dtype, device: torch.device = CPU) -> Network:
        """The network in fp32, in which most CPUs compute it."""
        network = load_codon(self.model.weights, self.model.config, device)
        return Network(CodonTokenizer(network.config.stride), network, network.dim, network.pool)

    def trial_length(self, tokenizer: Tokenizer) -> int:
        """Tokens of an ordinary window."""
        return len(tokenizer.encode(["N" * TRIAL_BASES])[0])
