"""Whether embeddings keep their bits in other company, which operation is to blame if not, and how far BF16 is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.common import (
    Embeddings,
    Row,
    largest_difference,
    random_dna,
    random_sequences,
    smallest_cosine,
)
from benchmarks.esm import RESIDUES, random_proteins
from benchmarks.reference import Reference
from virnucpro.models.attention import PackedLayout, packed_attention, segment_mean
from virnucpro.models.dnabert_s import DNABERT, Attention, GatedMLP
from virnucpro.models.layers import gated_gelu
from virnucpro.pipeline.packing import round_budget

#: (rows, width) → (rows, any width), each row by itself.
Operation = Callable[[Tensor], Tensor]


def mixed_sequences(number: int, shortest: int, longest: int, seed: int) -> dict[str, str]:
    """Lengths in bases from `shortest` to `longest`, evenly by their logarithm."""
    rng = np.random.default_rng(seed)
    lengths = np.geomspace(shortest, longest, number).astype(int)
    return {f"m{i:06d}": random_dna(rng, int(bases)) for i, bases in enumerate(lengths)}


def shuffled(sequences: dict[str, str], seed: int, share: float = 1.0) -> dict[str, str]:
    """Some or all sequences in another order."""
    items = list(sequences.items())
    order = np.random.default_rng(seed).permutation(len(items))
    return dict(items[i] for i in order[: int(len(items) * share)])


def bit_rows(bench: Bench, dtype: str, budget: int, workers: int) -> tuple[list[Row], Embeddings]:
    """One row a kind of change: how many embeddings it changed. Also returns the embeddings before any change."""
    plain = random_sequences(bench.scale.bits, bench.seed)
    mixed = mixed_sequences(bench.scale.mixed, 15, bench.scale.longest_bases, bench.seed + 1)  # 5 to 3000 tokens

    def embed(sequences: dict[str, str], files: int = 3, workers: int = 1) -> Embeddings:
        return bench.embed(sequences, files, dtype, budget, workers).embeddings()

    wanted = embed(plain) | embed(mixed)
    changes: dict[str, Callable[[], Embeddings]] = {
        "nothing: run again": lambda: embed(plain),
        "(a) shuffled": lambda: embed(shuffled(plain, 1)),
        "(b) a third of them": lambda: embed(shuffled(plain, 2, 1 / 3)),
        "(c) other files": lambda: embed(plain, files=11),
        "(e) mixed, shuffled": lambda: embed(shuffled(mixed, 3)),
        "(e) mixed, a third": lambda: embed(shuffled(mixed, 4, 1 / 3)),
        "(e) mixed among others": lambda: embed(shuffled(plain | mixed, 5)),
    }
    if workers > 1:
        changes[f"(d) {workers} workers"] = lambda: embed(plain | mixed, files=9, workers=workers)
    return [_bit_row(dtype, budget, change, run(), wanted) for change, run in changes.items()], wanted


def _bit_row(dtype: str, budget: int, change: str, found: Embeddings, wanted: Embeddings) -> Row:
    differing = sum(vector.tobytes() != wanted[key].tobytes() for key, vector in found.items())
    return {
        "dtype": dtype,
        "budget": budget or "default",
        "change": change,
        "embeddings": len(found),
        "differing": differing,
        "largest difference": largest_difference(found, wanted),
    }


def bit_tables(bench: Bench, always_probe: bool) -> None:
    """The test of bits, the probe if it found something, and the accuracy of BF16."""
    rows: list[Row] = []
    embeddings: dict[str, Embeddings] = {}
    for dtype in bench.scale.sizes:
        for budget in bench.scale.bit_budgets:
            last = budget == bench.scale.bit_budgets[-1]  # starting processes takes long: once a dtype
            more, embeddings[dtype] = bit_rows(bench, dtype, budget, workers=2 if last else 1)
            rows += more
    bench.report.table("bits", "embeddings that a change of company changed (wanted: 0)", rows)
    if always_probe or any(row["differing"] for row in rows):
        probes = [
            probe
            for dtype in bench.scale.sizes
            for budget in bench.scale.bit_budgets
            for probe in probe_rows(bench, dtype, budget)
        ]
        bench.report.table("probe", "rows that an operation computes otherwise when rows are permuted", probes)
    esm_rows, esm_embeddings = esm_bit_rows(bench)
    bench.report.table("esm_bits", "the same for ESM-2", esm_rows)
    accuracy_table(bench, embeddings, esm_embeddings)


def esm_bit_rows(bench: Bench) -> tuple[list[Row], dict[str, Embeddings]]:
    """ESM-2 in BF16 in other company, and its embeddings by dtype."""
    rng = np.random.default_rng(bench.seed + 2)
    lengths = rng.integers(5, 2 * RESIDUES, bench.scale.esm_bits)
    proteins = {f"p{i:06d}": random_proteins(1, i, int(n))["p000000"] for i, n in enumerate(lengths)}

    def embed(some: dict[str, str], dtype: str = "bf16", files: int = 3) -> Embeddings:
        return bench.embed_proteins(some, files, dtype, 0).embeddings()

    wanted = embed(proteins)
    changes = {
        "nothing: run again": embed(proteins),
        "(a) shuffled": embed(shuffled(proteins, 1)),
        "(b) a third of them": embed(shuffled(proteins, 2, 1 / 3)),
        "(c) other files": embed(proteins, files=11),
    }
    some = shuffled(proteins, 3, 1 / 3)
    return [_bit_row("bf16", 0, change, found, wanted) for change, found in changes.items()], {
        "bf16": wanted,
        "fp32": embed(some, "fp32"),
    }


def probe_rows(bench: Bench, dtype: str, budget: int) -> list[Row]:
    """Each operation of a layer by itself, with its rows in another order."""
    budget = round_budget(budget or bench.default_budget(dtype))
    network = bench.network(dtype, budget)
    found = [*_probe_rowwise(bench, network, budget), *_probe_by_sequence(bench, network, budget)]
    return [
        {"dtype": dtype, "budget": budget, "operation": name, "rows": len(same), "differing": int((~same).sum())}
        for name, same in found
    ]


def row_operations(bench: Bench, network: DNABERT) -> list[tuple[str, Operation, int]]:
    """(name, operation, width of its input) of what one layer does to each row by itself."""
    config = bench.scale.config
    dim, wide = config.hidden_size, config.intermediate_size
    attention, mlp = network.attention[0], network.mlp[0]
    assert isinstance(attention, Attention)
    assert isinstance(mlp, GatedMLP)
    return [
        (f"Wqkv {dim} → {3 * dim}", attention.qkv, dim),
        (f"dense {dim} → {dim}", attention.dense, dim),
        (f"gated {dim} → {2 * wide}", mlp.gated_layers, dim),
        (f"wo {wide} → {dim}", mlp.wo, wide),
        ("LayerNorm of a sum", lambda x: mlp.norm.of_sum(x, x), dim),
        ("GELU and gate", gated_gelu, 2 * wide),
    ]


def _probe_rowwise(bench: Bench, network: DNABERT, rows: int) -> Iterator[tuple[str, Tensor]]:
    """(operation, (rows,) whether each row came out the same)."""
    order = torch.randperm(rows).to(bench.device)
    for name, operation, width in row_operations(bench, network):
        x = random_rows(bench, network, rows, width)
        yield name, (operation(x)[order] == operation(x[order])).all(1)


def _probe_by_sequence(bench: Bench, network: DNABERT, size: int) -> Iterator[tuple[str, Tensor]]:
    """Attention and pooling of sequences in another order, and of half of them."""
    config, heads = bench.scale.config, bench.scale.config.num_attention_heads
    q, k, v = (random_rows(bench, network, size, config.hidden_size).view(size, heads, -1) for _ in range(3))
    for length in (20, 105, 250, 500, 1500):
        lengths = torch.tensor([length] * (size // length))
        if not len(lengths):
            continue
        wanted = _by_sequence(bench, network, q, k, v, lengths)
        order = torch.randperm(len(lengths))
        for kind, some in (("permuted", order), ("half", order[: (len(order) + 1) // 2])):
            rows = (some[:, None] * length + torch.arange(length)).ravel().to(bench.device)
            moved_q, moved_k, moved_v = (torch.cat([x[rows], x[len(rows) :]]) for x in (q, k, v))
            found = _by_sequence(bench, network, moved_q, moved_k, moved_v, lengths[some])
            yield f"attention, {length} tokens, {kind}", (found[0] == wanted[0][rows]).all(1)
            yield f"mean, {length} tokens, {kind}", (found[1] == wanted[1][some.to(bench.device)]).all(1)


def _by_sequence(
    bench: Bench, network: DNABERT, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention's rows of sequences that lie back to back, and the means of the values."""
    layout = PackedLayout.build(lengths.tolist(), len(q), bench.device.type)
    used = layout.used
    layout = layout.to(bench.device)
    slopes = network.slopes
    context = packed_attention(q, k, v, layout, float(q.shape[-1]) ** -0.5, slopes)
    return context[:used], segment_mean(v.reshape(len(v), -1), layout.lengths, used)


