"""ESM-2 with its products in FP8; on a CPU the same arithmetic runs in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Cli
from torch import Tensor

from virnucpro.core.device import Device, select_dtype
from virnucpro.errors import DeviceError
from virnucpro.models import fp8
from virnucpro.models.attention import PackedLayout
from virnucpro.models.esm2 import ESM2, load_esm2, protein_mean
from virnucpro.models.layers import Norm
from virnucpro.models.protein_tokenizer import ProteinTokenizer
from virnucpro.models.registry import resolve
from virnucpro.pipeline.families import place

HOPPER, AMPERE = Device("cuda:0", "H100", 80.0, True, True), Device("cuda:1", "A100", 80.0, True, False)
PROTEINS = ("MKTAYIAKQR" * 4, "GSHMLEDPVRQW", "MSTNPKPQRKTKRNTNRRPQDVKFPGG" * 3)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_row_is_rounded_by_its_own_scale() -> None:
    x = rand(6, 300) * torch.tensor([[1e-6], [1.0], [50.0], [1e4], [0.0], [3.0]])
    found = fp8.quantized(x)
    assert torch.equal(found.scales[:, 0], (x.abs().amax(1) / 448).clamp(min=1e-12))
    # Half of the distance between two numbers in E4M3, which has 3 bits of fraction, and half of the smallest, 2⁻⁹.
    assert ((found.float() - x).abs() <= x.abs() * 2**-4 + found.scales * 2**-10).all()
    assert found.values.float().abs().amax(1)[[0, 1, 2, 3, 5]].tolist() == [448.0] * 5


def test_what_a_row_becomes_depends_on_no_other() -> None:
    x, added, norm = rand(8, 64), rand(8, 64, seed=1), Norm(64, 1e-5)
    norm.weight.data, norm.bias.data = rand(64, seed=2), rand(64, seed=3)
    order = torch.tensor([5, 0, 7])
    pairs = [
        (fp8.quantized(x), fp8.quantized(x[order])),
        (fp8.quantized_gelu(x), fp8.quantized_gelu(x[order])),
        (fp8.quantized_norm_of_sum(norm, x, added)[1], fp8.quantized_norm_of_sum(norm, x[order], added[order])[1]),
    ]
    for all_of_it, some in pairs:
        assert torch.equal(all_of_it.values[order].view(torch.uint8), some.values.view(torch.uint8))
        assert torch.equal(all_of_it.scales[order], some.scales)


def vectors(network: ESM2) -> Tensor:
    ids = ProteinTokenizer().encode(PROTEINS)
    lengths = [len(each) for each in ids]
    layout = PackedLayout.build(lengths, 256, "cpu")
    tokens = torch.ones(256, dtype=torch.int64)
    tokens[: sum(lengths)] = torch.cat([torch.from_numpy(each) for each in ids])
    return protein_mean(network(tokens, layout), layout.lengths, sum(lengths))


def test_the_trained_network_says_the_same_in_fp8() -> None:
    weights = resolve("esm2-mini").weights
    wanted, network = vectors(load_esm2(weights)), load_esm2(weights, torch.bfloat16)
    network.quantize()
    assert network.layers[0].get_parameter("fc1.weight").dtype is fp8.FP8
    assert (torch.cosine_similarity(vectors(network), wanted) > 0.995).all()


def test_fp8_is_for_gpus_that_have_it_and_for_esm2() -> None:
    assert select_dtype("fp8", [HOPPER]) == "fp8"
    assert select_dtype("auto", [HOPPER]) == "bf16"
    with pytest.raises(DeviceError, match=r"compute capability 8\.9"):
        select_dtype("fp8", [HOPPER, AMPERE])
    assert place([HOPPER], [resolve("dnabert-mini"), resolve("esm2-mini")], "fp8").dtype == "fp8"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("predict", "--model", "mini-1"), 5, "fp8 needs GPUs of compute capability 8.9"),
        (("embed", "--model", "esm2-mini"), 5, "fp8 needs GPUs of compute capability 8.9"),
        (("embed",), 2, "dnabert-mini cannot compute in FP8"),
    ],
)
def test_where_there_is_no_fp8(command: tuple[str, ...], code: int, said: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.fa").write_text(">a\nMKT\n" if "esm2-mini" in command else ">a\nACGT\n")
    done = cli(command[0], tmp_path / "a.fa", "-o", tmp_path / "o.h5", *command[1:], "--dtype", "fp8", "-d", "cpu")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
