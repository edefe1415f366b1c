"""Model sets: parts by name or folder, parts that do not fit together, the import of published classifiers."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, to_fasta
from test_classifier import SCORES, make_card, network, publish, random_features, state_of

from virnucpro.errors import ModelError, OutputError, UsageError
from virnucpro.models.card import CARD, ClassifierCard, EncoderPin
from virnucpro.models.classifier import WEIGHTS, Classifier, save
from virnucpro.models.published import import_published
from virnucpro.models.registry import EMBEDDED, MODELS, FilePin, resolve
from virnucpro.models.sets import SETS, SOURCE, listed_set, resolve_set
from virnucpro.runs.config import DEFAULT_MODEL_SET

MINI_DIM = SETS["mini-1"].dim
SMALL = "net = MLPClassifier(256, 512)"


@pytest.fixture(autouse=True)
def no_models_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIRNUCPRO_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty-hub-cache"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return publish(tmp_path_factory.mktemp("published"), SCORES, SMALL, "net = 5")


@pytest.fixture
def file(published: dict[str, Path], tmp_path: Path) -> Path:
    """A classifier under its published name, and the scores of the network in it."""
    shutil.copy(published[SCORES].with_name("scores.npy"), tmp_path)
    return Path(shutil.copy(published[SCORES], tmp_path / "500_model.pth"))


@pytest.fixture
def encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with the published encoders, or files that are accepted as such."""
    store = tmp_path / "models"
    for name, files in {
        "dnabert-s": {"pytorch_model.bin": b"dna", "config.json": b"{}", "tokenizer.json": b"{}"},
        "esm2-3b": {f"pytorch_model-0000{i}-of-00002.bin": b"part %d" % i for i in (1, 2)},
    }.items():
        (store / name).mkdir(parents=True)
        for file, data in files.items():
            (store / name / file).write_bytes(data)
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], pins=pins(files)))
    fair = {"esm2_t36_3B_UR50D.pt": b"one file"}
    monkeypatch.setitem(MODELS, "esm2-3b", replace(MODELS["esm2-3b"], other_pins=pins(fair)))
    return store


