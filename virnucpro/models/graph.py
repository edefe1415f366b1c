"""The forward pass of one shape as a CUDA graph: recorded once, then started by one call instead of hundreds.

So the host has almost no work for a batch, and the threads that read and write do not delay the GPU. It needs the
kernels of `models/kernels.py`, whose list of tiles differs between batches in its contents but not in its shape.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from virnucpro.models.attention import PackedLayout


class Recorded:
    """A network on a GPU whose pass over buffers of one size is recorded; other sizes run call by call.

    Which of the two a sequence gets depends on the size of its buffer, so only on its own length.
    """

    def __init__(self, network: nn.Module, tokens: Tensor, layout: PackedLayout) -> None:
        """Record the pass over `tokens` and `layout`, both on the device. Raises torch.OutOfMemoryError."""
        self.network = network
        self.tokens = tokens.clone()
        tiles = torch.zeros(layout.size + 1, 4, dtype=torch.int32, device=tokens.device)  # as many as there can be
        self.layout = replace(layout, positions=layout.positions.clone(), tiles=tiles)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(tokens.device):
            self._take(tokens, layout)
            network(self.tokens, self.layout)  # kernels are compiled and chosen outside the recording
            # A stream of this device: the one that PyTorch would take belongs to the first device that was used.
            stream = torch.cuda.Stream(tokens.device)  # type: ignore[no-untyped-call]
            with torch.cuda.graph(self.graph, stream=stream):
                self.hidden: Tensor = network(self.tokens, self.layout)

    def __call__(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """(size,) ids → (size, dim) hidden states; those of the recorded size are overwritten by the next call."""
        if layout.size != self.layout.size:
            return self.network(tokens, layout)  # type: ignore[no-any-return]
        self._take(tokens, layout)
        self.graph.replay()
        return self.hidden

    def _take(self, tokens: Tensor, layout: PackedLayout) -> None:
        assert self.layout.tiles is not None
        assert layout.tiles is not None
        self.tokens.copy_(tokens)
        self.layout.positions.copy_(layout.positions)
        self.layout.tiles[: len(layout.tiles)].copy_(layout.tiles)
