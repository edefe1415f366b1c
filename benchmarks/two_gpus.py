"""What only a machine with two GPUs can show of faults: `python -m benchmarks.two_gpus`, a line PASS or FAIL a check.

The checks run side by side, each in a process of its own; names of checks as arguments run these alone. Needs, besides
this repository, PyTorch with CUDA, h5py, tokenizers, safetensors and pytest; the model is that of the package.
"""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import even_sizes, random_sequences, write_files
from virnucpro.models.attention import PackedLayout
from virnucpro.pipeline.base_worker import WorkerOptions
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker, process_dnabert_files_worker
from virnucpro.pipeline.stream import Encoder
from virnucpro.pipeline.work_queue import WorkQueue

GPUS = ["cuda:0", "cuda:1"]
FILES, SEQUENCES, BUDGET = 40, 8000, 4096
LIMIT_SECONDS = 220


class Asserting(DNABERTWorker):
    """Its third batch reads beyond the end of a tensor on the GPU, whose context is lost by that."""

    def load(self, device: torch.device, dtype: str, budget: int) -> Encoder:
        """As always, but for the third batch."""
        encoder, batches = super().load(device, dtype, budget), itertools.count(1)

        def embed(tokens: torch.Tensor, layout: PackedLayout, used: int) -> torch.Tensor:
            if next(batches) == 3:
                _ = torch.zeros(1, device=tokens.device)[torch.full((1,), 7, device=tokens.device)]
            return encoder.embed(tokens, layout, used)

        return encoder._replace(embed=embed)


def asserting(file_subset: Iterable[Path], device_id: str, batch_size: int, output_dir: Path, **kwargs: Any) -> None:
    """The engine's worker; so many of those on a device fail as `failing` says, the first ones."""
    failing: Mapping[str, int] = kwargs.pop("failing")
    before = len(list(output_dir.glob(f".{device_id}.*")))
    (output_dir / f".{device_id}.{before}").touch()
    kind = Asserting if before < failing[device_id] else DNABERTWorker
    options = WorkerOptions.from_kwargs(kwargs)
    options.begin_logging(device_id)
    files = _together(file_subset, list(failing), output_dir)
    kind(options.local_model, options.dtype).process_files_worker(files, device_id, batch_size, output_dir, **kwargs)


def _together(files: Iterable[Path], devices: list[str], folder: Path) -> Iterator[Path]:
    """The files, once a worker on each device has been started."""
    while not all(list(folder.glob(f".{device}.*")) for device in devices):
        time.sleep(0.01)
    yield from files


