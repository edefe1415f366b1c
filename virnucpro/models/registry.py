"""Models by name: where their files come from, what they must be, and where they lie on this machine.

A registered model is sought in `--models-dir`, then `$VIRNUCPRO_MODELS`, then the Hub cache at its pinned
revision; an embedded one lies in the package. A folder or a weights file is a model name too. Only `download`
uses the network, and no code of a repository is ever fetched. Nothing heavy is imported until it is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from virnucpro._version import __version__
from virnucpro.errors import ModelError
from virnucpro.io.files import read_json
from virnucpro.io.files import sha256_of as sum_of_file

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
#: Files besides the weights that a network of each kind cannot be built without. ESM-2 says all in its weights.
NEEDED: Mapping[str, tuple[str, ...]] = {"dnabert": (CONFIG, TOKENIZER), "esm2": (), "codon": (CONFIG,)}
#: Names of weights in a model folder, the preferred one first; each may be split, as in weight_files.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: What a weights file given by its path may end in.
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt")
#: Files that weights may be split into: more have not been seen.
MOST_PARTS = 10_000
#: Variable that names a folder of models.
VARIABLE = "VIRNUCPRO_MODELS"
#: Names of tensors that only ESM networks have, and how much of a file is searched for them.
_ESM_KEYS, _HEAD_BYTES = (b"rot_emb.inv_freq", b"rotary_embeddings.inv_freq", b"esm.encoder.layer."), 1 << 20
#: Folder of the models shipped in the wheel.
EMBEDDED = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class FilePin:
    """What a published file must be; None where it is not known."""

    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A registered model.

    `pins` names the files that its source publishes at `revision`, and what they must be; `other_pins` the same
    weights as published elsewhere, for whoever has them. An embedded model has no `hub_id`. `kind` is the family of
    the network, a key of NEEDED; `dim` is the width of an embedding.
    """

    name: str
    kind: str
    dim: int
    trained: bool
    description: str
    licence: str
    citation: str
    hub_id: str | None = None
    revision: str | None = None
    weights: tuple[str, ...] = WEIGHTS
    pins: Mapping[str, FilePin] = field(default_factory=dict)
    other_pins: Mapping[str, FilePin] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that must lie beside the weights."""
        return NEEDED[self.kind]

    def pin(self, file: str) -> FilePin:
        """What the file of that name must be."""
        return self.pins.get(file) or self.other_pins.get(file) or FilePin()

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """Every value that `LocalModel.sha256` has for published weights of this model."""
        pins = {**self.pins, **self.other_pins}
        sums = {name: pin.sha256 for name, pin in pins.items() if pin.sha256 and name not in (CONFIG, TOKENIZER)}
        wholes = [[part.name for part in weight_files(Path(name))] for name in sums]
        later_parts = {name for whole in wholes for name in whole[1:]}
        return tuple(_combined([sums[name] for name in whole]) for whole in wholes if whole[0] not in later_parts)

    @property
    def label(self) -> str:
        """The name, with a warning where the weights are random."""
        return self.name if self.trained else f"{self.name} (UNTRAINED: random weights)"

    @property
    def url(self) -> str:
        """The page of the pinned revision."""
        return f"https://huggingface.co/{self.hub_id}/tree/{self.revision}"


@dataclass(frozen=True)
class LocalModel:
    """The files of a model on this machine; `trained` is False where the weights are random.

    `kind` is the family of the network, a key of NEEDED: files that it can do without may be None. Of weights in
    several files `weights` is the first. `revision` is None unless the weights are those that a registered source
    publishes.
    """

    name: str
    kind: str
    weights: Path
    config: Path | None
    tokenizer: Path | None
    revision: str | None
    trained: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the model, the weights first."""
        return (*weight_files(self.weights), *(path for path in (self.config, self.tokenizer) if path is not None))

    @cached_property
    def sha256(self) -> str:
        """Checksum of the weights, of several files that of their checksums; a ModelError if one cannot be read."""
        return _combined([sha256_of(path) for path in weight_files(self.weights)])

    def attributes(self, dtype: str, token_budget: int) -> dict[str, object]:
        """What an embedding in a file says of its making: this model, the numbers and the batch, the versions."""
        import torch

        return {
            "model": self.name,
            "model_revision": self.revision or "",
            "model_sha256": self.sha256,
            "model_trained": self.trained,
            "dtype": dtype,
            "token_budget": token_budget,
            "virnucpro_version": __version__,
            "torch_version": str(torch.__version__),
        }