def pins(files: dict[str, bytes]) -> dict[str, FilePin]:
    return {name: FilePin(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}


def pin(name: str) -> EncoderPin:
    """A registered encoder as it is now."""
    return EncoderPin(name, MODELS[name].dim, (resolve(name).sha256,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's classifier with its encoders next to it, named by relative paths."""
    for name in ("dnabert-mini", "esm2-mini"):
        shutil.copytree(EMBEDDED / name, tmp_path / "trained" / name)
    dna, protein = (replace(pin(name), name=f"../{name}") for name in ("dnabert-mini", "esm2-mini"))
    save(tmp_path / "trained" / "mine", state_of(network(MINI_DIM)), replace(make_card(), dna=dna, protein=protein))
    return tmp_path / "trained" / "mine"


def change_card(folder: Path, **changes: EncoderPin) -> None:
    card = replace(ClassifierCard.read(folder), **changes)  # type: ignore[arg-type]
    (folder / CARD).write_text(card.to_json())


# Names


def test_names_of_sets_and_models_differ() -> None:
    assert list(SETS) == ["mini", "mini-1", "500", "300"]
    assert DEFAULT_MODEL_SET in SETS
    classifiers = {spec.classifier for spec in SETS.values()}
    assert not MODELS.keys() & (SETS.keys() | classifiers)
    assert len(classifiers) == len(SETS)


def test_the_default_set_reads_whole_windows() -> None:
    found = resolve_set(DEFAULT_MODEL_SET)
    assert (found.name, found.classifier_folder) == ("mini", EMBEDDED / "mini")
    assert (found.card.reads, found.encoders) == ("windows", (resolve("codon-mini"),))
    assert found.trained
    scores = Classifier.load(found.classifier_folder).score(random_features(100, SETS["mini"].dim))
    assert np.ptp(scores[:, 1]) > 0.1


def test_the_set_of_two_encoders_is_complete_and_scores() -> None:
    found = resolve_set("mini-1")
    assert (found.name, found.classifier_folder) == ("mini-1", EMBEDDED / "mini-1")
    assert found.encoders == (resolve("dnabert-mini"), resolve("esm2-mini"))
    assert found.card.window == (500, 300)
    assert found.trained is (found.card.trained and all(each.trained for each in found.encoders))
    scores = Classifier.load(found.classifier_folder).score(random_features(100, MINI_DIM))
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    assert np.ptp(scores[:, 1]) > 0.1


def test_a_set_is_trained_if_all_its_parts_are(folder: Path) -> None:
    found = resolve_set(str(folder))
    assert found.trained
    for part in found.encoders:
        assert part.config is not None
        before = part.config.read_text()
        part.config.write_text(json.dumps(json.loads(before) | {"trained": False}))
        assert not resolve_set(str(folder)).trained
        part.config.write_text(before)
    assert resolve_set(str(folder)).trained


def test_missing_parts_are_all_named_with_places_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRNUCPRO_MODELS", str(tmp_path / "variable"))
    with pytest.raises(ModelError, match="model set 500 is not complete") as caught:
        resolve_set("500", tmp_path / "my models")
    for name in ("virnucpro-500", "dnabert-s", "esm2-3b"):
        assert str(tmp_path / "my models" / name) in caught.value.message
        assert str(tmp_path / "variable" / name) in caught.value.message
    option = f" --models-dir '{tmp_path}/my models'"
    for command in ("import 500_model.pth", "download dnabert-s", "download esm2-3b"):
        assert f"`virnucpro models {command}{option}`" in (caught.value.hint or "")
    with pytest.raises(ModelError, match=r"`virnucpro models import 300_model\.pth`"):
        resolve_set("300")
    monkeypatch.delenv("VIRNUCPRO_MODELS")
    with pytest.raises(
        ModelError, match=r"no folder, as neither.*`virnucpro models import 300_model\.pth --models-dir"
    ):
        resolve_set("300")


def test_only_what_is_missing_is_named(encoders: Path, file: Path) -> None:
    with pytest.raises(ModelError, match="virnucpro-500 is not on this machine") as caught:
        resolve_set("500", encoders)
    assert "download" not in str(caught.value)
    import_published(file, models_dir=encoders)
    (encoders / "dnabert-s" / "pytorch_model.bin").write_bytes(b"short download")
    with pytest.raises(ModelError, match="14 bytes, expected 3") as caught:
        resolve_set("500", encoders)
    assert "import" not in str(caught.value)


def test_a_set_is_downloaded_by_its_parts(cli: Cli) -> None:
    done = cli("models", "download", "500", "--models-dir", "here")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [
        "virnucpro: error: 500 is a model set, of dnabert-s and esm2-3b and a classifier, not a model",
        "  → run `virnucpro models download dnabert-s --models-dir here`",
        "  → run `virnucpro models download esm2-3b --models-dir here`",
        f"  → run `virnucpro models import 500_model.pth --models-dir here` with the file from {SOURCE}",
    ]
    done = cli("models", "download", "mini")
    assert done.stderr.splitlines()[1:] == ["  → nothing to download: it is in the package"]


def test_each_cure_has_a_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("predict", to_fasta(tmp_path / "in.fa", [("a", "ACGT")]), "-o", tmp_path / "out", "--model", "500")
    assert done.returncode == 4
    cures = [line.split()[1] for line in done.stderr.splitlines()[1:]]
    assert cures == ["run", "run", "without", "run", "without"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minni", "did you mean mini?"),
        ("nothing like it", "see `virnucpro models list`"),
        ("dnabert-s", "dnabert-s is only an encoder; a model set also has a classifier"),
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=r"neither mini, mini-1, 500, 300, nor a folder with model\.json") as caught:
        resolve_set(name)
    assert caught.value.hint == hint


# Folders


def test_encoders_are_sought_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (str(folder), "../trained/mine"):
        found = resolve_set(name)
        assert found.name == "test"
        for part, encoder in zip(found.encoders, ("dnabert-mini", "esm2-mini"), strict=True):
            assert part.weights.resolve() == folder.parent / encoder / WEIGHTS
        assert found.classifier_folder.is_absolute()


def test_a_card_may_name_registered_encoders(folder: Path) -> None:
    for part, name in (("dna", "dnabert-mini"), ("protein", "esm2-mini")):
        change_card(folder, **{part: pin(name)})
    shutil.rmtree(folder.parent / "dnabert-mini")
    assert resolve_set(str(folder)).encoders[0] == resolve("dnabert-mini")


def test_a_named_set_wins_over_a_folder_called_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename("mini")
    assert resolve_set("mini").classifier_folder == EMBEDDED / "mini"
    assert resolve_set("./mini").classifier_folder == folder.parent / "mini"


def test_other_encoders_are_refused(folder: Path) -> None:
    weights = folder.parent / "esm2-mini" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"was not trained on .*esm2-mini.*needs \.\./esm2-mini with sha256") as caught:
        resolve_set(str(folder))
    assert caught.value.hint == "take a classifier that was trained on these weights"
    for checksum in (resolve("esm2-mini").sha256, hashlib.sha256(data).hexdigest()):
        assert checksum in caught.value.message


def test_an_encoder_of_the_other_family_is_refused(folder: Path) -> None:
    change_card(folder, dna=pin("esm2-mini"))
    with pytest.raises(ModelError, match=r"model\.json: esm2-mini is of the family esm2, expected dnabert"):
        resolve_set(str(folder))


def test_an_encoder_of_another_width_is_refused(folder: Path) -> None:
    change_card(folder, dna=EncoderPin("dnabert-mini", 64, (resolve("dnabert-mini").sha256,)))
    with pytest.raises(ModelError, match=r"model\.json: dnabert-mini is 128 wide, not 64"):
        resolve_set(str(folder))


def test_absent_encoder_and_damaged_classifier_of_a_folder(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read the weights in .*mine/model\.safetensors"):
        resolve_set(str(folder))
    shutil.rmtree(folder.parent / "esm2-mini")
    with pytest.raises(ModelError, match="esm2-mini"):
        resolve_set(str(folder))


# Import of published classifiers


def test_import_makes_the_set_ready(encoders: Path, file: Path) -> None:
    assert import_published(file, models_dir=encoders) == encoders / "virnucpro-500"
    found = resolve_set("500", encoders)
    assert (found.name, found.card.name, found.card.window, found.trained) == ("500", "virnucpro-500", (500,), True)
    assert (found.card.dna.dim, found.card.protein.dim) == (768, 2560)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in found.card.source
    scores = Classifier.load(found.classifier_folder).score(random_features(50, 3328))
    np.testing.assert_allclose(scores, np.load(file.with_name("scores.npy")), atol=1e-6)


def test_the_same_weights_from_elsewhere_are_accepted_and_others_are_not(encoders: Path, file: Path) -> None:
    import_published(file, models_dir=encoders)
    for part in (encoders / "esm2-3b").iterdir():
        part.unlink()
    (encoders / "esm2-3b" / "esm2_t36_3B_UR50D.pt").write_bytes(b"one file")
    assert resolve_set("500", encoders).encoders[1].weights.name == "esm2_t36_3B_UR50D.pt"
    (encoders / "esm2-3b" / "esm2_t36_3B_UR50D.pt").write_bytes(b"1ne file")
    with pytest.raises(ModelError, match=r"virnucpro-500 was not trained on .*esm2_t36_3B") as caught:
        resolve_set("500", encoders)
    assert "virnucpro models download esm2-3b" in (caught.value.hint or "")


def test_window_by_name_or_option(file: Path, tmp_path: Path) -> None:
    store = tmp_path / "models"
    other = Path(shutil.copy(file, tmp_path / "mine.pth"))
    with pytest.raises(UsageError, match="window length"):
        import_published(other, models_dir=store)
    assert import_published(other, 300, store) == store / "virnucpro-300"
    assert ClassifierCard.read(store / "virnucpro-300").window == (300,)
    assert import_published(file, 500, store) == store / "virnucpro-500"
    for path, window in ((file, 300), (file, 400), (other, 400)):
        with pytest.raises(UsageError, match=f"is not a classifier for windows of {window}"):
            import_published(path, window, store)


def test_import_needs_a_place_and_overwrites_only_by_force(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--models-dir DIR, or VIRNUCPRO_MODELS=DIR"):
        import_published(file)
    monkeypatch.setenv("VIRNUCPRO_MODELS", str(tmp_path / "variable"))
    folder = import_published(file)
    assert folder == tmp_path / "variable" / "virnucpro-500"
    (folder / WEIGHTS).write_bytes(b"before")
    with pytest.raises(OutputError, match=r"virnucpro-500 holds a classifier"):
        import_published(file)
    assert (folder / WEIGHTS).read_bytes() == b"before"
    import_published(file, force=True)
    Classifier.load(folder)
    (folder / CARD).unlink()
    import_published(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [(SMALL, r"hidden layer has shape \(512, 256\), expected \(512, 3328\)"), ("net = 5", "no network of class")],
)
def test_import_refuses_other_networks_and_writes_nothing(
    published: dict[str, Path], tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        import_published(published[change], 500, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# The list and the command line


def test_status_of_sets(encoders: Path, file: Path) -> None:
    def statuses() -> dict[str, str]:
        return {name: listed_set(name, encoders).status for name in SETS}

    assert statuses() == {
        "mini": "ready",
        "mini-1": "ready",
        "500": "needs virnucpro-500",
        "300": "needs virnucpro-300",
    }
    folder = import_published(file, models_dir=encoders)
    assert statuses()["500"] == "ready"
    shutil.rmtree(encoders / "dnabert-s")
    assert statuses()["500"] == "needs dnabert-s"
    (folder / CARD).write_text("{}")
    damaged = listed_set("500", encoders)
    assert damaged.status == "needs dnabert-s, virnucpro-500"
    assert str(folder / CARD) in damaged.problem


def test_cli_import_and_list(cli: Cli, encoders: Path, file: Path) -> None:
    options = ("--models-dir", encoders)
    done = cli("models", "import", file, *options)
    assert (done.returncode, done.stdout) == (0, f"{encoders / 'virnucpro-500'}\n")
    assert "please cite Li J" in done.stderr
    again = cli("models", "import", file, *options)
    assert (again.returncode, again.stdout) == (3, "")
    assert "--force" in again.stderr
    assert cli("models", "import", file, "--force", *options).returncode == 0
    listed = [line.split("\t") for line in cli("models", "list", *options).stdout.splitlines()]
    sets = {row[0]: row for row in listed if row[-1] == "set"}
    assert list(sets) == list(SETS)
    place = str(encoders / "virnucpro-500")
    assert sets["500"] == ["500", "ready", "trained", "3328", "not stated", place, "set"]
    assert sets["300"][1] == "needs virnucpro-300"


def test_cli_list_tells_of_a_damaged_card(cli: Cli, encoders: Path, file: Path) -> None:
    folder = import_published(file, models_dir=encoders)
    (folder / CARD).write_text("{}")
    done = cli("models", "list", "--models-dir", encoders)
    assert done.returncode == 0
    assert f"500: {folder / CARD}: Object missing required field" in done.stderr


def test_cli_import_errors(cli: Cli, file: Path, published: dict[str, Path], tmp_path: Path) -> None:
    assert cli("models", "import", file).returncode == 2
    assert cli("models", "import", published[SCORES], "--models-dir", tmp_path).returncode == 2
    assert cli("models", "import", file, "--window", "400", "--models-dir", tmp_path).returncode == 2
    bad = cli("models", "import", published["net = 5"], "--window", "500", "--models-dir", tmp_path)
    assert bad.returncode == 4
    assert cli("models", "import", tmp_path / "absent.pth", "--window", "500", "--models-dir", tmp_path).returncode == 4
