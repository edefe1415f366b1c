"""Files that can be parsed but make no sense: a clear error or a new start; no other result, no traceback, no hang."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HANGS, random_records, to_fasta
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from virnucpro.errors import InputError, ModelError, VirnucproError
from virnucpro.io.store import Shard, read_shard, write_shard
from virnucpro.models.card import CARD, DNA_ONLY, ClassifierCard
from virnucpro.models.checksums import PUT_BACK
from virnucpro.models.classifier import Classifier
from virnucpro.models.dnabert_s import load_dnabert
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.registry import EMBEDDED, resolve
from virnucpro.models.sets import resolve_set
from virnucpro.models.tokenizer import DNATokenizer
from virnucpro.models.weights import read_weights
from virnucpro.pipeline.base_worker import Network
from virnucpro.pipeline.events import Phase
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed
from virnucpro.runs.paths import RunPaths

ORDINARY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

#: Values that may replace any other.
NONSENSE: list[Any] = [
    None, True, -1, 0, 0.5, 7, 20_000, 10**30, float("nan"), float("inf"), "", "x", "\ud800", "../../x",
    [], {}, [None], {"x": 1}, [[[]]],
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """A copy of a JSON value in which one element is missing, changed or repeated."""
    values = copy.deepcopy(whole)
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys[:40]))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        place = inner
    how = draw(st.sampled_from(["drop", "nonsense", "nonsense", "twice"]))
    if how == "drop":
        del place[key]
    elif how == "twice" and isinstance(place, list):
        place.append(place[key])
    else:
        place[key] = draw(st.sampled_from(NONSENSE))
    return values


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


# The run record and the results of work files.


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The folder of a run that was stopped before it wrote its result, and that result."""
    folder = tmp_path_factory.mktemp("stopped")
    to_fasta(folder / "in.fa", random_records(20))

    def stop(_worker: int, event: object) -> None:
        if isinstance(event, Phase) and event.name == "writing the result":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_embed(config(folder), stop)
    (whole := folder.with_name("whole")).mkdir()
    shutil.copy(folder / "in.fa", whole)
    return folder, run_embed(config(whole)).output.read_bytes()


def config(folder: Path) -> EmbedConfig:
    return EmbedConfig(
        (folder / "in.fa",), folder / "o.h5", device="cpu", dtype="fp32", threads=1, sequences_per_file=8
    )


