"""The classifier: its folder, its scores, the encoders it accepts, and published files, which are never executed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from virnucpro.errors import ModelError, OutputError
from virnucpro.models.card import CARD, ClassifierCard, EncoderPin, check_encoders
from virnucpro.models.classifier import BLOCK, KEYS, WEIGHTS, Classifier, save
from virnucpro.models.local import model_sha256
from virnucpro.models.published import read_published
from virnucpro.models.registry import resolve

MINI, FULL = (128, 128), (768, 2560)
Features = NDArray[np.float32]


def make_card(dims: tuple[int, int] = MINI) -> ClassifierCard:
    dna, protein = (EncoderPin(name, dim, (digit * 64,)) for name, dim, digit in zip("dp", dims, "ab", strict=True))
    return ClassifierCard(
        name="test", trained=True, window=(500, 300), dna=dna, protein=protein,
        citation="nobody", licence="MIT", source="a test", metrics={"auc": 0.5},
    )  # fmt: skip


def network(features: int, hidden: int = 512, seed: int = 0) -> nn.Sequential:
    """The network by its description, with a norm that changes its input."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 2)
    )
    norm = layers[1]
    assert isinstance(norm, nn.BatchNorm1d)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        assert tensor is not None
        tensor.normal_()
    assert norm.running_var is not None
    norm.running_var.uniform_(0.1, 3)
    return layers.eval()


def state_of(layers: nn.Sequential) -> dict[str, Tensor]:
    names = {"0": "hidden", "1": "norm", "4": "output"}
    state = {f"{names[key[0]]}{key[1:]}": tensor for key, tensor in layers.state_dict().items()}
    return {key: state[key] for key in KEYS}


def random_features(rows: int, width: int, seed: int = 0) -> Features:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.fixture(params=[MINI, FULL], ids=["mini", "full"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    dims = request.param
    return Classifier(make_card(dims), state_of(network(sum(dims))))


# Scores


def test_scores_are_those_of_the_described_network(classifier: Classifier) -> None:
    layers, features = network(classifier.card.dim), random_features(50, classifier.card.dim)
    with torch.no_grad():
        expected = layers(torch.from_numpy(features)).softmax(1).numpy()
    scores = classifier.score(features)
    assert scores.dtype == np.float32
    assert np.ptp(expected[:, 1]) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_row_has_the_same_bits_in_any_company(classifier: Classifier) -> None:
    features = random_features(2 * BLOCK + 77, classifier.card.dim)
    scores = classifier.score(features)
    order = np.random.default_rng(1).permutation(len(features))
    assert np.array_equal(classifier.score(features[order]), scores[order])
    for start, stop in ((0, 1), (5, 9), (1000, 1001), (1023, 1026), (77, 77 + BLOCK), (3, 2100)):
        assert np.array_equal(classifier.score(features[start:stop]), scores[start:stop])
    strange = features.copy()
    strange[1::2] = np.nan
    assert np.array_equal(classifier.score(strange)[::2], scores[::2])


def test_bits_do_not_depend_on_threads_and_their_number_stays(classifier: Classifier) -> None:
    features = random_features(BLOCK + 3, classifier.card.dim)
    state, before = state_of(network(classifier.card.dim)), torch.get_num_threads()
    scores = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scores.append(Classifier(classifier.card, state).score(features))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])


def test_every_product_has_one_shape_and_one_thread(classifier: Classifier) -> None:
    """Without that, few CPUs show a difference."""
    seen = set()
    classifier._network.register_forward_pre_hook(lambda _, x: seen.add((x[0].shape, torch.get_num_threads())))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for rows in (1, BLOCK, BLOCK + 1):
            classifier.score(random_features(rows, classifier.card.dim))
    finally:
        torch.set_num_threads(before)
    assert seen == {((BLOCK, classifier.card.dim), 1)}


