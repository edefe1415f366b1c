"""Training of the codon network: the trained network is the one that the package computes; the windows it sees."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training import cross_fit, train_codon
from training.back_translation import CODE, LETTERS, BackTranslation, Proteins
from training.codon import CodonNetwork, Size, classifier_tensors, export, frames
from training.genomes import Genomes, load, save
from training.join_codon import join_classifiers, write_encoder
from training.kingdoms import separation
from virnucpro.models.attention import PackedLayout
from virnucpro.models.card import ClassifierCard, EncoderPin
from virnucpro.models.classifier import Classifier
from virnucpro.models.codon import OUTSIDE, CodonTokenizer, load_codon

pytestmark = pytest.mark.heavy

SIZE = Size(channels=16, blocks=2, stride=3, hidden=8)
LENGTHS = (100, 101, 257, 498, 499, 500)


def network(seed: int) -> CodonNetwork:
    """Random weights, none at its initial value, so that a mistake anywhere is noticed."""
    torch.manual_seed(seed)
    found = CodonNetwork(SIZE, groups=3)
    for value in found.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.randn_like(value)).abs_()
    found.embed.weight.data[OUTSIDE] = 0
    # Rounded as they are stored.
    for name, value in found.named_parameters():
        if not name.startswith(("embed", "stem.weight", "hidden", "classes", "groups")):
            value.data = value.data.half().float()
    return found.eval()


def windows() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Codes, lengths and letters of windows, one of them with an N."""
    texts = ["".join(random.Random(length).choices("ACGT", k=length)) for length in LENGTHS]
    texts[2] = texts[2][:77] + "N" + texts[2][78:]
    codes = torch.full((len(texts), 500), 4, dtype=torch.uint8)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = torch.tensor(["ACGTN".index(letter) for letter in text], dtype=torch.uint8)
    return codes, torch.tensor(LENGTHS), texts


def package_vectors(folder: Path, texts: list[str]) -> torch.Tensor:
    """The vectors that the package computes for windows."""
    model = load_codon(folder / "model.safetensors", folder / "config.json")
    ids = CodonTokenizer(SIZE.stride).encode(texts)
    tokens = torch.from_numpy(np.concatenate(ids))
    layout = PackedLayout.build([len(each) for each in ids], len(tokens), "cpu")
    return model.pool(model(tokens, layout), tokens, layout.lengths, len(tokens))


@torch.inference_mode()
def test_the_package_computes_what_was_trained(tmp_path: Path) -> None:
    members = [network(seed) for seed in range(2)]
    for i, member in enumerate(members):
        export(member, tmp_path / str(i), "a test")
    write_encoder([tmp_path / "0", tmp_path / "1"], tmp_path / "joined")
    codes, lengths, texts = windows()
    expected = torch.cat([member.vectors(*frames(codes, lengths, SIZE.stride)) for member in members], 1)
    found = package_vectors(tmp_path / "joined", texts)
    # The table of the stem is stored in float16.
    torch.testing.assert_close(found, expected, rtol=3e-3, atol=3e-3)

    state = join_classifiers([load_file(tmp_path / str(i) / "classifier.safetensors") for i in range(2)])
    assert state.keys() == classifier_tensors(members[0]).keys()
    card = ClassifierCard(
        "test", True, (500,), EncoderPin("x", expected.shape[1], ()), None, "", "", "", reads="windows"
    )
    scores = Classifier(card, state).score(expected.numpy())
    logits = torch.stack([member(*frames(codes, lengths, SIZE.stride))[0] for member in members]).mean(0)
    np.testing.assert_allclose(scores, logits.softmax(1), rtol=0, atol=1e-5)


