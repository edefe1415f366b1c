"""ESM-2 compared with the reference outputs and with Hugging Face's network; its loading, pooling and tokenizer."""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import HANGS
from safetensors.torch import load_file, save_file

from virnucpro.errors import ModelError
from virnucpro.models import registry
from virnucpro.models.attention import PackedLayout
from virnucpro.models.dnabert_s import load_dnabert
from virnucpro.models.esm2 import ESM2, PUBLISHED_HEADS, load_esm2, protein_mean
from virnucpro.models.linear import prepack, prepacking_available
from virnucpro.models.protein_tokenizer import ALPHABET, ProteinTokenizer
from virnucpro.models.tokenizer import DNATokenizer

TINY = Path(__file__).parents[2] / "shared" / "golden" / "esm2_tiny"
GOLDEN = TINY / "model_fair_keys.safetensors"
MINI = registry.EMBEDDED / "esm2-mini" / "model.safetensors"
LETTERS = "LAGVSERTIDPKQNFYMHWC"

needs_golden = pytest.mark.skipif(not TINY.is_dir(), reason="the golden data is not beside the repository")


def pack(rows: list[torch.Tensor], size: int) -> tuple[torch.Tensor, PackedLayout]:
    lengths = [len(row) for row in rows]
    tokens = torch.full((size,), ProteinTokenizer.pad_id)
    tokens[: sum(lengths)] = torch.cat(rows)
    return tokens, PackedLayout.build(lengths, size, "cpu")


