"""`virnucpro embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro.core.config import DEFAULT_MAX_TOKENS, DEFAULT_MODEL, DEFAULT_SEQUENCES_PER_FILE, EmbedConfig
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.models.registry import MODELS


def _model_help() -> str:
    names = ", ".join(spec.label for spec in MODELS.values())
    return f"A registered model ({names}), or a local folder or weights file. See `virnucpro models list`."


click.rich_click.OPTION_GROUPS["virnucpro embed"] = [
    {"name": "Output", "options": ["--output", "--force"]},
    {"name": "Model", "options": ["--model", "--models-dir", "--max-tokens"]},
    {"name": "Devices and speed", "options": ["--device", "--dtype", "--batch-size", "--threads"]},
    {"name": "Run", "options": ["--resume", "--work-dir", "--sequences-per-file"]},
    {"name": "Messages", "options": ["--quiet", "--verbose", "--log-format", "--help"]},
]


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Result; its suffix decides the format: .h5 (HDF5), .npy (with OUT.ids.txt), .pt (published tool).",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help=_model_help())
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with downloaded models, sought first; then $VIRNUCPRO_MODELS, then the Hub cache.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=16),
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    help="Longer sequences fail with a message (about 4.7 bases a token).",
)
@click.option(
    "-d",
    "--device",
    default="auto",
    show_default=True,
    help="auto (all visible GPUs, else the CPU), cpu, cuda, or a list such as 0,2 as CUDA_VISIBLE_DEVICES "
    "counts; an entry given twice (cpu,cpu or 0,0) means two workers there.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Numbers to compute in. auto: bf16 where all devices have it natively, else fp32. fp16: GPUs only.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Tokens a batch, rounded up to a multiple of 256; default: by device (`virnucpro devices`).",
)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads of the whole run; default: all.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Continue an interrupted run of the same input, settings and model.",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for work files, for example on a fast disk; default: OUT.work. Removed when all is done.",
)
@click.option(
    "--sequences-per-file",
    type=click.IntRange(min=1),
    default=DEFAULT_SEQUENCES_PER_FILE,
    show_default=True,
    help="Most sequences in a work file, the unit of work and of resuming.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Messages on stderr as text, or one JSON object a line.",
)
def embed(quiet: bool, verbose: bool, log_format: str, **settings: Any) -> int:
    """Embed DNA sequences: one vector each, in input order, identical on one device or many.

    INPUT: FASTA, FASTQ or unaligned BAM, plain or compressed (gz, bz2, xz, zst); - is standard input.

    \b
    virnucpro embed contigs.fa -o contigs.h5
    zcat reads.fq.gz | virnucpro embed - -o reads.h5 --model dnabert-s -d 0,1

    Beside OUT: OUT.run.json (what was done, and each device's share), OUT.log, and OUT.failed.tsv if anything failed.
    """
    from virnucpro.cli.progress import Reporter

    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose contradict each other")
    level = "quiet" if quiet else "verbose" if verbose else "normal"
    config = EmbedConfig(inputs=settings.pop("inputs"), **settings)
    with Reporter(level, log_format) as reporter:
        from virnucpro.pipeline.embed import run_embed

        result = run_embed(config, reporter)
        reporter.summary(result)
    return EXIT_SOME_FAILED if result.failures else 0