def test_windows_made_from_proteins() -> None:
    rng = np.random.default_rng(0)
    genes = Genomes(rng.integers(0, 4, 6000).astype(np.uint8), np.arange(0, 6001, 600), np.zeros(10, int),
                    np.arange(10), ("viral/refseq_cds",))  # fmt: skip
    residues = rng.choice(np.frombuffer(LETTERS.encode(), np.uint8), 400)
    proteins = Proteins(residues, np.array([0, 150, 400]), np.array([True, False]), np.array([0, 1]), np.arange(2),
                        ("viral/a", "other/b"))  # fmt: skip
    source = BackTranslation(proteins, genes, np.array([1.0, 1.0]), 5, torch.Generator().manual_seed(0))
    codes, lengths, viral, group = source.draw(torch.tensor([500, 100] * 20), 500)
    text = residues.tobytes().decode()
    for row, length, is_viral, number in zip(
        codes.tolist(), lengths.tolist(), viral.tolist(), group.tolist(), strict=True
    ):
        made = "".join(CODE[16 * a + 4 * b + c] for a, b, c in zip(*(row[i:length:3] for i in range(3)), strict=True))
        assert made in (text[:150] if is_viral else text[150:])
        assert number == (5 if is_viral else 6)
        assert set(row[length:]) <= {4}


def genomes(path: Path) -> Path:
    """Two classes that differ in two letters."""
    rng = np.random.default_rng(1)
    parts = [
        rng.choice([0, 1, 2, 3], 600, p=p) for p in ([0.4, 0.1, 0.1, 0.4], [0.1, 0.4, 0.4, 0.1]) for _ in range(20)
    ]
    group = np.repeat([0, 1], 20)
    names = ("other/bacteria", "viral/phage_dsDNA")
    save(path, Genomes(np.concatenate(parts).astype(np.uint8), np.arange(0, 24_001, 600), group, np.arange(40), names))
    return path


def test_a_training_that_was_stopped_goes_on(tmp_path: Path) -> None:
    data, out = str(genomes(tmp_path / "genomes.npz")), tmp_path / "out"
    words = ["--train", data, "--measure", data, "--out", str(out), "--device", "cpu", "--channels", "16"]
    words += ["--blocks", "1", "--batch", "64", "--evaluations", "1", "--seed", "3"]
    train_codon.main([*words, "--steps", "200", "--stop", "0"])
    first = torch.load(out / "state.pt", weights_only=True)["step"]
    assert first == 100
    train_codon.main([*words, "--steps", "200"])
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 200
    assert '"prokaryote": 1.0' in (out / "log.jsonl").read_text()
    write_encoder([out], tmp_path / "joined")
    assert load_codon(tmp_path / "joined/model.safetensors", tmp_path / "joined/config.json").dim == 32


def test_cross_fitting_keeps_a_fold_from_each_network_and_trains_others_on_all(tmp_path: Path) -> None:
    """Clusters stay whole, every record is there once, and every training gives a network."""
    path, folds, out = genomes(tmp_path / "genomes.npz"), tmp_path / "folds", tmp_path / "trained"
    cross_fit.main(["pack", "--genomes", str(path), "--out", str(folds), "--folds", "2"])
    parts = [load(each) for each in sorted(folds.glob("*.npz"))]
    assert not set(parts[0].cluster) & set(parts[1].cluster)
    whole = load(path)
    assert sorted(part.sequence(i) for part in parts for i in range(len(part.group))) == sorted(
        map(whole.sequence, range(len(whole.group)))
    )
    words = ["--device", "cpu", "--blocks", "1", "--batch", "16", "--evaluations", "1", "--channels", "16"]
    cross_fit.main(
        ["train", "--folds", str(folds), "--out", str(out), "--fold-steps", "2", "--final-steps", "2", *words]
    )
    assert sorted(each.name for each in out.iterdir()) == [
        *(f"{kind}_{member}" for kind in ("all", "without_0", "without_1") for member in (0, 1))
    ]
    assert all((each / "model.safetensors").exists() for each in out.iterdir())


def test_figures_by_kingdom() -> None:
    names = np.array(["viral/phage_dsDNA"] * 2 + ["other/bacteria"] * 4 + ["other/fungi"] * 4)
    viral = np.array([True] * 2 + [False] * 8)
    found = separation(np.array([3.0, 1.0, 0, 0, 0, 2.0, 0, 0, 0, 0]), viral, names)
    assert found["prokaryote"] == 0.875
    assert found["eukaryote"] == 1.0
    assert found["overall"] == pytest.approx(0.9375, abs=1e-4)
    assert math.isnan(found["uncultured"])
    assert found["recall at 5%"] == 0.5