@dataclass(frozen=True)
class FileCheck:
    """A file against its pin. `expected` and `found` are both checksums or both sizes in bytes."""

    file: str
    path: Path
    status: Literal["ok", "mismatch", "unpinned"]
    expected: str | None
    found: str


@dataclass(frozen=True)
class Availability:
    """A registered model and where it was found, or what is wrong with what was found."""

    spec: ModelSpec
    model: LocalModel | None
    problem: str | None

    @property
    def status(self) -> str:
        """One of `embedded`, `downloaded`, `damaged`, `not downloaded`."""
        if self.problem is not None:
            return "damaged"
        if self.model is None:
            return "not downloaded"
        return "embedded" if self.spec.hub_id is None else "downloaded"


_DNABERT_2_PAPER = (
    "Zhou Z, Ji Y, Li W, Dutta P, Davuluri R, Liu H. DNABERT-2: Efficient Foundation Model and Benchmark for "
    "Multi-Species Genomes. ICLR 2024, arXiv:2306.15006"
)
_DNABERT_S_PAPER = (
    "Zhou Z, Wu W, Ho H, Wang J, Shi L, Davuluri RV, Wang Z, Liu H. DNABERT-S: pioneering species "
    "differentiation with species-aware DNA embeddings. Bioinformatics 2025;41(Suppl 1):i255-i264, "
    "doi:10.1093/bioinformatics/btaf188, arXiv:2402.08777"
)

_ESM_2_PAPER = (
    "Lin Z, Akin H, Rao R, Hie B, Zhu Z, Lu W, et al. Evolutionary-scale prediction of atomic-level protein structure "
    "with a language model. Science 2023;379(6637):1123-1130, doi:10.1126/science.ade2574"
)


def _esm2(size: str, dim: int, published: str, revision: str, pins: Mapping[str, FilePin], fair: FilePin) -> ModelSpec:
    """A published ESM-2 network; `fair` is what fair-esm's own single file must be."""
    return ModelSpec(
        name=f"esm2-{size}",
        kind="esm2",
        dim=dim,
        trained=True,
        description=f"protein language model, {size[:-1]} {'billion' if size.endswith('b') else 'million'} parameters",
        licence="MIT",
        citation=_ESM_2_PAPER,
        hub_id=f"facebook/{published}",
        revision=revision,
        weights=(*WEIGHTS, f"{published}.pt"),
        pins=pins,
        other_pins={f"{published}.pt": fair},
    )


