"""`virnucpro predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro.cli.options import FORCE, FRAMES, MODELS_DIR, PREFIX, RUN, Option, options, output
from virnucpro.errors import EXIT_SOME_FAILED
from virnucpro.pipeline.events import Listener
from virnucpro.pipeline.launch_local import started_ahead
from virnucpro.runs.config import STDIN, PredictConfig

PANELS = {
    "Output": [
        output("DIR", "Folder for the results; created if it does not exist.", file_okay=False),
        PREFIX,
        FORCE,
        Option(
            "--report/--no-report",
            help="Also write PREFIX.report.html, a page that shows the results (as `virnucpro report DIR` does).",
        ),
        Option(
            "--vanilla-output",
            help="Also write prediction_results.txt and prediction_results_highestscore.csv, as the published tool "
            "does.",
        ),
        Option(
            "--keep-embeddings",
            help="Also write the embeddings of all frames: PREFIX.dna.h5 and PREFIX.protein.h5; with --vanilla-output "
            "also the three .pt files of the published tool.",
        ),
    ],
    "Several samples": [
        Option(
            "--per-sample",
            is_flag=True,
            help="Treat each INPUT as a separate sample, named after its file. Its results go to DIR/SAMPLE and are "
            "the same as those of a separate run; DIR/samples.tsv has one row per sample. Models are loaded once.",
        ),
        Option(
            "--samples",
            "sheet",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="SHEET",
            help="Like --per-sample, but the samples come from a table instead of INPUT: one per line, with its name "
            "and one or more files, separated by tabs.",
        ),
    ],
    "Model and calls": [
        Option(
            "--model",
            help="Model set: mini (reads whole windows) or mini-1 (DNA and protein encoder), both small and included; "
            "500 or 300 (published: DNABERT-S, ESM-2 3B and the classifier for windows of that length); or a folder. "
            "See `virnucpro models list`.",
        ),
        MODELS_DIR,
        Option(
            "--window",
            metavar="BASES",
            help="Longest window; default: the length that the classifier was trained on. Other lengths are refused.",
        ),
        FRAMES,
        Option(
            "--min-score",
            help="Lowest score at which a window, sequence or region is called viral; default: the threshold measured "
            "for the classifier, or 0.5, as published.",
        ),
        Option(
            "--preset",
            type=click.Choice(["conservative", "default", "relaxed"]),
            help="Named threshold instead of --min-score, by its false positive rate: 1%, 2% or 5% of non-viral "
            "sequences of any length with mini; 1%, 5% or 10% of non-viral windows with other sets that were "
            "measured (docs/calls.md).",
        ),
        Option(
            "--min-length",
            metavar="BASES",
            help="Do not score shorter sequences, only list them; default: the shortest length that the classifier was "
            "measured on, or 0.",
        ),
        Option(
            "--viral-share",
            help="Share of the sequences that are viral, used for the expected number of false calls; default: "
            "estimated from the scores.",
        ),
    ],
    **RUN,
}


#: Shown after the options; the help keeps line breaks only between paragraphs.
FILES = "\n\n".join(
    (
        "Results in DIR:",
        "PREFIX.sequences.tsv      one row per sequence, in input order",
        "PREFIX.windows.tsv.gz     one row per window",
        "PREFIX.regions.bed        viral regions, also those of sequences that are not viral as a whole",
        "PREFIX.regions.gff3       the same regions as GFF3 annotation",
        "PREFIX.virus.fna          viral sequences, and viral regions of mixed ones",
        "PREFIX.virus_summary.tsv  one row per record of PREFIX.virus.fna, highest score first",
        "PREFIX.scores.gz          all scores, so that another threshold can be applied in seconds",
        "PREFIX.failed.tsv         what could not be used, and why",
        "PREFIX.run.json           settings, versions, inputs, devices and times",
        "run.log                   all messages",
        "docs/outputs.md explains every file and column.",
    )
)

#: Workers start before the run if the inputs have at least so many bytes.
MUCH = 1_000_000


@click.command(epilog=FILES)
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@options(PANELS, PredictConfig)
def predict(
    quiet: bool,
    log_format: str,
    inputs: tuple[Path, ...],
    per_sample: bool,
    sheet: Path | None,
    **settings: Any,
) -> int:
    """Find viral sequences and viral regions, with scores.

    INPUT: FASTA, FASTQ or unaligned BAM of DNA, plain or compressed (gz, bz2, xz, zst); - is standard input.

    \b
    virnucpro predict contigs.fa -o out
    zcat reads.fq.gz | virnucpro predict - -o out -p reads --model 300 -d 0,1
    virnucpro predict sample1.fa sample2.fa --per-sample -o out

    Each sequence is cut into windows, language models embed the windows or their open reading frames, and a classifier
    scores them. If no sequence is viral, the exit code is still 0, and the tables hold headers only.
    """
    from virnucpro.cli.progress import Reporter, tell_called

    if bool(inputs) == bool(sheet):
        raise click.UsageError("Give either INPUT... or --samples SHEET.")
    with Reporter(quiet, log_format) as reporter:
        if per_sample or sheet:
            return _samples(reporter, inputs, sheet, settings)
        config = PredictConfig(inputs, **settings)
        with started_ahead(config.device if worth_a_start(config) else None) as launch:
            from virnucpro.runs.predict import run_predict

            result = run_predict(config, reporter, launch)
    tell_called(result)
    return EXIT_SOME_FAILED if result.failures else 0


def worth_a_start(config: PredictConfig) -> bool:
    """Whether to start workers before the run: if there is much to do on this host, and nothing is done yet."""
    if config.ray or any(config.output.glob("*.run.json")):
        return False
    if STDIN in config.inputs:
        return True
    return sum(path.stat().st_size for path in config.inputs if path.is_file()) >= MUCH


def _samples(listener: Listener, inputs: tuple[Path, ...], sheet: Path | None, settings: dict[str, Any]) -> int:
    from virnucpro.cli.progress import tell_samples
    from virnucpro.runs.samples import named_by_file, read_sheet, run_samples

    if settings.pop("prefix") is not None:
        raise click.UsageError("--prefix is for a single run; samples are named after their files, or as in SHEET.")
    samples = read_sheet(sheet) if sheet else named_by_file(inputs)
    result = run_samples(samples, settings.pop("output"), settings, listener)
    tell_samples(result)
    return EXIT_SOME_FAILED if result.some_failed else 0
