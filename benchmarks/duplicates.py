"""How many windows and proteins of an input are copies of others in the same work file, and what packing wastes.

    python -m benchmarks.duplicates contigs.fa.gz reads.fastq.gz

A copy would not have to be embedded again. Beside it the share of buffers of `--budget` tokens that packing leaves
empty, for the proteins of the input and for proteins of 5 to 60 residues.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import Report, Row, parser, run_main
from virnucpro.input.fasta import DNA, Record, read_records
from virnucpro.input.frames import scan_windows
from virnucpro.input.windows import iter_windows
from virnucpro.pipeline.packing import Packer

#: Sequences of a work file.
A_FILE = 2_000


def sequences(path: Path) -> tuple[list[str], list[str]]:
    """Windows and proteins of an input, in order."""
    records = (record for record in read_records(path, DNA) if isinstance(record, Record))
    scans = list(scan_windows(window for record in records for window in iter_windows("", record.sequence)))
    return [scan.window.sequence for scan in scans], [frame.protein for scan in scans for frame in scan.frames]


def copies(found: Sequence[str]) -> float:
    """Share of sequences that stand before them in their work file."""
    parts = [found[at : at + A_FILE] for at in range(0, len(found), A_FILE)]
    return 1 - sum(len(set(part)) for part in parts) / max(1, len(found))


def waste(lengths: Iterable[int], budget: int) -> float:
    """Share of the buffers that holds no token, the last one left out."""
    packer: Packer[int] = Packer(budget)
    batches = [batch for key, length in enumerate(lengths) for batch in packer.add(key, np.zeros(length, np.int64))]
    return 1 - sum(batch.used for batch in batches) / max(1, sum(batch.size for batch in batches))


def main() -> None:
    """Count, report."""
    command = parser(__doc__)
    command.add_argument("inputs", type=Path, nargs="+", help="FASTA, FASTQ or BAM")
    command.add_argument("--budget", type=int, default=8192, help="tokens of a buffer (%(default)s)")
    args = command.parse_args()
    report, rows = Report("duplicates", args), []
    for path in args.inputs:
        windows, proteins = sequences(path)
        row: Row = {"input": path.name, "windows": len(windows), "copies": copies(windows), "proteins": len(proteins)}
        wasted = waste((len(protein) + 2 for protein in proteins), args.budget)
        rows.append({**row, "of proteins": copies(proteins), "empty": wasted})
    report.table("copies", f"in work files of {A_FILE}", rows)
    short = np.random.default_rng(args.seed).integers(5, 61, 100_000)
    report.table("packing", "proteins of 5 to 60 residues", [{"empty": waste((short + 2).tolist(), args.budget)}])


if __name__ == "__main__":
    run_main(main)
