"""Train the mini encoders, and the 5-mer baseline beside them, from packed genomes.

    python -m training.genomes --data DIR/train --out train.npz
    python -m training.genomes --data DIR/dev --out dev.npz
    python -m training.train_mini --train train.npz --dev dev.npz --out FOLDER

An encoder learns the class of a random window, and beside it its group and masked tokens; the baseline learns the class
of the windows that the DNA encoder sees. A tenth of the clusters is kept from the encoders, for `training.fit_mini` to
fit the classifiers on.
`FOLDER/log-*.jsonl` holds every figure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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
from training.encoders import TOKENIZER
from training.genomes import OTHER, Genomes, load
from training.heldout import HeldOut, embed_rows
from training.networks import FiveMerNetwork, TrainedEncoder
from training.windows import SIZES, Examples, Sampler, Strands, without_gaps

#: Of the clusters one in so many is kept from the encoders.
KEPT_BACK = 10
#: The encoders.
DNA, PROTEIN = "dna", "protein"
#: Steps over which the learning rate rises.
WARM_UP = 300
#: Steps after which the clock is started: those before are slow, since networks are compiled in them.
SETTLED = 20
#: Steps between two updates of the averaged weights.
BETWEEN = 5
CLIP = 1.0
#: Batches of unseen clusters that are measured on.
UNSEEN = 8


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained. group, tokens: weights of the losses beside that of the class."""

    dropout: float
    group: float = 0.5
    tokens: float = 0.3
    rate: float = 1.5e-3
    decay: float = 0.05
    average: float = 0.995


#: A DNA encoder learns its windows by heart long before a protein encoder does.
RECIPES = {DNA: Recipe(dropout=0.2), PROTEIN: Recipe(dropout=0.1)}


@dataclass(frozen=True)
class Data:
    """What a training sees: windows of `seen` records, and of dev; `log` takes every figure."""

    genomes: Genomes
    strands: Strands
    seen: NDArray[np.bool_]
    dev: dict[int, HeldOut]
    batch: int
    seed: int
    log: Callable[..., None]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.strands.codes.device

    def sampler(self, records: NDArray[np.bool_], seed: int, windows: int = 1) -> Sampler:
        """Draws of `records`, so many windows for each row of a batch."""
        return Sampler(self.genomes, self.strands, records, seed, self.batch * windows)


