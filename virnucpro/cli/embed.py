"""`virnucpro embed`."""

from __future__ import annotations

from typing import Any

import rich_click as click

from virnucpro.cli.options import FORCE, MODELS_DIR, RUN, Option, inputs_argument, options, output
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.models.registry import MODELS
from virnucpro.runs.config import EmbedConfig

PANELS = {
    "Output": [
        output(
            "OUT",
            "Result file; its suffix decides the format: .h5 (HDF5), .npy (with OUT.ids.txt) or .pt (published tool).",
        ),
        FORCE,
    ],
    "Model": [
        Option(
            "--model",
            help=f"A registered model ({', '.join(MODELS)}), or a local folder or weights file. See `virnucpro models "
            "list`.",
        ),
        MODELS_DIR,
        Option(
            "--max-tokens",
            help="Longest sequence that is embedded; others fail with a message. A token is about 4.7 bases or one "
            "residue.",
        ),
    ],
    **RUN,
}


@click.command()
@inputs_argument
@options(PANELS, EmbedConfig)
def embed(quiet: bool, log_format: str, **settings: Any) -> int:
    """Embed DNA or proteins: one vector per sequence, in input order, identical on one device or many.

    INPUT: FASTA, FASTQ or unaligned BAM, plain or compressed (gz, bz2, xz, zst); - is standard input. DNA for the
    dnabert and codon models, proteins for the esm2 models.

    \b
    virnucpro embed contigs.fa -o contigs.h5
    virnucpro embed proteins.faa -o proteins.h5 --model esm2-8m
    zcat reads.fq.gz | virnucpro embed - -o reads.h5 --model dnabert-s -d 0,1

    Also written: OUT.run.json (settings, versions, each device's share of the work), OUT.log, and OUT.failed.tsv if
    anything failed.
    """
    from virnucpro.cli.progress import Reporter, tell_embedded

    config = EmbedConfig(**settings)
    with Reporter(quiet, log_format) as reporter:
        from virnucpro.runs.embed import run_embed

        result = run_embed(config, reporter)
    tell_embedded(result)
    return EXIT_SOME_FAILED if result.failures else 0