@given(data=st.data())
@settings(ORDINARY, max_examples=15)  # each takes a run
def test_a_record_that_makes_no_sense(
    data: st.DataObject, stopped: tuple[Path, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, expected = stopped
    place = shutil.copytree(folder, tmp_path_factory.mktemp("again") / "run")
    record = RunPaths(place / "o.h5").record
    write_json(record, data.draw(damaged(json.loads(record.read_text()))))
    run_embed(config(place))
    assert (place / "o.h5").read_bytes() == expected
    shutil.rmtree(place)


@pytest.mark.parametrize("what", ["[" * 100_000, "1" * 5000, "\xff", "", "null", '{"state": "complete"}', "fifo"])
def test_a_record_that_is_none(what: str, stopped: tuple[Path, bytes], tmp_path: Path) -> None:
    place = shutil.copytree(stopped[0], tmp_path / "run")
    record = RunPaths(place / "o.h5").record
    record.unlink()
    if what == "fifo":
        os.mkfifo(record)
    else:
        record.write_text(what, encoding="latin-1")
    run_embed(config(place))
    assert (place / "o.h5").read_bytes() == stopped[1]


@given(data=st.data())
@ORDINARY
def test_results_of_work_files_that_make_no_sense(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.fa.h5"
    write_shard(path, Shard(["a", "b"], torch.ones(2, 3).numpy(), [(3, "c", "too long")]), {"fingerprint": "f"})
    content = bytearray(path.read_bytes())
    # After the checksum, some bytes of the user block are unused.
    place = data.draw(st.integers(0, len(content) - 1).filter(lambda at: not 32 <= at < 512))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_shard(path)


@pytest.mark.parametrize("which", ["shard", "work file"])
def test_pipes_in_the_work_folder(which: str, stopped: tuple[Path, bytes], tmp_path: Path) -> None:
    place = shutil.copytree(stopped[0], tmp_path / "run")
    paths = RunPaths(place / "o.h5")
    path = next((paths.shards if which == "shard" else paths.parts).iterdir())
    path.unlink()
    os.mkfifo(path)
    run_embed(config(place))
    assert (place / "o.h5").read_bytes() == stopped[1]


# Models.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED / "dnabert-mini", tmp_path / "model"))


CONFIG = json.loads((EMBEDDED / "dnabert-mini" / "config.json").read_text())
TOKENIZER = json.loads((EMBEDDED / "dnabert-mini" / "tokenizer.json").read_text())
MODEL_CARD = json.loads((EMBEDDED / "mini-1" / CARD).read_text())


def opened(folder: Path) -> Network:
    """Load the model in `folder`; raises the errors of a run."""
    found = DNABERTWorker(resolve(str(folder))).read_model(torch.float32)
    found.tokenizer.encode(["ACGTNACGTACGT"])
    return found


@given(values=damaged(CONFIG))
@ORDINARY
def test_a_config_that_makes_no_sense(values: Any, model: Path) -> None:
    """Either an error, or a network of the same numbers: values that are not used may be anything."""
    write_json(model / "config.json", values)
    try:
        found = opened(model)
    except ModelError:
        return
    read = found.module.config
    assert all(getattr(read, name) == CONFIG[name] for name in read.__dataclass_fields__) or values != CONFIG
    assert 0 < read.layer_norm_eps <= 1e-2


@given(values=damaged(TOKENIZER))
@settings(ORDINARY, max_examples=25)
def test_a_tokenizer_that_makes_no_sense(values: Any, model: Path) -> None:
    write_json(model / "tokenizer.json", values)
    try:
        found = opened(model)
    except ModelError:
        return
    ids = [int(each) for sequence in found.tokenizer.encode(["ACGT", "A", "GGTTAACC"]) for each in sequence]
    assert 0 <= min(ids) <= max(ids) < CONFIG["vocab_size"]


def two_tokens_of_one_id(values: dict[str, Any]) -> None:
    values["model"]["vocab"]["C"] = values["model"]["vocab"]["A"]


def a_token_too_many(values: dict[str, Any]) -> None:
    values["model"]["vocab"]["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] = 5000


def no_letter(values: dict[str, Any]) -> None:
    values["model"]["vocab"] = {name: number for name, number in values["model"]["vocab"].items() if name[0] == "["}
    values["model"]["merges"] = []


@pytest.mark.parametrize("harm", [two_tokens_of_one_id, a_token_too_many, no_letter])
def test_tokenizers_that_would_mix_things_up(harm: Callable[[dict[str, Any]], None], model: Path) -> None:
    values = copy.deepcopy(TOKENIZER)
    harm(values)
    write_json(model / "tokenizer.json", values)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        opened(model)


@given(values=damaged(MODEL_CARD))
@settings(ORDINARY, max_examples=150)
def test_a_card_that_makes_no_sense(values: Any, tmp_path: Path) -> None:
    write_json(tmp_path / CARD, values)
    try:
        card = ClassifierCard.read(tmp_path)
    except ModelError as error:
        str(error).encode()
        return
    assert 0 <= card.min_score <= 1
    assert json.loads(card.to_json())["name"] == card.name
    card.name.encode()


@pytest.mark.parametrize("number", [20_000, 2, 10**9])
def test_as_many_layers_as_the_weights_hold(number: int, model: Path) -> None:
    write_json(model / "config.json", CONFIG | {"num_hidden_layers": number})
    with pytest.raises(ModelError, match=r"layers|makes no sense"):
        opened(model)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none(number: float, model: Path, tmp_path: Path) -> None:
    spoil(model / "model.safetensors", number)
    with pytest.raises(ModelError, match="NaN or infinity"):
        load_dnabert(model / "model.safetensors", model / "config.json")
    protein = Path(shutil.copytree(EMBEDDED / "esm2-mini", tmp_path / "protein")) / "model.safetensors"
    spoil(protein, number)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ModelError, match="NaN or infinity"):
            load_esm2(protein, dtype)


def spoil(path: Path, number: float) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = number
    save_file(tensors, path)


@pytest.mark.parametrize("name", ["model-00001-of-999999999.safetensors", "model-00001-of-09999.safetensors"])
def test_more_files_than_there_are(name: str, model: Path) -> None:
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(ModelError) as caught:
        resolve(str(model))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_pipes_in_a_model(name: str, model: Path) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(ModelError):
        opened(model)


# A classifier.


@pytest.fixture
def classifier(toy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy, tmp_path / "toy"))


def test_a_file_that_the_card_names_must_be_there(classifier: Path) -> None:
    (classifier / DNA_ONLY).unlink()
    with pytest.raises(ModelError, match=DNA_ONLY):
        resolve_set(str(classifier))


def test_a_file_that_is_not_the_one_that_the_card_names(classifier: Path) -> None:
    tensors = load_file(classifier / DNA_ONLY)
    tensors["output.bias"] += 1
    save_file(tensors, classifier / DNA_ONLY)
    with pytest.raises(ModelError, match="is not the file that"):
        resolve_set(str(classifier))


def test_a_card_from_before_cards_named_files(classifier: Path) -> None:
    values = json.loads((classifier / CARD).read_text())
    del values["files"]
    write_json(classifier / CARD, values)
    assert resolve_set(str(classifier)).scores_by_dna_alone
    assert Classifier.load_dna_only(classifier) is not None


@pytest.mark.parametrize("name", [CARD, "model.safetensors", DNA_ONLY])
def test_pipes_in_a_classifier(name: str, classifier: Path) -> None:
    (classifier / name).unlink()
    os.mkfifo(classifier / name)
    with pytest.raises(VirnucproError):
        resolve_set(str(classifier))


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"tokenizer\.json"):
            DNATokenizer(tmp_path / "tokenizer.json")


# No memory.

LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from virnucpro.errors import DeviceError
from virnucpro.models.weights import read_weights

resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 2**30,) * 2)
try:
    read_weights(Path(sys.argv[1]))
except DeviceError as error:
    print(error)
"""


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_a_file_of_a_model_that_is_gone_is_not_called_damaged(file: str, tmp_path: Path) -> None:
    """It was there when the model was chosen; now it is gone, then it is damaged."""
    path = tmp_path / file
    read = DNATokenizer if file.endswith(".json") else read_weights
    with pytest.raises(ModelError, match=f"cannot read .*{file}: .*No such file") as caught:
        read(path)
    assert caught.value.hint == PUT_BACK
    path.write_bytes(b"{")
    with pytest.raises(ModelError, match=f"cannot read .*{file}: ") as caught:
        read(path)
    assert str(caught.value.hint).startswith("download")


def test_weights_that_do_not_fit_in_memory_are_not_called_damaged(tmp_path: Path) -> None:
    weights, bytes_ = tmp_path / "model.safetensors", 2**33
    header = json.dumps({"large": {"dtype": "F32", "shape": [bytes_ // 4], "data_offsets": [0, bytes_]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(weights, 8 + len(header) + bytes_)  # without blocks on the disk
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, weights], capture_output=True, text=True, timeout=HANGS)
    assert done.stdout.startswith("not enough memory: "), done
    assert "ulimit -v" in done.stdout
