"""What a dtype costs a trained set: scores, AUROC and calls beside those in fp32.

    python -m training.pieces --genomes dev.npz --out dev_pieces --kinds windows
    python -m benchmarks.dtypes --pieces dev_pieces --model mini-1 --dtypes fp32 bf16 fp8 --device cuda:0

Windows of 500 bases go through `virnucpro predict` in each dtype; the first is what the others are compared with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import Report, Row, parser, run_main
from training.engine import Called, called
from training.measure import WINDOW_FIGURES, Sample


def row(dtype: str, found: Sequence[Called], first: Sequence[Called]) -> Row:
    """Of one dtype against the first."""
    here, there = Sample.of(found), Sample.of(first)
    changed = np.abs(here.score - there.score)
    return {
        "dtype": dtype,
        "windows": len(found),
        "AUROC": round(WINDOW_FIGURES["AUROC overall"](here), 5),
        "mean change of score": float(changed.mean()),
        "largest": float(changed.max()),
        "calls changed": int((here.called != there.called).sum()),
    }


def main() -> None:
    """Read the options, predict, compare."""
    command = parser(__doc__)
    command.add_argument("--pieces", type=Path, required=True, help="folder of training.pieces, with windows")
    command.add_argument("--model", required=True, help="the set")
    command.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], help="%(default)s")
    command.add_argument("--device", default="auto", help="(%(default)s)")
    args = command.parse_args()
    report, rows, first = Report("dtypes", args), [], None
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        for dtype in args.dtypes:
            out = Path(folder, dtype)
            found = called(args.pieces / "windows.fa", args.model, out, dtype=dtype, device=args.device, min_length=0)
            first = first or found
            rows.append(row(dtype, found, first))
        report.table("dtypes", f"{args.model}, windows of 500 bases, beside {args.dtypes[0]}", rows)


if __name__ == "__main__":
    run_main(main)