def run_packed(model: ESM2, rows: list[torch.Tensor], size: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Representations of each protein, and the means, from one packed buffer."""
    tokens, layout = pack(rows, size)
    hidden = model(tokens, layout)
    used = layout.used
    return list(hidden[:used].split(layout.lengths.tolist())), protein_mean(hidden, layout.lengths, used)


def proteins(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    """Token ids of random proteins with these numbers of residues."""
    rng = random.Random(seed)
    return [
        torch.from_numpy(ids)
        for ids in ProteinTokenizer().encode(["".join(rng.choices(LETTERS, k=n)) for n in lengths])
    ]


def hugging_face_keys(state: Mapping[str, torch.Tensor], shared_inv_freq: bool = False) -> dict[str, torch.Tensor]:
    """The golden network with Hugging Face's names, which are written again here."""
    inside = {
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense",
        "self_attn.rot_emb": "attention.self.rotary_embeddings",
        "self_attn_layer_norm": "attention.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "final_layer_norm": "LayerNorm",
    }
    found = {}
    for key, value in state.items():
        key = key.removeprefix("encoder.").removeprefix("sentence_encoder.")
        if match := re.fullmatch(r"layers\.(\d+)\.(.+)\.(\w+)", key):
            key = f"esm.encoder.layer.{match[1]}.{inside[match[2]]}.{match[3]}"
        elif key.startswith("emb_layer_norm_after"):
            key = f"esm.encoder.{key}"
        elif key == "embed_tokens.weight":
            key = "esm.embeddings.word_embeddings.weight"
        if shared_inv_freq and key.endswith("inv_freq"):
            key = "esm.rotary_embeddings.inv_freq"
        found[key] = value
    return found


def assert_equal_networks(ours: ESM2, theirs: ESM2) -> None:
    assert ours.config == theirs.config
    assert torch.equal(ours.inv_freq, theirs.inv_freq)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(a, b), name


# The numbers


@needs_golden
@pytest.mark.parametrize("prepacked", [False, True])
def test_agrees_with_the_reference(prepacked: bool) -> None:
    model = load_esm2(GOLDEN)
    assert (model.dim, model.config.layers, model.config.heads) == (80, 3, 4)
    if prepacked:
        if not prepacking_available():
            pytest.skip("this PyTorch has no prepacked oneDNN products")
        prepack(model, 256)
    io = load_file(TINY / "io.safetensors")
    rows = [ids[ids != ProteinTokenizer.pad_id] for ids in io["tokens"]]
    hidden, means = run_packed(model, rows, 256)
    for ours, theirs in zip(hidden, io["repr_last_fp16invfreq"], strict=True):
        torch.testing.assert_close(ours, theirs[: len(ours)], rtol=0, atol=1e-5)
    torch.testing.assert_close(means, io["mean_fp16invfreq"], rtol=0, atol=1e-5)


@needs_golden
def test_rounded_frequencies_are_loaded_and_recomputed_ones_are_not_the_same() -> None:
    stored = load_file(GOLDEN)["encoder.sentence_encoder.layers.0.self_attn.rot_emb.inv_freq"]
    model = load_esm2(GOLDEN)
    exact = 10000.0 ** (-torch.arange(10) / 10)
    assert torch.equal(model.inv_freq, stored)
    assert not torch.allclose(stored, exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(stored, exact, rtol=1e-3, atol=1e-7)
    # The golden outputs distinguish the two.
    io = load_file(TINY / "io.safetensors")
    model.inv_freq_bits = exact.view(torch.int32)
    _, means = run_packed(model, [ids[ids != ProteinTokenizer.pad_id] for ids in io["tokens"]], 256)
    assert (means - io["mean_fp16invfreq"]).abs().max() > 2e-5


@pytest.mark.parametrize("shape", [(2, 32, 2), (3, 48, 3), (2, 80, 5)])
def test_agrees_with_hugging_face(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    layers, dim, heads = shape
    config = transformers.EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=dim, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * dim, position_embedding_type="rotary", token_dropout=True,
        emb_layer_norm_before=False, layer_norm_eps=1e-5, max_position_embeddings=1026, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(sum(shape))
    theirs = transformers.EsmModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        # Their initial weights are too small to distinguish networks, and their biases are zero.
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_esm2(tmp_path / "model.safetensors")
    rows = proteins(1, 7, 40, 200)
    hidden, _ = run_packed(ours, rows, 256)
    for row, got in zip(rows, hidden, strict=True):
        expected = theirs(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).last_hidden_state[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_bf16_is_close_to_fp32() -> None:
    rows, network = proteins(3, 40, 105, 300), load_esm2(MINI)
    _, exact = run_packed(network, rows, 512)
    for rounded in (load_esm2(MINI).to(torch.bfloat16), load_esm2(MINI, torch.bfloat16)):
        assert torch.equal(rounded.inv_freq, network.inv_freq)
        _, means = run_packed(rounded, rows, 512)
        assert torch.nn.functional.cosine_similarity(exact, means).min() > 0.999


# A function of the sequence alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prepacked", [False, True])
def test_bits_do_not_depend_on_the_company(prepacked: bool, dtype: torch.dtype) -> None:
    if prepacked and not prepacking_available(dtype):
        pytest.skip(f"no prepacked oneDNN products of {dtype} here")
    model = load_esm2(MINI, dtype)
    if prepacked:
        prepack(model, 256)
    rows = proteins(40, 1, 30, 31, 62, 63)
    alone = [run_packed(model, [row], 256) for row in rows]
    order = random.Random(1).sample(range(len(rows)), k=len(rows))
    hidden, means = run_packed(model, [rows[i] for i in order], 256)
    for i, states, mean in zip(order, hidden, means, strict=True):
        assert torch.equal(states, alone[i][0][0])
        assert torch.equal(mean, alone[i][1][0])


def test_sequences_are_kept_apart() -> None:
    model = load_esm2(MINI)
    first, second, other = proteins(50, 60, 60)
    kept, _ = run_packed(model, [first, second], 256)
    changed, _ = run_packed(model, [first, other], 256)
    assert torch.equal(kept[0], changed[0])
    assert not torch.allclose(kept[1], changed[1])


def test_positions_start_anew_in_each_sequence() -> None:
    layout = PackedLayout.build([3, 1, 2], 8, "cpu")
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert PackedLayout.build([], 4, "cpu").positions.tolist() == [0] * 4


# Pooling


def test_mean_is_over_the_first_1024_residues() -> None:
    lengths = [3, 12, 1025, 1026, 1027, 1500]
    size = 6144
    hidden = torch.randn(size, 24, generator=torch.Generator().manual_seed(0))
    means = protein_mean(hidden, torch.tensor(lengths), sum(lengths))
    assert means.dtype == torch.float32
    start = 0
    for mean, n in zip(means, lengths, strict=True):
        residues = hidden[start + 1 : start + n - 1][:1024].double()
        torch.testing.assert_close(mean.double(), residues.mean(0), rtol=0, atol=1e-6)
        start += n


def test_mean_has_the_same_bits_anywhere_and_is_fp32() -> None:
    hidden = torch.randn(2000, 16).to(torch.bfloat16)
    alone = protein_mean(hidden[700:1900], torch.tensor([1200]), 1200)
    among = protein_mean(hidden, torch.tensor([300, 400, 1200]), 1900)
    assert torch.equal(alone[0], among[2])
    torch.testing.assert_close(alone[0], hidden[701:1725].float().mean(0), rtol=0, atol=1e-6)


# Loading


@needs_golden
@pytest.mark.parametrize("shared_inv_freq", [False, True])
@pytest.mark.parametrize("prefix", ["esm.", ""])
def test_both_layouts_load_to_equal_networks(tmp_path: Path, prefix: str, shared_inv_freq: bool) -> None:
    fair = load_file(GOLDEN)
    state = hugging_face_keys(fair, shared_inv_freq)
    state = {key.removeprefix("esm.") if not prefix else key: value for key, value in state.items()}
    extra = ("embeddings.position_embeddings.weight", "embeddings.position_ids", "contact_head.regression.weight")
    state |= {prefix + key: torch.zeros(3) for key in extra}
    save_file(state, tmp_path / "model.safetensors")
    assert_equal_networks(load_esm2(tmp_path / "model.safetensors"), load_esm2(GOLDEN))


@needs_golden
@pytest.mark.parametrize("prefix", ["encoder.sentence_encoder.", "encoder.", ""])
@pytest.mark.parametrize("old_format", [False, True])
def test_fair_esm_files_load(tmp_path: Path, prefix: str, old_format: bool) -> None:
    state = {key.replace("encoder.sentence_encoder.", prefix): value for key, value in load_file(GOLDEN).items()}
    settings = argparse.Namespace(arch="roberta_large", encoder_layers=3, tasks=["masked_lm"])
    path = tmp_path / "esm2_tiny.pt"
    torch.save({"cfg": {"model": settings}, "model": state}, path, _use_new_zipfile_serialization=not old_format)
    assert_equal_networks(load_esm2(path), load_esm2(GOLDEN))


@needs_golden
def test_weights_in_several_files_load(tmp_path: Path) -> None:
    state = list(hugging_face_keys(load_file(GOLDEN)).items())
    torch.save(dict(state[:20]), tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ModelError, match="00002-of-00002"):
        load_esm2(tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(dict(state[20:]), tmp_path / "pytorch_model-00002-of-00002.bin")
    assert_equal_networks(load_esm2(tmp_path / "pytorch_model-00001-of-00002.bin"), load_esm2(GOLDEN))


@pytest.mark.parametrize("dim", [320, 480])
def test_heads_of_published_sizes_are_known_without_inv_freq(tmp_path: Path, dim: int) -> None:
    state = {key: value for key, value in wide_state(dim).items() if "inv_freq" not in key}
    save_file(state, tmp_path / "model.safetensors")
    model = load_esm2(tmp_path / "model.safetensors")
    assert model.config.heads == PUBLISHED_HEADS[dim]
    assert torch.equal(model.inv_freq, model.inv_freq.half().float())
    torch.testing.assert_close(model.inv_freq[1].item(), 10000 ** (-2 * 20 / dim), rtol=1e-3, atol=0)


def wide_state(dim: int) -> dict[str, torch.Tensor]:
    """One layer of width `dim`, with the names of the mini network."""
    state = {key: value for key, value in load_file(MINI).items() if ".layer." not in key or ".layer.0." in key}
    sizes = {160: dim, 320: 4 * dim, 33: 33, 40: dim // 40}
    return {key: torch.zeros([sizes[n] for n in value.shape]) for key, value in state.items()}


def test_network_without_inv_freq_of_an_unknown_width_is_refused(tmp_path: Path) -> None:
    state = {key: value for key, value in load_file(MINI).items() if "inv_freq" not in key}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no inv_freq"):
        load_esm2(tmp_path / "model.safetensors")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("place", ["cfg", "model", "namespace"])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"cfg": {"model": argparse.Namespace(arch="roberta_large")}, "model": dict(load_file(MINI))}
    content[place] = argparse.Namespace(inside=Evil()) if place == "namespace" else {"weights": Evil()}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"evil\.pt"):
        load_esm2(tmp_path / "evil.pt")
    assert not Path("executed").exists()


def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    for content in ([1, 2], {"model": {"a": 1}}, {"cfg": 1}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(ModelError, match="dictionary of tensors"):
            load_esm2(tmp_path / "other.pt")


def change(state: dict[str, torch.Tensor], what: str) -> None:
    layer = "esm.encoder.layer.0."
    key = f"{layer}output.dense.bias"
    if what == "missing":
        del state[key]
    elif what == "unknown":
        state["esm.embeddings.layer_norm.weight"] = state[key].clone()
    elif what == "gap":
        state["esm.encoder.layer.99.output.dense.bias"] = state[key].clone()
    elif what == "shape":
        state[key] = torch.zeros(7)
    elif what == "share":
        query, value = (f"{layer}attention.self.{name}.bias" for name in ("query", "value"))
        state[query], state[value] = state[query][1:], torch.cat((state[value], torch.zeros(1)))
    elif what == "heads":
        for name in [name for name in state if name.endswith("inv_freq")]:
            state[name] = torch.ones(11)
    elif what == "frequencies":
        state[f"{layer}attention.self.rotary_embeddings.inv_freq"] = torch.ones(8)
    else:
        del state["esm.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "misses 1 tensor"),
        ("unknown", "unknown 1 tensor"),
        ("gap", "misses 16 tensors"),
        ("shape", "do not fit each other: layers.0.fc2.bias is \\(7,\\)"),
        ("share", "do not fit each other"),
        ("heads", "heads of 22"),
        ("frequencies", "differ in their inv_freq"),
        ("embedding", "no ESM-2 network"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, what: str, words: str) -> None:
    state = load_file(MINI)
    change(state, what)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_esm2(tmp_path / "model.safetensors")


def test_reading_weights_imports_no_compiler() -> None:
    code = "import sys; from pathlib import Path; from virnucpro.models.esm2 import load_esm2; "
    code += f"load_esm2(Path({str(MINI)!r})); assert not {{'torch._dynamo', 'sympy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGS)


def test_weights_of_another_family_are_refused() -> None:
    with pytest.raises(ModelError, match="no ESM-2 network"):
        load_esm2(registry.EMBEDDED / "dnabert-mini" / "model.safetensors")


def test_a_protein_model_is_no_dna_model() -> None:
    model = registry.resolve("esm2-mini")
    with pytest.raises(ModelError, match="no tokenizer for DNA"):
        DNATokenizer(model.tokenizer)
    with pytest.raises(ModelError, match=r"at `\$\.type_vocab_size`"):
        load_dnabert(model.weights, model.config)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_dnabert(model.weights, None)


# Tokens


def test_alphabet() -> None:
    assert len(ALPHABET) == 33
    assert [ALPHABET.index(token) for token in ("<cls>", "<pad>", "<eos>", "<unk>", "L", "X", "-", "<mask>")] == [
        0, 1, 2, 3, 4, 24, 30, 32,
    ]  # fmt: skip


def test_tokens() -> None:
    tokenizer = ProteinTokenizer()
    letters = "".join(token for token in ALPHABET if len(token) == 1)
    every, strange, empty = tokenizer.encode([letters, "MJ*m é<K", ""])
    assert every.tolist() == [0, *range(4, 31), 2]
    assert strange.tolist() == [0, 20, 3, 3, 3, 3, 3, 3, 15, 2]
    assert empty.tolist() == [0, 2]
    assert tokenizer.pad_id == 1
    assert tokenizer.encode([]) == []


@needs_golden
def test_tokens_are_the_reference_ones() -> None:
    sequences = [sequence for _, sequence in json.loads((TINY / "config.json").read_text())["sequences"]]
    for ids, row in zip(
        ProteinTokenizer().encode(sequences), load_file(TINY / "io.safetensors")["tokens"], strict=True
    ):
        assert ids.tolist() == row[row != 1].tolist()
