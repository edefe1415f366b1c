"""`virnucpro predict`: how long each stage takes, how fast windows and frames are cut, how much memory a run needs.

    python -m benchmarks.predict --json predict.json

Each run is the whole command in a process of its own, on contigs that are random genes on both strands, 9 of 10 bases
in a gene, as in a bacterium. Stage times are those of its `run.json`; `share` is of the wall time, from the command's
start to its end. `cutting` is that stage alone, on one core, from a FASTA file to work files. `peak_mib` is the largest
resident memory of the process, with everything it imports.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Report, Row, median, parser, run_main
from benchmarks.orfs import random_genes
from virnucpro.input.cut import Cutter, Rules
from virnucpro.input.fasta import write_fasta
from virnucpro.runs.paths import PredictPaths

#: Lengths of the contigs, in bases.
CONTIGS = (2_000, 20_000, 200_000)
ENCODING = ("scoring",)


def write_contigs(path: Path, megabases: float, seed: int) -> Path:
    """Contigs of mixed lengths, `megabases` in all, as FASTA."""
    rng = np.random.default_rng(seed)
    left, number = int(megabases * 1e6), 0
    with open(path, "wb") as file:
        while left > 0:
            length = min(left, CONTIGS[number % len(CONTIGS)])
            write_fasta(file, f"contig{number}", random_genes(rng, length))
            left, number = left - length, number + 1
    return path


def run_predict(path: Path, folder: Path, options: list[str]) -> tuple[float, float]:
    """The command in a process of its own: wall seconds and peak MiB."""
    command = [sys.executable, "-m", "virnucpro", "predict", str(path), "-o", str(folder), "-q", *options]
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"`{' '.join(command)}` ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_maxrss * unit / 2**20


def stage_rows(folder: Path, wall: float) -> Iterator[Row]:
    """Each stage of a run, and what is left: starting Python, importing, loading, writing the record."""
    record = json.loads(next(folder.glob("*.run.json")).read_text(encoding="utf-8"))
    stages: dict[str, float] = record["stages"]
    for name, seconds in (*stages.items(), ("starting and ending", wall - sum(stages.values()))):
        yield {"stage": name, "seconds": seconds, "share": seconds / wall}
    rest = 1 - sum(stages.get(name, 0.0) for name in ENCODING) / wall
    yield {"stage": "all but the encoders", "seconds": rest * wall, "share": rest}


def run_row(megabases: float, folder: Path, wall: float, peak: float) -> Row:
    """One line on a whole run."""
    result = json.loads(next(folder.glob("*.run.json")).read_text(encoding="utf-8"))["result"]
    return {
        "Mbp": megabases,
        "frames": result["frames"],
        "seconds": wall,
        "kbp/s": 1000 * megabases / wall,
        "peak MiB": peak,
    }


def cutting_row(path: Path, folder: Path, rounds: int) -> Row:
    """Windows and frames alone, from FASTA to work files."""
    megabytes = path.stat().st_size / 1e6
    speeds = []
    for turn in range(rounds):
        paths = PredictPaths(folder / f"turn{turn}" / "x")
        paths.parts.mkdir(parents=True)
        began = time.process_time()
        plan = Cutter(Rules(500), paths.part_file, 10_000, 1).cut([path], [path])
        speeds.append(megabytes / (time.process_time() - began))
    return {
        "MB": megabytes,
        "frames": sum(part.frames for part in plan.parts),
        "MB/s": median(speeds),
        "slowest": min(speeds),
    }


def measure(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """Every table."""
    runs: list[Row] = []
    for megabases in args.mbp:
        path = write_contigs(folder / f"{megabases:g}.fa", megabases, args.seed)
        if not runs:
            report.table("cutting", "windows and frames, one core", [cutting_row(path, folder, args.rounds)])
        out = folder / f"out{megabases:g}"
        wall, peak = run_predict(path, out, args.options.split())
        report.table(f"stages_{megabases:g}", f"stages, {megabases:g} Mbp", list(stage_rows(out, wall)))
        runs.append(run_row(megabases, out, wall, peak))
        report.table("runs", "whole runs", runs)


def main() -> None:
    """Read the options, measure, report."""
    command = parser(__doc__)
    command.add_argument(
        "--mbp", type=float, nargs="+", default=[5, 50], help="sizes of the inputs, in millions of bases"
    )
    command.add_argument("--rounds", type=int, default=3, help="of cutting")
    command.add_argument("--options", default="", help="further options of `virnucpro predict`, in one word")
    args = command.parse_args()
    if args.quick:
        args.mbp, args.rounds = [0.05], 1
    report = Report("predict", args)
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        measure(args, Path(folder), report)


if __name__ == "__main__":
    run_main(main)
