"""`virnucpro orfs`."""

from __future__ import annotations

import logging
from typing import Any

import rich_click as click
from rich.console import Console

from virnucpro.cli.options import FORCE, FRAMES, QUIET, Option, inputs_argument, options, output
from virnucpro.core.words import counted
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import OrfsConfig

logger = logging.getLogger("virnucpro.cli")

PANELS = {
    "Output": [output("PREFIX", "Prefix of the results' file names, with their folder, which must exist."), FORCE],
    "Rules": [
        Option(
            "--window",
            metavar="BASES",
            help="Longest window. The published classifiers were trained on 300 and on 500 bases.",
        ),
        FRAMES,
    ],
    "Messages": [QUIET],
}


@click.command()
@inputs_argument
@options(PANELS, OrfsConfig)
def orfs(quiet: bool, **settings: Any) -> int:
    """Cut DNA into windows and find their open frames, by the published rules, in input order.

    INPUT: FASTA, FASTQ or unaligned BAM, plain or compressed (gz, bz2, xz, zst); - is standard input.

    \b
    virnucpro orfs contigs.fa -o contigs
    zcat reads.fq.gz | virnucpro orfs - -o reads --window 300

    \b
    PREFIX.windows.fa   windows: as few as cover the record, evenly overlapping
    PREFIX.orfs.fna     DNA of their open frames
    PREFIX.orfs.faa     proteins of their open frames
    PREFIX.failed.tsv   records that could not be used, and why; only if there are any
    PREFIX.orfs.run.json, PREFIX.orfs.log   settings and counts; all messages

    A window's id is that of its record plus _chunk_1, _chunk_2 … A frame's id is that of its window plus F1, F2 or F3
    (forward strand, from the 1st, 2nd or 3rd base) or R1, R2 or R3 (reverse complement): contig7_chunk_2R1.

    A frame is open if it holds no stop codon from end to end; it needs neither a start codon nor a minimum length. A
    codon with a letter other than A, C, G and T is left out of the protein. Lower case counts as upper case, and U as
    T (the published tool leaves out codons with U).
    """
    from virnucpro.core import log
    from virnucpro.runs.orfs import run_orfs

    log.set_up(Console(stderr=True), quiet)
    result = run_orfs(OrfsConfig(**settings))
    counts = result.counts
    logger.info(
        "%s, %s (%d without an open frame), %s in %s.*%s",
        counted(counts.records, "records"),
        counted(counts.windows, "windows"),
        counts.silent,
        counted(counts.frames, "frames"),
        result.paths.output,
        f"; {len(result.failures)} failed, see {result.paths.failed}" if result.failures else "",
    )
    return EXIT_SOME_FAILED if result.failures else 0
