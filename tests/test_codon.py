"""The codon network: compared with a second version in float64, what it reads, its loading, and its worker."""

from __future__ import annotations

import json
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import to_fasta
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from toy_codon import Reference, reverse_complement, save_toy_codon

from virnucpro.errors import ModelError
from virnucpro.input.windows import SHORTEST
from virnucpro.models.attention import PackedLayout
from virnucpro.models.codon import OUTSIDE, UNKNOWN, CodonTokenizer, _at_once, _window_by_window, load_codon
from virnucpro.models.linear import Convolution, prepack, prepacking_available
from virnucpro.models.local import CONFIG, WEIGHTS
from virnucpro.models.registry import resolve
from virnucpro.pipeline.parallel_codon import CodonWorker

#: Lengths of windows, including those where a frame ends within a position, or where the frames' slots differ.
LENGTHS = [*range(SHORTEST, 30), 100, 149, 150, 151, 299, 300, 497, 498, 499, 500]


def dna(length: int, letters: str = "ACGT") -> str:
    return "".join(random.Random(f"{length}{letters}").choices(letters, k=length))


def vectors(folder: Path, sequences: list[str], size: int, packed: bool = True) -> NDArray[np.float32]:
    """Embeddings of `sequences`, in one buffer, from the network alone."""
    model = load_codon(folder / WEIGHTS[0], folder / CONFIG)
    if packed and prepacking_available():
        prepack(model, size)
    ids = CodonTokenizer(model.config.stride).encode(sequences)
    lengths = [len(each) for each in ids]
    tokens = torch.full((size,), OUTSIDE)
    tokens[: sum(lengths)] = torch.from_numpy(np.concatenate(ids))
    layout = PackedLayout.build(lengths, size, "cpu")
    return model.pool(model(tokens, layout), tokens, layout.lengths, sum(lengths)).numpy()


@pytest.mark.parametrize("packed", [True, False], ids=["oneDNN", "plain"])
@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.heavy), 2, 3, pytest.param(4, marks=pytest.mark.heavy)]
)
def test_agrees_with_float64(tmp_path: Path, stride: int, packed: bool) -> None:
    folder = save_toy_codon(tmp_path / "model", stride=stride)
    sequences = [dna(length, letters) for letters in ("ACGT", "ACGTACGTACGTN", "ACGTUacgtuRYN") for length in LENGTHS]
    sequences += ["N" * 20, "A" * 500, "TAA" * 50]
    found = vectors(folder, sequences, 1 << 16, packed)
    reference = Reference(folder)
    np.testing.assert_allclose(found, [reference.vector(each) for each in sequences], rtol=0, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_both_strands_have_one_vector(tmp_path: Path, stride: int) -> None:
    folder = save_toy_codon(tmp_path / "model", stride=stride)
    sequences = [dna(length, "ACGTACGTN") for length in LENGTHS]
    there = vectors(folder, [*sequences, *map(reverse_complement, sequences)], 1 << 15)
    assert there[: len(sequences)].tobytes() == there[len(sequences) :].tobytes()


def test_slots_are_reduced_alike_on_either_kind_of_device() -> None:
    rows = torch.randn(6 * 104, 32, generator=torch.Generator().manual_seed(1))
    slots = torch.tensor([4, 85, 3, 12])
    for how, tolerance in (("sum", 1e-5), ("max", 0)):
        found = _window_by_window(rows, slots, how), _at_once(rows, slots, how)
        torch.testing.assert_close(*found, rtol=0, atol=tolerance)


def test_tokens() -> None:
    (ids,) = CodonTokenizer(2).encode(["AACGTTNacgu"])
    slots = ids.reshape(6, -1)
    assert slots.shape == (6, 8)  # three codons fill two positions, and a gap of two positions follows
    # AAC GTT Nac, ACG TTN acg, CGT TNa cgu; of ACGTNAACGTT: ACG TNA ACG, CGT NAA CGT, GTN AAC GTT
    assert slots[:, :3].tolist() == [
        [1, 47, UNKNOWN],
        [6, UNKNOWN, 6],
        [27, UNKNOWN, 27],
        [6, UNKNOWN, 6],
        [27, UNKNOWN, 27],
        [UNKNOWN, 1, 47],
    ]
    assert (slots[:, 3:] == OUTSIDE).all()


def test_a_network_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_toy_codon(tmp_path / "model")
    weights, config = folder / WEIGHTS[0], folder / CONFIG
    state = load_file(weights)
    for change, words in (
        ({"members.1.stem.bias": None}, "misses 1 tensor"),
        ({"members.0.blocks.2.out.bias": torch.zeros(32)}, "unknown 1 tensor"),
        ({"members.1.frame.bias": torch.zeros(31)}, "does not fit"),
        ({"members.0.frame.bias": torch.full((32,), torch.nan)}, r"frame\.bias holds NaN"),
        ({"members.1.stem.table": torch.zeros(4, 65, 32)}, "stem.table is"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        save_file(changed, weights)
        with pytest.raises(ModelError, match=words):
            load_codon(weights, config)
    values = json.loads(config.read_text())
    for text, words in (("{}", "channels"), ("[", "cannot read"), (json.dumps(values | {"stride": 0}), "`int` >= 1")):
        config.write_text(text)
        with pytest.raises(ModelError, match=words):
            load_codon(weights, config)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_codon(weights, None)


def test_the_worker_by_hand(tmp_path: Path) -> None:
    folder = save_toy_codon(tmp_path / "model")
    assert resolve(str(folder)).kind == "codon"
    sequences = {"a": dna(500), "short": dna(SHORTEST - 1), "shortest": dna(SHORTEST), "b": dna(77).lower()}
    path = to_fasta(tmp_path / "a.fa", list(sequences.items()))
    worker = CodonWorker(resolve(str(folder)), "fp32")
    (output,), failed = worker.process_files_worker([path], "cpu", 0, tmp_path / "out")
    assert not failed
    with h5py.File(output) as file:
        assert file["ids"].asstr()[...].tolist() == ["a", "shortest", "b"]
        assert file["failed_ids"].asstr()[...].tolist() == ["short"]
        assert file["failed_reasons"].asstr()[...].tolist() == ["shorter than 8 letters"]
        reference = Reference(folder)
        expected = [reference.vector(sequences[name]) for name in ("a", "shortest", "b")]
        np.testing.assert_allclose(file["embeddings"][...], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [32, 96, 128, 160, 256])
def test_rows_of_a_convolution_do_not_depend_on_their_place(dtype: torch.dtype, channels: int) -> None:
    if not prepacking_available(dtype):
        pytest.skip(f"no prepacked oneDNN products of {dtype} here")
    torch.manual_seed(0)
    layer = Convolution(channels, channels)
    layer.weight.data = (torch.randn(channels, 5 * channels) / channels**0.5).to(dtype)
    layer.bias.data = torch.randn(channels).to(dtype)
    some, rows = torch.randn(87, channels).to(dtype), 1024
    plain = layer(torch.nn.functional.pad(some, (0, 0, 0, rows - len(some))))[: len(some)]
    layer.prepack(rows)
    found = set()
    for place in (0, 1, 2, 3, 5, 8, 13, 61, 500, 733, rows - len(some)):
        x = torch.randn(rows, channels).to(dtype)
        x[max(0, place - 2) : place + len(some) + 2] = 0
        x[place : place + len(some)] = some
        found.add(layer(x)[place : place + len(some)].contiguous().view(torch.uint8).numpy().tobytes())
    assert len(found) == 1
    torch.testing.assert_close(layer(x)[place:], plain, rtol=0, atol=2e-5 if dtype == torch.float32 else 0.1)
