"""Train both mini encoders, the classifiers over them and the 5-mer baseline from packed genomes.

    python -m training.genomes --data DIR/train --out train.npz
    python -m training.genomes --data DIR/dev --out dev.npz
    python -m training.train_mini --train train.npz --dev dev.npz --out FOLDER

All three networks see the same random windows. An encoder learns the class of a window, and its group and masked tokens
beside that, if a short trial of both ways on dev says that it helps. A tenth of the clusters of the training data is kept from
the encoders: whether the classifier had better learn from these, or from what the encoders know, is measured too.
`FOLDER/log.jsonl` holds every figure. What is written is ready for `training.ship`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import encoders, fit, metrics
from training.batches import SIZES, Batch, Draws, drawn
from training.genomes import OTHER, Genomes, load
from training.heldout import HeldOut, embed_rows
from training.networks import FiveMerNetwork, TrainedDNABERT, TrainedESM2, TrainedEncoder

TOKENIZER = Path(__file__).parents[1] / "virnucpro/models/embedded/dnabert-mini/tokenizer.json"
#: Of the clusters one in so many is kept from the encoders.
KEPT_BACK = 10
#: Steps over which the learning rate rises.
WARM_UP = 300
CLIP = 1.0


@dataclass(frozen=True)
class Recipe:
    """How the encoders are trained. group, tokens: weights of the losses beside that of the class."""

    name: str
    group: float
    tokens: float
    dropout: float = 0.1
    rate: float = 1.5e-3
    decay: float = 0.05
    average: float = 0.998


RECIPES = (Recipe("class alone", 0.0, 0.0), Recipe("class, group, masked tokens", 0.5, 0.3))


@dataclass(frozen=True)
class Data:
    """What a training sees: windows of `seen` records; `log` takes every figure."""

    genomes: Genomes
    seen: NDArray[np.bool_]
    dev: dict[int, HeldOut]
    device: torch.device
    workers: int
    batch: int
    seed: int
    log: Callable[..., None]

    def batches(self, records: NDArray[np.bool_], seed: int) -> Iterator[Batch]:
        """Endless batches of windows of `records`."""
        return drawn(Draws(self.genomes, records, TOKENIZER, self.batch, seed), self.workers, self.device)


class Training:
    """The three networks, their averages over the last steps, and what moves them."""

    def __init__(self, recipe: Recipe, data: Data, folder: Path) -> None:
        torch.manual_seed(data.seed)
        self.recipe, self.data, self.folder = recipe, data, folder
        groups = len(data.genomes.names)
        dna, protein = encoders.start(folder / "start", groups, recipe.dropout, data.seed)
        self.networks = nn.ModuleDict({"dna": dna, "protein": protein, "fivemer": FiveMerNetwork()}).to(data.device)
        self.average = AveragedModel(self.networks, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay
        )

    def run(self, steps: int | None, seconds: float, evaluations: int) -> float:
        """Train for `steps`, or for about `seconds`; returns the last AUROC on dev."""
        start, step, done, evaluated, auroc = time.perf_counter(), 0, 0.0, 0, 0.0
        for batch in self.data.batches(self.data.seen, self.data.seed):
            self.step(batch, min(1.0, (step + 1) / WARM_UP) * (1 - done))
            step += 1
            done = step / steps if steps else (time.perf_counter() - start) / seconds
            if done * evaluations >= evaluated + 1 or done >= 1:
                evaluated += 1
                auroc = self.evaluate(step, time.perf_counter() - start)
                self.write(step)
            if done >= 1:
                break
        return auroc

    def step(self, batch: Batch, rate: float) -> None:
        """One step on a batch, at a share `rate` of the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.recipe.rate
        self.networks.train()
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        for network in self.networks.values():
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        self.optimizer.step()
        self.average.update_parameters(self.networks)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the losses of all three, which share nothing."""
        has = batch.residues > 0
        fivemer = self.networks["fivemer"](batch.codes)
        with torch.autocast(self.data.device.type, torch.bfloat16, self.data.device.type == "cuda"):
            dna = self._encoder("dna").losses(batch.dna, batch.viral, batch.group)
            protein = self._encoder("protein").losses(batch.protein[has], batch.viral[has], batch.group[has])
        self.last = {"dna": dna, "protein": protein}
        weights = (1.0, self.recipe.group, self.recipe.tokens)
        both = [weight * loss for losses in (dna, protein) for weight, loss in zip(weights, losses, strict=True)]
        return torch.stack(both).sum() + cross_entropy(fivemer, batch.viral)

    def _encoder(self, name: str) -> TrainedEncoder:
        network = self.networks[name]
        assert isinstance(network, TrainedEncoder)
        return network

    def evaluate(self, step: int, seconds: float) -> float:
        """AUROC on dev windows of the first size, by the heads the encoders are trained with; logged."""
        dna, protein, fivemer = self.averaged()
        scores = quick_scores(dna, protein, fivemer, self.data.dev[SIZES[0]], self.data.device)
        viral = self.data.dev[SIZES[0]].viral
        found = {name: metrics.auroc(each, viral) for name, each in scores.items()}
        names = ("class", "group", "tokens")
        losses = {
            name: {key: round(loss.item(), 4) for key, loss in zip(names, each, strict=True)}
            for name, each in self.last.items()
        }
        self.data.log(recipe=self.recipe.name, step=step, seconds=round(seconds, 1), losses=losses, dev_auroc=found)
        return found["heads"]

    def write(self, step: int) -> None:
        """Write the averaged encoders."""
        note = f"training/train_mini.py, {self.recipe.name}, {step} steps of {self.data.batch}, seed {self.data.seed}"
        for network in self.averaged()[:2]:
            encoders.write(self.folder, network.encoder, note)

    def averaged(self) -> tuple[TrainedDNABERT, TrainedESM2, FiveMerNetwork]:
        """The averaged networks, ready for use."""
        networks: Any = self.average.module.eval()
        return networks["dna"], networks["protein"], networks["fivemer"]


def quick_scores(
    dna: TrainedDNABERT, protein: TrainedESM2, fivemer: FiveMerNetwork, held: HeldOut, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Scores of windows by the encoders' own heads and by the baseline; a frame's logits are added up."""
    with torch.inference_mode():
        by_dna = _margin(dna.logits(embed_rows(dna, held.dna, device)))
        by_protein = _margin(protein.logits(embed_rows(protein, held.protein, device)))
    frames = len(held.frames)
    bare = by_dna[frames:].sigmoid().cpu().numpy()
    found = {"fivemer": fivemer_scores(fivemer, held, device)}
    for name, margin in {"heads": by_dna[:frames] + by_protein, "dna": by_dna[:frames], "protein": by_protein}.items():
        virus = margin.sigmoid().cpu().numpy()
        found[name] = held.scores(np.stack((1 - virus, virus), 1), bare)
    return found


