"""Proteins as arrays, for what wants to learn from them as frames.

`python -m training.proteins --more MORE --clusters FILE.tsv --part PART --out FILE.npz` packs the proteins of one part:
`residues` (uint8, letters of ASCII, end to end), `bounds` (where each begins, and the end), `viral`, `group` (places in
`names`, which are `class/more_FILE`) and `cluster` (numbers as `training.genomes` gives them).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from training.genomes import PARTS, group_name, numbered, protein_files, read_letters, read_table


def pack(more: Path, table: Path, part: str, out: Path) -> None:
    """Write the proteins of `part`."""
    clusters = {row.key: row.cluster for row in read_table(table) if row.part == part}
    files = protein_files(more)
    names = tuple(sorted({group_name(file) for file in files}))
    records = [
        (names.index(group_name(file)), numbered(clusters[file, header.split()[0]], part), residues)
        for file, path in files.items()
        for header, residues in read_letters(path, protein=True)
        if (file, header.split()[0]) in clusters
    ]
    group, cluster, residues = zip(*records, strict=True)
    np.savez_compressed(
        out,
        residues=np.concatenate(residues),
        bounds=np.cumsum([0, *map(len, residues)]),
        viral=np.array([names[each].startswith("viral/") for each in group]),
        group=np.array(group),
        cluster=np.array(cluster),
        names=np.array(names),
    )
    print(f"{len(group):,} proteins, {sum(map(len, residues)):,} residues")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pack proteins for training.")
    parser.add_argument("--more", type=Path, required=True, help="folder with viral_aa/*.fa.gz and other_aa/*.fa.gz")
    parser.add_argument("--clusters", type=Path, required=True, help="the table of training.clusters")
    parser.add_argument("--part", choices=PARTS, required=True, help="the part to pack")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    args = parser.parse_args()
    pack(args.more, args.clusters, args.part, args.out)


if __name__ == "__main__":
    main()
