"""The registry of models: where files are looked for, what is refused, how they are fetched and checked."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import HANGS

from virnucpro.cli.models import models
from virnucpro.errors import ModelError
from virnucpro.models import registry
from virnucpro.models.registry import EMBEDDED, MODELS, FilePin, ModelSpec, resolve, verify

DNABERT_S = MODELS["dnabert-s"]
ESM_WIDTHS = {"esm2-8m": 320, "esm2-35m": 480, "esm2-150m": 640, "esm2-650m": 1280, "esm2-3b": 2560}
FILES = {"pytorch_model.bin": b"tiny weights", "config.json": b"{}", "tokenizer.json": b'{"model": {}}'}
TINY = ModelSpec(
    name="tiny",
    kind="dnabert",
    dim=8,
    licence="MIT",
    citation="nobody",
    hub_id="org/tiny",
    revision="0123456789abcdef0123456789abcdef01234567",
    pins={name: FilePin(len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()},
)


@pytest.fixture(autouse=True)
def no_models_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIRNUCPRO_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty-hub-cache"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setitem(MODELS, "tiny", TINY)
    return TINY


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_dnabert_s(folder: Path, size: int = 468320053) -> Path:
    """A folder with weights that have the published size but take no space on the disk."""
    write(folder)
    os.truncate(folder / "pytorch_model.bin", size)
    return folder


# Names and pins


def test_registered_models_are_described() -> None:
    assert list(MODELS) == ["dnabert-mini", "dnabert-s", "dnabert-2", "codon-mini", "esm2-mini", *ESM_WIDTHS]
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.licence
        assert spec.citation
        for pin in (*spec.pins.values(), *spec.other_pins.values()):
            assert pin.sha256 is not None
            assert len(bytes.fromhex(pin.sha256)) == 32
            assert pin.size
    for name in ("dnabert-s", "dnabert-2"):
        assert set(MODELS[name].pins) == set(FILES)
    for name, spec in MODELS.items():
        if spec.hub_id is not None:
            assert len(bytes.fromhex(spec.revision or "")) == 20, name
    assert {name: spec.dim for name, spec in MODELS.items() if name in ESM_WIDTHS} == ESM_WIDTHS
    assert {spec.kind for name, spec in MODELS.items() if name.startswith("esm2")} == {"esm2"}


def test_importing_the_registry_is_light() -> None:
    heavy = "{'torch', 'huggingface_hub', 'safetensors', 'transformers'}"
    code = f"import sys, virnucpro.models.registry; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


# The embedded model


@pytest.mark.parametrize("name", ["dnabert-mini", "esm2-mini"])
def test_embedded_model_resolves_and_matches_its_description(name: str) -> None:
    spec, model = MODELS[name], resolve(name)
    assert model.config is not None
    config = json.loads(model.config.read_text())
    assert model.weights == EMBEDDED / name / "model.safetensors"
    assert all(path.is_file() for path in model.files)
    assert (model.tokenizer is None) is (model.kind == "esm2")
    assert model.kind == spec.kind
    assert config["hidden_size"] == spec.dim
    assert config["trained"] is model.trained is True


def test_copy_of_an_untrained_model_stays_untrained(tmp_path: Path) -> None:
    write(tmp_path / "a", FILES | {"config.json": b'{"trained": false}'})
    write(tmp_path / "b", FILES | {"config.json": b'{"trained": true}'})
    assert not resolve(str(tmp_path / "a")).trained
    assert resolve(str(tmp_path / "b")).trained


# Where a registered model is looked for


def test_models_dir_comes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRNUCPRO_MODELS", str(tmp_path / "variable"))
    by_variable = write_dnabert_s(tmp_path / "variable" / "dnabert-s")
    assert resolve("dnabert-s").weights.parent == by_variable
    assert resolve("dnabert-s", tmp_path / "option").weights.parent == by_variable
    by_option = write_dnabert_s(tmp_path / "option" / "dnabert-s")
    assert resolve("dnabert-s", tmp_path / "option").weights.parent == by_option


def test_safetensors_come_before_pytorch(tmp_path: Path) -> None:
    folder = write_dnabert_s(tmp_path / "dnabert-s")
    model = resolve("dnabert-s", tmp_path)
    assert (model.weights.name, model.revision) == ("pytorch_model.bin", DNABERT_S.revision)
    (folder / "model.safetensors").write_bytes(b"converted")
    model = resolve("dnabert-s", tmp_path)
    assert (model.weights.name, model.revision) == ("model.safetensors", None)


def test_absent_model_names_files_places_and_cures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRNUCPRO_MODELS", str(tmp_path / "variable"))
    with pytest.raises(ModelError) as caught:
        resolve("dnabert-s", tmp_path / "my models")
    error = caught.value
    places = (tmp_path / "my models/dnabert-s", tmp_path / "variable/dnabert-s", tmp_path / "empty-hub-cache")
    for part in (*FILES, "model.safetensors", *map(str, places)):
        assert part in error.message
    assert error.exit_code == 4
    assert error.hint is not None
    assert f"virnucpro models download dnabert-s --models-dir '{tmp_path}/my models'" in error.hint
    assert f"to {tmp_path}/my models/dnabert-s/" in error.hint


def test_absent_model_without_any_folder_tells_how_to_choose_one() -> None:
    with pytest.raises(ModelError, match=r"`virnucpro models download dnabert-2`.*--models-dir DIR"):
        resolve("dnabert-2")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "pytorch_model.bin"])
def test_incomplete_folder_names_the_missing_file(tmp_path: Path, missing: str) -> None:
    folder = write_dnabert_s(tmp_path / "dnabert-s")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing) as caught:
        resolve("dnabert-s", tmp_path)
    assert all(present not in caught.value.message for present in set(FILES) - {missing})


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    write_dnabert_s(tmp_path / "dnabert-s", size=1000)
    with pytest.raises(ModelError, match=r"1000 bytes, expected 468320053") as caught:
        resolve("dnabert-s", tmp_path)
    assert "virnucpro models download dnabert-s" in (caught.value.hint or "")


def test_checksums_of_published_weights(tmp_path: Path, tiny: ModelSpec) -> None:
    assert tiny.weights_sha256 == (resolve(str(write(tmp_path / "copy"))).sha256,)
    assert MODELS["dnabert-mini"].weights_sha256 == ()
    esm = MODELS["esm2-3b"]
    first, second = (pin.sha256 or "" for pin in esm.pins.values())
    fair = esm.other_pins["esm2_t36_3B_UR50D.pt"].sha256
    assert esm.weights_sha256 == (hashlib.sha256(f"{first}\n{second}".encode()).hexdigest(), fair)


# Folders and files as names


def test_folder_as_a_name(tmp_path: Path) -> None:
    model = resolve(str(write(tmp_path / "mine")))
    assert model.name == "mine"
    assert model.weights == tmp_path / "mine" / "pytorch_model.bin"
    assert model.revision is None


@pytest.mark.parametrize("file", ["best.safetensors", "best.bin", "best.pt"])
def test_weights_file_as_a_name(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path / "mine", FILES | {file: b"the best"})
    model = resolve(str(folder / file))
    assert (model.name, model.weights, model.config) == (file, folder / file, folder / "config.json")
    assert model.sha256 == hashlib.sha256(b"the best").hexdigest()


def test_weights_file_needs_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"alone")
    with pytest.raises(ModelError, match=r"config\.json, no tokenizer\.json"):
        resolve(str(tmp_path / "best.pt"))


def test_config_that_is_no_json_object(tmp_path: Path) -> None:
    for data in (b"[]", b"{", b"\xff"):
        (write(tmp_path / data.hex()) / "config.json").write_bytes(data)
        with pytest.raises(ModelError, match=r"cannot read .*config\.json"):
            resolve(str(tmp_path / data.hex()))


def test_unknown_name_suggests_and_lists() -> None:
    with pytest.raises(ModelError, match=r"dnabert-mini, dnabert-s, dnabert-2") as caught:
        resolve("DNABERT_S")
    assert caught.value.hint == "did you mean dnabert-s?"
    with pytest.raises(ModelError, match="500 is a model set, not a model") as caught:
        resolve("500")
    assert caught.value.hint == "name an encoder of it: dnabert-s or esm2-3b"


def test_esm_model_is_known_by_its_config_or_its_tensors(tmp_path: Path) -> None:
    mini = EMBEDDED / "esm2-mini"
    by_config = write(tmp_path / "a", {"model.safetensors": b"unread", "config.json": b'{"model_type": "esm"}'})
    model = resolve(str(by_config))
    assert (model.kind, model.config, model.tokenizer) == ("esm2", by_config / "config.json", None)
    by_keys = write(tmp_path / "b", {"any.safetensors": (mini / "model.safetensors").read_bytes()})
    for file in ("esm.pt", "old.pt"):
        keys = {"cfg": {"arch": "roberta_large"}, "model": {"layers.0.self_attn.rot_emb.inv_freq": torch.ones(8)}}
        torch.save(keys, by_keys / file, _use_new_zipfile_serialization=file != "old.pt")
    for file in ("any.safetensors", "esm.pt", "old.pt"):
        model = resolve(str(by_keys / file))
        assert (model.name, model.kind, model.config, model.trained) == (file, "esm2", None, True)
        assert model.files == (by_keys / file,)
    copy = write(tmp_path / "c", {path.name: path.read_bytes() for path in mini.iterdir()})
    assert resolve(str(copy)).trained
    assert resolve("dnabert-mini").kind == "dnabert"


def test_weights_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"model-0000{i}-of-00003.safetensors": bytes([i]) * i for i in (1, 2, 3)}
    spec = ModelSpec(
        name="split", kind="esm2", dim=8, licence="MIT", citation="nobody",
        hub_id="org/split", revision="0" * 40,
        pins={name: FilePin(len(data), hashlib.sha256(data).hexdigest()) for name, data in parts.items()},
    )  # fmt: skip
    monkeypatch.setitem(MODELS, "split", spec)
    folder = write(tmp_path / "split", parts)
    model = resolve("split", tmp_path)
    assert [path.name for path in model.files] == list(parts)
    assert model.revision == spec.revision
    whole = model.sha256
    assert whole == hashlib.sha256("\n".join(pin.sha256 or "" for pin in spec.pins.values()).encode()).hexdigest()
    assert [check.status for check in verify("split", tmp_path)] == ["ok"] * 3
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"333")
    assert resolve("split", tmp_path).sha256 != whole
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"3")
    with pytest.raises(ModelError, match=r"00003-of-00003.* has 1 bytes, expected 3"):
        resolve("split", tmp_path)
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="no readable model-00003-of-00003"):
        resolve("split", tmp_path)


def test_fair_esm_file_stands_for_the_published_model(tmp_path: Path) -> None:
    write(tmp_path / "esm2-3b", {"esm2_t36_3B_UR50D.pt": b""})
    with pytest.raises(ModelError, match="0 bytes, expected 5678116398"):
        resolve("esm2-3b", tmp_path)
    os.truncate(tmp_path / "esm2-3b" / "esm2_t36_3B_UR50D.pt", 5678116398)
    model = resolve("esm2-3b", tmp_path)
    assert (model.kind, model.config, model.revision) == ("esm2", None, None)
    with pytest.raises(ModelError, match=r"model\.safetensors or pytorch_model\.bin or esm2_t6_8M_UR50D\.pt"):
        resolve("esm2-8m", tmp_path)


def test_file_of_another_kind_is_no_model(tmp_path: Path) -> None:
    (write(tmp_path / "mine") / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"notes\.txt.*\.safetensors"):
        resolve(str(tmp_path / "mine" / "notes.txt"))


def test_sha256_reads_the_file_once_and_survives_pickling(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    model = resolve(str(write(tmp_path / "mine", FILES | {"pytorch_model.bin": data})))
    assert model.sha256 == hashlib.sha256(data).hexdigest()
    model.weights.unlink()
    assert pickle.loads(pickle.dumps(model)).sha256 == model.sha256


def test_sha256_of_weights_that_vanished(tmp_path: Path) -> None:
    model = resolve(str(write(tmp_path / "mine")))
    model.weights.unlink()
    with pytest.raises(ModelError, match=r"cannot read .*pytorch_model\.bin"):
        _ = model.sha256


def test_weights_by_a_broken_link(tmp_path: Path) -> None:
    weights = write(tmp_path / "mine") / "pytorch_model.bin"
    weights.unlink()
    weights.symlink_to("elsewhere.bin")
    with pytest.raises(
        ModelError, match=r"pytorch_model\.bin is a link to elsewhere\.bin, which does not exist"
    ) as caught:
        resolve(str(weights.parent))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("mend the link")


# Checking against the pins


def test_verify_tells_ok_mismatch_and_unpinned(tmp_path: Path, tiny: ModelSpec) -> None:
    folder = write(tmp_path / "tiny")
    assert [check.status for check in verify("tiny", tmp_path)] == ["ok"] * 3
    (folder / "pytorch_model.bin").write_bytes(b"TINY weights")
    (folder / "config.json").write_bytes(b"{")
    weights, config, tokenizer = verify("tiny", tmp_path)
    assert (weights.status, weights.expected) == ("mismatch", tiny.pins["pytorch_model.bin"].sha256)
    assert weights.found == hashlib.sha256(b"TINY weights").hexdigest()
    assert (config.status, config.expected, config.found) == ("mismatch", "2 bytes", "1 bytes")
    assert tokenizer.status == "ok"
    (folder / "model.safetensors").write_bytes(b"converted")
    converted = verify("tiny", tmp_path)[0]
    assert (converted.file, converted.status, converted.expected) == ("model.safetensors", "unpinned", None)


def test_verify_reports_truncated_weights(tmp_path: Path) -> None:
    write_dnabert_s(tmp_path / "dnabert-s", size=1000)
    check = verify("dnabert-s", tmp_path)[0]
    assert (check.status, check.expected, check.found) == ("mismatch", "468320053 bytes", "1000 bytes")


def test_a_local_folder_has_no_pins(tmp_path: Path) -> None:
    assert {check.status for check in verify(str(write(tmp_path / "mine")))} == {"unpinned"}


# The Hub: its cache, its client, and a server of our own


class Hub:
    """A server with one repository, and Python processes that use it as the Hub."""

    def __init__(self, tmp_path: Path) -> None:
        self.files = dict(FILES)
        self.requests: list[str] = []
        self.cache = tmp_path / "hub"
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.requests.append(self.path)
                data = hub.files.get(self.path.removeprefix(f"/org/tiny/resolve/{TINY.revision}/"))
                self.send_response(404 if data is None else 200)
                self.send_header("X-Repo-Commit", str(TINY.revision))
                self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                if self.command == "GET" and data is not None:
                    self.wfile.write(data)

            do_GET = do_HEAD

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def run(self, code: str, **environment: str) -> str:
        """What `code` prints in a new process in which `tiny` is registered; ModelErrors are printed, too."""
        program = (
            "import pickle, sys; from pathlib import Path\n"
            "from virnucpro.errors import ModelError\n"
            "from virnucpro.models.registry import MODELS, download, resolve\n"
            f"MODELS['tiny'] = pickle.loads({pickle.dumps(TINY)!r})\n"
            f"try: print({code})\n"
            "except ModelError as error: print(type(error).__name__, error)\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": str(HANGS),
            "HF_HUB_DOWNLOAD_TIMEOUT": str(HANGS),
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=HANGS
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def cache_by_hand(cache: Path, revision: str) -> Path:
    """The layout of the Hub cache: blobs, and a snapshot of links to them."""
    repository = cache / "models--org--tiny"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name, data in FILES.items():
        blob = hashlib.sha256(data).hexdigest()
        (repository / "blobs" / blob).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot


def test_hub_cache_is_sought_last_at_the_pinned_revision_without_a_network(hub: Hub, tmp_path: Path) -> None:
    snapshot = cache_by_hand(hub.cache, str(TINY.revision))
    assert hub.run("resolve('tiny').weights") == str(snapshot / "pytorch_model.bin")
    assert hub.run("resolve('tiny').revision") == TINY.revision
    folder = write(tmp_path / "variable" / "tiny")
    found = hub.run("resolve('tiny').weights.parent", VIRNUCPRO_MODELS=str(tmp_path / "variable"))
    assert found == str(folder)
    assert hub.requests == []


def test_other_revisions_in_the_hub_cache_do_not_count(hub: Hub) -> None:
    cache_by_hand(hub.cache, "f" * 40)
    answer = hub.run("resolve('tiny')")
    assert answer.startswith("Absent model tiny is not on this machine")
    assert str(hub.cache) in answer
    assert hub.requests == []


def test_download_to_a_folder_then_offline_use_and_repair(hub: Hub, tmp_path: Path) -> None:
    call = f"download('tiny', Path({str(tmp_path / 'store')!r})).weights"
    weights = tmp_path / "store" / "tiny" / "pytorch_model.bin"
    assert hub.run(call) == str(weights)
    assert {name: (weights.parent / name).read_bytes() for name in FILES} == FILES
    assert hub.run(call, HF_HUB_OFFLINE="1") == str(weights)
    stamp = weights.stat()
    weights.write_bytes(b"TINY WEIGHTS")
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert hub.run(call) == str(weights)
    assert weights.read_bytes() == FILES["pytorch_model.bin"]


def test_download_to_the_hub_cache_or_the_folder_of_the_variable(hub: Hub, tmp_path: Path) -> None:
    snapshot = hub.cache / "models--org--tiny" / "snapshots" / str(TINY.revision)
    assert hub.run("download('tiny').config") == str(snapshot / "config.json")
    found = hub.run("download('tiny').config", VIRNUCPRO_MODELS=str(tmp_path / "variable"))
    assert found == str(tmp_path / "variable" / "tiny" / "config.json")


def test_download_refuses_other_bytes(hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = b"evil weights"
    answer = hub.run("download('tiny')")
    assert "is not the pinned file" in answer
    assert hashlib.sha256(b"evil weights").hexdigest() in answer


def test_download_of_a_file_that_the_server_lacks(hub: Hub) -> None:
    del hub.files["tokenizer.json"]
    answer = hub.run("download('tiny')")
    assert answer.startswith("ModelError cannot download tokenizer.json of org/tiny")
    assert "without a network, copy" in answer


def test_download_offline_tells_what_to_copy_where(hub: Hub, tmp_path: Path) -> None:
    answer = hub.run(f"download('tiny', Path({str(tmp_path / 'store')!r}))", HF_HUB_OFFLINE="1")
    assert answer.startswith("ModelError cannot download pytorch_model.bin of org/tiny")
    assert f"copy pytorch_model.bin, config.json, tokenizer.json from {TINY.url} to {tmp_path}/store/tiny/" in answer
    assert hub.requests == []


def test_download_wants_a_registered_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="registered"):
        registry.download(str(write(tmp_path / "mine")))


# The command line


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(models, [str(argument) for argument in arguments])


def rows(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_cli_list(tmp_path: Path) -> None:
    write_dnabert_s(tmp_path / "dnabert-s", size=1000)
    write(tmp_path / "dnabert-2")
    os.truncate(tmp_path / "dnabert-2" / "pytorch_model.bin", 468354983)
    result = run("list", "--models-dir", tmp_path)
    mini = MODELS["dnabert-mini"]
    assert rows(result) == [
        ["name", "status", "trained", "dim", "licence", "location", "kind"],
        ["dnabert-mini", "embedded", "trained", str(mini.dim), "MIT", str(EMBEDDED / "dnabert-mini"), "dnabert"],
        ["dnabert-s", "damaged", "trained", "768", "Apache-2.0", "-", "dnabert"],
        ["dnabert-2", "downloaded", "trained", "768", "Apache-2.0", str(tmp_path / "dnabert-2"), "dnabert"],
        ["codon-mini", "embedded", "trained", "768", "MIT", str(EMBEDDED / "codon-mini"), "codon"],
        ["esm2-mini", "embedded", "trained", "160", "MIT", str(EMBEDDED / "esm2-mini"), "esm2"],
        *([name, "not downloaded", "trained", str(dim), "MIT", "-", "esm2"] for name, dim in ESM_WIDTHS.items()),
        ["mini", "ready", "trained", str(MODELS["codon-mini"].dim), "MIT", str(EMBEDDED / "mini"), "set"],
        ["mini-1", "ready", "trained", "288", "MIT", str(EMBEDDED / "mini-1"), "set"],
        ["500", "needs dnabert-s, esm2-3b, virnucpro-500", "trained", "3328", "-", "-", "set"],
        ["300", "needs dnabert-s, esm2-3b, virnucpro-300", "trained", "3328", "-", "-", "set"],
    ]
    assert "1000 bytes" in result.stderr
    assert rows(run("list"))[2][1] == "not downloaded"


def on_a_terminal(command: list[str], columns: int) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        # A closed terminal is an error on Linux and the end of the file elsewhere.
        with suppress(OSError):
            while block := os.read(ours, 4096):
                shown += block
        os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_cli_list_on_a_terminal_is_a_table(tmp_path: Path) -> None:
    store = tmp_path / "a [bold] name"
    write_dnabert_s(store / "dnabert-s")
    program = "from virnucpro.cli.models import models; models()"
    command = [sys.executable, "-c", program, "list", "--models-dir", str(store)]
    assert "…" not in on_a_terminal(command, 90)
    shown = on_a_terminal(command, 300)
    assert "\t" not in shown
    assert "│" in shown
    assert str(store / "dnabert-s") in shown


def test_cli_download_of_an_embedded_model_prints_its_folder() -> None:
    result = run("download", "dnabert-mini")
    assert result.stdout == f"{EMBEDDED / 'dnabert-mini'}\n"
    assert result.stderr.startswith("dnabert-mini: licence MIT; please cite virnucpro")


def test_cli_verify(tmp_path: Path, tiny: ModelSpec) -> None:
    folder = write(tmp_path / "tiny")
    good = run("verify", "tiny", "--models-dir", tmp_path)
    assert good.exit_code == 0
    assert [row[2] for row in rows(good)] == ["status", "ok", "ok", "ok"]
    (folder / "tokenizer.json").write_bytes(b"[]")
    bad = run("verify", "--models-dir", tmp_path)
    assert isinstance(bad.exception, ModelError)
    assert "tiny/tokenizer.json" in bad.exception.message
    assert "dnabert-s: not downloaded" in bad.stderr
    assert [row[:3] for row in rows(bad)[1:]] == [
        ["dnabert-mini", "model.safetensors", "unpinned"],
        ["dnabert-mini", "config.json", "unpinned"],
        ["dnabert-mini", "tokenizer.json", "unpinned"],
        ["codon-mini", "model.safetensors", "unpinned"],
        ["codon-mini", "config.json", "unpinned"],
        ["esm2-mini", "model.safetensors", "unpinned"],
        ["esm2-mini", "config.json", "unpinned"],
        ["tiny", "pytorch_model.bin", "ok"],
        ["tiny", "config.json", "ok"],
        ["tiny", "tokenizer.json", "mismatch"],
    ]
    assert rows(bad)[1][3] == "no checksum pinned for this file"


def test_cli_errors_are_model_errors() -> None:
    for command in ("verify", "download"):
        assert isinstance(run(command, "dnabert-x").exception, ModelError)
    assert isinstance(run("verify", "dnabert-s").exception, ModelError)
