"""`virnucpro predict`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from textwrap import wrap
from typing import Any

import rich_click as click

from virnucpro.calls import tables
from virnucpro.cli.options import (
    GROUPS,
    OutputPath,
    force_option,
    inputs_argument,
    message_level,
    models_dir_option,
    run_options,
)
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.io.tables import FAILED
from virnucpro.runs.config import DEFAULT_FRAMES_PER_FILE, DEFAULT_MODEL_SET, PredictConfig

click.rich_click.OPTION_GROUPS["virnucpro predict"] = [
    {
        "name": "Output",
        "options": ["--output", "--prefix", "--force", "--report", "--vanilla-output", "--keep-embeddings"],
    },
    {
        "name": "Model and calls",
        "options": [
            *("--model", "--models-dir", "--window", "--frames"),
            *("--min-score", "--preset", "--min-length", "--viral-share"),
        ],
    },
    *GROUPS,
]


#: Characters a line of the help has on the narrowest terminal.
_WIDTH = 76


def _columns() -> str:
    """The columns of the tables, with their meanings, for the end of the help."""
    described = (
        ("sequences.tsv", tables.SEQUENCES),
        ("windows.tsv.gz", tables.WINDOWS),
        ("regions.bed", tables.REGIONS),
        ("virus_summary.tsv", tables.VIRUSES),
        ("failed.tsv", FAILED),
    )
    blocks = ("\n".join(("\b", f"Columns of PREFIX.{name}:", *_lines(columns))) for name, columns in described)
    return "\n\n".join(blocks)


def _lines(columns: Mapping[str, str]) -> Iterator[str]:
    indent = max(map(len, columns)) + 4
    for column, meaning in columns.items():
        yield from wrap(f"  {column:<{indent - 2}}{meaning}", _WIDTH, subsequent_indent=" " * indent)


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(file_okay=False),
    metavar="DIR",
    help="Folder of the results; it is made if need be.",
)
@click.option("-p", "--prefix", help="How the results' names begin; default: the first input's name.")
@force_option
@click.option(
    "--report/--no-report",
    default=False,
    show_default=True,
    help="Also write PREFIX.report.html, as `virnucpro report DIR` does: a page that shows the results.",
)
@click.option(
    "--vanilla-output",
    is_flag=True,
    help="Also write prediction_results.txt and prediction_results_highestscore.csv as the published tool does.",
)
@click.option(
    "--keep-embeddings",
    is_flag=True,
    help="Also keep the embeddings of all frames: PREFIX.dna.h5, PREFIX.protein.h5; with --vanilla-output the "
    "published tool's three .pt files, too.",
)
@click.option(
    "--model",
    default=DEFAULT_MODEL_SET,
    show_default=True,
    help="Set of encoders and a classifier: mini (reads whole windows) or mini-1 (two encoders), small and in the "
    "package, 500 or 300 (published: DNABERT-S, ESM-2 3B and the classifier of that window), or a folder. See "
    "`virnucpro models list`.",
)
@models_dir_option
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="BASES",
    help="Most bases in a window; default: what the classifier was trained on. Other lengths are refused.",
)
@click.option(
    "--frames",
    type=click.Choice(["published", "exact"]),
    default="published",
    show_default=True,
    help="published: a frame's nucleotides go one base beyond its last codon, as in the published tool. exact: not so.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    help="From which score on a window, a sequence and a region are called viral; default: what was measured for the "
    "classifier; 0.5 as published.",
)
@click.option(
    "--preset",
    type=click.Choice(["conservative", "default", "relaxed"]),
    help="--min-score by name, for classifiers that were measured: 1%, 5% or 10% false positives among windows; for "
    "sequences see docs/calls.md.",
)
@click.option(
    "--min-length",
    type=click.IntRange(min=0),
    metavar="BASES",
    help="Shorter sequences are listed and not scored; default: from where on the classifier was measured, or 0.",
)
@click.option(
    "--viral-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the sequences that is viral, for the expected number of false calls; default: estimated from the "
    "scores.",
)
@run_options(DEFAULT_FRAMES_PER_FILE)
def predict(quiet: bool, verbose: bool, log_format: str, frames: str, **settings: Any) -> int:
    """Tell which sequences are viral, where, and how sure.

    INPUT: FASTA, FASTQ or unaligned BAM of DNA, plain or compressed (gz, bz2, xz, zst); - is standard input.

    \b
    virnucpro predict contigs.fa -o out
    zcat reads.fq.gz | virnucpro predict - -o out -p reads --model 300 -d 0,1

    \b
    PREFIX.sequences.tsv      a row for every sequence, in input order
    PREFIX.windows.tsv.gz     a row for every window
    PREFIX.regions.bed        viral regions, also of sequences that are not viral as a whole
    PREFIX.regions.gff3       the same as annotation, with the sequences they are in
    PREFIX.virus.fna          the viral sequences, and the viral regions of mixed ones
    PREFIX.virus_summary.tsv  a row for each of these, the highest score first
    PREFIX.failed.tsv         what could not be used, and why
    PREFIX.run.json           versions, models, settings, inputs, devices, times
    run.log                   every message

    Sequences are cut into windows, open frames are found in six-frame translation, their DNA and proteins are
    embedded, and a classifier scores each frame. A window has the score of its best frame. No viral sequence is
    success, too: exit code 0, tables with headers only.
    """
    from virnucpro.cli.progress import Reporter

    config = PredictConfig(exact=frames == "exact", **settings)
    with Reporter(message_level(quiet, verbose), log_format) as reporter:
        from virnucpro.runs.predict import run_predict

        result = run_predict(config, reporter)
        reporter.predict_summary(result)
    return EXIT_SOME_FAILED if result.failures else 0


predict.help = f"{cleandoc(predict.help or '')}\n\n{_columns()}"
