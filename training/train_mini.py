"""Train the mini encoders, and the 5-mer baseline beside them, from packed genomes.

    python -m training.genomes --data DIR/train --out train.npz
    python -m training.genomes --data DIR/dev --out dev.npz
    python -m training.train_teachers --train train.npz --dev dev.npz --out TEACHERS
    python -m training.train_mini --train train.npz --dev dev.npz --out FOLDER --part dna --teachers TEACHERS
    python -m training.train_mini --train train.npz --dev dev.npz --out FOLDER --part protein

An encoder learns the class of a random window, or what teachers say of it, and beside it its group and masked tokens;
the baseline learns the class of the windows that the DNA encoder sees. A tenth of the clusters is kept from the
encoders, for `training.fit_mini` to fit the classifiers on.
`FOLDER/log-*.jsonl` holds every figure.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
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
from training.recipes import DNA, FIVEMER, PROTEIN, RECIPES, Recipe
from training.teachers import Pool, Teachers
from training.windows import SIZES, Draws, Examples, Sampler, Strands, without_gaps

#: Steps over which the learning rate rises.
WARM_UP = 300
#: Steps after which the clock is started: those before are slow, since networks are compiled in them.
SETTLED = 20
#: Steps between two updates of the averaged weights.
BETWEEN = 5
CLIP = 1.0
#: Batches that teachers are shown at once.
AT_ONCE = 8
#: Batches of unseen clusters that are measured on.
UNSEEN = 8


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
    """One encoder in training, with the baseline beside the DNA encoder: their averages, and what moves them.

    networks: the encoder by its part, and the baseline; windows: what is learned from; save: takes the averages and a
    note on how they were made.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        networks: dict[str, nn.Module],
        windows: Draws,
        save: Callable[[dict[str, nn.Module], str], None],
    ) -> None:
        self.recipe, self.data, self.windows, self.save = recipe, data, windows, save
        self.part = part = next(iter(networks))
        self.step_count = 0
        self.losses: tuple[Tensor, ...] = ()
        self.networks = nn.ModuleDict(networks).to(data.device)
        encoder: Any = self.networks[part]
        fast = data.device.type == "cuda"
        if fast:
            # Else a function compiled for many networks is, in the end, not compiled any more.
            torch.compiler.reset()
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
        unseen = data.sampler(data.genomes.kept_back, data.seed + 1)
        self.unseen = [unseen.draw(SIZES[0]) for _ in range(UNSEEN)]
        self.step = Replayed(self.one_step, windows.random) if fast else self.one_step

    def run(self, steps: int | None, seconds: float, evaluations: int) -> None:
        """Train for `steps`, or for about `seconds`, and write what came out; FloatingPointError if it diverges."""
        start, done, evaluated = time.perf_counter(), 0.0, 0
        while done < 1:
            if self.step_count == SETTLED:
                start = time.perf_counter()
            self.rate.fill_(self.recipe.rate * min(1.0, (self.step_count + 1) / WARM_UP) * (1 - done))
            self.step(self.windows.window())
            self.step_count += 1
            if self.step_count % BETWEEN == 0:
                self.average.update_parameters(self.networks)
                # Waited for, else the clock would run ahead of the device.
                if not math.isfinite(self.losses[0].item()):
                    raise FloatingPointError(f"the training has diverged: no finite loss at step {self.step_count}")
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
        self.loss(self.windows.draw(size)).backward()  # type: ignore[no-untyped-call]
        for network in self.networks.values():
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        self.optimizer.step()

    def loss(self, batch: Examples) -> Tensor:
        """The sum of the losses of the encoder and of the baseline, which share nothing."""
        ids, _, target, group = self.rows(batch)
        with torch.autocast(self.data.device.type, torch.bfloat16, self.data.device.type == "cuda"):
            self.losses = self.losses_of(ids, target, group)
        weights = (1.0, self.recipe.group, self.recipe.tokens)
        parts = [weight * loss for loss, weight in zip(self.losses, weights, strict=True)]
        if FIVEMER in self.networks:
            parts.append(cross_entropy(self.networks[FIVEMER](batch.codes), batch.viral))
        return torch.stack(parts).sum()

    def rows(self, batch: Examples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the encoder reads of a batch, with classes, targets and groups."""
        if self.part == DNA:
            return batch.dna, batch.viral, batch.target, batch.group
        # As many rows as a batch has, all with a protein: those that have one come first, and again if they are few.
        order = torch.argsort(batch.framed, descending=True, stable=True)
        rows = order[torch.arange(self.data.batch, device=order.device) % batch.framed.sum().clamp(min=1)]
        return batch.protein[rows], batch.viral[rows], batch.target[rows], batch.group[rows]

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
        scores = torch.cat([network.classes(ids).diff(dim=1)[:, 0] for ids, *_ in rows])
        viral = torch.cat([viral for _, viral, *_ in rows])
        return metrics.auroc(scores.double().cpu().numpy(), viral.cpu().numpy() > 0)

    def write(self) -> None:
        """Write the averaged networks, if they are numbers."""
        if not all(value.isfinite().all() for value in self.average.parameters()):
            raise FloatingPointError(f"the training has diverged: no finite weights at step {self.step_count}")
        self.save(self.averaged(), f"{self.step_count} steps of {self.data.batch}, seed {self.data.seed}")

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
            with torch.inference_mode():
                viral = network.logits(embed_rows(network, getattr(held, name), device))[:, :2].softmax(1)[:, 1]
            # A protein network has nothing to say of windows without a frame.
            kept = framed | (len(viral) > len(held.frames))
            scores = held.of_rows(viral.cpu().numpy())
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


def prepare(args: argparse.Namespace, name: str, dna: bool = True, sizes: tuple[int, ...] = SIZES[:1]) -> Data:
    """Read everything, and cut dev into windows of `sizes`; without `dna`, only proteins can be read."""
    args.out.mkdir(parents=True, exist_ok=True)
    log = logger(args.out / f"log-{name}.jsonl")
    genomes, dev = without_gaps(load(args.train)), load(args.dev)
    cut = {size: HeldOut.cut(dev, size, TOKENIZER) for size in sizes}
    device = torch.device(args.device)
    strands = Strands.of(genomes, TOKENIZER if dna else None, device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    counts = {size: (len(each.windows), len(each.frames), len(each.bare)) for size, each in cut.items()}
    log(torch=torch.__version__, device=machine, bases=len(genomes.codes), dev_windows_frames_bare=counts)
    return Data(genomes, strands, ~genomes.kept_back, cut, args.batch, args.seed, log)


def train(args: argparse.Namespace) -> None:
    """Train and write, one encoder after the other."""
    begin = args.begin or args.out / "start"
    if args.begin is None:
        encoders.start(begin, args.seed)
    for part in args.part:
        # Teachers read both.
        data = prepare(args, part, dna=part == DNA or args.teachers is not None)
        data.log(recipe=asdict(RECIPES[part]), begin=str(begin), teachers=str(args.teachers))
        torch.manual_seed(args.seed)
        encoder = encoders.trained(begin, len(data.genomes.names), RECIPES[part].dropout)[part]
        networks: dict[str, nn.Module] = {part: encoder} | ({FIVEMER: FiveMerNetwork()} if part == DNA else {})
        windows = taught(args, data, part) if args.teachers else sampler(data, part)
        # Again, since the teachers were made from seeds of their own.
        torch.manual_seed(args.seed)
        training = Training(RECIPES[part], data, networks, windows, partial(save, args.out))
        training.run(args.steps, args.seconds, args.evaluations)


def sampler(data: Data, part: str) -> Sampler:
    """Windows with their true classes; twice as many for proteins, since not every window has one."""
    return data.sampler(data.seen, data.seed, 2 if part == PROTEIN else 1)


def taught(args: argparse.Namespace, data: Data, part: str) -> Pool:
    """Windows with targets by teachers."""
    teachers = Teachers(args.teachers, data.genomes, data.device)
    data.log(teachers=teachers.weigh(data.sampler(data.genomes.kept_back, data.seed + 2, AT_ONCE)))
    held = data.dev[SIZES[0]]
    data.log(dev_auroc_of_teachers=teachers.auroc(held, window_codes(held)))
    return Pool(data.sampler(data.seen, data.seed, AT_ONCE), teachers, args.windows, sampler(data, part).size)


def save(folder: Path, networks: dict[str, nn.Module], note: str) -> None:
    """Write an encoder, as the package reads it, and the baseline."""
    for network in networks.values():
        if isinstance(network, TrainedEncoder):
            encoders.write(folder, network.encoder, f"training/train_mini.py, {note}")
        else:
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(state, folder / "fivemer.safetensors")


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
    found.add_argument("--teachers", type=Path, help="folder of training.train_teachers; without, the truth is taught")
    found.add_argument(
        "--windows", type=int, default=3_000_000, help="windows drawn once for the teachers (%(default)s)"
    )
    found.add_argument("--begin", type=Path, help="folder with encoders to go on with")
    found.add_argument("--steps", type=int, help="steps of the training; instead of --seconds")
    found.add_argument(
        "--seconds", type=float, default=300, help="time of the training, without compiling (%(default)s)"
    )
    found.add_argument("--evaluations", type=int, default=8, help="measurements on dev (%(default)s)")
    return found.parse_args(words)


if __name__ == "__main__":
    train(parse_args())