#: The registered models. Embedded ones carry no pins: the installer checks the files of a wheel.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="dnabert-mini",
            kind="dnabert",
            dim=128,
            trained=True,
            description="small DNABERT of 1 million parameters, trained to tell viral from other; in the package",
            licence="MIT",
            citation=f"virnucpro; architecture: {_DNABERT_2_PAPER}",
        ),
        ModelSpec(
            name="dnabert-s",
            kind="dnabert",
            dim=768,
            trained=True,
            description="species-aware DNA embeddings, 117 million parameters",
            licence="Apache-2.0",
            citation=_DNABERT_S_PAPER,
            hub_id="zhihan1996/DNABERT-S",
            revision="00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
            pins={
                "pytorch_model.bin": FilePin(
                    468320053, "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f"
                ),
                CONFIG: FilePin(1025, "d54c142114563aa34ef7c2b54ccc921d08e50cd7c3cd69c439d5e0d2bbcfcdee"),
                TOKENIZER: FilePin(168203, "667f5a0e6e9630f7052b004784dda7c7aeba395cc4ca3c01b11b02e6aa29d7b1"),
            },
        ),
        ModelSpec(
            name="dnabert-2",
            kind="dnabert",
            dim=768,
            trained=True,
            description="multi-species DNA language model, 117 million parameters",
            licence="Apache-2.0",
            citation=_DNABERT_2_PAPER,
            hub_id="zhihan1996/DNABERT-2-117M",
            revision="7bce263b15377fc15361f52cfab88f8b586abda0",
            pins={
                "pytorch_model.bin": FilePin(
                    468354983, "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba"
                ),
                CONFIG: FilePin(904, "ba9bdafaff0cc3e30556927474d4a179519a9864012bed2628e9f1bc23c84bfd"),
                TOKENIZER: FilePin(167908, "5d178e8ce2ba55df97fff197f4b30f40133b95d7096be398c2df6b526c5d8cd3"),
            },
        ),
        ModelSpec(
            name="codon-mini",
            kind="codon",
            dim=768,
            trained=True,
            description="two convolutional networks of 1.2 million parameters over the codons of all six frames, "
            "trained to tell viral from other; in the package",
            licence="MIT",
            citation="virnucpro",
        ),
        ModelSpec(
            name="esm2-mini",
            kind="esm2",
            dim=160,
            trained=True,
            description="small ESM-2 of 0.8 million parameters, trained to tell viral from other; in the package",
            licence="MIT",
            citation=f"virnucpro; architecture: {_ESM_2_PAPER}",
        ),
        _esm2(
            "8m",
            320,
            "esm2_t6_8M_UR50D",
            "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
            {
                "model.safetensors": FilePin(
                    31384292, "24c5fa474c48f3b754b86efe752d5f189d2bcd88190fa2270fc92b2ef3034189"
                )
            },
            FilePin(30099493, "46f002a9870c9bdecd0ea887acb1f9a38a6b561e8f8bf8a6990b679b9d31b928"),
        ),
        _esm2(
            "35m",
            480,
            "esm2_t12_35M_UR50D",
            "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
            {
                "model.safetensors": FilePin(
                    136008798, "e35647818e0e064351d4531ed480d225a002567b4b2b93ad3a9246d753150fc0"
                )
            },
            FilePin(134095705, "7f21e80e61d16a71735163ef555d3009afb0c98da74c48e29df08606973cc55e"),
        ),
        _esm2(
            "150m",
            640,
            "esm2_t30_150M_UR50D",
            "a695f6045e2e32885fa60af20c13cb35398ce30c",
            {
                "model.safetensors": FilePin(
                    595257706, "c3f1da8aea53bddd32c246c86168c23b9fd72341fb9db9a94436f855f5053566"
                )
            },
            FilePin(592774773, "881c7176cf198ef8dec26a3c375d40eb58d0c33df95c22562ca6cc6d3f812c62"),
        ),
        _esm2(
            "650m",
            1280,
            "esm2_t33_650M_UR50D",
            "08e4846e537177426273712802403f7ba8261b6c",
            {
                "model.safetensors": FilePin(
                    2609506392, "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0"
                )
            },
            FilePin(2604537549, "ea9d0522b335a8778dea6535a65301f10208dece28cd5865482b0b1fc446168c"),
        ),
        _esm2(
            "3b",
            2560,
            "esm2_t36_3B_UR50D",
            "476b639933c8baad5ad09a60ac1a87f987b656fc",
            {
                "pytorch_model-00001-of-00002.bin": FilePin(
                    9976735419, "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412"
                ),
                "pytorch_model-00002-of-00002.bin": FilePin(
                    1390347055, "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c"
                ),
            },
            FilePin(5678116398, "7de8b4082ba15891959ab368b77ce3886697af1efb16d3c9e9e7b0c5d3f07500"),
        ),
    )
}


