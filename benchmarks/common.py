"""What the benchmarks share: random networks and sequences, timed runs of the engine, tables, the report.

The weights are random, of the right shapes, and written as a model folder, so that the engine loads them the way it
loads published ones. Speed does not depend on the values of weights, nor do the tests of bits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from virnucpro._version import __version__
from virnucpro.core.device import available_threads, find_cpu, supports_bf16
from virnucpro.errors import VirnucproError
from virnucpro.input.fasta import write_fasta
from virnucpro.io.store import read_result
from virnucpro.models.dnabert_s import DNABERTConfig
from virnucpro.models.local import CONFIG, TOKENIZER, WEIGHTS
from virnucpro.models.registry import EMBEDDED
from virnucpro.pipeline.events import FileDone, Progress, Ready
from virnucpro.pipeline.work_queue import DeviceStats, Worker, WorkQueue

#: DNABERT-S, and a network that a smoke test can afford.
FULL = DNABERTConfig()
SMALL = DNABERTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256)

#: The tokenizer of every random network.
TOKENIZER_FILE = EMBEDDED / "dnabert-mini" / TOKENIZER

#: Bases of a sequence unless a benchmark says otherwise: about 105 tokens.
BASES = 500

Embeddings = dict[str, NDArray[np.float32]]
Row = Mapping[str, object]


# Networks and sequences.


def write_model(folder: Path, config: DNABERTConfig, seed: int) -> Path:
    """A model folder with random weights; returns it."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(asdict(config)), encoding="utf-8")
    shutil.copy(TOKENIZER_FILE, folder / TOKENIZER)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _random_tensor(name, shape, generator) for name, shape in _shapes(config)}
    save_file(weights, folder / WEIGHTS[0])
    return folder


