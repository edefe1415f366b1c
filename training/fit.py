"""The classifiers over frozen encoders: the published layout, calibrated by one temperature."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.networks import TrainedDNABERT, TrainedESM2
from training.windows import Examples

HIDDEN = 512
#: More than the published half: a tenth of the clusters is little to learn from.
DROPOUT = 0.8
ROWS = 1024
RATE, DECAY = 1e-3, 1e-3

Labelled = tuple[Tensor, Tensor]


class Published(nn.Module):
    """Features → hidden layer → batch norm → ReLU → dropout → two classes: the classifier of VirNucPro."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, HIDDEN)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)
        self.output = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) → (n, 2) logits, others and virus."""
        return self.output(self.dropout(self.norm(self.hidden(x)).relu()))  # type: ignore[no-any-return]

    def state(self) -> dict[str, Tensor]:
        """The tensors that `virnucpro.models.classifier` keeps, on the CPU."""
        found = {key: value.detach().cpu().clone() for key, value in self.state_dict().items()}
        del found["norm.num_batches_tracked"]
        return found


@torch.inference_mode()
def collect(
    dna: TrainedDNABERT, protein: TrainedESM2, batches: Iterable[Examples], count: int
) -> tuple[Labelled, Labelled]:
    """Features and classes of drawn examples: both vectors of frames, the DNA vector of windows without a frame."""
    framed: list[Labelled] = []
    bare: list[Labelled] = []
    for batch in islice(batches, count):
        vectors = dna(batch.dna)
        both = torch.cat((vectors[batch.framed], protein(batch.protein[batch.framed])), 1)
        framed.append((both, batch.viral[batch.framed]))
        bare.append((vectors[~batch.framed], batch.viral[~batch.framed]))
    return _joined(framed), _joined(bare)


def _joined(parts: list[Labelled]) -> Labelled:
    features, viral = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(viral)


def fit(data: Labelled, epochs: int, seed: int) -> Published:
    """Train on labelled features.

    Classes weigh what they come in: half of the windows drawn are viral, but fewer of those without a frame, and
    scores must say so to be comparable.
    """
    # Cloned, since tensors of inference mode cannot take part in training.
    features, viral = (each.clone() for each in data)
    torch.manual_seed(seed)
    network = Published(features.shape[1]).to(features.device)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (-(-len(features) // ROWS))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), device=features.device).split(ROWS):  # type: ignore[no-untyped-call]
            loss = cross_entropy(network(features[rows]), viral[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def calibrate(network: Published, data: Labelled, weight: Tensor) -> float:
    """Fold the temperature that fits labelled features best into the output layer; weight: (2,) of the classes."""
    features, viral = data
    with torch.no_grad():
        logits = network(features)
    tried = torch.linspace(0.25, 5, 476).tolist()
    temperature = min(tried, key=lambda t: float(cross_entropy(logits / t, viral, weight)))
    with torch.no_grad():
        for value in network.output.parameters():
            value.div_(temperature)
    return float(temperature)
