"""One run of `virnucpro orfs`: windows and their open frames into three FASTA files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from virnucpro._version import __version__
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.cut import Rules, read_sequences, scan_sequences
from virnucpro.input.fasta import write_fasta
from virnucpro.io.tables import FAILED, Table, text_file
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.runs.config import OrfsConfig
from virnucpro.runs.inputs import Inputs
from virnucpro.runs.names import check
from virnucpro.runs.paths import OrfsPaths
from virnucpro.runs.session import Session, session


@dataclass
class OrfsCounts:
    """What came out; silent: windows without an open frame; failed: records, or rests of files, that were not used."""

    records: int = 0
    windows: int = 0
    silent: int = 0
    frames: int = 0
    failed: int = 0


@dataclass
class OrfsResult:
    """How a run ended."""

    paths: OrfsPaths
    counts: OrfsCounts


def run_orfs(config: OrfsConfig, listener: Listener | None = None) -> OrfsResult:
    """Cut the sequences of `config.inputs` and find their open frames; raises VirnucproError."""
    paths, output = OrfsPaths(config.output), config.output
    if not output.name:
        raise UsageError(f"-o {output} is a folder", hint=f"add a name: -o {output / 'sample'}")
    if not paths.folder.is_dir():
        raise OutputError(f"the folder {paths.folder} does not exist", hint=f"mkdir -p {paths.folder}")
    check(paths, paths.results, config.inputs, force=config.force, hint="choose another PREFIX")
    with session("orfs", paths, config.described, force=config.force, listen=listener or unheard) as run:
        with run.stage("reading input"):
            inputs = Inputs(config.inputs, paths)
        identity = {
            "inputs": inputs.sums,
            "window": config.window,
            "frames": "exact" if config.exact else "published",
            "virnucpro_version": __version__,
        }
        if done := run.already_done(paths.results, identity, {}):
            return OrfsResult(paths, OrfsCounts(**done.details["result"]))
        run.begin(paths.results, identity, {}, {}, {"inputs": inputs.described})
        with run.stage("splitting"):
            counts = _publish(config, run, paths, inputs)
        if not counts.records:
            raise InputError("no usable sequence in the input", hint=f"see {paths.failed}")
        run.complete({"result": asdict(counts)})
    return OrfsResult(paths, counts)


def _publish(config: OrfsConfig, run: Session, paths: OrfsPaths, inputs: Inputs) -> OrfsCounts:
    """Write the three results, all or none, and the list of failures, if there are any."""
    with run.publishing((*paths.results, paths.failed), replaced=[paths.failed]) as names:
        counts = _write(config, names, paths, inputs)
        for path in () if counts.records else paths.results:
            del names[path]
        if not counts.failed:
            del names[paths.failed]
        inputs.refuse_changed()
    return counts


def _write(config: OrfsConfig, names: Mapping[Path, Path], paths: OrfsPaths, inputs: Inputs) -> OrfsCounts:
    counts = OrfsCounts()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(names[path], "wb", buffering=1 << 20)) for path in paths.results]
        failures = Table(stack.enter_context(text_file(names[paths.failed])), FAILED)
        windows, nucleotides, proteins = files
        rules = Rules(config.window, config.exact)
        for sequence, scans in scan_sequences(read_sequences(inputs.paths, inputs.shown, rules), rules):
            if sequence.failed:
                failures.row(inputs.names[sequence.input_index], sequence.record, sequence.id, sequence.reason)
            counts.failed += sequence.failed
            counts.records += not sequence.failed
            for window, frames, _ in scans:
                write_fasta(windows, window.id, window.sequence)
                for frame in frames:
                    write_fasta(nucleotides, window.id + frame.name, frame.nucleotide)
                    write_fasta(proteins, window.id + frame.name, frame.protein)
                counts.windows += 1
                counts.silent += not frames
                counts.frames += len(frames)
    return counts