class Logged(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """One message."""
        self.text += f"{record.getMessage()}\n"


def queue(folder: Path, failing: Mapping[str, int]) -> tuple[dict[str, bytes], str]:
    """A run over the work files on the devices of `failing`: the bytes of each result, and what was logged."""
    handler, log = Logged(), logging.getLogger("virnucpro")
    log.addHandler(handler)
    folder.mkdir()
    options = {"dtype": "bf16", "failing": failing}
    end = WorkQueue(asserting, list(failing), BUDGET, folder, work_files(folder.parent), options).run()
    log.removeHandler(handler)
    assert end.failed == {}, end.failed
    return {path.name: path.read_bytes() for path in end.done.values()}, handler.text


def survives(folder: Path, failing: Mapping[str, int]) -> str:
    """Compare a run in which workers meet a sticky error with an undisturbed one; what it logged."""
    expected, _ = queue(folder / "undisturbed", {GPUS[0]: 0})
    found, log = queue(folder / "disturbed", failing)
    assert len(found) == FILES
    assert found == expected, "the bytes differ"
    ends = [line for line in log.splitlines() if "crashed" in line or "died" in line]
    assert ends, log
    print(f"{len(ends)} workers lost, {len(found)} files done, the bytes are equal")
    return log


def work_files(folder: Path) -> dict[Path, int]:
    """The same files each time."""
    if not (folder / "in").exists():
        write_files(folder / "in", random_sequences(SEQUENCES, seed=1), even_sizes(SEQUENCES, FILES))
    return dict.fromkeys(sorted((folder / "in").iterdir()), SEQUENCES // FILES)


# The checks. Each fails by an exception.


def check_identity_tests(_folder: Path) -> None:
    """tests/test_identity.py: every GPU gives the same bytes."""
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_identity.py", "-k", "every_gpu"])


def check_one_gpu_after_the_other_in_one_process(folder: Path) -> None:
    """Each records its pass, on a stream of its own."""
    files = list(work_files(folder))[:4]
    found: list[list[bytes]] = []
    for device in (0, 1, 0):
        out = folder / f"out{len(found)}"
        processed, failed = process_dnabert_files_worker(files, device, BUDGET, out, dtype="bf16")
        assert failed == [], failed
        found.append([path.read_bytes() for path in processed])
    assert found[0] == found[1] == found[2], "the bytes differ"


def check_sticky_error_under_one_worker(folder: Path) -> None:
    """Its process ends, its files are done by others."""
    assert f"the worker on {GPUS[1]} " in survives(folder, {GPUS[0]: 0, GPUS[1]: 1})


def check_sticky_error_under_every_worker_of_a_gpu(folder: Path) -> None:
    """The other GPU does all."""
    assert f"the worker on {GPUS[1]} " in survives(folder, {GPUS[0]: 0, GPUS[1]: FILES})


def check_sticky_error_on_the_only_gpu(folder: Path) -> None:
    """The run goes on: the worker is a process of its own, and another takes its place."""
    assert f"the worker on {GPUS[0]} " in survives(folder, {GPUS[0]: 1})


def check_visible_devices(_folder: Path) -> None:
    """CUDA_VISIBLE_DEVICES: numbers, none, UUIDs, in whole and in part, MIG ids that are not there."""
    count = "from virnucpro.core.device import find_gpus; print(len(find_gpus()))"
    listed = subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True)
    uuids = listed.stdout.split()
    wanted = {
        "": 0,
        "-1": 0,
        "0": 1,
        "1": 1,
        "0,1": 2,
        "1,0": 2,
        "0,-1,1": 1,
        "MIG-00000000-0000-0000-0000-000000000000": 0,
    }
    wanted |= {uuids[1]: 1, uuids[1][:12]: 1, ",".join(uuids): len(uuids)} if len(uuids) > 1 else {}
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = list(pool.map(lambda value: run([sys.executable, "-c", count], CUDA_VISIBLE_DEVICES=value), wanted))
    differing = {value: (text, n) for (value, n), text in zip(wanted.items(), found, strict=True) if int(text) != n}
    assert not differing, f"value: (found, wanted): {differing}"
    print(f"{len(wanted)} values")


def run(command: list[str], **environment: str) -> str:
    """What a command says; an error that shows it if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


CHECKS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("check_"): value for name, value in dict(globals()).items() if name.startswith("check_")
}


def apart(name: str) -> bool:
    """Run one check in a process of its own, and print how it ended."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.two_gpus", "--here", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        passed, said = done.returncode == 0, done.stdout.strip() if done.returncode == 0 else done.stderr[-3000:]
    except subprocess.TimeoutExpired:
        passed, said = False, f"not at its end after {LIMIT_SECONDS} s"
    print(f"{'PASS' if passed else 'FAIL'} {name} ({time.perf_counter() - began:.0f} s) {said}", flush=True)
    return passed


def main() -> None:
    """All checks, or those that are named."""
    if sys.argv[1:2] == ["--here"]:
        with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
            CHECKS[sys.argv[2]](Path(folder))
        return
    names = sys.argv[1:] or list(CHECKS)
    with ThreadPoolExecutor(len(names)) as pool:
        sys.exit(0 if all(list(pool.map(apart, names))) else 1)


if __name__ == "__main__":
    main()
