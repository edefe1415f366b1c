"""`virnucpro devices`."""

from __future__ import annotations

import sys

import rich_click as click

from virnucpro.errors import DeviceError


@click.command()
def devices() -> None:
    """List the devices found, with the dtype and the tokens a batch that each would get.

    Columns: device, model, memory in GiB, dtype by `--dtype auto`, tokens a batch.
    """
    from virnucpro.core.device import find_cpu, find_gpus

    try:
        found = find_gpus()
    except DeviceError as error:
        print(f"virnucpro: {error}", file=sys.stderr)
        found = []
    print("device", "model", "memory_gib", "dtype", "batch_tokens", sep="\t")
    for device in [*found, find_cpu()]:
        tokens = device.optimal_tokens(device.dtype)
        print(device.name, device.model, device.memory_gib, device.dtype, tokens, sep="\t")
