"""The published classifiers: whole networks that `torch.save` pickled. Nothing in such a file is executed.

PyTorch's restricted reader takes them apart: it knows tensors, plain data, and the few classes named here, for each of
which it is given a stand-in that can do nothing but hold what the file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from virnucpro.errors import ModelError
from virnucpro.models.classifier import EPS, NORM, check_state

NETWORK = "__main__.MLPClassifier"
LINEAR = "torch.nn.modules.linear.Linear"
BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm1d"
#: Classes that a published file names; the rest of them hold no tensors.
CLASSES = (
    NETWORK,
    LINEAR,
    BATCH_NORM,
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.Softmax",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.container.Sequential",
)


class _Inert:
    """An object of a published file. With one slot and no method, whatever a file does to it only fills the slot."""

    __slots__ = ("state",)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def _stand_in(path: str) -> type[_Inert]:
    # The reader seeks a class by these two names; PyTorch before 2.7 knows no other way to give it one.
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module, "__slots__": ()})


_STAND_INS = {path: _stand_in(path) for path in CLASSES}


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published classifier, by the names of `classifier.KEYS`.

    Attribute names in the file do not matter. A ModelError says why it is none: another kind of file, one that names
    any other class or function, another number of layers, or layers that do not fit together.
    """
    try:
        state = _state(path, _modules(path, _load(path)))
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:
        # The reader raises a dozen kinds of error, and a file can put anything in the place of anything. The reader's
        # own words are kept back: they tell how to read the file unsafely.
        raise _refusal(path, "it is damaged, or another kind of file") from error
    check_state(path, state)
    return state


def _load(path: Path) -> object:
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise _refusal(path, "PyTorch 1.6 or newer has not written it")
    with torch.serialization.safe_globals(list(_STAND_INS.values())):
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if foreign:
            raise _refusal(path, f"it names {', '.join(sorted(foreign))}, and nothing of it was run")
        return torch.load(path, map_location="cpu", weights_only=True)


def _modules(path: Path, root: Any) -> list[_Inert]:
    """Every module of a network, each once, however they are nested."""
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
        f"{path} is no published classifier: {why}",
        hint="download 300_model.pth or 500_model.pth again from where VirNucPro is published",
    )
