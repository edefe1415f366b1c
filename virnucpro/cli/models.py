"""`virnucpro models`: list, download, verify and import them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import rich_click as click

from virnucpro.cli.options import MODELS_DIR
from virnucpro.errors import ModelError
from virnucpro.models import registry
from virnucpro.models.registry import MODELS, Listed, listed
from virnucpro.models.sets import SETS, SOURCE, listed_set, no_download

VERIFY_COLUMNS = ("name", "file", "status", "expected", "found", "path")
NO_PIN = "no checksum pinned for this file"

NAMES = ", ".join(MODELS)


@click.group(help=f"List, download, verify and import models.\n\nRegistered: {NAMES}.")
def models() -> None:
    """Hold the subcommands."""


@models.command("list")
@MODELS_DIR.of()
def list_models(models_dir: Path | None) -> None:
    """List the registered models and model sets with their locations, tab-separated unless on a terminal.

    A model of kind `set` consists of one or two encoders and a classifier. Its status says whether all of them are on
    this machine; its location is that of the classifier.
    """
    rows = [*(listed(name, models_dir) for name in MODELS), *(listed_set(name, models_dir) for name in SETS)]
    *columns, _ = Listed._fields
    _show(columns, [row[:-1] for row in rows])
    for row in rows:
        if row.problem:
            _say(f"{row.name}: {row.problem}")


@models.command()
@click.argument("name")
@MODELS_DIR.of()
def download(name: str, models_dir: Path | None) -> None:
    """Download the model NAME at its pinned revision, verify it, and print its folder.

    The files go to --models-dir, or else to $VIRNUCPRO_MODELS, or else to the Hub cache.
    """
    if name in SETS:
        raise no_download(name, models_dir)
    model = registry.download(name, models_dir)
    spec = MODELS[name]
    _say(f"{name}: licence {spec.licence}; please cite {spec.citation}")
    click.echo(model.weights.parent)


@models.command()
@click.argument("name", required=False)
@MODELS_DIR.of()
def verify(name: str | None, models_dir: Path | None) -> None:
    """Compare the files of the model NAME (default: every model found) with their pinned checksums.

    The exit code is 4 if a file differs or is missing.
    """
    names = [name] if name else _found_names(models_dir)
    checks = [(each, check) for each in names for check in registry.verify(each, models_dir)]
    rows = [
        [each, check.file, check.status, check.expected or NO_PIN, check.found, str(check.path)]
        for each, check in checks
    ]
    _show(VERIFY_COLUMNS, rows)
    wrong = [f"{each}/{check.file}" for each, check in checks if check.status == "mismatch"]
    if wrong:
        raise ModelError(
            f"not the published file: {', '.join(wrong)}",
            hint="`virnucpro models download NAME`, with the same --models-dir, replaces it",
        )


@models.command(
    "import",
    help="Import the published classifier FILE for the model set 300 or 500, and print its folder.\n\n"
    f"FILE is 300_model.pth or 500_model.pth, from {SOURCE}; no code in it is run.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--window",
    type=click.Choice(["300", "500"]),
    help="Length of its windows; needed unless FILE is called 300_model.pth or 500_model.pth.",
)
@click.option(
    "--models-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of models to write it to; default: ${registry.VARIABLE}.",
)
@click.option("--force", is_flag=True, help="Overwrite a classifier that was imported before.")
def import_model(file: Path, window: str | None, models_dir: Path | None, force: bool) -> None:
    """Import a classifier."""
    from virnucpro.models.published import CITATION, import_published

    folder = import_published(file, int(window) if window else None, models_dir, force)
    _say(f"please cite {CITATION}")
    click.echo(folder)


def _found_names(models_dir: Path | None) -> list[str]:
    """Registered models with files on this machine; the others are reported."""
    status = {name: listed(name, models_dir).status for name in MODELS}
    absent = [name for name in MODELS if status[name] == "not downloaded"]
    for name in absent:
        _say(f"{name}: {status[name]}, not checked")
    return [name for name in MODELS if name not in absent]


def _show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table on a terminal, and a tab-separated one elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        # As `Text`, since rich would read a path with [brackets] as markup.
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(table)


def _say(message: str) -> None:
    click.echo(message, err=True)