def weight_files(first: Path) -> tuple[Path, ...]:
    """Every file of weights whose `first` is given: itself, or the parts of NAME-00001-of-0000N.SUFFIX."""
    match = re.fullmatch(r"(.+)-0*1-of-(\d+)", first.stem)
    if match is None:
        return (first,)
    name, last = match.groups()
    if int(last) > MOST_PARTS:
        raise ModelError(f"{first} is the first of {last} files, by its name", hint="rename it if it is the only one")
    digits = len(last)
    return tuple(
        first.with_name(f"{name}-{part:0{digits}}-of-{last}{first.suffix}") for part in range(1, int(last) + 1)
    )


def resolve(name: str, models_dir: Path | None = None) -> LocalModel:
    """The files of the model `name`, without a network.

    `name` is a registered name, a folder, or a weights file with its `config.json` and `tokenizer.json`
    beside it, which ESM-2 needs not; a registered name wins over a folder called the same (write `./name`
    for the folder).

    A ModelError says what is wrong and its cure: the name is unknown, the model is not on this machine, a
    file is missing, or the weights have another size than the published ones.
    """
    model = _locate(name, models_dir)
    if name in MODELS:
        _refuse_truncated(MODELS[name], model, models_dir)
    return model


def download(name: str, models_dir: Path | None = None) -> LocalModel:
    """Fetch the files of a registered model at its pinned revision, check them, and return where they are.

    They go to `<models_dir>/<name>/`, else `$VIRNUCPRO_MODELS/<name>/`, else the Hub cache. A damaged copy
    that is there already is replaced; an embedded model needs no download. A ModelError says why a file
    could not be had, or that it is not the pinned one.
    """
    spec = _registered(name)
    if spec.hub_id is not None:
        from huggingface_hub import hf_hub_download

        folder = next(folders(name, models_dir), None)
        fetch = partial(hf_hub_download, spec.hub_id, revision=spec.revision, local_dir=folder)
        for file, pin in spec.pins.items():
            _fetch(fetch, file, pin, spec, models_dir)
    return resolve(name, models_dir)


def verify(name: str, models_dir: Path | None = None) -> list[FileCheck]:
    """Compare each file of a model with its pin; a ModelError if a file is absent or cannot be read."""
    model = _locate(name, models_dir)
    spec = MODELS.get(name)
    return [_check(path, spec.pin(path.name) if spec else FilePin()) for path in model.files]