def test_layout_and_alignment_of_the_features_do_not_matter(classifier: Classifier) -> None:
    features = random_features(20, classifier.card.dim)
    scores = classifier.score(features)
    assert np.array_equal(classifier.score(np.asfortranarray(features)), scores)
    shifted = np.empty(features.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(features.shape)
    shifted[:] = features
    shifted.flags.writeable = False
    assert np.array_equal(classifier.score(shifted), scores)


def test_no_features_have_no_scores(classifier: Classifier) -> None:
    assert classifier.score(np.empty((0, classifier.card.dim), np.float32)).shape == (0, 2)


def test_features_of_another_width_are_refused(classifier: Classifier) -> None:
    with pytest.raises(ModelError, match=rf"test takes \(n, {classifier.card.dim}\) features"):
        classifier.score(random_features(2, classifier.card.dim + 1))


# The folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "mine", state_of(network(sum(MINI))), make_card())
    return tmp_path / "mine"


def edit_card(folder: Path, **changes: object) -> None:
    values = json.loads((folder / CARD).read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inside = values
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
    (folder / CARD).write_text(json.dumps(values))


def test_what_is_saved_is_loaded_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    loaded, features = Classifier.load(folder), random_features(9, sum(MINI))
    assert loaded.card == replace(make_card(), files={WEIGHTS: model_sha256(folder / WEIGHTS)})
    state = state_of(network(sum(MINI)))
    assert np.array_equal(loaded.score(features), Classifier(make_card(), state).score(features))
    save(tmp_path / "again", state, loaded.card)
    for name in (CARD, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_card_on_disk(folder: Path) -> None:
    values = json.loads((folder / CARD).read_text())
    assert values == {
        "format": 1,
        "name": "test",
        "trained": True,
        "window": [500, 300],
        "reads": "frames",
        "encoders": {
            "dna": {"name": "d", "dim": 128, "sha256": ["a" * 64]},
            "protein": {"name": "p", "dim": 128, "sha256": ["b" * 64]},
        },
        "labels": ["others", "virus"],
        "min_score": 0.5,
        "presets": {},
        "long_presets": {},
        "size_presets": {},
        "calls": {},
        "dtypes": [],
        "metrics": {"auc": 0.5},
        "citation": "nobody",
        "licence": "MIT",
        "source": "a test",
        "files": {WEIGHTS: model_sha256(folder / WEIGHTS)},
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, r"enum value 2 .*\$\.format"),
        ("name", None, r"`str`, got `null` .*\$\.name"),
        ("name", "half\ud800", r"`str` matching .*\$\.name"),
        ("trained", 1, r"`bool`, got `int` .*\$\.trained"),
        ("window", [], r"`array` of length >= 1 .*\$\.window"),
        ("window", [500, "300"], r"`int`, got `str` .*\$\.window\[1\]"),
        ("encoders", [], "required field `dna`"),
        ("encoders__dna__dim", True, r"`int`, got `bool` .*\$\.dna\.dim"),
        ("encoders__dna__dim", 0, r"`int` >= 1 .*\$\.dna\.dim"),
        ("encoders__protein__sha256", [], r"`array` of length >= 1 .*\$\.protein\.sha256"),
        ("encoders__protein__sha256", ["abc"], r"`str` matching .*\$\.protein\.sha256\[0\]"),
        ("labels", ["virus", "others"], r"enum value 'virus' .*\$\.labels\[0\]"),
        ("min_score", "high", r"`float`, got `str` .*\$\.min_score"),
        ("min_score", True, r"`float`, got `bool` .*\$\.min_score"),
        ("metrics", None, r"`object`, got `null` .*\$\.metrics"),
        ("size_presets", {"300": {"default": 2}}, r"`float` <= 1.0 .*\$\.size_presets"),
        ("size_presets", {"150": {}}, "window must be a list with 150"),
        ("calls", {"500": {}}, r"required field .*\$\.calls"),
        ("calls", {"500": None}, r"`object`, got `null` .*\$\.calls"),
        ("dtypes", "fp32", r"`array`, got `str` .*\$\.dtypes"),
        ("citation", 5, r"`str`, got `int` .*\$\.citation"),
    ],
)
def test_card_with_a_wrong_field_is_refused(folder: Path, field: str, value: object, message: str) -> None:
    edit_card(folder, **{field: value})
    with pytest.raises(ModelError, match=message) as caught:
        Classifier.load(folder)
    assert str(folder / CARD) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_card_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot read .*model\.json"):
        ClassifierCard.read(folder)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"cannot read .*{name}"):
        Classifier.load(folder)