def _shapes(config: DNABERTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a published checkpoint's tensors."""
    dim, wide = config.hidden_size, config.intermediate_size
    yield "embeddings.word_embeddings.weight", (config.vocab_size, dim)
    yield "embeddings.token_type_embeddings.weight", (config.type_vocab_size, dim)
    yield from _pair("embeddings.LayerNorm", dim)
    for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
        yield from _pair(f"{layer}.attention.self.Wqkv", 3 * dim, dim)
        yield from _pair(f"{layer}.attention.output.dense", dim, dim)
        yield from _pair(f"{layer}.attention.output.LayerNorm", dim)
        yield f"{layer}.mlp.gated_layers.weight", (2 * wide, dim)
        yield from _pair(f"{layer}.mlp.wo", dim, wide)
        yield from _pair(f"{layer}.mlp.layernorm", dim)


def _pair(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Nothing is left at 0 or 1, and scores are large enough to matter, so that a mistake anywhere shows."""
    values = torch.randn(shape, generator=generator)
    if name.endswith("norm.weight") or name.endswith("Norm.weight"):
        return 1 + 0.1 * values
    return 0.03 * values


def linear_flops(config: DNABERTConfig) -> int:
    """Floating-point operations of the matrix products with weights, a token."""
    dim, wide = config.hidden_size, config.intermediate_size
    return 2 * config.num_hidden_layers * (4 * dim * dim + 3 * dim * wide)


def flops_per_token(config: DNABERTConfig, tokens: int) -> int:
    """All matrix products, a token of a sequence of `tokens` tokens."""
    return linear_flops(config) + 4 * config.num_hidden_layers * config.hidden_size * tokens


def random_dna(rng: np.random.Generator, bases: int) -> str:
    """Uniform random DNA."""
    return bytes(rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), bases)).decode()


def random_sequences(number: int, seed: int, bases: int = BASES) -> dict[str, str]:
    """Id → sequence, all of one length in bases."""
    rng = np.random.default_rng(seed)
    return {f"s{i:06d}": random_dna(rng, bases) for i in range(number)}


def write_files(folder: Path, sequences: Mapping[str, str], sizes: Sequence[int]) -> dict[Path, int]:
    """Sequences in their order into FASTA files of `sizes` records; returns each file's number of them."""
    folder.mkdir(parents=True)
    items = iter(sequences.items())
    counts = {}
    for number, size in enumerate(sizes):
        path = folder / f"part{number:04d}.fasta"
        with path.open("wb") as file:
            for _ in range(size):
                write_fasta(file, *next(items))
        counts[path] = size
    return counts


def even_sizes(total: int, files: int) -> list[int]:
    """Sizes of `files` files that hold `total` sequences as evenly as can be."""
    return [total * (i + 1) // files - total * i // files for i in range(files)]


# Timed runs of the engine.


@dataclass
class EngineRun:
    """One run of work files over devices. `seconds`: from the moment that all workers are ready to the last file's end.

    Starting processes, importing torch and loading weights lie before that moment: `startup_seconds`.
    """

    seconds: float
    startup_seconds: float
    stats: list[DeviceStats]
    outputs: dict[Path, Path] = field(repr=False)

    @property
    def sequences(self) -> int:
        """Embedded sequences."""
        return sum(stats.sequences for stats in self.stats)

    @property
    def tokens(self) -> int:
        """Tokens of these sequences, without any padding."""
        return sum(stats.tokens for stats in self.stats)

    @property
    def busy_seconds(self) -> list[float]:
        """How long each device computed."""
        return [stats.busy_seconds for stats in self.stats]

    def embeddings(self) -> Embeddings:
        """What was written, by id."""
        found: Embeddings = {}
        for path in self.outputs.values():
            ids, vectors = read_result(path)
            found.update(zip(ids, vectors, strict=True))
        return found


class _Clock:
    """Notes when workers become ready and when files and batches end."""

    def __init__(self) -> None:
        self.began = self.ready = self.end = time.perf_counter()

    def __call__(self, _index: int | None, event: object) -> None:
        if isinstance(event, Ready):
            self.ready = time.perf_counter()
        elif isinstance(event, (FileDone, Progress)):
            self.end = time.perf_counter()


def run_engine(
    worker: Worker, devices: Sequence[str], budget: int, output_dir: Path, counts: Mapping[Path, int], **options: object
) -> EngineRun:
    """Embed files through the work queue, from FASTA to HDF5. RuntimeError if one of them fails."""
    output_dir.mkdir(parents=True)
    clock = _Clock()
    result = WorkQueue(worker, devices, budget, output_dir, counts, options, clock).run()
    if result.failed:
        raise RuntimeError(f"{len(result.failed)} files failed: {next(iter(result.failed.values()))}")
    return EngineRun(clock.end - clock.ready, clock.ready - clock.began, result.stats, result.done)


class Others:
    """How many cores the rest of the machine has kept busy since this was made; Linux only, else 0."""

    def __init__(self) -> None:
        self.began, self.busy = time.perf_counter(), self._busy()

    def cores(self) -> float:
        """Mean number of cores, by now."""
        return max(0.0, (self._busy() - self.busy) / (time.perf_counter() - self.began))

    def _busy(self) -> float:
        """Seconds of all cores less those of this process and of its children that have ended."""
        try:
            user, nice, system = Path("/proc/stat").read_text(encoding="ascii").split()[1:4]
        except OSError:
            return 0.0
        everyone = (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
        return everyone - sum(os.times()[:4])


def largest_difference(found: Embeddings, wanted: Embeddings) -> float:
    """Largest absolute difference of any number of any embedding in both."""
    return max(float(np.abs(found[key] - wanted[key]).max()) for key in found.keys() & wanted.keys())


def smallest_cosine(found: Embeddings, wanted: Embeddings) -> float:
    """Smallest cosine of any embedding with its counterpart."""
    return min(_cosine(found[key], wanted[key]) for key in found.keys() & wanted.keys())


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def median(values: Iterable[float]) -> float:
    """The middle of `values`."""
    return statistics.median(values)


# Report.


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all results there as well")
    made.add_argument("--quick", action="store_true", help="a small network and little work: only to see that it runs")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and sequences")
    return made


def environment(device: torch.device | None = None) -> dict[str, object]:
    """Hardware, how busy it is already, and versions."""
    cpu = find_cpu()
    found: dict[str, object] = {
        "cpu": cpu.model,
        "cores": available_threads(),
        "memory_gib": cpu.memory_gib,
        "load": round(os.getloadavg()[0], 2),
        "cpu_bf16": cpu.bf16,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "virnucpro": __version__,
    }
    if device is not None and device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "gpu_bf16": supports_bf16(device)}
    return found


class Report:
    """Prints tables as they come and keeps their rows for the JSON file."""

    def __init__(self, name: str, args: argparse.Namespace, device: torch.device | None = None) -> None:
        self.path: Path | None = args.json
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        self.content: dict[str, Any] = {
            "benchmark": name,
            "environment": environment(device),
            "settings": settings,
            "results": {},
        }
        for key in ("environment", "settings"):
            print(f"{key}: " + ", ".join(f"{k} {v}" for k, v in self.content[key].items()))

    def table(self, key: str, title: str, rows: Sequence[Row]) -> None:
        """Print rows of one kind and keep them under `results[key]`, at once: a later part may fail."""
        print(f"\n{title}")
        print(format_table(rows), flush=True)
        self.content["results"][key] = list(rows)
        if self.path is not None:
            self.path.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")


def format_table(rows: Sequence[Row]) -> str:
    """Columns under their names, numbers to four digits."""
    if not rows:
        return "  (none)"
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name, "")) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  " + "  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def run_main(main: Callable[[], None]) -> None:
    """Run a benchmark; an error that the package foresees ends it with its message and exit code."""
    try:
        main()
    except VirnucproError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
