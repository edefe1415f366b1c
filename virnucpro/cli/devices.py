"""`virnucpro devices`."""

from __future__ import annotations

import sys

import rich_click as click

from virnucpro.errors import DeviceError
from virnucpro.runs.config import DEFAULT_MODEL


@click.command()
def devices() -> None:
    """List the devices found, with the dtype and the batch size that each would use.

    Columns: device, model, memory in GiB, dtype chosen by `--dtype auto`, tokens per batch of DNABERT-S.
    """
    from virnucpro.core.device import find_cpu, find_gpus
    from virnucpro.models.registry import resolve
    from virnucpro.pipeline.families import place

    try:
        found = find_gpus()
    except DeviceError as error:
        print(f"virnucpro: {error}", file=sys.stderr)
        found = []
    print("device", "model", "memory_gib", "dtype", "batch_tokens", sep="\t")
    model = resolve(DEFAULT_MODEL)
    for device in [*found, find_cpu()]:
        tokens = place([device], [model]).budgets[0]
        print(device.name, device.model, device.memory_gib, device.dtype, tokens, sep="\t")
