"""The published classifiers: whole networks that `torch.save` pickled. Nothing in such a file is executed.

PyTorch's restricted reader reads them: it accepts tensors, plain data, and the few classes named here, each of which is
replaced by a stand-in that can only hold the file's data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from virnucpro.core.threads import unbroken
from virnucpro.errors import ModelError, OutputError, UsageError
from virnucpro.io.files import failing_as
from virnucpro.models.card import CARD, ClassifierCard, EncoderPin
from virnucpro.models.classifier import EPS, NORM, check_state, save
from virnucpro.models.local import model_sha256
from virnucpro.models.registry import MODELS, VARIABLE
from virnucpro.models.sets import SETS, SOURCE, SetSpec

NETWORK = "__main__.MLPClassifier"
LINEAR = "torch.nn.modules.linear.Linear"
BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm1d"
#: Classes that a published file names; the rest of them hold no tensors.
CLASSES = (
    NETWORK,
    LINEAR,
    BATCH_NORM,
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.container.Sequential",
)
#: Width of the hidden layer of the published classifiers.
HIDDEN = 512
CITATION = (
    "Li J, Mi J, Lin W, Tian F, Wan J, Gao J, Tong Y. VirNucPro: an identifier for the identification of viral short "
    "sequences using six-frame translation and large language models. Briefings in Bioinformatics 2025, "
    "doi:10.1093/bib/bbaf224"
)


class _Inert:
    """An object of a published file: whatever the file does with it only fills its one slot."""

    __slots__ = ("state",)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def _stand_in(path: str) -> type[_Inert]:
    # The reader looks for a class by these two names; not every version accepts others.
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module, "__slots__": ()})


_STAND_INS = {path: _stand_in(path) for path in CLASSES}


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published classifier, by the names of `classifier.KEYS`.

    Attribute names in the file do not matter. A ModelError says why it is not one: another kind of file, one that names
    any other class or function, another number of layers, or layers that do not fit together.
    """
    try:
        with failing_as(ModelError, f"cannot read {path}", "check the path"):
            state = _state(path, _modules(path, unbroken(partial(_load, path))))
    except ModelError:
        raise
    except Exception as error:
        # The reader raises a dozen kinds of error, and a file can contain anything anywhere. The reader's own messages
        # are not shown: they say how to read the file unsafely.
        raise _refusal(path, "it is damaged, or another kind of file") from error
    check_state(path, state)
    return state


def _load(path: Path) -> object:
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise _refusal(path, "it was not written by PyTorch 1.6 or newer")
    foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(CLASSES)
    if foreign:
        raise _refusal(path, f"it names {', '.join(sorted(foreign))}; no code in it was run")
    with torch.serialization.safe_globals(list(_STAND_INS.values())):
        return torch.load(path, map_location="cpu", weights_only=True)


def _modules(path: Path, root: Any) -> list[_Inert]:
    """Every module of a network once, however they are nested."""
    if type(root) is not _STAND_INS[NETWORK]:
        raise _refusal(path, f"it holds no network of class {NETWORK}")
    found: dict[int, _Inert] = {}
    waiting = [root]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting += module.state["_modules"].values()
    return list(found.values())


def _state(path: Path, modules: list[_Inert]) -> dict[str, Tensor]:
    """The tensors of two linear layers, in the order in which their shapes fit, and of the norm between them."""
    linears, norms = ([each for each in modules if type(each) is _STAND_INS[kind]] for kind in (LINEAR, BATCH_NORM))
    others = [each for each in modules if each not in linears + norms]
    if (len(linears), len(norms)) != (2, 1) or any(_tensors(each) for each in others):
        raise _refusal(
            path, f"it has {len(linears)} Linear and {len(norms)} BatchNorm1d, expected 2 and 1, and no other tensors"
        )
    if norms[0].state["eps"] != EPS:
        raise _refusal(path, f"its BatchNorm1d adds {norms[0].state['eps']}, expected {EPS}")
    hidden, norm, output = (_tensors(each) for each in (linears[0], norms[0], linears[1]))
    if output["weight"].shape[0] == hidden["weight"].shape[1]:
        hidden, output = output, hidden
    parts = {"hidden": hidden, "norm": {name: norm[name] for name in NORM}, "output": output}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _tensors(module: _Inert) -> dict[str, Tensor]:
    """Parameters and buffers; a linear layer without bias has None there, and lacks one for the checks that follow."""
    found = {**module.state["_parameters"], **module.state["_buffers"]}
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not None}


def _refusal(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is not a published classifier: {why}",
        hint="download 300_model.pth or 500_model.pth again from the VirNucPro repository",
    )


def import_published(
    path: Path, window: int | None = None, models_dir: Path | None = None, force: bool = False
) -> Path:
    """Write the published classifier in `path` where the set of its window is sought, and return that folder.

    `window` is needed where the file's name is not the published one. The folder lies in `models_dir`, else in
    `$VIRNUCPRO_MODELS`. Raises UsageError (which window, where to), OutputError (the folder holds a classifier already,
    and not `force`), ModelError (no published classifier).
    """
    spec = _set_of(path, window)
    folder = next(spec.folders(models_dir), None)
    if folder is None:
        raise UsageError(
            f"no folder is given for {spec.classifier}",
            hint=f"give a folder of models: --models-dir DIR, or {VARIABLE}=DIR",
        )
    if os.path.exists(folder / CARD) and not force:
        raise OutputError(f"{folder} holds a classifier", hint="choose another place, or overwrite with --force")
    state = read_published(path)
    found, expected = tuple(state["hidden.weight"].shape), (HIDDEN, spec.dim)
    if found != expected:
        raise _refusal(path, f"its hidden layer has shape {found}, expected {expected}")
    save(folder, state, _card(path, spec))
    return folder


def _set_of(path: Path, window: int | None) -> SetSpec:
    """The set that a published file is for, by its name or the window given."""
    published = {spec.published: spec for spec in SETS.values() if spec.published}
    by_name, given = published.get(path.name), SETS.get(str(window))
    if window is None and by_name:
        return by_name
    if window is None:
        raise UsageError(f"the window length of {path} is not known", hint="give --window 500 or --window 300")
    if given is None or not given.published or by_name not in (None, given):
        raise UsageError(
            f"{path} is not a classifier for windows of {window}", hint="give the window it is published for"
        )
    return given


def _card(path: Path, spec: SetSpec) -> ClassifierCard:
    dna, protein = (MODELS[name] for name in spec.encoders)
    return ClassifierCard(
        name=spec.classifier,
        trained=True,
        window=(int(spec.name),),
        dna=EncoderPin(dna.name, dna.dim, dna.weights_sha256),
        protein=EncoderPin(protein.name, protein.dim, protein.weights_sha256),
        citation=CITATION,
        licence="not stated",
        source=f"{spec.published} of {SOURCE}, sha256 {model_sha256(path)}",
    )
