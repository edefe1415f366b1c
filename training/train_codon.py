"""Train the codon encoder and its classifier from packed genomes.

    python -m training.train_codon --train train.npz --measure fit.npz dev.npz --out FOLDER --channels 128 --steps 30000

A window is drawn by class (a coin), kingdom, group, cluster and place. The network learns its class and, beside it, its
group. What is kept is the moving average of the weights. `FOLDER/log.jsonl` holds every figure, `FOLDER/state.pt` what
a training that was stopped goes on from (same command).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.back_translation import BackTranslation, Proteins
from training.codon import CodonNetwork, Size, export, frames
from training.genomes import OTHER, Genomes, join, load
from training.kingdoms import KINGDOMS, kingdom_of, separation
from virnucpro.input.windows import window_bounds

WINDOW = 500
#: Share of windows shorter than the full size, and the shortest of them.
SHORTER, SHORTEST = 0.35, 100
#: Bases of groups and clusters are damped by this power, so that small ones are seen too.
DAMPING, CLUSTER_DAMPING = 0.7, 0.5
WARM_UP = 300
CLIP = 1.0
#: Steps between two updates of the averaged weights, and how slowly these follow.
BETWEEN, AVERAGE = 5, 0.995
SMOOTHING, GROUP_LOSS = 0.05, 0.3
#: Share of codons that are hidden.
MASKED = 0.15
#: Windows measured at a time.
ROWS = 2048


class Sampler:
    """Draws windows on a device: class by a coin, kingdom, group, cluster, place."""

    def __init__(
        self, genomes: Genomes, seed: int, device: torch.device, mutated: float, proteins: Proteins | None, share: float
    ) -> None:
        self.random = torch.Generator(device).manual_seed(seed)
        self.mutated, self.share = mutated, share if proteins else 0.0
        if proteins:
            weights = record_weights(np.diff(proteins.bounds), proteins.group, proteins.cluster, proteins.names)
            self.proteins = BackTranslation(proteins, genomes, weights, len(genomes.names), self.random)
        weights = record_weights(genomes.lengths, genomes.group, genomes.cluster, genomes.names)
        self._ends = torch.from_numpy(np.cumsum(weights) / weights.sum()).to(device)
        self.codes, self.bounds, self.group = (
            torch.from_numpy(each).to(device) for each in (genomes.codes, genomes.bounds, genomes.group)
        )
        self.viral = torch.from_numpy(genomes.viral.astype(np.int64)).to(device)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.bounds.device)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes (n, WINDOW) filled up with N, lengths, classes and groups (n,); a share of them from proteins."""
        shorter = SHORTEST + (self._rand(count) * (WINDOW - SHORTEST)).long()
        wanted = torch.where(self._rand(count) < SHORTER, shorter, WINDOW)
        made = round(count * self.share)
        drawn = [self._draw_genomes(wanted[made:])]
        if made:
            drawn.append(self.proteins.draw(wanted[:made], WINDOW))
        codes, lengths, viral, group = (torch.cat(each) for each in zip(*drawn, strict=True))
        return self._mutate(codes), lengths, viral, group

    def _draw_genomes(self, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = len(wanted)
        record = torch.searchsorted(self._ends, self._rand(count).double()).clamp(max=len(self._ends) - 1)
        whole = self.bounds[record + 1] - self.bounds[record]
        length = torch.minimum(wanted, whole)
        start = self.bounds[record] + (self._rand(count).double() * (whole - length + 1)).long()
        column = torch.arange(WINDOW, device=start.device)
        inside = column < length[:, None]
        codes = self.codes[start[:, None] + column * inside].masked_fill(~inside, OTHER)
        return codes, length, self.viral[record], self.group[record]

    def _mutate(self, codes: Tensor) -> Tensor:
        """Every second window has up to `mutated` of its bases replaced, two of three times by the transition."""
        if not self.mutated:
            return codes
        count = len(codes)
        rate = self._rand(count, 1) * self.mutated * (self._rand(count, 1) < 0.5)
        chance = self._rand(*codes.shape)
        # A C G T are 0 to 3: the other purine or pyrimidine is two away.
        step = torch.where(self._rand(*codes.shape) < 0.67, 2, torch.where(self._rand(*codes.shape) < 0.5, 1, 3))
        changed = (codes + step).to(codes.dtype) & 3
        return torch.where((chance < rate) & (codes != OTHER), changed, codes)


def record_weights(
    lengths: NDArray[np.int64], group: NDArray[np.int64], cluster: NDArray[np.int64], names: tuple[str, ...]
) -> NDArray[np.float64]:
    """(records,) how often each is drawn: classes alike, kingdoms by `KINGDOMS`, groups and clusters by damped size."""
    letters = lengths.astype(np.float64)
    _, cluster = np.unique(np.stack((group, cluster)), axis=1, return_inverse=True)
    sizes = np.bincount(cluster, letters)
    weights = letters * np.maximum(sizes, 1)[cluster] ** (CLUSTER_DAMPING - 1)
    in_group = np.bincount(group, weights, len(names)).clip(1e-9)
    groups = np.bincount(group, letters, len(names)) ** DAMPING
    kingdoms = np.array([kingdom_of(name) for name in names])
    for kingdom, share in KINGDOMS.items():
        here = kingdoms == kingdom
        if groups[here].sum():
            groups[here] *= share / groups[here].sum()
    found: NDArray[np.float64] = weights * (groups / in_group)[group]
    return found


class Windows:
    """Every window of some genomes by the published rule, to be measured on."""

    def __init__(self, genomes: Genomes, most: int, size: int = WINDOW) -> None:
        places = [
            (record, genomes.bounds[record] + start, end - start)
            for record, length in enumerate(genomes.lengths)
            for start, end in window_bounds(int(length), size)
            if end - start >= SHORTEST
        ]
        if len(places) > most:
            places = [places[i] for i in np.random.default_rng(0).choice(len(places), most, replace=False)]
        self.record, start, self.length = np.array(places).T
        column = np.arange(WINDOW)
        inside = column < self.length[:, None]
        self.codes = np.where(inside, genomes.codes[start[:, None] + column * inside], OTHER).astype(np.uint8)
        self.names = np.array(genomes.names)[genomes.group[self.record]]
        self.viral = genomes.viral[self.record]

    @torch.inference_mode()
    def logits(self, network: CodonNetwork, device: torch.device) -> NDArray[np.float64]:
        """(windows,) viral minus other."""
        network.eval()
        found = []
        for at in range(0, len(self.codes), ROWS):
            codes, lengths = (torch.from_numpy(each[at : at + ROWS]).to(device) for each in (self.codes, self.length))
            with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
                logits, _ = network(*frames(codes, lengths, network.size.stride))
            found.append(logits.float().diff(dim=1)[:, 0].cpu())
        return torch.cat(found).double().numpy()


class Training:
    """A network in training, its average, and what moves it."""

    def __init__(self, args: argparse.Namespace, genomes: Genomes) -> None:
        self.args, self.device = args, torch.device(args.device)
        torch.manual_seed(args.seed)
        proteins = Proteins.load(args.proteins) if args.proteins else None
        self.sampler = Sampler(genomes, args.seed, self.device, args.mutated, proteins, args.share)
        size = Size(args.channels, args.blocks, args.stride)
        groups = len(genomes.names) + (len(proteins.names) if proteins else 0)
        self.network = CodonNetwork(size, groups, args.dropout).to(self.device)
        self.average = CodonNetwork(size, groups).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.run = torch.compile(self.loss, dynamic=False) if self.device.type == "cuda" else self.loss
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), args.rate, (0.9, 0.98), weight_decay=args.decay, fused=self.device.type == "cuda"
        )
        self.step = 0
        self.state = args.out / "state.pt"
        if self.state.exists():
            self.load()

    def load(self) -> None:
        """Go on from where a training was stopped."""
        found = torch.load(self.state, map_location=self.device, weights_only=True)
        self.step = found["step"]
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(found[name])
        self.sampler.random.set_state(found["random"].cpu())

    def save(self) -> None:
        """Write what `load` reads."""
        found = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        torch.save({"step": self.step, "random": self.sampler.random.get_state(), **found}, self.state)

    def loss(self, codes: Tensor, lengths: Tensor, viral: Tensor, group: Tensor) -> Tensor:
        """Of a batch."""
        codons, positions = frames(codes, lengths, self.args.stride)
        hidden = (torch.rand(codons.shape, device=codons.device) < MASKED) & (codons < 64)
        classes, groups = self.network(codons.masked_fill(hidden, 64), positions)
        return functional.cross_entropy(
            classes.float(), viral, label_smoothing=SMOOTHING
        ) + GROUP_LOSS * functional.cross_entropy(groups.float(), group)

    def one_step(self, rate: float) -> Tensor:
        """One step at a learning rate."""
        self.network.train()
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            loss = self.run(*self.sampler.draw(self.args.batch))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        if self.step % BETWEEN == 0:
            self.follow()
        return loss.detach()

    @torch.no_grad()
    def follow(self) -> None:
        """Let the average follow the weights: at once at first, then slowly."""
        keep = min(AVERAGE, self.step / (self.step + 10 * BETWEEN))
        theirs = self.network.state_dict()
        for key, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(theirs[key], 1 - keep)
            else:
                value.copy_(theirs[key])

    def rate_at(self, done: float) -> float:
        """Up over the first steps, then down to 0 along a cosine."""
        highest: float = self.args.rate
        return highest * min(1.0, (self.step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))

    def go(self, measured: dict[str, Windows], log: Any) -> None:
        """Train until `--steps`, or until `--stop` seconds have passed; measure on the way."""
        begin, every = time.perf_counter(), max(1, self.args.steps // self.args.evaluations)
        start, first = begin, self.step
        while self.step < self.args.steps:
            loss = self.one_step(self.rate_at(self.step / self.args.steps))
            if self.step == first + 20:
                torch.cuda.synchronize() if self.device.type == "cuda" else None
                start = time.perf_counter()
            if self.step % 100 == 0 and not math.isfinite(loss.item()):
                raise FloatingPointError(f"the training has diverged: no finite loss at step {self.step}")
            if self.step % every == 0:
                pace = (time.perf_counter() - start) / max(1, self.step - first - 20)
                log(step=self.step, ms=round(1000 * pace, 2), loss=round(loss.item(), 4), **self.measure(measured))
            if self.step % 100 == 0 and time.perf_counter() - begin > self.args.stop:
                break
        self.save()
        torch.save(self.average.state_dict(), self.args.out / "average.pt")
        export(self.average, self.args.out, f"training/train_codon.py, {self.step} steps of {self.args.batch}")

    def measure(self, measured: dict[str, Windows]) -> dict[str, Any]:
        """How well the average tells the classes apart."""
        return {
            name: separation(windows.logits(self.average, self.device), windows.viral, windows.names)
            for name, windows in measured.items()
        }


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    found = argparse.ArgumentParser(description="Train the codon encoder and its classifier.")
    found.add_argument("--train", type=Path, nargs="+", required=True, help="packed genomes to train on, together")
    found.add_argument("--proteins", type=Path, help="packed proteins; a --share of the windows is made from them")
    found.add_argument("--measure", type=Path, nargs="*", default=[], help="packed genomes to measure on")
    found.add_argument("--out", type=Path, required=True, help="folder for the results")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    for name, value in (
        ("channels", 128),
        ("blocks", 4),
        ("stride", 2),
        ("batch", 2048),
        ("steps", 30_000),
        ("seed", 0),
    ):
        found.add_argument(f"--{name}", type=int, default=value, help="(%(default)s)")
    for name, rate in (("rate", 2e-3), ("decay", 0.05), ("dropout", 0.1), ("mutated", 0.0), ("share", 0.15)):
        found.add_argument(f"--{name}", type=float, default=rate, help="(%(default)s)")
    found.add_argument("--stop", type=float, default=math.inf, help="seconds after which to save and end")
    found.add_argument("--evaluations", type=int, default=10, help="measurements on the way (%(default)s)")
    found.add_argument("--most", type=int, default=30_000, help="windows measured on (%(default)s)")
    return found.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Train and write."""
    args = parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    begin = time.perf_counter()

    def log(**figures: object) -> None:
        line = json.dumps({"at": round(time.perf_counter() - begin, 1), **figures})
        print(args.out.name, line, flush=True)
        with open(args.out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    log(**{key: str(value) if isinstance(value, Path | list) else value for key, value in vars(args).items()})
    training = Training(args, join([load(path) for path in args.train]))
    measured = {path.stem: Windows(load(path), args.most) for path in args.measure}
    log(parameters=sum(each.numel() for each in training.network.parameters()), loaded=True)
    training.go(measured, log)


if __name__ == "__main__":
    main()
