"""`virnucpro train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro.cli.options import GROUPS, OutputPath, force_option, models_dir_option, run_options
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import DEFAULT_FRAMES_PER_FILE, DEFAULT_MODEL_SET, TrainConfig

_file = click.Path(path_type=Path, allow_dash=True)
_fraction = click.FloatRange(0, 0.5, min_open=True)

click.rich_click.OPTION_GROUPS["virnucpro train"] = [
    {"name": "Data", "options": ["--virus", "--other", "--group-by", "--validation-fraction", "--test-fraction"]},
    {"name": "Output", "options": ["--output", "--force"]},
    {"name": "Model", "options": ["--model-set", "--models-dir", "--window", "--dna-only-head"]},
    {"name": "Fit", "options": ["--epochs", "--patience", "--learning-rate", "--seed"]},
    *GROUPS,
]


@click.command()
@click.option("--virus", type=_file, multiple=True, required=True, metavar="FILE", help="Viral sequences; repeatable.")
@click.option("--other", type=_file, multiple=True, required=True, metavar="FILE", help="Other sequences; repeatable.")
@click.option(
    "--group-by",
    metavar="record|FILE",
    default="record",
    show_default=True,
    help="What stays together when the data is divided: each record, or groups of related records, given by a table of "
    "two columns, record id and group.",
)
@click.option(
    "--validation-fraction",
    type=_fraction,
    default=0.1,
    show_default=True,
    help="Share used to choose the epoch and the thresholds.",
)
@click.option("--test-fraction", type=_fraction, default=0.1, show_default=True, help="Share used for testing only.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(file_okay=False),
    metavar="MODEL_DIR",
    help="Folder for the classifier; created if it does not exist.",
)
@force_option
@click.option(
    "--model-set",
    "model",
    default=DEFAULT_MODEL_SET,
    show_default=True,
    help="Set whose encoders are used: mini (reads whole windows), mini-1, 500 or 300 (both with DNABERT-S and "
    "ESM-2 3B), or the folder of a classifier.",
)
@models_dir_option
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="BASES",
    default=500,
    show_default=True,
    help="Longest window.",
)
@click.option(
    "--dna-only-head",
    "dna_only",
    is_flag=True,
    help="Also fit a network that scores windows without an open frame from their DNA alone.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=200, show_default=True, help="Largest number of epochs.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Stop after this many epochs without a lower validation loss.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Of AdamW.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of division, initial weights and sampling.")
@run_options(DEFAULT_FRAMES_PER_FILE)
def train(
    quiet: bool,
    log_format: str,
    virus: tuple[Path, ...],
    other: tuple[Path, ...],
    group_by: str,
    **settings: Any,
) -> int:
    """Train a classifier on your own sequences, on top of frozen encoders.

    \b
    virnucpro train --virus viruses.fa --other bacteria.fa --other host.fa.gz -o my_model
    virnucpro predict contigs.fa -o out --model my_model

    \b
    MODEL_DIR/model.safetensors, model.json   the classifier and its card
    MODEL_DIR/MODEL_CARD.md, curves.svg       its accuracy on sequences that it has not seen
    MODEL_DIR/train.run.json, .log, .failed.tsv

    Each record, or group of records, goes as a whole into the training, validation or test part. The best epoch is
    kept, scores are calibrated, and thresholds for 1%, 5% and 10% false positives are measured on the validation part
    and written into the card. An interrupted run continues. Needs: pip install 'virnucpro[train]'.
    """
    from virnucpro.cli.progress import Reporter

    groups = None if group_by == "record" else Path(group_by)
    config = TrainConfig(inputs=(*virus, *other), virus=len(virus), group_by=groups, **settings)
    with Reporter(quiet, log_format) as reporter:
        from virnucpro.runs.train import run_train

        result = run_train(config, reporter)
        reporter.train_summary(result)
    return EXIT_SOME_FAILED if result.failures else 0