def random_rows(bench: Bench, network: DNABERT, rows: int, width: int) -> Tensor:
    """(rows, width) random numbers in the network's dtype."""
    return torch.randn(rows, width, device=bench.device, dtype=next(network.parameters()).dtype)


def accuracy_table(bench: Bench, embeddings: dict[str, Embeddings], esm: dict[str, Embeddings]) -> None:
    """The engine's FP32 against the independent reference, its BF16 against its FP32."""
    sequences = list(random_sequences(bench.scale.bits, bench.seed).items())[:100]
    reference = Reference(bench.model.weights.parent, bench.device)
    ids = bench.tokenizer.encode([sequence for _, sequence in sequences])
    wanted = {key: reference.embed([item])[0] for (key, _), item in zip(sequences, ids, strict=True)}
    bench.report.table(
        "accuracy",
        "accuracy",
        [
            _accuracy_row("engine fp32 against the reference in fp32", embeddings["fp32"], wanted),
            _accuracy_row("engine bf16 against engine fp32", embeddings["bf16"], embeddings["fp32"]),
            _accuracy_row("ESM-2: bf16 against fp32", esm["bf16"], esm["fp32"]),
        ],
    )


def _accuracy_row(what: str, found: Embeddings, wanted: Embeddings) -> Row:
    return {
        "what": what,
        "embeddings": len(found.keys() & wanted.keys()),
        "smallest cosine": f"{smallest_cosine(found, wanted):.7f}",
        "largest difference": largest_difference(found, wanted),
    }
