"""Fitting a classifier to features of frozen encoders.

Source: the network and the loss of Li et al. 2025 (doi:10.1093/bib/bbaf224). Of the published training we keep the
network, its initialisation, cross entropy, and stopping when the validation loss has not fallen for 5 epochs. We
correct its faults: the best weights are copied (not referred to) and always restored, classes are balanced by sampling,
the test data does not decide when to stop, and everything is seeded. Plain SGD at 0.0002 in batches of 32 needs more
epochs than it has on small sets, so the optimiser is AdamW.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from virnucpro.models.classifier import one_thread
from virnucpro.pipeline.events import Listener, Step, unheard

#: Parts of the network in the order of `_Network`, by their names in a classifier's file.
_PARTS = {"0": "hidden", "1": "norm", "4": "output"}

#: Rows scored at a time outside of training.
_ROWS = 8192


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted; `epochs` at most, stopping after `patience` without a lower validation loss."""

    epochs: int = 200
    patience: int = 5
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    hidden: int = 512
    dropout: float = 0.5
    seed: int = 1


@dataclass(frozen=True)
class Examples:
    """features (n, dim) float32; labels (n,) 0 or 1, where 1 is virus."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass
class Fitted:
    """A fitted network: its tensors as a classifier's file names them, and the losses of each epoch."""

    state: dict[str, Tensor]
    temperature: float = 1.0
    training_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the lowest validation loss, from 0."""
        return int(np.argmin(self.validation_loss))


def fit(training: Examples, validation: Examples, settings: FitSettings, listen: Listener = unheard) -> Fitted:
    """Fit a network on `training`, keep the epoch of the lowest loss on `validation`, and calibrate it there.

    Both need examples of both classes. The same examples, settings and version of PyTorch give the same network: one
    thread computes it, since sums by several threads depend on their number. Every epoch is a step for the listener.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _network(training.features.shape[1], settings)
        fitted = _descend(network, training, validation, settings, generator, listen)
        fitted.temperature = _temperature(_logits(network, validation.features), torch.from_numpy(validation.labels))
    fitted.state = _state(network, fitted.temperature)
    return fitted


def _network(dim: int, settings: FitSettings) -> nn.Sequential:
    hidden, output = nn.Linear(dim, settings.hidden), nn.Linear(settings.hidden, 2)
    for layer in (hidden, output):
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(hidden, nn.BatchNorm1d(settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout), output)


def _descend(
    network: nn.Sequential,
    training: Examples,
    validation: Examples,
    settings: FitSettings,
    generator: torch.Generator,
    listen: Listener,
) -> Fitted:
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    fitted, best = Fitted({}), copy.deepcopy(network.state_dict())
    since_best = 0
    while len(fitted.training_loss) < settings.epochs and since_best < settings.patience:
        fitted.training_loss.append(_epoch(network, training, optimiser, settings.batch, generator))
        loss = _balanced_loss(_logits(network, validation.features), torch.from_numpy(validation.labels))
        since_best += 1
        if loss < min(fitted.validation_loss, default=float("inf")):
            best, since_best = copy.deepcopy(network.state_dict()), 0
        fitted.validation_loss.append(loss)
        listen(None, Step(f"loss {loss:.4f}, lowest {fitted.validation_loss[fitted.best]:.4f}"))
    network.load_state_dict(best)
    return fitted


def _epoch(
    network: nn.Sequential, training: Examples, optimiser: torch.optim.Optimizer, batch: int, generator: torch.Generator
) -> float:
    """Train on as many examples as there are, half of each class; returns the mean loss."""
    network.train()
    losses = []
    for rows in _balanced_batches(training.labels, batch, generator):
        features = torch.from_numpy(np.ascontiguousarray(training.features[rows]))
        loss = cross_entropy(network(features), torch.from_numpy(training.labels[rows]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def _balanced_batches(labels: NDArray[np.int64], batch: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    weights = 1.0 / np.bincount(labels, minlength=2)[labels]  # so that both classes have the same weight
    order = torch.multinomial(torch.from_numpy(weights), len(labels), replacement=True, generator=generator).numpy()
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        if len(rows) > 1:  # BatchNorm cannot learn from one row
            yield rows


@torch.no_grad()
def _logits(network: nn.Sequential, features: NDArray[np.float32]) -> Tensor:
    network.eval()
    blocks = (features[start : start + _ROWS] for start in range(0, len(features), _ROWS))
    return torch.cat([network(torch.from_numpy(np.ascontiguousarray(block))) for block in blocks])


def _balanced_loss(logits: Tensor, labels: Tensor) -> float:
    losses = cross_entropy(logits, labels, reduction="none")
    return float(sum(losses[labels == label].mean() for label in (0, 1)) / 2)


def _temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of logits that calibrates scores for classes of equal size (Guo et al. 2017)."""
    candidates = torch.logspace(-1, 1, 201).tolist()
    return float(min(candidates, key=lambda value: _balanced_loss(logits / value, labels)))


def _state(network: nn.Sequential, temperature: float) -> dict[str, Tensor]:
    """The tensors of a classifier's file; the temperature is folded into the output layer."""
    found = {name.partition("."): value.float() for name, value in network.state_dict().items()}
    state = {
        f"{_PARTS[part]}.{rest}": value for (part, _, rest), value in found.items() if rest != "num_batches_tracked"
    }
    for name in ("output.weight", "output.bias"):
        state[name] = state[name] / temperature
    return state
