"""The network against the reference outputs, its loading, and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from virnucpro.errors import ModelError
from virnucpro.models import registry
from virnucpro.models.attention import PackedLayout, alibi_slopes, packed_attention, padded_width, segment_mean
from virnucpro.models.dnabert_s import DNABERT, load_dnabert
from virnucpro.models.linear import Linear, prepack, prepacking_available
from virnucpro.models.tokenizer import DNATokenizer

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = SHARED / "golden"
TINY = GOLDEN / "dnabert_s_tiny"
MINI = registry.EMBEDDED / "dnabert-mini"

needs_golden = pytest.mark.skipif(not TINY.is_dir(), reason="the golden data is not beside the repository")


def run_packed(model: DNABERT, rows: list[torch.Tensor], size: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states of each sequence, and the means, from one packed buffer."""
    lengths = [len(row) for row in rows]
    layout = PackedLayout.build(lengths, size, "cpu")
    tokens = torch.full((size,), 3)
    tokens[: sum(lengths)] = torch.cat(rows)
    hidden = model(tokens, layout)
    return list(hidden[: sum(lengths)].split(lengths)), segment_mean(hidden, layout.lengths, sum(lengths))


@needs_golden
@pytest.mark.parametrize("prepacked", [False, True])
@pytest.mark.parametrize(("length", "size"), [(17, 256), (700, 2048)])
def test_agrees_with_the_reference(length: int, size: int, prepacked: bool) -> None:
    model = load_dnabert(TINY / "model.safetensors", TINY / "config.json")
    if prepacked:
        if not prepacking_available():
            pytest.skip("this PyTorch has no prepacked oneDNN products")
        prepack(model, size)
    io = load_file(TINY / f"io_len{length}.safetensors")
    lengths = io["attention_mask"].sum(1).tolist()
    rows = [ids[:n] for ids, n in zip(io["input_ids"], lengths, strict=True)]
    hidden, means = run_packed(model, rows, size)
    for ours, theirs, n in zip(hidden, io["last_hidden_state"], lengths, strict=True):
        torch.testing.assert_close(ours, theirs[:n], rtol=0, atol=1e-5)
    torch.testing.assert_close(means, io["mean"], rtol=0, atol=1e-5)


@needs_golden
def test_bf16_is_close_to_fp32() -> None:
    model = load_dnabert(TINY / "model.safetensors", TINY / "config.json")
    rows = [torch.randint(5, 4096, (n,)) for n in (3, 40, 105, 300, 700)]
    _, exact = run_packed(model, rows, 2048)
    _, rounded = run_packed(model.to(torch.bfloat16), rows, 2048)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.9995


@needs_golden
def test_tokens_are_the_published_ones() -> None:
    tokenizer = DNATokenizer(SHARED / "reference" / "dnabert_s" / "tokenizer.json")
    cases = json.loads((GOLDEN / "dnabert_s_tokenization.json").read_text())
    for case, ids in zip(cases, tokenizer.encode([case["seq"] for case in cases]), strict=True):
        assert ids.tolist() == case["ids"]
    assert tokenizer.pad_id == 3


@needs_golden
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_dnabert2_layout_loads(tmp_path: Path, suffix: str) -> None:
    state = {f"bert.{key}": value for key, value in load_file(TINY / "model.safetensors").items()}
    state = {key: value for key, value in state.items() if "pooler" not in key}
    state["cls.predictions.bias"] = torch.zeros(4096)
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    ours = load_dnabert(path, TINY / "config.json")
    plain = load_dnabert(TINY / "model.safetensors", TINY / "config.json")
    for (name, a), (_, b) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(a, b), name


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(ModelError, match=r"evil\.bin"):
        load_dnabert(tmp_path / "evil.bin", MINI / "config.json")
    assert not Path("executed").exists()


def change(state: dict[str, torch.Tensor], what: str) -> None:
    key = "encoder.layer.0.mlp.wo.bias"
    if what == "missing":
        del state[key]
    elif what == "unknown":
        state["encoder.layer.99.mlp.wo.bias"] = state[key].clone()
    else:
        state[key] = torch.zeros(7)


@pytest.mark.parametrize(
    ("what", "words"), [("missing", "misses 1 tensor"), ("unknown", "unknown 1 tensor"), ("shape", "does not fit")]
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, what: str, words: str) -> None:
    state = load_file(MINI / "model.safetensors")
    change(state, what)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_dnabert(tmp_path / "model.safetensors", MINI / "config.json")


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 5}')
    with pytest.raises(ModelError, match="vocab_size"):
        load_dnabert(MINI / "model.safetensors", tmp_path / "config.json")


def test_alibi_slopes_of_twelve_heads() -> None:
    expected = [2.0**-k for k in range(1, 9)] + [2.0**-k for k in (0.5, 1.5, 2.5, 3.5)]
    assert alibi_slopes(12).tolist() == pytest.approx(expected)


def slow_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Attention of one sequence in float64, head by head."""
    n, heads, dim = q.shape
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
    columns = []
    for h in range(heads):
        scores = q[:, h].double() @ k[:, h].double().T / dim**0.5 - slopes[h].double() * distance
        columns.append(scores.softmax(-1) @ v[:, h].double())
    return torch.stack(columns, 1).reshape(n, heads * dim)


def test_attention_keeps_sequences_apart() -> None:
    lengths, heads, dim = [1, 5, 33, 105, 600, 1100], 4, 8
    size = 2048
    q, k, v = torch.randn(3, size, heads, dim).unbind(0)
    slopes = alibi_slopes(heads)
    out = packed_attention(q, k, v, PackedLayout.build(lengths, size, "cpu"), dim**-0.5, slopes)
    start = 0
    for n in lengths:
        rows = slice(start, start + n)
        expected = slow_attention(q[rows], k[rows], v[rows], slopes)
        torch.testing.assert_close(out[rows].double(), expected, rtol=0, atol=1e-5)
        start += n
    assert not out[start:].any()


def test_width_covers_every_length() -> None:
    widths = [padded_width(n) for n in range(1, 9000)]
    assert all(width >= n for n, width in enumerate(widths, 1))
    assert widths == sorted(widths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepacked_products_are_right(dtype: torch.dtype) -> None:
    if not prepacking_available(dtype):
        pytest.skip(f"no prepacked oneDNN products of {dtype} here")
    layer = Linear(96, 200)
    layer.weight.data, layer.bias.data = torch.randn(200, 96).to(dtype), torch.randn(200).to(dtype)  # type: ignore[union-attr]
    x = torch.randn(256, 96).to(dtype)
    expected = x.double() @ layer.weight.double().T + layer.bias.double()  # type: ignore[union-attr]
    layer.prepack(256)
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=tolerance)


def test_unknown_letters_become_one_unk_each() -> None:
    tokenizer = DNATokenizer(MINI / "tokenizer.json")
    (ids,) = tokenizer.encode(["ACGT" + "N" * 7 + "RYKM" + "ACGT"])
    assert np.count_nonzero(ids == 0) == 11
    assert ids[0] == 1
    assert ids[-1] == 2
