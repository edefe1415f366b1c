"""`virnucpro embed`."""

from __future__ import annotations

from typing import Any

import rich_click as click

from virnucpro.cli.options import (
    GROUPS,
    OutputPath,
    force_option,
    inputs_argument,
    models_dir_option,
    run_options,
)
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.models.registry import MODELS
from virnucpro.runs.config import DEFAULT_MAX_TOKENS, DEFAULT_MODEL, DEFAULT_SEQUENCES_PER_FILE, EmbedConfig


def _model_help() -> str:
    return f"A registered model ({', '.join(MODELS)}), or a local folder or weights file. See `virnucpro models list`."


click.rich_click.OPTION_GROUPS["virnucpro embed"] = [
    {"name": "Output", "options": ["--output", "--force"]},
    {"name": "Model", "options": ["--model", "--models-dir", "--max-tokens"]},
    *GROUPS,
]


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(),
    metavar="OUT",
    help="Result file; its suffix decides the format: .h5 (HDF5), .npy (with OUT.ids.txt) or .pt (published tool).",
)
@force_option
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help=_model_help())
@models_dir_option
@click.option(
    "--max-tokens",
    type=click.IntRange(min=16),
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    help="Longest sequence that is embedded; others fail with a message. A token is about 4.7 bases or one residue.",
)
@run_options(DEFAULT_SEQUENCES_PER_FILE)
def embed(quiet: bool, log_format: str, **settings: Any) -> int:
    """Embed DNA or proteins: one vector per sequence, in input order, identical on one device or many.

    INPUT: FASTA, FASTQ or unaligned BAM, plain or compressed (gz, bz2, xz, zst); - is standard input. DNA for the
    dnabert models, proteins for the esm2 models.

    \b
    virnucpro embed contigs.fa -o contigs.h5
    virnucpro embed proteins.faa -o proteins.h5 --model esm2-8m
    zcat reads.fq.gz | virnucpro embed - -o reads.h5 --model dnabert-s -d 0,1

    Also written: OUT.run.json (settings, versions, each device's share of the work), OUT.log, and OUT.failed.tsv if
    anything failed.
    """
    from virnucpro.cli.progress import Reporter

    config = EmbedConfig(**settings)
    with Reporter(quiet, log_format) as reporter:
        from virnucpro.runs.embed import run_embed

        result = run_embed(config, reporter)
        reporter.summary(result)
    return EXIT_SOME_FAILED if result.failures else 0
