"""Devices, and the dtype and batch size for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from virnucpro.core import device as devices
from virnucpro.core.device import Device, select_devices, select_dtype, supports_bf16
from virnucpro.errors import DeviceError, UsageError
from virnucpro.models.registry import resolve
from virnucpro.pipeline.families import place
from virnucpro.pipeline.parallel_codon import CodonWorker
from virnucpro.pipeline.parallel_dnabert import DNABERTWorker
from virnucpro.pipeline.parallel_esm import ESMWorker

OLD, NEW = Device("cuda:0", "old", 16.0, bf16=False), Device("cuda:1", "new", 141.0, bf16=True)
CPU = Device("cpu", "cpu", 16.0, bf16=True)


@pytest.mark.parametrize(
    ("kind", "dtype", "gib", "tokens"),
    [
        ("cpu", "fp32", 500, 2048),
        ("cpu", "bf16", 500, 3072),
        ("cuda", "fp32", 2, 2048),
        ("cuda", "bf16", 2, 3072),
        ("cuda", "bf16", 16, 8192),
        ("cuda", "bf16", 141, 32768),
    ],
)
def test_budget_grows_with_memory(kind: str, dtype: str, gib: float, tokens: int) -> None:
    device = Device(kind, "", gib, bf16=False)
    assert DNABERTWorker(resolve("dnabert-mini"), dtype).get_optimal_batch_size(device) == tokens
    assert ESMWorker(resolve("esm2-mini"), dtype).get_optimal_batch_size(device) == min(tokens, 8192)


@pytest.mark.parametrize(("kind", "gib", "tokens"), [("cpu", 500, 8704), ("cuda", 2, 32768), ("cuda", 80, 524288)])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_codon_network_takes_more_tokens(kind: str, dtype: str, gib: float, tokens: int) -> None:
    assert CodonWorker(resolve("codon-mini"), dtype).get_optimal_batch_size(Device(kind, "", gib, True)) == tokens


def test_the_smallest_device_decides() -> None:
    models = [resolve("dnabert-mini"), resolve("esm2-mini")]
    found = place([NEW, OLD], models)
    assert (found.dtype, found.budgets) == ("fp32", (8192, 8192))
    assert place([NEW], models).budgets == (32768, 8192)
    assert place([NEW, OLD], models, "bf16", 300).budgets == (512, 512)


def test_one_dtype_for_all_devices() -> None:
    assert select_dtype("auto", [NEW]) == "bf16"
    assert select_dtype("auto", [NEW, OLD]) == "fp32"
    assert select_dtype("fp32", [NEW]) == "fp32"
    assert select_dtype("fp16", [OLD]) == "fp16"
    with pytest.raises(DeviceError, match="fp16"):
        select_dtype("fp16", [CPU])


def test_cpu_may_be_given_several_times() -> None:
    assert [device.name for device in select_devices("cpu, cpu,CPU")] == ["cpu"] * 3


@pytest.mark.parametrize("entry", ["gpu", "GPU-8d2b0c0a-5cf5", "MIG-4f8c", "cuda:-1", "", "0,", "1.5"])
def test_nonsense_is_a_usage_error(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: [OLD, NEW])
    with pytest.raises(UsageError, match="is not a device"):
        select_devices(entry)


def test_gpus_are_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: [OLD, NEW])
    assert select_devices("auto") == select_devices("cuda") == select_devices("0,1") == [OLD, NEW]
    assert select_devices("CUDA:1, 0,1") == [NEW, OLD, NEW]


@pytest.mark.parametrize("value", ["", "-1", "GPU-8d2b0c0a", "MIG-4f8c"])
def test_what_hides_gpus_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    for spec in ("cuda", "0"):
        with pytest.raises(DeviceError, match=f"CUDA_VISIBLE_DEVICES is '{value}'"):
            select_devices(spec)
    assert [device.name for device in select_devices("auto")] == ["cpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpus_are_named() -> None:
    assert [device.name for device in select_devices("auto")] == ["cpu"]
    with pytest.raises(DeviceError, match="no GPU is visible"):
        select_devices("cuda")
    with pytest.raises(DeviceError, match="no GPU 3"):
        select_devices("cpu,3")


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_by_compute_capability(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool) -> None:
    """Only the driver's answer is replaced here, since this machine may have no GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert supports_bf16(torch.device("cuda:0")) is native


def test_a_crash_of_the_probe_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        devices, "torch_build", lambda: {"cuda": "13.0", "hip": None}
    )  # otherwise the driver is not asked
    monkeypatch.setattr(sys, "executable", "/bin/false")
    devices._visible_gpus.cache_clear()
    with pytest.raises(DeviceError, match="looking for GPUs failed"):
        devices.find_gpus()


def test_files_in_the_current_folder_do_not_matter(tmp_path: Path) -> None:
    """NumPy imports `random`. PyTorch says here that it was built for CUDA, so that the driver is asked."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "elsewhere").mkdir()
    program = tmp_path / "elsewhere" / "program.py"
    program.write_text(
        "from virnucpro.core import device\n"
        "device.torch_build = lambda: {'cuda': '12.4', 'hip': None}\n"
        "print(len(device.find_gpus()))\n"
    )
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{torch.cuda.device_count()}\n", "")


#: A driver with two GPUs, one of compute capability 8.0 and one of 9.0.
DRIVER = """
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { return getenv("CODE") ? atoi(getenv("CODE")) : 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = 10 + number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, device == 10 ? "old" : "new"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device == 10 ? 16 : 141) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 75 ? (device == 10 ? 8 : 9) : which == 76 ? 0 : -1;
    return 0;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library that answers like CUDA's driver."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    return folder


def ask(driver: Path, built: str = "12.4", **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask the driver in a process that loads this library instead of an installed one."""
    code = "import sys; from virnucpro.core.device import _ask_driver"
    code += f"; print(_ask_driver({built!r}), 'torch' in sys.modules)"
    values = {**os.environ, "LD_LIBRARY_PATH": str(driver), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=values)


def test_the_driver_is_asked_without_pytorch(driver: Path) -> None:
    old = Device("cuda:0", "old", 16.0, bf16=True, fp8=False)
    new = Device("cuda:1", "new", 141.0, bf16=True, fp8=True)
    assert ask(driver).stdout == f"{[old, new]} False\n"


def test_a_driver_that_sees_no_gpu(driver: Path) -> None:
    assert ask(driver, CODE="100").stdout == "[] False\n"


def test_a_driver_that_does_not_start(driver: Path) -> None:
    assert "the CUDA driver failed to start: error 804" in ask(driver, CODE="804").stderr


def test_a_driver_that_is_too_old_for_pytorch(driver: Path) -> None:
    assert ask(driver, built="12.9").returncode == 0
    assert "too old for this PyTorch, which was built for CUDA 13.0" in ask(driver, built="13.0").stderr


def test_the_build_of_pytorch_is_known_without_it() -> None:
    assert devices.torch_build()["__version__"] == torch.__version__
    assert devices.torch_build()["cuda"] == torch.version.cuda


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, virnucpro, virnucpro.cli; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
