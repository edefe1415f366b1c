"""The encoders as they are trained: padded batches, gradients, dropout and masked tokens.

The parameters are those of the package's own modules, so what is trained here is what `predict` loads; with dropout
off the results agree with the packed forward pass (tests/test_training.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    linear,
    scaled_dot_product_attention,
)

from virnucpro.models.dnabert_s import DNABERT
from virnucpro.models.esm2 import ESM2, TOKEN_SCALE, rotate
from virnucpro.models.layers import Norm
from virnucpro.models.protein_tokenizer import ALPHABET, PAD

#: Tokens of the DNA tokenizer.
DNA_CLS, DNA_SEP, DNA_PAD, DNA_MASK = 1, 2, 3, 4
#: The most tokens of a row that are replaced by others in training, as a share.
SUBSTITUTED = 0.3
#: Share of the tokens masked in every second sequence; the others are seen whole, as in use.
MASKED = 0.15


class TrainedEncoder(nn.Module, ABC):
    """An encoder of the package with the heads it is trained by: class and group of a sequence, masked tokens."""

    #: Id that fills up a row.
    pad_id: int
    #: Tokens of a row that its embedding leaves out: at its start, and at its end.
    ends: int

    def __init__(self, encoder: DNABERT | ESM2, groups: int, dropout: float, substitutes: Tensor) -> None:
        super().__init__()
        encoder.requires_grad_(True)
        self.substitutes: Tensor
        self.register_buffer("substitutes", substitutes, persistent=False)
        self.dropout = dropout
        self.head = nn.Linear(encoder.dim, 2 + groups)
        self.norm = nn.LayerNorm(encoder.dim)
        self.token_bias = nn.Parameter(torch.zeros(self.table(encoder).shape[0]))
        self.encoder = encoder

    @staticmethod
    @abstractmethod
    def table(encoder: DNABERT | ESM2) -> Tensor:
        """(vocabulary, dim) the token embeddings."""

    @abstractmethod
    def hidden(self, ids: Tensor, masked: Tensor) -> Tensor:
        """(n, width, dim) hidden states of rows of ids (n, width) of which some tokens are masked."""

    def embed(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """(n, dim) fp32 mean over the tokens that count."""
        lengths = (ids != self.pad_id).sum(1, keepdim=True)
        column = torch.arange(ids.shape[1], device=ids.device)
        counted = (column >= self.ends) & (column < lengths - self.ends)
        return (hidden.float() * counted[:, :, None]).sum(1) / (lengths - 2 * self.ends).clamp(min=1)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, dim) embeddings of rows of ids, as `predict` computes them."""
        return self.embed(ids, self.hidden(ids, torch.zeros_like(ids, dtype=torch.bool)))

    def varied(self, ids: Tensor) -> Tensor:
        """Up to `SUBSTITUTED` of the tokens of every second pair of rows replaced, as in a related sequence."""
        kinds = self.substitutes.shape[1]
        rates = torch.rand(len(ids), 1, device=ids.device) * SUBSTITUTED
        rates = rates * (torch.arange(len(ids), device=ids.device)[:, None] % 4 >= 2)
        drawn = torch.randint(kinds, ids.shape, device=ids.device)
        chosen = torch.rand(ids.shape, device=ids.device) < rates
        return torch.where(chosen, self.substitutes.flatten()[ids * kinds + drawn], ids)

    def classes(self, ids: Tensor) -> Tensor:
        """(n, 2) logits, other and viral, of rows of ids."""
        return self.logits(self(ids))[:, :2]

    def logits(self, vectors: Tensor) -> Tensor:
        """(n, 2 + groups) of embeddings: other and viral, then each group."""
        return self.head(dropout(vectors, self.dropout, self.training))  # type: ignore[no-any-return]

    def losses(self, ids: Tensor, target: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropies of a batch: of the class, viral as `target` says, of the group, of the masked tokens."""
        places = self._places(ids)
        masked = torch.zeros_like(ids, dtype=torch.bool)
        masked[1::2] = masked[1::2].scatter(1, places, True)
        hidden = self.hidden(self.varied(ids), masked & (ids != self.pad_id))
        logits = self.logits(self.embed(ids, hidden)).float()
        return (
            cross_entropy(logits[:, :2], torch.stack((1 - target, target), 1)),
            cross_entropy(logits[:, 2:], group),
            self._token_loss(hidden[1::2], ids[1::2], places),
        )

    def _places(self, ids: Tensor) -> Tensor:
        """Places of the tokens to mask in every second row: a fixed number, so that a GPU is never waited for."""
        chance = torch.rand(ids[1::2].shape, device=ids.device)
        return chance.topk(max(1, round(MASKED * ids.shape[1])), dim=1).indices

    def _token_loss(self, hidden: Tensor, ids: Tensor, places: Tensor) -> Tensor:
        found = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[2]))
        tokens = linear(self.norm(found), self.table(self.encoder), self.token_bias)
        return cross_entropy(tokens.float().flatten(0, 1), ids.gather(1, places).flatten(), ignore_index=self.pad_id)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class TrainedDNABERT(TrainedEncoder):
    """`dnabert-mini` in training."""

    pad_id, ends = DNA_PAD, 0
    encoder: DNABERT

    @staticmethod
    def table(encoder: DNABERT | ESM2) -> Tensor:
        """(vocabulary, dim) the token embeddings."""
        assert isinstance(encoder, DNABERT)
        return encoder.word

    def hidden(self, ids: Tensor, masked: Tensor) -> Tensor:
        """(n, width, dim) hidden states of the last layer."""
        model = self.encoder
        bias = self._bias(ids)
        tokens = embedding(ids.masked_fill(masked, DNA_MASK), model.word) + model.kind[0]
        x = self._drop(_norm(model.norm, _working(tokens)))
        layers: Iterable[tuple[Any, Any]] = zip(model.attention, model.mlp, strict=True)
        for attention, mlp in layers:
            q, k, v = _heads(attention.qkv(x), model.config.num_attention_heads)
            context = scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
            x = _norm(attention.norm, self._drop(attention.dense(_joined(context))) + x)
            gate, value = mlp.gated_layers(x).chunk(2, dim=-1)
            x = _norm(mlp.norm, self._drop(mlp.wo(gelu(gate) * value)) + x)
        return x

    def _bias(self, ids: Tensor) -> Tensor:
        """(n, heads, width, width) ALiBi, minus infinity where a key is padding."""
        column = torch.arange(ids.shape[1], device=ids.device)
        distance = (column[:, None] - column).abs()
        alibi = -self.encoder.slopes[:, None, None] * distance
        return alibi.masked_fill((ids == self.pad_id)[:, None, None], float("-inf"))


class TrainedESM2(TrainedEncoder):
    """`esm2-mini` in training."""

    pad_id, ends = PAD, 1
    encoder: ESM2

    @staticmethod
    def table(encoder: DNABERT | ESM2) -> Tensor:
        """(vocabulary, dim) the token embeddings."""
        assert isinstance(encoder, ESM2)
        return encoder.embed_tokens

    def hidden(self, ids: Tensor, masked: Tensor) -> Tensor:
        """(n, width, dim) representations, the last norm included."""
        model = self.encoder
        cos, sin = model._angles(torch.arange(ids.shape[1], device=ids.device))
        keys = (ids != self.pad_id)[:, None, None].expand(-1, model.config.heads, ids.shape[1], -1)
        x = _working(self._embedded(ids, masked))
        layers: Iterable[Any] = model.layers
        for layer in layers:
            q, k, v = _heads(layer.qkv(_norm(layer.self_attn_layer_norm, x)), model.config.heads)
            q, k = (rotate(each.transpose(1, 2), cos.to(q.dtype), sin.to(q.dtype)).transpose(1, 2) for each in (q, k))
            context = scaled_dot_product_attention(q, k, v, keys)
            x = x + self._drop(layer.out_proj(_joined(context)))
            x = x + self._drop(layer.fc2(gelu(layer.fc1(_norm(layer.final_layer_norm, x)))))
        return _norm(model.emb_layer_norm_after, x)

    def _embedded(self, ids: Tensor, masked: Tensor) -> Tensor:
        """Token embeddings, masked ones zero, scaled so that their sum looks alike with and without masks."""
        length = (ids != self.pad_id).sum(1)
        # A protein of a few residues may be masked whole, and 0 times infinity ends a training.
        scale = TOKEN_SCALE / (1 - masked.sum(1) / length).clamp(min=0.1)
        # A product, since 33 rows that all look up take turns in the gradient of a table look-up.
        letters = ids[:, :, None] == torch.arange(self.encoder.config.vocab_size, device=ids.device)
        return (letters * (scale[:, None] * ~masked)[:, :, None]) @ self.encoder.embed_tokens


#: BLOSUM62 (Henikoff and Henikoff 1992), half bits, rows and columns in the order of `_RESIDUES`.
_RESIDUES = "ARNDCQEGHILKMFPSTWYV"
_BLOSUM62 = """
 4 -1 -2 -2  0 -1 -1  0 -2 -1 -1 -1 -1 -2 -1  1  0 -3 -2  0
-1  5  0 -2 -3  1  0 -2  0 -3 -2  2 -1 -3 -2 -1 -1 -3 -2 -3
-2  0  6  1 -3  0  0  0  1 -3 -3  0 -2 -3 -2  1  0 -4 -2 -3
-2 -2  1  6 -3  0  2 -1 -1 -3 -4 -1 -3 -3 -1  0 -1 -4 -3 -3
 0 -3 -3 -3  9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1
-1  1  0  0 -3  5  2 -2  0 -3 -2  1  0 -3 -1  0 -1 -2 -1 -2
-1  0  0  2 -4  2  5 -2  0 -3 -3  1 -2 -3 -1  0 -1 -3 -2 -2
 0 -2  0 -1 -3 -2 -2  6 -2 -4 -4 -2 -3 -3 -2  0 -2 -2 -3 -3
-2  0  1 -1 -3  0  0 -2  8 -3 -3 -1 -2 -1 -2 -1 -2 -2  2 -3
-1 -3 -3 -3 -1 -3 -3 -4 -3  4  2 -3  1  0 -3 -2 -1 -3 -1  3
-1 -2 -3 -4 -1 -2 -3 -4 -3  2  4 -2  2  0 -3 -2 -1 -2 -1  1
-1  2  0 -1 -3  1  1 -2 -1 -3 -2  5 -1 -3 -1  0 -1 -3 -2 -2
-1 -1 -2 -3 -1  0 -2 -3 -2  1  2 -1  5  0 -2 -1 -1 -1 -1  1
-2 -3 -3 -3 -2 -3 -3 -3 -1  0  0 -3  0  6 -4 -2 -2  1  3 -1
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4  7 -1 -1 -4 -3 -2
 1 -1  1  0 -1  0  0  0 -1 -2 -2  0 -1 -2 -1  4  1 -3 -2 -2
 0 -1  0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1  1  5 -2 -2  0
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1  1 -4 -3 -2 11  2 -3
-2 -2 -2 -3 -2 -1 -2 -3  2 -1 -1 -2 -1  3 -3 -2 -2  2  7 -1
 0 -3 -3 -3 -1 -2 -2 -3 -3  3  1 -2  1 -1 -2 -2  0 -3 -1  4
"""
#: Substitutes listed of each token.
_LISTED = 256


def residue_substitutes() -> Tensor:
    """(33, 256) ids that may take the place of each id: other residues by their odds, any other id itself."""
    places = torch.tensor([ALPHABET.index(letter) for letter in _RESIDUES])
    scores = torch.tensor([float(word) for word in _BLOSUM62.split()]).view(20, 20)
    odds = torch.exp2(scores / 2).fill_diagonal_(0)
    ends = (odds / odds.sum(1, keepdim=True)).cumsum(1)
    middles = (torch.arange(_LISTED) + 0.5) / _LISTED
    drawn = torch.searchsorted(ends, middles.expand(20, -1).contiguous()).clamp(max=19)
    found = torch.arange(len(ALPHABET))[:, None].repeat(1, _LISTED)
    found[places] = places[drawn]
    return found


def word_substitutes(vocabulary: dict[str, int]) -> Tensor:
    """(tokens, 256) ids that may take the place of each DNA token: words one base apart, transitions twice as often."""
    found = torch.arange(len(vocabulary))[:, None].repeat(1, _LISTED)
    for word, place in vocabulary.items():
        near = [vocabulary.get(other) for other in _one_base_apart(word)]
        known = torch.tensor([each for each in near if each is not None])
        if len(known):
            found[place] = known[torch.arange(_LISTED) * len(known) // _LISTED]
    return found


def _one_base_apart(word: str) -> Iterator[str]:
    for place, base in enumerate(word):
        for other in _LIKELY.get(base, ""):
            yield word[:place] + other + word[place + 1 :]


#: What a base becomes in four changes: transitions are as frequent as both transversions together.
_LIKELY = {"A": "GGCT", "G": "AACT", "C": "TTAG", "T": "CCAG"}


def _working(x: Tensor) -> Tensor:
    """`x` in the dtype of the products: BF16 under autocast."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _norm(norm: Norm, x: Tensor) -> Tensor:
    """The package's norm without its detour over fp32, which a GPU's kernel takes by itself."""
    with torch.autocast(x.device.type, enabled=False):
        return layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(n, width, 3 * dim) → three of (n, heads, width, head_dim)."""
    n, width, dim = qkv.shape
    q, k, v = qkv.view(n, width, 3, heads, dim // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _joined(context: Tensor) -> Tensor:
    """(n, heads, width, head_dim) → (n, width, dim)."""
    return context.transpose(1, 2).flatten(2)


class FiveMerNetwork(nn.Module):
    """The baseline: shares of the 512 pairs of a 5-mer and its reverse complement, and two hidden layers."""

    def __init__(self, hidden: int = 512, dropout: float = 0.3) -> None:
        super().__init__()
        self.pair: Tensor
        self.register_buffer("pair", _pairs(), persistent=False)
        self.pairs = pairs = int(self.pair.max()) + 1
        self.layers = nn.Sequential(
            *(nn.BatchNorm1d(pairs), nn.Linear(pairs, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden // 2, 2)),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """(n, 2) logits, other and viral, of windows' bases (n, size), 4 for N."""
        return self.layers(self.counts(codes))  # type: ignore[no-any-return]

    def classes(self, codes: Tensor) -> Tensor:
        """The same, by the name that encoders have it by."""
        return self(codes)  # type: ignore[no-any-return]

    def counts(self, codes: Tensor) -> Tensor:
        """(n, 512) share of each pair among a window's 5-mers; those with N are left out."""
        width = codes.shape[1] - 4
        clean = (codes < 4).unfold(1, 5, 1).all(2)
        mers = sum(codes[:, at : at + width].long() << 2 * (4 - at) for at in range(5))
        place = self.pair[torch.as_tensor(mers).clamp(max=1023)]
        found = torch.zeros(len(codes), self.pairs, device=codes.device)
        found.scatter_add_(1, place, clean.float())
        return found / clean.sum(1, keepdim=True).clamp(min=1)


def _pairs() -> Tensor:
    """(1024,) the pair of each 5-mer, from 0."""
    mers = torch.arange(1024)
    letters = torch.stack([mers >> shift & 3 for shift in (8, 6, 4, 2, 0)])
    reverse = sum((3 - letters[place]) << 2 * place for place in range(5))
    place: Tensor = torch.unique(torch.minimum(mers, torch.as_tensor(reverse)), return_inverse=True)[1]
    return place
