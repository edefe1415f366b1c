"""`virnucpro orfs`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import rich_click as click

from virnucpro.core.config import STDIN
from virnucpro.core.paths import check_input
from virnucpro.errors import EXIT_SOME_FAILED, InputError, OutputError, UsageError
from virnucpro.io.tables import FAILED, Table, text_file
from virnucpro.sequence.windows import DEFAULT_SIZE, Window, iter_windows

if TYPE_CHECKING:
    from virnucpro.io.fasta import Record

SUFFIXES = (".windows.fa", ".orfs.fna", ".orfs.faa")
FAILED_SUFFIX = ".failed.tsv"

# Opened by its name, standard input is read as it comes, like any other pipe.
_STDIN_DEVICE = Path("/dev/stdin")

click.rich_click.OPTION_GROUPS["virnucpro orfs"] = [
    {"name": "Output", "options": ["--output", "--force"]},
    {"name": "Rules", "options": ["--window", "--frames"]},
    {"name": "Messages", "options": ["--quiet", "--help"]},
]


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    "prefix",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PREFIX",
    help="Beginning of the results' names; its folder must exist.",
)
@click.option("--force", is_flag=True, help="Overwrite existing results.")
@click.option(
    "--window",
    "size",
    type=click.IntRange(min=1),
    metavar="BASES",
    default=DEFAULT_SIZE,
    show_default=True,
    help="Most bases in a window. The published classifiers were trained on 300 and on 500.",
)
@click.option(
    "--frames",
    type=click.Choice(["published", "exact"]),
    default="published",
    show_default=True,
    help="published: a frame's nucleotides go one base beyond its last codon where there is one, as in the data that "
    "the published classifiers were trained on. exact: without that base.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def orfs(inputs: tuple[Path, ...], prefix: Path, force: bool, size: int, frames: str, quiet: bool) -> int:
    """Cut DNA into windows and find their open frames, by the published rules, in input order.

    INPUT: FASTA, FASTQ or unaligned BAM, plain or compressed (gz, bz2, xz, zst); - is standard input.

    \b
    virnucpro orfs contigs.fa -o contigs
    zcat reads.fq.gz | virnucpro orfs - -o reads --window 300

    \b
    PREFIX.windows.fa   windows: records cut evenly, the whole record covered
    PREFIX.orfs.fna     nucleotides of their open frames
    PREFIX.orfs.faa     the proteins
    PREFIX.failed.tsv   records that cannot be used, and why; only if there are any

    A window's id is the record's with _chunk_1, _chunk_2 … A frame's is its window's with F1, F2 or F3 (as it stands,
    from the 1st, 2nd or 3rd base) or R1, R2 or R3 (on the reverse complement): contig7_chunk_2R1.

    A frame is open if it holds no stop codon from end to end; it needs no start codon and no length. A codon with a
    letter other than A, C, G and T is left out of the protein. Before all that, lower case becomes upper case, and U
    becomes T (the published tool leaves out codons with U).
    """
    run = _Run(inputs, prefix, size, frames == "exact", force)
    run.check()
    run.run()
    if not quiet:
        click.echo(run.summary(), err=True)
    return EXIT_SOME_FAILED if run.failed else 0


@dataclass
class _Run:
    """Settings, work and counts of one call."""

    inputs: tuple[Path, ...]
    prefix: Path
    size: int
    exact: bool
    force: bool
    records: int = 0
    windows: int = 0
    silent: int = 0
    frames: int = 0
    failed: int = 0

    def path(self, suffix: str) -> Path:
        """One of the results."""
        return self.prefix.with_name(self.prefix.name + suffix)

    def check(self) -> None:
        """Raise what can be known before anything is read."""
        if not self.prefix.name:
            raise UsageError(f"-o {self.prefix} is a folder", hint=f"add a name: -o {self.prefix / 'sample'}")
        folder = self.prefix.parent
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist", hint=f"mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"the folder {folder} cannot be written", hint="choose another place with -o")
        for path in self.inputs:
            check_input(path)
        for path in map(self.path, (*SUFFIXES, FAILED_SUFFIX)):
            self._check_output(path)

    def _check_output(self, path: Path) -> None:
        if path.resolve() in {other.resolve() for other in self.inputs}:
            raise UsageError(f"the result {path} is also an input", hint="choose another PREFIX")
        if path.is_dir():
            raise OutputError(f"{path} is a folder", hint="choose another PREFIX")
        if path.exists() and not self.force and path != self.path(FAILED_SUFFIX):
            raise OutputError(f"{path} exists", hint="choose another PREFIX, or overwrite with --force")

    def run(self) -> None:
        """Write the three results, all or none, and the list of failures in any case."""
        with _written_together([self.path(suffix) for suffix in SUFFIXES]) as files:
            with tempfile.TemporaryFile(dir=self.prefix.parent) as failures:
                with text_file(failures.fileno()) as text:
                    self._write(files, Table(text, FAILED))
                self._publish(failures)
            if not self.records:
                raise InputError("no usable sequence in the input", hint=f"see {self.path(FAILED_SUFFIX)}")

    def _write(self, files: list[BinaryIO], failures: Table) -> None:
        from virnucpro.io.fasta import write_fasta
        from virnucpro.sequence.frames import scan_windows

        windows, nucleotides, proteins = files
        for window, frames, _ in scan_windows(self._windows(failures), exact=self.exact):
            write_fasta(windows, window.id, window.sequence)
            for frame in frames:
                write_fasta(nucleotides, window.id + frame.name, frame.nucleotide)
                write_fasta(proteins, window.id + frame.name, frame.protein)
            self.windows += 1
            self.silent += not frames
            self.frames += len(frames)

    def _windows(self, failures: Table) -> Iterator[Window]:
        for record in self._usable(failures):
            self.records += 1
            yield from iter_windows(record.id, record.sequence, self.size)

    def _usable(self, failures: Table) -> Iterator[Record]:
        """The records of all inputs; those that cannot be used go to `failures`."""
        from virnucpro.io.fasta import BadRecord, read_records

        for name in self.inputs:
            path = _STDIN_DEVICE if name == STDIN else name
            try:
                for record in read_records(path):
                    if isinstance(record, BadRecord):
                        self.failed += 1
                        failures.row(name, record.number, record.id, _named(record.reason))
                    else:
                        yield record
            except InputError as error:
                self.failed += 1
                failures.row(name, 0, "", _named(str(error)))

    def _publish(self, failures: IO[bytes]) -> None:
        """The table of failures under its name; without failures there is none, nor an older one."""
        import shutil

        from virnucpro.io.store import atomic_path

        path = self.path(FAILED_SUFFIX)
        path.unlink(missing_ok=True)
        if not self.failed:
            return
        failures.seek(0)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            shutil.copyfileobj(failures, file)

    def summary(self) -> str:
        """One line on what was done."""
        line = (
            f"{self.records} records, {self.windows} windows ({self.silent} without an open frame), "
            f"{self.frames} frames in {self.prefix}.*"
        )
        return f"{line}; {self.failed} failed, see {self.path(FAILED_SUFFIX)}" if self.failed else line


@contextlib.contextmanager
def _written_together(paths: list[Path]) -> Iterator[list[BinaryIO]]:
    """Files that get their names only after the last byte of the last one is on the disk."""
    from virnucpro.io.store import atomic_paths

    with atomic_paths(paths) as names, contextlib.ExitStack() as stack:
        yield [stack.enter_context(open(path, "wb", buffering=1 << 20)) for path in names.values()]


def _named(reason: str) -> str:
    return reason.replace(str(_STDIN_DEVICE), "standard input")
