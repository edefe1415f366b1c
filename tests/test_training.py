"""`training/`: examples as `predict` reads them, networks as the package computes them, and a tiny whole training."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from training import encoders, fit_mini, genomes, train_mini, train_teachers
from training.encoders import TOKENIZER
from training.evaluate import Scored, figures_of, long_sequences
from training.genomes import cluster_of, load, read_folder, save
from training.heldout import HeldOut, embed_rows, pad
from training.init_mini import Size
from training.metrics import Comparison, auroc, calibration_error
from training.networks import (
    DNA_CLS,
    DNA_MASK,
    DNA_PAD,
    DNA_SEP,
    FiveMerNetwork,
    residue_substitutes,
    word_substitutes,
)
from training.recipes import RECIPES, TEACHER_SIZES, TEACHERS
from training.teachers import Pool, Teachers, fit_logistic, log_odds
from training.windows import Sampler, Strands, record_weights, without_gaps
from virnucpro.input.frames import open_frames
from virnucpro.input.windows import Window
from virnucpro.models.attention import PackedLayout, segment_mean
from virnucpro.models.classifier import check_state
from virnucpro.models.esm2 import protein_mean
from virnucpro.models.protein_tokenizer import ALPHABET
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.models.weights import read_weights
from virnucpro.train import metrics

pytestmark = pytest.mark.heavy

CPU = torch.device("cpu")
LETTERS = np.frombuffer(genomes.LETTERS.encode(), np.uint8)


def write_genomes(folder: Path) -> Path:
    """Two groups of each class; the viral ones are rich in G and C."""
    rng = random.Random(3)
    weights = {"viral": (1, 3, 3, 1), "other": (3, 1, 1, 3)}
    for name in ("viral", "other"):
        (folder / name).mkdir(parents=True)
        for group in ("a", "b"):
            records = ["".join(rng.choices("ACGT", weights[name], k=rng.randint(200, 900))) for _ in range(30)]
            records[0] += "N" + records[1]
            text = "".join(f">{group}{i} cluster=C{i} species=x\n{each}\n" for i, each in enumerate(records))
            (folder / name / f"{group}.fa.gz").write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genomes")
    save(folder / "data.npz", read_folder(write_genomes(folder), {"other/b": 0.5}))
    return folder / "data.npz"


# Data


def test_packed_genomes_come_back(packed: Path) -> None:
    found, again = load(packed), read_folder(packed.parent, {"other/b": 0.5})
    for name in ("codes", "bounds", "group", "cluster"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    assert found.names == again.names == ("other/a", "other/b", "viral/a", "viral/b")
    counts = np.bincount(found.group).tolist()
    assert counts[0] == counts[2] == counts[3] == 30 > counts[1]
    assert found.sequence(0)[-5:].strip("ACGT") == ""
    assert "N" in found.sequence(0)


def test_a_record_without_a_cluster_is_one() -> None:
    assert cluster_of("chr1:1-500 group=human species=x") == "chr1:1-500"
    assert cluster_of("r1 cluster=G7 species=x") == "G7"
    assert cluster_of("XM_001608263.1 cluster=X35 species=x") == cluster_of("XM_001605000.2 cluster=X34")


def test_records_are_cut_at_gaps(packed: Path) -> None:
    found, cut = load(packed), without_gaps(load(packed))
    assert (found.codes == genomes.OTHER).any()
    pieces = [(group, piece) for i, group in enumerate(found.group) for piece in found.sequence(i).split("N") if piece]
    assert [(group, cut.sequence(i)) for i, group in enumerate(cut.group)] == pieces


@pytest.fixture(scope="module")
def sampler(packed: Path) -> Sampler:
    found = without_gaps(load(packed))
    return Sampler(found, Strands.of(found, TOKENIZER, CPU), np.ones(len(found.group), bool), 5, 300)


def ends(words: Tokenizer, ids: list[int]) -> list[int]:
    """Where each token ends, in bases."""
    return np.cumsum([len(words.decode([i])) if i > DNA_MASK else 0 for i in ids]).tolist()


@pytest.mark.parametrize("size", [300, 500])
def test_examples_are_what_predict_reads(sampler: Sampler, size: int) -> None:
    """The same proteins; of the nucleotides those between two borders of tokens, in nearly the same tokens."""
    examples, words, encoder = sampler.draw(size), Tokenizer.from_file(str(TOKENIZER)), DNATokenizer(TOKENIZER)
    same = total = 0
    assert examples.framed.any()
    assert not examples.framed.all()
    for codes, dna, protein, framed in zip(
        examples.codes.numpy(), examples.dna.tolist(), examples.protein.tolist(), examples.framed.tolist(), strict=True
    ):
        window = LETTERS[codes[codes < 4]].tobytes().decode()
        frames = open_frames(Window("w", 0, len(window), window))
        assert framed == bool(frames)
        residues = "".join(ALPHABET[i] for i in protein if ALPHABET[i].isalpha())
        whole = next(frame.nucleotide for frame in frames if frame.protein == residues) if framed else window
        assert residues or not framed
        found = "".join(words.decode([i]) for i in dna if i > DNA_MASK)
        assert found in whole
        assert len(whole) - len(found) < 24
        assert [i for i in dna if i <= DNA_MASK and i != DNA_PAD] == [DNA_CLS, DNA_SEP]
        alone = encoder.encode([found])[0].tolist()
        ours = set(zip(ends(words, dna), dna, strict=True))
        same += len(ours & set(zip(ends(words, alone), alone, strict=True)))
        total += len(alone)
    assert same > 0.9 * total


def test_both_strands_and_all_places_are_drawn(sampler: Sampler) -> None:
    both = LETTERS[sampler.strands.codes.numpy()].tobytes().decode()
    half = len(both) // 2
    windows = [LETTERS[codes[codes < 4]].tobytes().decode() for codes in sampler.draw(300).codes.numpy()]
    forward = [window in both[:half] for window in windows]
    assert 0.4 < np.mean(forward) < 0.6
    assert all(window in both for window in windows)


def test_half_of_the_draws_are_viral_and_only_of_the_records_given(packed: Path) -> None:
    found = load(packed)
    chosen = found.cluster % 2 == 0
    weights = record_weights(found, chosen)
    assert weights[~chosen].max() == 0
    np.testing.assert_allclose(weights[found.viral].sum(), weights[~found.viral].sum())


def test_time_does_not_count_before_all_is_compiled(packed: Path, tmp_path: Path) -> None:
    """Otherwise a short training would be over before it began."""
    words = ["--train", str(packed), "--dev", str(packed), "--out", str(tmp_path), "--part", "protein"]
    words += ["--device", "cpu", "--batch", "4", "--seconds", "0.001", "--evaluations", "1"]
    train_mini.train(train_mini.parse_args(words))
    last = json.loads((tmp_path / "log-protein.jsonl").read_text().splitlines()[-1])
    assert last["step"] == train_mini.SETTLED + 1


def test_a_training_that_diverges_ends(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "protein", replace(RECIPES["protein"], rate=float("inf")))
    words = ["--train", str(packed), "--dev", str(packed), "--out", str(tmp_path), "--part", "protein"]
    with pytest.raises(FloatingPointError, match="step 5"):
        train_mini.train(train_mini.parse_args([*words, "--device", "cpu", "--batch", "4", "--steps", "30"]))


# Networks


@pytest.mark.parametrize("name", ["dna", "protein"])
def test_the_forward_pass_is_that_of_the_package(tmp_path: Path, name: str) -> None:
    encoders.start(tmp_path, seed=1)
    network = encoders.trained(tmp_path, groups=4, dropout=0.1)[name].eval()
    torch.manual_seed(0)
    for value in network.encoder.parameters():
        value.data.add_(torch.randn_like(value) * 0.05)
    rows = [torch.randint(5, 24, (n,)).numpy() for n in (5, 40, 63, 17)]
    with torch.inference_mode():
        ours = network(torch.from_numpy(pad(rows, network.pad_id)))
        layout = PackedLayout.build([len(row) for row in rows], 256, "cpu")
        buffer = torch.full((256,), network.pad_id)
        buffer[: layout.used] = torch.from_numpy(np.concatenate(rows))
        hidden = network.encoder(buffer, layout)
        mean = segment_mean if name == "dna" else protein_mean
        torch.testing.assert_close(ours, mean(hidden, layout.lengths, layout.used), atol=1e-4, rtol=0)
    torch.testing.assert_close(embed_rows(network, rows, CPU), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dna", "protein"])
def test_every_parameter_learns_and_is_written(tmp_path: Path, name: str) -> None:
    encoders.start(tmp_path, seed=1)
    network = encoders.trained(tmp_path, groups=4, dropout=0.1)[name]
    labels = torch.tensor([0, 1, 1, 0])
    torch.stack(network.losses(torch.randint(5, 24, (4, 32)), labels.float(), labels)).sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    encoders.write(tmp_path / "trained", network.encoder, "a test")
    again = encoders.load_dna(tmp_path / "trained") if name == "dna" else encoders.load_protein(tmp_path / "trained")
    for key, value in network.encoder.named_parameters():
        assert torch.equal(again.state_dict()[key], value.detach().half().float())


def test_a_protein_that_is_masked_whole_does_no_harm(tmp_path: Path) -> None:
    encoders.start(tmp_path, seed=1)
    network = encoders.trained(tmp_path, groups=4, dropout=0.1)["protein"]
    ids = torch.randint(4, 24, (4, 32))
    ids[:, 2:] = network.pad_id
    hidden = network.hidden(ids, ids != network.pad_id)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(value.grad.isfinite().all() for value in network.encoder.parameters() if value.grad is not None)


def test_substitutes_are_near() -> None:
    words = json.loads(TOKENIZER.read_text())["model"]["vocab"]
    names = {place: word for word, place in words.items()}
    for place, others in enumerate(word_substitutes(words).tolist()):
        for other in {names[each] for each in others} - {names[place]}:
            assert sum(a != b for a, b in zip(names[place], other, strict=True)) == 1
    residues = residue_substitutes()
    leucine = [ALPHABET[i] for i in residues[ALPHABET.index("L")].tolist()]
    assert max(set(leucine), key=leucine.count) in "IM"
    assert leucine.count("D") < leucine.count("V")
    assert "L" not in leucine
    assert (residues[ALPHABET.index("<pad>")] == ALPHABET.index("<pad>")).all()


@pytest.mark.parametrize("name", ["dna", "protein"])
def test_half_of_the_rows_are_varied(tmp_path: Path, name: str) -> None:
    encoders.start(tmp_path, seed=1)
    network = encoders.trained(tmp_path, groups=4, dropout=0.1)[name]
    ids = torch.randint(4, 24, (400, 100))
    ids[:, 90:] = network.pad_id
    changed = (network.varied(ids) != ids)[:, :90].float().mean(1)
    assert changed.view(-1, 4)[:, :2].sum() == 0
    assert 0.1 < changed.view(-1, 4)[:, 2:].mean() < 0.2
    assert not (network.varied(ids) != ids)[:, 90:].any()


def test_five_mers_of_both_strands_are_one() -> None:
    network = FiveMerNetwork()
    codes = torch.randint(0, 4, (3, 60))
    found = network.counts(codes)
    assert found.shape == (3, 512)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    torch.testing.assert_close(network.counts(3 - codes.flip(1)), found)
    with_n = torch.cat((codes, torch.full((3, 9), 4)), 1)
    torch.testing.assert_close(network.counts(with_n), found)


# Figures


def test_auroc_is_that_of_the_package() -> None:
    rng = np.random.default_rng(0)
    viral, scores = rng.random(500) < 0.3, rng.integers(0, 20, 500) / 20
    assert auroc(scores, viral) == pytest.approx(metrics.auroc(viral.astype(np.int64), scores))


def test_gain_and_calibration() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(4000)
    viral = rng.random(4000) < truth
    found = Comparison.of(truth, rng.random(4000), viral, np.arange(4000) // 8)
    assert found.gain[0] == pytest.approx(found.ours[0] - found.theirs[0], abs=2e-4)
    assert 0.2 < found.gain[1] < found.gain[0] < found.gain[2]
    assert calibration_error(truth, viral) < 0.03 < 0.1 < calibration_error(truth**3, viral)


def test_figures_by_group_and_sequence(packed: Path) -> None:
    data = load(packed)
    held = HeldOut.cut(data, 300, TOKENIZER)
    scores = np.where(held.viral, 0.8, 0.3) + np.random.default_rng(0).normal(0, 0.01, len(held.viral))
    units, groups, ones = data.cluster[held.record], data.group[held.record], np.ones(len(scores), np.int64)
    scored = Scored(scores, 1 - scores, held.viral, units, groups, held.record, ones)
    framed = np.arange(len(held.windows)) % 3 > 0
    found = json.loads(json.dumps(figures_of(scored, framed, data.names)))
    assert found["windows"]["auroc"][0] == 1
    assert found["windows"]["beside 5-mers"]["theirs"][0] == 0
    assert found["groups of windows"]["viral/a"]["records"] == 30
    assert found["recall"] == {"conservative": 1, "default": 1, "relaxed": 1}


def test_long_sequences_have_thresholds_of_their_own_not_below_the_published() -> None:
    bases, viral = np.repeat([7_999, 8_000, 30_000], 100), np.arange(300) % 2 == 1
    scores = np.where(viral, 0.9, np.where(bases < 8_000, 0.8, 0.1))
    scores[[100, 102]] = 0.7, 0.6
    empty = np.zeros(300, np.int64)
    found = long_sequences(Scored(scores, scores, viral, empty, empty, empty, bases))
    assert (found["viral"], found["other"]) == (100, 100)
    assert found["conservative"] == {"score": pytest.approx(0.6), "viral": 100, "other": 1}
    assert found["default"] == found["relaxed"] == {"score": 0.5, "viral": 100, "other": 2}


@pytest.fixture(scope="module")
def teachers(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small teachers that have learned almost nothing."""
    folder = tmp_path_factory.mktemp("teachers")
    words = ["--train", str(packed), "--dev", str(packed), "--out", str(folder), "--device", "cpu", "--batch", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(TEACHERS, "tokens")
        for name in TEACHER_SIZES:
            patch.setitem(TEACHER_SIZES, name, Size(1, 32, 2, 32))
        train_teachers.train(train_teachers.parse_args([*words, "--steps", "2", "--evaluations", "1"]))
        yield folder


def test_a_teacher_speaks_only_of_the_fold_it_has_not_seen(packed: Path, teachers: Path) -> None:
    data = without_gaps(load(packed))
    found = Teachers(teachers, data, CPU)
    drawn = Sampler(data, Strands.of(data, TOKENIZER, CPU), np.ones(len(data.group), bool), 5, 100).draw(300)
    said, kinds, folds = found.say(drawn), list(found.networks), found.fold[drawn.record]
    assert kinds == ["dna", "fivemer", "protein"]
    assert (said[~drawn.framed, kinds.index("protein")] == 0).all()
    for fold in range(genomes.FOLDS):
        here, networks = folds == fold, found.networks["fivemer"]
        ours, others = (log_odds(networks[each], drawn.codes[here]) for each in (fold, fold - 1))
        torch.testing.assert_close(said[here, kinds.index("fivemer")], ours)
        assert not torch.allclose(ours, others)


def test_a_pool_keeps_windows_and_their_targets_together(packed: Path, teachers: Path) -> None:
    data = without_gaps(load(packed))
    found = Teachers(teachers, data, CPU)
    source = Sampler(data, Strands.of(data, TOKENIZER, CPU), np.ones(len(data.group), bool), 5, 50)
    found.weigh(source)
    drawn = Pool(source, found, 100, 40).draw(300)
    assert len(drawn.target) == 40
    said = found.together(found.say(drawn), drawn.framed)
    torch.testing.assert_close(drawn.target, 0.6 * said + 0.4 * drawn.viral, atol=1e-4, rtol=0)
    assert (drawn.target[drawn.viral == 1].min() >= 0.4) & (drawn.target[drawn.viral == 0].max() <= 0.6)


def test_words_of_teachers_are_weighed() -> None:
    """A teacher that knows the class gets weight, one that guesses does not."""
    rng = torch.Generator().manual_seed(0)
    viral = torch.rand(4000, generator=rng) < 0.5
    knows = torch.where(viral, 1.0, -1.0) + torch.randn(4000, generator=rng)
    network = torch.nn.Linear(2, 1)
    fit_logistic(network, torch.stack((knows, torch.randn(4000, generator=rng)), 1), viral.float())
    # The log-odds of two normal distributions, 1 wide and 2 apart, are twice the position between them.
    torch.testing.assert_close(network.weight[0].detach(), torch.tensor([2.0, 0.0]), atol=0.2, rtol=0)


# The whole


def test_training_and_fitting_at_a_tiny_size(packed: Path, teachers: Path, tmp_path: Path) -> None:
    words = [
        *("--train", str(packed), "--dev", str(packed), "--out", str(tmp_path)),
        *("--device", "cpu", "--batch", "16"),
    ]
    taught = ["--teachers", str(teachers), "--windows", "100"]
    train_mini.train(train_mini.parse_args([*words, *taught, "--steps", "5", "--evaluations", "1"]))
    for name in (encoders.DNA, encoders.PROTEIN):
        files = [folder / name / "model.safetensors" for folder in (tmp_path, tmp_path / "start")]
        trained, start = map(read_weights, files)
        assert any(not torch.equal(value, start[key]) for key, value in trained.items())
    fit_mini.main([*words, "--batches", "3", "--epochs", "2"])
    for name in ("classifier", "dna_only"):
        path = tmp_path / f"{name}.safetensors"
        check_state(path, read_weights(path))
    assert read_weights(tmp_path / "classifier.safetensors")["hidden.weight"].shape == (512, 288)
    assert read_weights(tmp_path / "dna_only.safetensors")["hidden.weight"].shape == (512, 128)
    for part, names in (("dna", {"dna", "fivemer"}), ("protein", {"protein"})):
        last = json.loads((tmp_path / f"log-{part}.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 5
        assert set(last["dev_auroc"]) == names