def _margin(logits: Tensor) -> Tensor:
    return logits[:, 1] - logits[:, 0]


@torch.inference_mode()
def fivemer_scores(network: FiveMerNetwork, held: HeldOut, device: torch.device) -> NDArray[np.float64]:
    """(windows,) scores of the baseline."""
    codes = window_codes(held)
    parts = [network(torch.from_numpy(rows).to(device)).softmax(1)[:, 1].cpu().double() for rows in _pieces(codes)]
    return torch.cat(parts).numpy()


def window_codes(held: HeldOut) -> NDArray[np.uint8]:
    """(windows, most bases) the bases of each window, filled up with N."""
    table = np.full(256, OTHER, np.uint8)
    table[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    codes = np.full((len(held.windows), max(len(window.sequence) for window in held.windows)), OTHER, np.uint8)
    for row, window in zip(codes, held.windows, strict=True):
        row[: len(window.sequence)] = table[np.frombuffer(window.sequence.encode(), np.uint8)]
    return codes


def _pieces(codes: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return np.split(codes, range(4096, len(codes), 4096))


def fit_classifiers(
    training: Training, records: dict[str, NDArray[np.bool_]], batches: int, epochs: int, folder: Path
) -> None:
    """Fit both classifiers on each choice of records; the choice that is best on dev is calibrated and written."""
    data, found = training.data, {}
    dna, protein, fivemer = training.averaged()
    held = {size: DevFeatures.of(each, dna, protein, data.device) for size, each in data.dev.items()}
    for place, (name, kept) in enumerate(records.items()):
        framed, bare = fit.collect(dna, protein, data.batches(kept, data.seed + 1 + place), batches)
        both, alone = fit.fit(framed, epochs, data.seed), fit.fit(bare, epochs, data.seed)
        figures = {size: each.auroc(both, alone) for size, each in held.items()}
        data.log(classifier=name, frames=len(framed[0]), bare=len(bare[0]), dev_auroc=figures)
        found[name] = (figures[SIZES[0]]["all"], both, alone)
    best = max(found, key=lambda name: found[name][0])
    _, both, alone = found[best]
    first = held[SIZES[0]]
    temperatures = (
        fit.calibrate(both, first.framed_labelled(), first.class_weights()),
        fit.calibrate(alone, first.bare_labelled(), first.class_weights()),
    )
    data.log(chosen=best, temperatures=temperatures, dev_auroc={s: each.auroc(both, alone) for s, each in held.items()})
    save_file(both.state(), folder / "classifier.safetensors")
    save_file(alone.state(), folder / "dna_only.safetensors")
    save_file(_own(fivemer), folder / "fivemer.safetensors")
    for size, each in data.dev.items():
        scores = {"mini": held[size].scores(both, alone), "fivemer": fivemer_scores(fivemer, each, data.device)}
        np.savez_compressed(folder / f"dev_{size}.npz", **scores, viral=each.viral, record=each.record)


def _own(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}


@dataclass(frozen=True)
class DevFeatures:
    """Held-out windows with the features of their frames, and the DNA vectors of windows without one."""

    held: HeldOut
    framed: Tensor
    bare: Tensor

    @classmethod
    def of(cls, held: HeldOut, dna: TrainedDNABERT, protein: TrainedESM2, device: torch.device) -> DevFeatures:
        """Embed."""
        vectors, frames = embed_rows(dna, held.dna, device), len(held.frames)
        return cls(held, torch.cat((vectors[:frames], embed_rows(protein, held.protein, device)), 1), vectors[frames:])

    def scores(self, both: fit.Published, alone: fit.Published) -> NDArray[np.float64]:
        """(windows,) scores as `predict` has them."""
        with torch.no_grad():
            framed, bare = (net(x).softmax(1).cpu().numpy() for net, x in ((both, self.framed), (alone, self.bare)))
        return self.held.scores(framed, bare[:, 1])

    def auroc(self, both: fit.Published, alone: fit.Published) -> dict[str, float]:
        """Of all windows, of those with an open frame, of those without."""
        scores, viral = self.scores(both, alone), self.held.viral
        bare = np.isin(np.arange(len(viral)), self.held.bare)
        parts = {"all": bare | True, "with frame": ~bare, "without": bare}
        return {name: metrics.auroc(scores[part], viral[part]) for name, part in parts.items()}

    def framed_labelled(self) -> fit.Labelled:
        """Features and classes of frames."""
        return self.framed, self._viral(self.held.frames)

    def bare_labelled(self) -> fit.Labelled:
        """DNA vectors and classes of windows without a frame."""
        return self.bare, self._viral(self.held.bare)

    def class_weights(self) -> Tensor:
        """(2,) weights by which both classes of windows count the same."""
        counts = np.bincount(self.held.viral, minlength=2)
        return torch.from_numpy(len(self.held.viral) / (2 * counts)).float().to(self.framed.device)

    def _viral(self, windows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.held.viral[windows].astype(np.int64)).to(self.framed.device)


def logger(path: Path) -> Callable[..., None]:
    """Writes figures to `path`, a JSON object a line, and to the terminal."""
    start = time.perf_counter()

    def log(**figures: object) -> None:
        line = json.dumps({"at": round(time.perf_counter() - start, 1), **figures})
        print(line, flush=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    return log


def prepare(args: argparse.Namespace) -> Data:
    """Read everything."""
    args.out.mkdir(parents=True, exist_ok=True)
    log = logger(args.out / "log.jsonl")
    genomes, dev = load(args.train), load(args.dev)
    seen = genomes.cluster % KEPT_BACK != 0
    cut = {size: HeldOut.cut(dev, size, TOKENIZER) for size in SIZES}
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    sizes = {size: (len(each.windows), len(each.frames), len(each.bare)) for size, each in cut.items()}
    log(torch=torch.__version__, device=name, bases=len(genomes.codes), dev_windows_frames_bare=sizes)
    return Data(genomes, seen, cut, device, args.workers, args.batch, args.seed, log)


def choose_recipe(data: Data, args: argparse.Namespace) -> Recipe:
    """The recipe that is best on dev after a short training each."""
    found = {}
    for recipe in RECIPES:
        training = Training(recipe, data, args.out / "trial")
        found[recipe] = training.run(args.trial_steps, args.trial_seconds, 1)
    return max(found, key=lambda recipe: found[recipe])


def round_half(value: Tensor) -> Tensor:
    """What a float16 file keeps of a tensor."""
    return value.half().to(value.dtype) if value.is_floating_point() else value


def train(args: argparse.Namespace) -> None:
    """Try, train, fit, write."""
    data = prepare(args)
    recipe = choose_recipe(data, args) if args.recipe is None else RECIPES[args.recipe]
    data.log(recipe=asdict(recipe))
    training = Training(recipe, data, args.out)
    training.run(args.steps, args.seconds, args.evaluations)
    # The classifier is fitted to the encoders as they are in their files, rounded to float16.
    for network in training.averaged()[:2]:
        network.load_state_dict({key: round_half(value) for key, value in network.state_dict().items()})
    every = np.ones_like(data.seen)
    records = {"seen by the encoders": data.seen, "kept from the encoders": ~data.seen, "all": every}
    fit_classifiers(training, records, args.fit_batches, args.epochs, args.out)
    data.log(done=True)


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train dnabert-mini, esm2-mini and the classifiers over them.")
    parser.add_argument("--train", type=Path, required=True, help="packed genomes to train on")
    parser.add_argument("--dev", type=Path, required=True, help="packed genomes to measure on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=14, help="processes that draw and tokenize (%(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="windows a step (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of the training; instead of --seconds")
    parser.add_argument("--seconds", type=float, default=230, help="time of the training (%(default)s)")
    parser.add_argument("--recipe", type=int, choices=range(len(RECIPES)), help="leave out the trials, take this one")
    parser.add_argument("--trial-steps", type=int, help="steps of each trial; instead of --trial-seconds")
    parser.add_argument("--trial-seconds", type=float, default=45, help="time of each trial (%(default)s)")
    parser.add_argument("--evaluations", type=int, default=10, help="measurements on dev (%(default)s)")
    parser.add_argument("--fit-batches", type=int, default=300, help="batches to fit a classifier on (%(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of a classifier (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return parser.parse_args(words)


if __name__ == "__main__":
    train(parse_args())