def available(models_dir: Path | None = None) -> list[Availability]:
    """Every registered model and whether it can be used; no checksums are computed."""
    return [_availability(spec, models_dir) for spec in MODELS.values()]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; a ModelError if it cannot be read."""
    try:
        return sum_of_file(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _combined(sums: list[str]) -> str:
    """The checksum of weights in one file or several."""
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


def _registered(name: str) -> ModelSpec:
    if name not in MODELS:
        raise _unknown(name)
    return MODELS[name]


def _locate(name: str, models_dir: Path | None) -> LocalModel:
    """The files of a model, complete but unchecked."""
    if name not in MODELS:
        return _local(name)
    model = _find(MODELS[name], models_dir)
    if model is None:
        raise _absent(MODELS[name], models_dir)
    return model


def _find(spec: ModelSpec, models_dir: Path | None) -> LocalModel | None:
    """The first copy of a registered model; None if there is none, a ModelError if it lacks a file."""
    if spec.hub_id is None:
        return _in_folder(spec, EMBEDDED / spec.name, "install virnucpro again")
    for folder in folders(spec.name, models_dir):
        if os.path.isdir(folder):
            return _in_folder(spec, folder, _cure(spec, models_dir))
    return _in_hub_cache(spec, spec.hub_id)


def folders(name: str, models_dir: Path | None) -> Iterator[Path]:
    """Folders in which the model or classifier of that name may lie, besides the Hub cache of a model."""
    for parent in (models_dir, os.environ.get(VARIABLE)):
        if parent:
            yield Path(os.path.expanduser(parent)) / name


def _in_folder(spec: ModelSpec, folder: Path, cure: str) -> LocalModel:
    return _described(spec, _pick(folder, spec.weights, spec.files, cure))


def _in_hub_cache(spec: ModelSpec, hub_id: str) -> LocalModel | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(hub_id, file, revision=spec.revision) for file in spec.pins]
    paths = [Path(path) for path in found if isinstance(path, str)]
    if len(paths) < len(spec.pins):
        return None
    return _described(spec, next(path for path in paths if path.name not in spec.files))


def _described(spec: ModelSpec, weights: Path) -> LocalModel:
    # Weights converted by the user carry no proof of the revision they come from.
    revision = spec.revision if weights.name in spec.pins else None
    return _model(spec.name, spec.kind, weights, revision, spec.trained)


def _model(name: str, kind: str, weights: Path, revision: str | None, trained: bool) -> LocalModel:
    config, tokenizer = weights.with_name(CONFIG), weights.with_name(TOKENIZER)
    return LocalModel(
        name,
        kind,
        weights,
        config if _readable(config) else None,
        tokenizer if TOKENIZER in NEEDED[kind] else None,
        revision,
        trained,
    )


def _local(name: str) -> LocalModel:
    """A model given by its folder or its weights file."""
    path = Path(os.path.expanduser(name))
    is_file = os.path.isfile(path) and path.suffix in WEIGHTS_SUFFIXES
    if not is_file and not os.path.isdir(path):
        raise _unknown(name)
    folder, names = (path.parent, (path.name,)) if is_file else (path, WEIGHTS)
    values = _config_values(folder / CONFIG)
    kind = _kind(values, _candidates(folder, names))
    weights = _pick(folder, names, NEEDED[kind], "put it there, or name a registered model")
    # A copy of an embedded model that is not trained yet says so in its config.
    return _model(path.resolve().name, kind, weights, None, values.get("trained") is not False)


def _config_values(config: Path) -> Mapping[str, object]:
    """What a `config.json` says, nothing if there is none; a ModelError if it is not a JSON object."""
    if not _readable(config):
        return {}
    try:
        values = read_json(config)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {config}: {error}", hint="it must be a JSON object") from error
    if not isinstance(values, dict):
        raise ModelError(f"cannot read {config}: it is no JSON object")
    return values


def _kind(config: Mapping[str, object], weights: list[Path]) -> str:
    """The family of a local model: by what its config says, or by the names of its tensors."""
    if config.get("kind") == "codon":
        return "codon"
    is_esm = config.get("model_type") == "esm" or (weights and _has_esm_keys(weights[0]))
    return "esm2" if is_esm else "dnabert"


def _has_esm_keys(weights: Path) -> bool:
    # Either format names its tensors near the beginning of the file, in plain letters: no need to load anything.
    with weights.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return any(key in head for key in _ESM_KEYS)


def _pick(folder: Path, weights: tuple[str, ...], files: tuple[str, ...], cure: str) -> Path:
    """The weights in a folder that must hold `files` too; a ModelError names what is missing."""
    missing = [file for file in files if not _readable(folder / file)]
    readable = _candidates(folder, weights)
    if not readable:
        missing.append(" or ".join(weights))
    else:
        missing += [part.name for part in weight_files(readable[0]) if not _readable(part)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"{folder} holds no readable {', no '.join(missing[:3])}{more}", hint=cure)
    return readable[0]


def _candidates(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Readable weights of these names in a folder, each in one file or the first of several."""
    paths: list[Path] = []
    for name in map(Path, names):
        paths += [folder / name, *sorted(folder.glob(f"{name.stem}-00001-of-*{name.suffix}"))]
    return [path for path in paths if _readable(path)]


