"""Train the mini encoders, and the 5-mer baseline beside them, from packed genomes.

    python -m training.genomes --data DIR/train --out train.npz
    python -m training.genomes --data DIR/dev --out dev.npz
    python -m training.train_mini --train train.npz --dev dev.npz --out FOLDER

All see the same random windows; an encoder learns the class of a window, and beside it its group and masked tokens. A
tenth of the clusters is kept from the encoders, for `training.fit_mini` to fit the classifiers on.
`FOLDER/log-*.jsonl` holds every figure.
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

from training import encoders, metrics
from training.batches import SIZES, Batch, Draws, drawn
from training.genomes import OTHER, Genomes, load
from training.heldout import HeldOut, embed_rows
from training.networks import FiveMerNetwork, TrainedEncoder

TOKENIZER = Path(__file__).parents[1] / "virnucpro/models/embedded/dnabert-mini/tokenizer.json"
#: Of the clusters one in so many is kept from the encoders.
KEPT_BACK = 10
#: Steps over which the learning rate rises.
WARM_UP = 300
#: Steps between two updates of the averaged weights.
BETWEEN = 5
CLIP = 1.0
#: What is trained together: the baseline is small, and goes with the DNA encoder.
PARTS = {"dna": ("dna", "fivemer"), "protein": ("protein",), "both": ("dna", "protein", "fivemer")}


@dataclass(frozen=True)
class Recipe:
    """How the encoders are trained. group, tokens: weights of the losses beside that of the class."""

    group: float = 0.5
    tokens: float = 0.3
    dropout: float = 0.1
    rate: float = 1.5e-3
    decay: float = 0.05
    average: float = 0.99


@dataclass(frozen=True)
class Data:
    """What a training sees: windows of `seen` records, and of dev; `log` takes every figure."""

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
    """The networks of a training, their averages over the last steps, and what moves them."""

    def __init__(self, recipe: Recipe, data: Data, folder: Path, part: str, begin: Path | None) -> None:
        torch.manual_seed(data.seed)
        self.recipe, self.data, self.folder = recipe, data, folder
        self.step_count, self.losses = 0, dict[str, tuple[Tensor, ...]]()
        if begin is None:
            begin = folder / "start"
            encoders.start(begin, data.seed)
        networks = {"fivemer": FiveMerNetwork(), **encoders.trained(begin, len(data.genomes.names), recipe.dropout)}
        self.networks = nn.ModuleDict({name: networks[name] for name in PARTS[part]}).to(data.device)
        self.average = AveragedModel(self.networks, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))  # type: ignore[no-untyped-call]
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(),
            recipe.rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.decay,
            fused=data.device.type == "cuda",
        )

    def run(self, steps: int | None, seconds: float, evaluations: int) -> None:
        """Train for `steps`, or for about `seconds`, and write what came out."""
        start, done, evaluated = time.perf_counter(), 0.0, 0
        for batch in self.data.batches(self.data.seen, self.data.seed):
            self.step(batch, min(1.0, (self.step_count + 1) / WARM_UP) * (1 - done))
            done = self.step_count / steps if steps else (time.perf_counter() - start) / seconds
            if done * evaluations >= evaluated + 1 or done >= 1:
                evaluated += 1
                self.evaluate(time.perf_counter() - start)
                self.write()
            if done >= 1:
                return

    def step(self, batch: Batch, rate: float) -> None:
        """One step on a batch, at a share `rate` of the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.recipe.rate
        self.networks.train()
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for network in self.networks.values():
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        self.optimizer.step()
        self.step_count += 1
        if self.step_count % BETWEEN == 0:
            self.average.update_parameters(self.networks)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the losses of all networks, which share nothing."""
        rows = {"dna": (batch.dna, batch.viral, batch.group)}
        rows["protein"] = (batch.protein, batch.viral[batch.framed], batch.group[batch.framed])
        with torch.autocast(self.data.device.type, torch.bfloat16, self.data.device.type == "cuda"):
            for name, network in self.networks.items():
                if isinstance(network, TrainedEncoder):
                    self.losses[name] = network.losses(*rows[name])
        weights = (1.0, self.recipe.group, self.recipe.tokens)
        parts = [weight * loss for each in self.losses.values() for weight, loss in zip(weights, each, strict=True)]
        if "fivemer" in self.networks:
            parts.append(cross_entropy(self.networks["fivemer"](batch.codes), batch.viral))
        return torch.stack(parts).sum()

    def evaluate(self, seconds: float) -> None:
        """Log AUROCs on dev windows of the first size, by the heads the encoders are trained with."""
        held = self.data.dev[SIZES[0]]
        found = {
            name: metrics.auroc(scores, held.viral[kept])
            for name, (scores, kept) in quick_scores(self.averaged(), held, self.data.device).items()
        }
        names = ("class", "group", "tokens")
        losses = {
            part: {name: round(loss.item(), 4) for name, loss in zip(names, each, strict=True)}
            for part, each in self.losses.items()
        }
        self.data.log(step=self.step_count, seconds=round(seconds, 1), losses=losses, dev_auroc=found)

    def write(self) -> None:
        """Write the averaged networks."""
        note = f"training/train_mini.py, {self.step_count} steps of {self.data.batch}, seed {self.data.seed}"
        for network in self.averaged().values():
            if isinstance(network, TrainedEncoder):
                encoders.write(self.folder, network.encoder, note)
            else:
                save_file({key: value.contiguous() for key, value in network.state_dict().items()}, self.fivemer)

    @property
    def fivemer(self) -> Path:
        """The file of the baseline."""
        return self.folder / "fivemer.safetensors"

    def averaged(self) -> dict[str, nn.Module]:
        """The averaged networks, ready for use."""
        networks: Any = self.average.module.eval()
        return dict(networks.items())


def quick_scores(
    networks: dict[str, nn.Module], held: HeldOut, device: torch.device
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """What each network says of windows by itself, and of which: scores, (windows,) mask. Of frames the best counts."""
    framed = np.isin(np.arange(len(held.windows)), held.frames)
    found = {}
    for name, network in networks.items():
        if isinstance(network, FiveMerNetwork):
            found[name] = (fivemer_scores(network, held, device), framed | True)
        elif isinstance(network, TrainedEncoder):
            rows = getattr(held, name)
            with torch.inference_mode():
                logits = network.logits(embed_rows(network, rows, device))
            virus = logits[:, :2].softmax(1)[:, 1].cpu().numpy()
            frames, bare = virus[: len(held.frames)], virus[len(held.frames) :]
            # A protein network has nothing to say of windows without a frame.
            kept = framed | (len(bare) > 0)
            scores = held.scores(np.stack((1 - frames, frames), 1), bare if len(bare) else np.float32(0))
            found[name] = (scores[kept], kept)
    return found


@torch.inference_mode()
def fivemer_scores(network: FiveMerNetwork, held: HeldOut, device: torch.device) -> NDArray[np.float64]:
    """(windows,) scores of the baseline."""
    pieces = np.split(window_codes(held), range(4096, len(held.windows), 4096))
    parts = [network(torch.from_numpy(codes).to(device)).softmax(1)[:, 1].cpu().double() for codes in pieces]
    return torch.cat(parts).numpy()


def window_codes(held: HeldOut) -> NDArray[np.uint8]:
    """(windows, most bases) the bases of each window, filled up with N."""
    table = np.full(256, OTHER, np.uint8)
    table[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    codes = np.full((len(held.windows), max(len(window.sequence) for window in held.windows)), OTHER, np.uint8)
    for row, window in zip(codes, held.windows, strict=True):
        row[: len(window.sequence)] = table[np.frombuffer(window.sequence.encode(), np.uint8)]
    return codes


def logger(path: Path) -> Callable[..., None]:
    """Writes figures to `path`, a JSON object a line, and to the terminal."""
    start = time.perf_counter()

    def log(**figures: object) -> None:
        line = json.dumps({"at": round(time.perf_counter() - start, 1), **figures})
        print(line, flush=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    return log


def prepare(args: argparse.Namespace, name: str, sizes: tuple[int, ...] = SIZES[:1]) -> Data:
    """Read everything, and cut dev into windows of `sizes`."""
    args.out.mkdir(parents=True, exist_ok=True)
    log = logger(args.out / f"log-{name}.jsonl")
    genomes, dev = load(args.train), load(args.dev)
    seen = genomes.cluster % KEPT_BACK != 0
    cut = {size: HeldOut.cut(dev, size, TOKENIZER) for size in sizes}
    device = torch.device(args.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    counts = {size: (len(each.windows), len(each.frames), len(each.bare)) for size, each in cut.items()}
    log(torch=torch.__version__, device=machine, bases=len(genomes.codes), dev_windows_frames_bare=counts)
    return Data(genomes, seen, cut, device, args.workers, args.batch, args.seed, log)


def train(args: argparse.Namespace) -> None:
    """Train and write."""
    data = prepare(args, args.part)
    recipe = Recipe()
    data.log(recipe=asdict(recipe), begin=str(args.begin), part=args.part)
    Training(recipe, data, args.out, args.part, args.begin).run(args.steps, args.seconds, args.evaluations)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that training and fitting share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--train", type=Path, required=True, help="packed genomes to train on")
    found.add_argument("--dev", type=Path, required=True, help="packed genomes to measure on")
    found.add_argument("--out", type=Path, required=True, help="folder for the results")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    found.add_argument("--workers", type=int, default=14, help="processes that draw and tokenize (%(default)s)")
    found.add_argument("--batch", type=int, default=1024, help="windows a step (%(default)s)")
    found.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return found


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = parser("Train dnabert-mini and esm2-mini.")
    found.add_argument("--part", choices=PARTS, default="both", help="which encoder (%(default)s)")
    found.add_argument("--begin", type=Path, help="folder with encoders to go on with")
    found.add_argument("--steps", type=int, help="steps of the training; instead of --seconds")
    found.add_argument("--seconds", type=float, default=300, help="time of the training (%(default)s)")
    found.add_argument("--evaluations", type=int, default=8, help="measurements on dev (%(default)s)")
    return found.parse_args(words)


if __name__ == "__main__":
    train(parse_args())
