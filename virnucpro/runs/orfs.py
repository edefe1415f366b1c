"""One run of `virnucpro orfs`: windows and their open frames into three FASTA files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from virnucpro._version import __version__
from virnucpro.errors import InputError, OutputError, UsageError
from virnucpro.input.cut import Rules, read_sequences, scan_sequences
from virnucpro.input.fasta import write_fasta
from virnucpro.io.files import BUFFER
from virnucpro.pipeline.events import Listener, unheard
from virnucpro.runs.config import OrfsConfig
from virnucpro.runs.inputs import Failure, Inputs
from virnucpro.runs.names import check
from virnucpro.runs.paths import OrfsPaths
from virnucpro.runs.session import session


@dataclass
class OrfsCounts:
    """Counts of the results; records: those that could be used; silent: windows without an open frame."""

    records: int = 0
    windows: int = 0
    silent: int = 0
    frames: int = 0


@dataclass
class OrfsResult:
    """How a run ended; failures: records, or rests of files, that were not used."""

    paths: OrfsPaths
    counts: OrfsCounts = field(default_factory=OrfsCounts)
    failures: list[Failure] = field(default_factory=list)


def run_orfs(config: OrfsConfig, listener: Listener = unheard) -> OrfsResult:
    """Cut the sequences of `config.inputs` and find their open frames; raises VirnucproError."""
    paths, output = OrfsPaths(config.output), config.output
    if not output.name:
        raise UsageError(f"-o {output} is a folder", hint=f"add a name: -o {output / 'sample'}")
    if not paths.folder.is_dir():
        raise OutputError(f"the folder {paths.folder} does not exist", hint=f"mkdir -p {paths.folder}")
    check(paths, paths.results, config.inputs, force=config.force, hint="choose another PREFIX")
    with session("orfs", paths, config.described, force=config.force, listen=listener) as run:
        with run.stage("reading input"):
            inputs = Inputs(config.inputs, paths)
        identity = {
            "inputs": inputs.sums,
            "window": config.window,
            "frames": "exact" if config.exact else "published",
            "virnucpro_version": __version__,
        }
        if done := run.already_done(paths.results, identity, {}):
            found = done.details["result"]
            return OrfsResult(paths, OrfsCounts(**found["counts"]), [tuple(row) for row in found["failures"]])
        run.begin(paths.results, identity, {}, {}, {"inputs": inputs.described})
        result = OrfsResult(paths)
        with run.stage("splitting"), run.publishing(paths.results, result.failures) as names:
            _write(config, result, names, inputs)
            inputs.refuse_changed()
            for path in () if result.counts.records else paths.results:
                del names[path]
        if not result.counts.records:
            raise InputError("no usable sequence in the input", hint=f"see {paths.failed}")
        run.complete({"result": {"counts": asdict(result.counts), "failures": result.failures}})
    return result


def _write(config: OrfsConfig, result: OrfsResult, names: Mapping[Path, Path], inputs: Inputs) -> None:
    """Write the three files under their temporary names, and count into `result`."""
    counts, failed = result.counts, list[tuple[int, int, str, str]]()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(names[path], "wb", BUFFER)) for path in result.paths.results]
        windows, nucleotides, proteins = files
        rules = Rules(config.window, config.exact)
        for sequence, scans in scan_sequences(read_sequences(inputs.paths, inputs.shown, rules), rules):
            if sequence.failed:
                failed.append(sequence.failure)
            counts.records += not sequence.failed
            for window, frames, _ in scans:
                write_fasta(windows, window.id, window.sequence)
                for frame in frames:
                    write_fasta(nucleotides, window.id + frame.name, frame.nucleotide)
                    write_fasta(proteins, window.id + frame.name, frame.protein)
                counts.windows += 1
                counts.silent += not frames
                counts.frames += len(frames)
    result.failures += inputs.failures(failed)
