"""`virnucpro train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro.cli.options import FORCE, MODELS_DIR, RUN, Option, options, output
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.runs.config import TrainConfig

_file = click.Path(path_type=Path, allow_dash=True)


def _sequences(flag: str, which: str) -> Option:
    words = f"{which} sequences; repeatable."
    return Option(flag, f"{flag[2:]}_files", type=_file, multiple=True, required=True, metavar="FILE", help=words)


PANELS = {
    "Data": [
        _sequences("--virus", "Viral"),
        _sequences("--other", "Other"),
        Option(
            "--group-by",
            type=str,
            metavar="record|FILE",
            default="record",
            show_default=True,
            help="What stays together when the data is divided: each record, or groups of related records, given by a "
            "table of two columns, record id and group.",
        ),
        Option("--validation-fraction", help="Share used to choose the epoch and the thresholds."),
        Option("--test-fraction", help="Share used for testing only."),
    ],
    "Output": [
        output("MODEL_DIR", "Folder for the classifier; created if it does not exist.", file_okay=False),
        FORCE,
    ],
    "Model": [
        Option(
            "--model-set",
            help="Set whose encoders are used: mini (reads whole windows), mini-1, 500 or 300 (both with DNABERT-S and "
            "ESM-2 3B), or the folder of a classifier.",
        ),
        MODELS_DIR,
        Option("--window", metavar="BASES", help="Longest window."),
        Option(
            "--dna-only-head",
            help="Also fit a network that scores windows without an open frame from their DNA alone.",
        ),
    ],
    "Fit": [
        Option("--epochs", help="Largest number of epochs."),
        Option("--patience", help="Stop after this many epochs without a lower validation loss."),
        Option("--learning-rate", help="Learning rate of AdamW."),
        Option("--seed", help="Seed for the data split, initial weights and sampling."),
    ],
    **RUN,
}


@click.command()
@options(PANELS, TrainConfig)
def train(
    quiet: bool,
    log_format: str,
    virus_files: tuple[Path, ...],
    other_files: tuple[Path, ...],
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
    from virnucpro.cli.progress import Reporter, tell_trained

    groups = None if group_by == "record" else Path(group_by)
    config = TrainConfig(inputs=(*virus_files, *other_files), virus=len(virus_files), group_by=groups, **settings)
    with Reporter(quiet, log_format) as reporter:
        from virnucpro.runs.train import run_train

        result = run_train(config, reporter)
    tell_trained(result)
    return EXIT_SOME_FAILED if result.failures else 0