class Training:
    """One encoder in training, with the baseline beside the DNA encoder: their averages, and what moves them."""

    def __init__(self, recipe: Recipe, data: Data, folder: Path, part: str, begin: Path) -> None:
        torch.manual_seed(data.seed)
        self.recipe, self.data, self.folder, self.part = recipe, data, folder, part
        self.step_count = 0
        self.losses: tuple[Tensor, ...] = ()
        networks: dict[str, nn.Module] = {part: encoders.trained(begin, len(data.genomes.names), recipe.dropout)[part]}
        if part == DNA:
            networks["fivemer"] = FiveMerNetwork()
        self.networks = nn.ModuleDict(networks).to(data.device)
        encoder: Any = self.networks[part]
        fast = data.device.type == "cuda"
        losses: Callable[..., tuple[Tensor, ...]] = encoder.losses
        self.losses_of = torch.compile(losses, dynamic=False) if fast else losses
        self.average = AveragedModel(self.networks, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))  # type: ignore[no-untyped-call]
        self.rate = torch.zeros((), device=data.device)
        self.optimizer = torch.optim.AdamW(
            *(self.networks.parameters(), self.rate, (0.9, 0.98)),
            weight_decay=recipe.decay,
            fused=fast,
            capturable=fast,
        )
        unseen = data.sampler(~data.seen, data.seed + 1)
        self.unseen = [unseen.draw(SIZES[0]) for _ in range(UNSEEN)]
        # Not every window has a protein.
        self.sampler = data.sampler(data.seen, data.seed, 2 if part == PROTEIN else 1)
        self.step = Replayed(self.one_step, self.sampler.random) if fast else self.one_step

    def run(self, steps: int | None, seconds: float, evaluations: int) -> None:
        """Train for `steps`, or for about `seconds`, and write what came out."""
        start, done, evaluated = time.perf_counter(), 0.0, 0
        while done < 1:
            if self.step_count == SETTLED:
                start = time.perf_counter()
            self.rate.fill_(self.recipe.rate * min(1.0, (self.step_count + 1) / WARM_UP) * (1 - done))
            self.step(self.sampler.window())
            self.step_count += 1
            if self.step_count % BETWEEN == 0:
                self.average.update_parameters(self.networks)
                # Else the clock would run ahead of the device.
                self.rate.item()
            done = self.step_count / steps if steps else self.share_of(seconds, start)
            if done * evaluations >= evaluated + 1 or done >= 1:
                evaluated += 1
                self.evaluate(time.perf_counter() - start)
                self.write()

    def share_of(self, seconds: float, start: float) -> float:
        """Share of `seconds` that is over; none before the clock is started."""
        return (time.perf_counter() - start) / seconds if self.step_count > SETTLED else 0.0

    def one_step(self, size: int) -> None:
        """One step on windows of `size` bases."""
        self.networks.train()
        self.optimizer.zero_grad()
        self.loss(self.sampler.draw(size)).backward()  # type: ignore[no-untyped-call]
        for network in self.networks.values():
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        self.optimizer.step()

    def loss(self, batch: Examples) -> Tensor:
        """The sum of the losses of the encoder and of the baseline, which share nothing."""
        ids, viral, group = self.rows(batch)
        with torch.autocast(self.data.device.type, torch.bfloat16, self.data.device.type == "cuda"):
            self.losses = self.losses_of(ids, viral, group)
        weights = (1.0, self.recipe.group, self.recipe.tokens)
        parts = [weight * loss for loss, weight in zip(self.losses, weights, strict=True)]
        if "fivemer" in self.networks:
            parts.append(cross_entropy(self.networks["fivemer"](batch.codes), batch.viral))
        return torch.stack(parts).sum()

    def rows(self, batch: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder reads of a batch, with classes and groups."""
        if self.part == DNA:
            return batch.dna, batch.viral, batch.group
        # As many rows as a batch has, all with a protein: those that have one come first, and again if they are few.
        order = torch.argsort(batch.framed, descending=True, stable=True)
        rows = order[torch.arange(self.data.batch, device=order.device) % batch.framed.sum().clamp(min=1)]
        return batch.protein[rows], batch.viral[rows], batch.group[rows]

    def evaluate(self, seconds: float) -> None:
        """Log AUROCs by the head the encoder is trained with: on dev windows of the first size, on unseen clusters."""
        held = self.data.dev[SIZES[0]]
        found = {
            name: round(metrics.auroc(scores, held.viral[kept]), 4)
            for name, (scores, kept) in quick_scores(self.averaged(), held, self.data.device).items()
        }
        names = ("class", "group", "tokens")
        losses = {name: round(loss.item(), 4) for name, loss in zip(names, self.losses, strict=True)}
        unseen = round(self.auroc_of_unseen(), 4)
        self.data.log(step=self.step_count, seconds=round(seconds, 1), losses=losses, unseen=unseen, dev_auroc=found)

    @torch.inference_mode()
    def auroc_of_unseen(self) -> float:
        """AUROC of drawn windows of the clusters kept back."""
        network: Any = self.averaged()[self.part]
        rows = [self.rows(batch) for batch in self.unseen]
        scores = torch.cat([network.logits(network(ids))[:, :2].diff(dim=1)[:, 0] for ids, _, _ in rows])
        viral = torch.cat([viral for _, viral, _ in rows])
        return metrics.auroc(scores.double().cpu().numpy(), viral.cpu().numpy() > 0)

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


class Replayed:
    """A function of a window size on a GPU, recorded once a size: to launch it takes longer than to compute it."""

    def __init__(self, function: Callable[[int], None], random: torch.Generator) -> None:
        self.function, self.random = function, random
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, size: int) -> None:
        """Run."""
        if size not in self.graphs:
            self.graphs[size] = self.record(size)
        self.graphs[size].replay()

    def record(self, size: int) -> torch.cuda.CUDAGraph:
        """Run thrice, so that everything is compiled and has its place, then record."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.function(size)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.random)
        with torch.cuda.graph(graph):
            self.function(size)
        return graph


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


def prepare(args: argparse.Namespace, part: str, sizes: tuple[int, ...] = SIZES[:1]) -> Data:
    """Read everything, and cut dev into windows of `sizes`."""
    args.out.mkdir(parents=True, exist_ok=True)
    log = logger(args.out / f"log-{part}.jsonl")
    genomes, dev = without_gaps(load(args.train)), load(args.dev)
    seen = genomes.cluster % KEPT_BACK != 0
    cut = {size: HeldOut.cut(dev, size, TOKENIZER) for size in sizes}
    device = torch.device(args.device)
    strands = Strands.of(genomes, None if part == PROTEIN else TOKENIZER, device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    counts = {size: (len(each.windows), len(each.frames), len(each.bare)) for size, each in cut.items()}
    log(torch=torch.__version__, device=machine, bases=len(genomes.codes), dev_windows_frames_bare=counts)
    return Data(genomes, strands, seen, cut, args.batch, args.seed, log)


def train(args: argparse.Namespace) -> None:
    """Train and write, one encoder after the other."""
    begin = args.begin or args.out / "start"
    if args.begin is None:
        encoders.start(begin, args.seed)
    for part in args.part:
        data = prepare(args, part)
        data.log(recipe=asdict(RECIPES[part]), begin=str(begin))
        Training(RECIPES[part], data, args.out, part, begin).run(args.steps, args.seconds, args.evaluations)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that training and fitting share."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--train", type=Path, required=True, help="packed genomes to train on")
    found.add_argument("--dev", type=Path, required=True, help="packed genomes to measure on")
    found.add_argument("--out", type=Path, required=True, help="folder for the results")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    found.add_argument("--batch", type=int, default=1024, help="windows a step (%(default)s)")
    found.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return found


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = parser("Train dnabert-mini and esm2-mini.")
    found.add_argument("--part", choices=RECIPES, nargs="+", default=list(RECIPES), help="which encoder (both)")
    found.add_argument("--begin", type=Path, help="folder with encoders to go on with")
    found.add_argument("--steps", type=int, help="steps of the training; instead of --seconds")
    found.add_argument(
        "--seconds", type=float, default=300, help="time of the training, without compiling (%(default)s)"
    )
    found.add_argument("--evaluations", type=int, default=8, help="measurements on dev (%(default)s)")
    return found.parse_args(words)


if __name__ == "__main__":
    train(parse_args())