def _readable(path: Path) -> bool:
    """Whether it is a file, and no pipe, which may never answer."""
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _refuse_truncated(spec: ModelSpec, model: LocalModel, models_dir: Path | None) -> None:
    """Raise a ModelError if the weights have another size than the published file of that name."""
    for path in weight_files(model.weights):
        expected, found = spec.pin(path.name).size, path.stat().st_size
        if expected not in (None, found):
            raise ModelError(
                f"{path} has {found} bytes, expected {expected}: an incomplete download or another file",
                hint=_cure(spec, models_dir),
            )


def _check(path: Path, pin: FilePin) -> FileCheck:
    size = path.stat().st_size
    if pin.size not in (None, size):
        return FileCheck(path.name, path, "mismatch", f"{pin.size} bytes", f"{size} bytes")
    found = sha256_of(path)
    if pin.sha256 is None:
        return FileCheck(path.name, path, "unpinned", None, found)
    return FileCheck(path.name, path, "ok" if found == pin.sha256 else "mismatch", pin.sha256, found)


def _fetch(fetch: Callable[..., str], file: str, pin: FilePin, spec: ModelSpec, models_dir: Path | None) -> None:
    """Fetch one file and compare it with its pin."""
    try:
        check = _check(Path(fetch(file)), pin)
        if check.status == "mismatch":
            # The Hub client trusts a file that it finds in place, damaged or not.
            check = _check(Path(fetch(file, force_download=True)), pin)
    except Exception as error:
        # Client, proxy, server and disk raise a dozen kinds of error; all mean that the file cannot be had.
        raise ModelError(
            f"cannot download {file} of {spec.hub_id}: {error}", hint=_by_hand(spec, models_dir)
        ) from error
    if check.status == "mismatch":
        raise ModelError(
            f"{check.path} is not the pinned file: expected {check.expected}, found {check.found}",
            hint="the source or a proxy on the way served another file; do not use it",
        )


def _availability(spec: ModelSpec, models_dir: Path | None) -> Availability:
    try:
        model = _find(spec, models_dir)
        if model is not None:
            _refuse_truncated(spec, model, models_dir)
    except ModelError as error:
        return Availability(spec, None, error.message)
    return Availability(spec, model, None)


def _cure(spec: ModelSpec, models_dir: Path | None) -> str:
    """How to get a registered model."""
    option = f" --models-dir {shlex.quote(str(models_dir))}" if models_dir else ""
    return f"run `virnucpro models download {spec.name}{option}`; {_by_hand(spec, models_dir)}"


def _by_hand(spec: ModelSpec, models_dir: Path | None) -> str:
    """How to get a registered model where this machine has no network."""
    folder = next(folders(spec.name, models_dir), None)
    place = f"{folder}/" if folder else f"DIR/{spec.name}/ and pass --models-dir DIR or set {VARIABLE}=DIR"
    return f"without a network, copy {', '.join(spec.pins)} from {spec.url} to {place}"


def _absent(spec: ModelSpec, models_dir: Path | None) -> ModelError:
    from huggingface_hub.constants import HF_HUB_CACHE

    files = ", ".join((*spec.files, " or ".join(spec.weights)))
    places = [*map(str, folders(spec.name, models_dir)), f"the Hub cache {HF_HUB_CACHE}"]
    return ModelError(
        f"model {spec.name} is not on this machine; {files} sought in: {'; '.join(places)}",
        hint=_cure(spec, models_dir),
    )


def _unknown(name: str) -> ModelError:
    close = get_close_matches(name.lower(), MODELS, n=1)
    hint = f"did you mean {close[0]}?" if close else "see `virnucpro models list`"
    return ModelError(
        f"no model {name!r}: neither a registered name ({', '.join(MODELS)}), nor a folder, "
        f"nor a weights file ({', '.join(WEIGHTS_SUFFIXES)})",
        hint=hint,
    )
