"""Checksums of large weights: remembered while a file stays unchanged, never trusted once anything differs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import HANGS, random_records, to_fasta
from safetensors.torch import load_file, save_file

from virnucpro.core.caches import own_folder
from virnucpro.errors import ModelError
from virnucpro.io.files import sha256_of
from virnucpro.models import checksums
from virnucpro.models.checksums import PUT_BACK, Checksum, FileState
from virnucpro.models.classifier import Classifier
from virnucpro.models.registry import EMBEDDED, resolve
from virnucpro.pipeline.events import Phase
from virnucpro.pipeline.families import FAMILIES
from virnucpro.runs.config import EmbedConfig
from virnucpro.runs.embed import run_embed

#: A false checksum, which shows whether the remembered one was used or the file was read.
FORGED = "f" * 64


@pytest.fixture(autouse=True)
def every_file_is_large_and_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checksums, "LARGE", 1)
    monkeypatch.setattr(checksums, "SETTLED", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights of a model")
    return path


def sum_of(path: Path) -> str:
    return Checksum.of(path).sha256


def true_sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def memory(path: Path) -> Path:
    found = checksums._memory(FileState.of(path))
    assert found is not None
    return found


def forge(path: Path) -> None:
    """Remember another checksum of the file as it is."""
    memory(path).write_text(FORGED)
    assert sum_of(path) == FORGED


def test_checksum_is_remembered(weights: Path, tmp_path: Path) -> None:
    assert sum_of(weights) == true_sum(weights)
    assert list((tmp_path / "cache" / "virnucpro" / "checksums").iterdir()) == [memory(weights)]
    forge(weights)
    link = tmp_path / "link.bin"
    link.symlink_to(weights)
    assert sum_of(link) == FORGED


def test_small_or_fresh_file_is_read(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "SETTLED", 10**18)
        sum_of(weights)
    assert not memory(weights).exists()
    sum_of(weights)
    forge(weights)
    monkeypatch.setattr(checksums, "LARGE", weights.stat().st_size + 1)
    assert sum_of(weights) == true_sum(weights)


def _rewrite(path: Path) -> None:
    """Other bytes of the same number, with the time of change restored."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system may be coarse
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.write_bytes(b"WEIGHTS OF A MODEL")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    """Another file of the same size and time."""
    other = path.with_suffix(".other")
    shutil.copy2(path, other)
    os.replace(other, path)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


@pytest.mark.parametrize("change", [_rewrite, _replace, _append])
def test_changed_file_is_read(weights: Path, change: Callable[[Path], None]) -> None:
    sum_of(weights)
    forge(weights)
    change(weights)
    assert sum_of(weights) == true_sum(weights)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text(FORGED.upper()),
        _folder,
        _pipe,
    ],
)
def test_damaged_memory_is_none(weights: Path, damage: Callable[[Path], object]) -> None:
    sum_of(weights)
    forge(weights)
    damage(memory(weights))
    assert sum_of(weights) == true_sum(weights)


def test_without_a_place_to_remember_the_file_is_read(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    (tmp_path / "temporary").write_text("nor this")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert own_folder() is None
    assert sum_of(weights) == sum_of(weights) == true_sum(weights)


def test_folder_that_others_can_write_is_not_used(weights: Path, tmp_path: Path) -> None:
    sum_of(weights)
    forge(weights)
    (tmp_path / "cache" / "virnucpro").chmod(0o777)
    assert sum_of(weights) == true_sum(weights)


SUM_OFTEN = """if True:
    import sys
    from pathlib import Path
    from virnucpro.models import checksums
    checksums.LARGE = checksums.SETTLED = 0
    path, true_sum = Path(sys.argv[1]), sys.argv[2]
    for _ in range(50):
        state = checksums.FileState.of(path)
        assert checksums.Checksum.of(path).sha256 == true_sum
        checksums._memory(state).unlink(missing_ok=True)
"""


def test_many_processes_remember_at_once(weights: Path) -> None:
    command = [sys.executable, "-c", SUM_OFTEN, weights, true_sum(weights)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(HANGS) for process in processes] == [0] * 4
    assert list(memory(weights).parent.iterdir()) in ([], [memory(weights)])


def test_change_while_a_file_is_read_is_found(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_and_touch(path: Path) -> str:
        found = sha256_of(path)
        os.utime(path, ns=(0, 0))
        return found

    monkeypatch.setattr(checksums, "sha256_of", read_and_touch)
    with pytest.raises(ModelError, match=r"weights\.bin changed while it was read"):
        sum_of(weights)
    assert not memory(weights).exists()


def copy_of_mini(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED / "dnabert-mini", tmp_path / "model"))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_model_that_changes_while_it_is_loaded_is_refused(tmp_path: Path, file: str) -> None:
    path = copy_of_mini(tmp_path) / file
    model = resolve(str(path.parent))
    data = path.read_bytes()
    with model.unchanged():
        path.write_bytes(data)  # at another time, but the same
    with pytest.raises(ModelError, match=f"{file} changed"), model.unchanged():
        path.write_bytes(data + b"\n")
    path.unlink()
    with pytest.raises(ModelError, match=f"cannot read .*{file}: No such file") as caught, model.unchanged():
        pass
    assert caught.value.hint == PUT_BACK


def test_run_whose_weights_change_before_they_are_loaded_ends(tmp_path: Path) -> None:
    """The weights in the record are the weights that were used."""
    model = copy_of_mini(tmp_path)
    other = (EMBEDDED / "esm2-mini" / "model.safetensors").read_bytes()

    def change(_index: int | None, event: object) -> None:
        if isinstance(event, Phase) and event.name.startswith("embedding"):
            (model / "model.safetensors").write_bytes(data[:-4] + other[-4:])

    data = (model / "model.safetensors").read_bytes()
    assert data[-4:] != other[-4:]
    config = EmbedConfig(
        (to_fasta(tmp_path / "in.fa", random_records(3)),), tmp_path / "out.h5", model=str(model), device="cpu"
    )
    with pytest.raises(ModelError, match=r"model\.safetensors changed while it was read"):
        run_embed(config, change)
    assert not config.output.exists()


@pytest.mark.parametrize("name", ["codon-mini", "dnabert-mini", "esm2-mini"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_nothing_that_was_read_is_still_that_of_the_file(name: str, suffix: str, tmp_path: Path) -> None:
    """Readers map files. What a network kept of that would change with the file, after it was found unchanged."""
    folder = Path(shutil.copytree(EMBEDDED / name, tmp_path / name))
    weights = folder / "model.safetensors"
    state = {key: value.float().clone() for key, value in load_file(weights).items()}
    weights.unlink()
    if suffix == ".bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, weights)
    model = resolve(str(folder))
    network = FAMILIES[model.kind](model, "fp32").read(torch.device("cpu"), "fp32")
    assert network.dim
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_nothing_of_a_classifier_is_still_that_of_its_file(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED / "mini", tmp_path / "mini"))
    classifier = Classifier.load(folder)
    assert classifier.dim
    assert str(folder) not in Path("/proc/self/maps").read_text()