def test_weights_that_do_not_fit_the_card_are_refused(folder: Path) -> None:
    edit_card(folder, encoders__dna__dim=64)
    with pytest.raises(ModelError, match=r"takes 256 features, but by .*model\.json the encoders give 192"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("hidden.weight", lambda t: t.flatten(), "hidden.weight is not a matrix"),
        ("hidden.bias", lambda t: t[:-1], r"hidden.bias is \(511,\) torch.float32, expected \(512,\)"),
        ("output.weight", lambda t: t[:1], r"output.weight is \(1, 512\)"),
        ("norm.weight", lambda t: t.half(), r"norm.weight is \(512,\) torch.float16"),
        ("norm.bias", lambda t: t * float("nan"), "norm.bias holds NaN, infinity or a negative variance"),
        ("norm.running_var", lambda t: -t, "norm.running_var holds NaN, infinity or a negative variance"),
        ("output.bias", lambda _: None, "misses 1 tensor of a classifier, for example output.bias"),
    ],
)
def test_weights_that_are_no_classifier_are_refused(
    folder: Path, key: str, change: Callable[[Tensor], Tensor | None], message: str
) -> None:
    state = state_of(network(sum(MINI)))
    changed = change(state.pop(key))
    if changed is not None:
        state[key] = changed.contiguous()
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=message):
        Classifier.load(folder)


def test_a_save_that_fails_leaves_no_card_beside_other_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        save(folder, state_of(network(sum(MINI))), make_card())
    assert not (folder / CARD).exists()


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save(tmp_path / "file" / "mine", state_of(network(sum(MINI))), make_card())


# Encoders


def test_only_the_encoders_of_the_training_are_accepted() -> None:
    dna, protein = resolve("dnabert-mini"), resolve("esm2-mini")
    card = make_card()
    good = replace(
        card,
        dna=EncoderPin("dnabert-mini", 128, ("a" * 64, dna.sha256)),
        protein=EncoderPin("esm2-mini", 128, (protein.sha256,)),
    )
    check_encoders(good, (dna, protein))
    with pytest.raises(ModelError) as caught:
        check_encoders(replace(good, protein=EncoderPin("esm2-3b", 2560, ("b" * 64,))), (dna, protein))
    message = caught.value.message
    for part in ("test", str(protein.weights), "esm2-3b", "b" * 64, protein.sha256):
        assert part in message
    assert "virnucpro models download esm2-3b" in (caught.value.hint or "")
    with pytest.raises(ModelError, match=r"dnabert-mini.*needs d with"):
        check_encoders(replace(good, dna=card.dna), (dna, protein))


# Published files

PROGRAM = """
import json, os, sys, numpy as np, torch
from collections import OrderedDict
from torch import nn

class MLPClassifier(nn.Module):
    def __init__(self, features, hidden):
        super().__init__()
        # Registered in another order than that of use.
        self.last = nn.Linear(hidden, 2)
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.5))
        for tensor in (self.body[1].weight.data, self.body[1].bias.data, self.body[1].running_mean):
            tensor.normal_()
        self.body[1].running_var.uniform_(0.1, 3)

    def forward(self, x):
        return self.last(self.body(x))

class Evil:
    def __reduce__(self):
        return os.system, (f"touch {marker}",)

class Quiet:
    def __setstate__(self, state):
        pass

class Dropout(nn.Module):
    __reduce__ = Evil.__reduce__

class Called:
    def __reduce__(self):
        return MLPClassifier, (8, 4)
"""

WRITE = """
options = {}
for number, change in enumerate(json.loads(sys.argv[1])):
    torch.manual_seed(0)
    marker, net, options = f"{number}.marker", MLPClassifier(3328, 512), {}
    exec(change)
    torch.save(net, f"{number}.pth", **options)
"""

SCORES = """
features = np.random.default_rng(0).normal(size=(50, 3328)).astype(np.float32)
with torch.no_grad():
    np.save("scores.npy", net.eval()(torch.from_numpy(features)).softmax(1).numpy())
net.train()
"""

LEGACY = "options = {'_use_new_zipfile_serialization': False}"
CALLED = "net.notes = Called()"
CYCLE = "net._modules['self'] = net"

MALICIOUS = [
    "net = Evil()",
    "net = [net, Evil()]",
    "net = OrderedDict(net.state_dict(), extra=Evil())",
    "net.notes = {'a': [Evil()]}",
    "net.body[0].notes = Evil()",
    "net.notes = Quiet(); net.notes.inner = Evil()",
    "net.body[3] = Dropout()",
]

