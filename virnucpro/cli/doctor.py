"""`virnucpro devices` and `virnucpro doctor`: what this machine has, for reports of problems."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import rich_click as click

from virnucpro._version import __version__
from virnucpro.core.device import Device, find_cpu, find_gpus, version_of
from virnucpro.errors import DeviceError, ModelError, VirnucproError
from virnucpro.runs.config import DEFAULT_MODEL

PACKAGES = ("torch", "numpy", "h5py", "tokenizers", "safetensors", "huggingface-hub")


@click.command()
def devices() -> None:
    """List the devices found, with the dtype and the batch size that each would use.

    Columns: device, model, memory in GiB, dtype chosen by `--dtype auto`, tokens per batch of DNABERT-S.
    """
    from virnucpro.models.registry import resolve
    from virnucpro.pipeline.families import place

    found, problem = _found()
    if problem:
        print(f"virnucpro: {problem}", file=sys.stderr)
    print("device", "model", "memory_gib", "dtype", "batch_tokens", sep="\t")
    model = resolve(DEFAULT_MODEL)
    for device in found:
        tokens = place([device], [model]).budgets[0]
        print(device.name, device.model, device.memory_gib, device.dtype, tokens, sep="\t")


def _found() -> tuple[list[Device], DeviceError | None]:
    """The GPUs and the CPU, and the error if looking for GPUs failed."""
    try:
        return [*find_gpus(), find_cpu()], None
    except DeviceError as error:
        return [find_cpu()], error


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(as_json: bool) -> int:
    """Check this installation: versions, devices, and a small embedding end to end. Exit code 0: all is well."""
    report: dict[str, Any] = {
        "virnucpro": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version_of(name) or "missing" for name in PACKAGES},
    }
    error = _devices(report) or _trial(report)
    print(json.dumps(report, indent=1) if as_json else _text(report))
    return error.exit_code if error else 0


def _devices(report: dict[str, Any]) -> VirnucproError | None:
    from virnucpro.models.linear import prepacking_available

    found, problem = _found()
    if problem:
        report["gpu_problem"] = str(problem)
    report["devices"] = [f"{d.name}: {d.model}, {d.memory_gib} GiB, {d.dtype}" for d in found]
    report["cpu_products"] = "prepacked oneDNN" if prepacking_available() else "plain PyTorch (slower)"
    report["tokenizer"] = _tokenizer()
    return problem


def _tokenizer() -> str:
    """How DNA becomes tokens here."""
    from virnucpro.core.caches import settle_caches

    settle_caches()
    try:
        from virnucpro.models.bpe import is_kept
    except ImportError:
        return "the tokenizers library (slower; pip install 'virnucpro[fast]')"
    return (
        "Numba on GPUs, the tokenizers library on CPUs"
        if is_kept()
        else "Numba on GPUs, compiled at every start (set NUMBA_CACHE_DIR to a writable folder to cache it)"
    )


def _trial(report: dict[str, Any]) -> VirnucproError | None:
    """Embed two sequences with the embedded model."""
    from virnucpro.api import embed

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.fa"
            path.write_text(">a\nACGTACGTTGCA\n>b\nGGGCCCTTTAAANNN\n", encoding="utf-8")
            ids, vectors = embed(path, device="cpu", dtype="fp32", threads=1)
        ok = ids == ["a", "b"] and bool((vectors**2).sum() > 0)
        report["trial"] = "ok" if ok else f"wrong result: ids {ids}"
        return None if ok else ModelError("the trial embedding is wrong")
    except VirnucproError as error:
        report["trial"] = str(error)
        return error


def _text(report: dict[str, Any]) -> str:
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        lines.append(f"{name + ':':<14} {value}")
    return "\n".join(lines)