OTHER = {
    "net.more = nn.Linear(2, 2)": "it has 3 Linear and 1 BatchNorm1d",
    "del net.body[1]": "it has 2 Linear and 0 BatchNorm1d",
    "net.scale = nn.Parameter(torch.ones(1))": "expected 2 and 1, and no other tensors",
    "net.body[2] = nn.LeakyReLU()": "it names torch.nn.modules.activation.LeakyReLU",
    "net.body[1] = nn.BatchNorm1d(512, eps=1e-3)": "adds 0.001, expected 1e-05",
    "net.body[1] = nn.BatchNorm1d(512, track_running_stats=False)": "damaged, or another kind",
    "net.last = nn.Linear(512, 2, bias=False)": "misses 1 tensor of a classifier, for example output.bias",
    "net.last = nn.Linear(512, 3)": r"output.weight is \(3, 512\)",
    "net = net.half()": "torch.float16",
    "net = net.state_dict()": "no network of class __main__.MLPClassifier",
    "net = nn.Sequential(net)": "no network of class __main__.MLPClassifier",
    "net = 5": "no network of class __main__.MLPClassifier",
    "net.body = None": "damaged, or another kind",
    CALLED: "damaged, or another kind",
    LEGACY: r"it was not written by PyTorch 1\.6 or newer",
}


def publish(folder: Path, *changes: str) -> dict[str, Path]:
    """Files made like the published ones, in a process whose `__main__` has the class; by what was changed."""
    subprocess.run([sys.executable, "-c", PROGRAM + WRITE, json.dumps(changes)], cwd=folder, check=True)
    return {change: folder / f"{number}.pth" for number, change in enumerate(changes)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return publish(tmp_path_factory.mktemp("published"), SCORES, CYCLE, *MALICIOUS, *OTHER)


def test_published_file_gives_the_scores_of_the_network_in_it(published: dict[str, Path]) -> None:
    path = published[SCORES]
    assert b"MLPClassifier" in path.read_bytes()
    classifier = Classifier(make_card(FULL), read_published(path))
    expected = np.load(path.with_name("scores.npy"))
    assert np.ptp(expected[:, 1]) > 0.1
    np.testing.assert_allclose(classifier.score(random_features(50, 3328)), expected, atol=1e-6)


def test_code_in_a_file_is_refused_and_not_run(published: dict[str, Path]) -> None:
    paths = [published[change] for change in MALICIOUS]
    for path in paths:
        with pytest.raises(ModelError, match=rf"{path} is not a published classifier: it names .*(posix|nt)\.system"):
            read_published(path)
    folder = paths[0].parent
    assert not list(folder.glob("*.marker"))
    # The files would have done it.
    load = "for path in sys.argv[1:]:\n try: torch.load(path, weights_only=False)\n except AttributeError: pass\n"
    subprocess.run([sys.executable, "-c", PROGRAM + load, *map(str, paths)], cwd=folder, check=True)
    assert len(list(folder.glob("*.marker"))) == len(paths)


def test_the_reader_itself_runs_no_code(published: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of the names before."""
    monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda _: [])
    monkeypatch.chdir(published[SCORES].parent)
    for path in (published[change] for change in MALICIOUS):
        path.with_suffix(".marker").unlink(missing_ok=True)
        with pytest.raises(ModelError, match="damaged, or another kind of file") as caught:
            read_published(path)
        assert "weights_only" not in str(caught.value)
        assert not path.with_suffix(".marker").exists()


@pytest.mark.parametrize(("change", "message"), OTHER.items())
def test_other_networks_are_refused(published: dict[str, Path], change: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_published(published[change])


def test_a_network_that_holds_itself_is_read_once(published: dict[str, Path]) -> None:
    assert set(read_published(published[CYCLE])) == set(KEYS)


def test_damaged_and_absent_files_are_named(published: dict[str, Path], tmp_path: Path) -> None:
    data = published[SCORES].read_bytes()
    for name, content in {"short.pth": data[:-100], "empty.pth": b"", "text.pth": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            read_published(tmp_path / name)
    with pytest.raises(ModelError, match=r"cannot read .*absent\.pth"):
        read_published(tmp_path / "absent.pth")
