"""Find the devices of this machine and what each of them supports.

The parent of a run never initialises CUDA (DESIGN rule 4): `find_gpus` asks a short-lived process, which asks the
driver, since PyTorch takes seconds to import. Whoever runs on a device asks through `describe` and `supports_bf16`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """A device: `name` is PyTorch's ("cpu", "cuda:0"), `model` the manufacturer's; `host`: empty for this one."""

    name: str
    model: str
    memory_gib: float
    bf16: bool
    fp8: bool = False
    host: str = ""

    @property
    def label(self) -> str:
        """The name shown to people: HOST/NAME on another host."""
        return f"{self.host}/{self.name}" if self.host else self.name

    @property
    def type(self) -> str:
        """ "cpu" or "cuda"."""
        return self.name.partition(":")[0]

    @property
    def dtype(self) -> str:
        """What `--dtype auto` means here."""
        return "bf16" if self.bf16 else "fp32"


#: The lowest compute capability of a GPU that multiplies these natively.
BF16, FP8 = (8, 0), (8, 9)


def supports_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies BF16 natively.

    GPUs: compute capability 8 or more. CPUs: AVX512-BF16 or AMX. Initialises CUDA: call it where the device is used.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(device: torch.device) -> Device:
    """Describe a device, a CPU with the memory of its machine. Initialises CUDA for a GPU: call it where it is used."""
    import torch

    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        capability = found.major, found.minor
        return _device(str(device), found.name, found.total_memory, capability >= BF16, capability >= FP8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _device(str(device), _cpu_model(), memory, supports_bf16(device))


def _device(name: str, model: str, memory: int, bf16: bool, fp8: bool = False) -> Device:
    return Device(name, model, round(memory / 2**30, 1), bf16, fp8)


def find_cpu() -> Device:
    """This machine's CPU."""
    import torch

    return describe(torch.device("cpu"))


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def find_gpus() -> list[Device]:
    """List the visible GPUs; a separate process looks for them, so that this one does not initialise CUDA.

    A PyTorch that was built without CUDA sees none, so nothing is asked then.
    """
    built = torch_build()
    if built["cuda"] is None and built["hip"] is None:
        return []
    return [*_visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))]


@lru_cache
def _visible_gpus(_visible: str | None) -> tuple[Device, ...]:
    """The GPUs found while the variable has this value; they are looked for only once."""
    # It finds modules where this process finds them: not in the current folder, which -m and -c would put first.
    probe = f"import sys; sys.path[:] = {sys.path!r}; from virnucpro.core.device import print_gpus; print_gpus()"
    command = [sys.executable, "-c", probe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return tuple(Device(**entry) for entry in json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = getattr(error, "stderr", None) or error
        raise DeviceError(
            f"looking for GPUs failed: {str(reason).strip()[-500:]}",
            hint="run with --device cpu, or check the driver with `virnucpro doctor`",
        ) from error


def torch_build() -> dict[str, Any]:
    """What PyTorch says of its build in `torch/version.py`: `__version__`, and those of `cuda` and `hip` or None.

    The file is run by itself: all of PyTorch would take seconds.
    """
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def print_gpus() -> None:
    """What `find_gpus` runs in a process of its own."""
    built = torch_build()["cuda"]
    found = _ask_pytorch() if built is None else _ask_driver(built)
    print(json.dumps([asdict(device) for device in found]))


def _ask_pytorch() -> list[Device]:
    import torch

    return [describe(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


#: What CUDA's driver says where there is no GPU, or where each is hidden by CUDA_VISIBLE_DEVICES.
_NO_GPU = 100
#: The driver's numbers for the two parts of a compute capability.
_MAJOR, _MINOR = 75, 76


def _ask_driver(built: str) -> list[Device]:
    """The GPUs as CUDA's driver numbers them for this process, which PyTorch takes over. Raises RuntimeError.

    built: the version of CUDA that PyTorch was built for; a driver supports its own major version and older ones.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    code = driver.cuInit(0)
    if code == _NO_GPU:
        return []
    if code:
        raise RuntimeError(f"the CUDA driver failed to start: error {code}")
    version = ctypes.c_int()
    _asked(driver.cuDriverGetVersion, ctypes.byref(version))
    if version.value // 1000 < int(built.partition(".")[0]):
        raise RuntimeError(f"the CUDA driver is too old for this PyTorch, which was built for CUDA {built}")
    count = ctypes.c_int()
    _asked(driver.cuDeviceGetCount, ctypes.byref(count))
    return [_of_driver(driver, number) for number in range(count.value)]


def _of_driver(driver: ctypes.CDLL, number: int) -> Device:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    _asked(driver.cuDeviceGet, ctypes.byref(device), number)
    _asked(driver.cuDeviceGetName, name, len(name), device)
    _asked(driver.cuDeviceTotalMem_v2, ctypes.byref(memory), device)
    capability = _attribute(driver, device, _MAJOR), _attribute(driver, device, _MINOR)
    return _device(f"cuda:{number}", name.value.decode(), memory.value, capability >= BF16, capability >= FP8)


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _asked(driver.cuDeviceGetAttribute, ctypes.byref(value), which, device)
    return value.value


def _asked(function: Any, *arguments: Any) -> None:
    if code := function(*arguments):
        raise RuntimeError(f"the CUDA driver failed: {function.__name__} returned error {code}")


def available_threads() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select_devices(spec: str) -> list[Device]:
    """The devices that a `--device` value names, one entry per worker.

    `auto`: all visible GPUs, else the CPU. `cpu`, `cuda` (all visible GPUs), or a list such as `0,2`, `cuda:1`,
    `cpu,cpu`: a repeated entry means several workers there.
    """
    entries = [entry.strip().lower() for entry in spec.split(",")]
    if entries == ["cpu"] * len(entries):
        return [find_cpu()] * len(entries)
    if entries in (["auto"], ["cuda"]):
        gpus = find_gpus()
        if not gpus and entries == ["cuda"]:
            raise DeviceError(f"no GPU is visible{_limited()}", hint="use --device cpu, or see `virnucpro doctor`")
        return gpus or [find_cpu()]
    gpus = find_gpus()
    return [_select(entry, gpus) if entry != "cpu" else find_cpu() for entry in entries]


def _select(entry: str, gpus: Sequence[Device]) -> Device:
    index = entry.removeprefix("cuda:")
    if not index.isdigit():
        raise UsageError(f"--device: {entry!r} is not a device", hint="use auto, cpu, cuda, or GPU numbers such as 0,2")
    if int(index) >= len(gpus):
        seen = f"GPUs 0 to {len(gpus) - 1} are" if len(gpus) > 1 else "GPU 0 is" if gpus else "no GPU is"
        raise DeviceError(
            f"--device: there is no GPU {index}; {seen} visible{_limited()}", hint="see `virnucpro devices`"
        )
    return gpus[int(index)]


def _limited() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f", and CUDA_VISIBLE_DEVICES is {value!r}"


def select_dtype(dtype: str, devices: Sequence[Device]) -> str:
    """The one dtype for all devices of a run; `auto` means bf16 if every device supports it."""
    if dtype == "fp16" and any(device.type == "cpu" for device in devices):
        raise DeviceError("fp16 is for GPUs only", hint="use --dtype fp32 or bf16 on a CPU")
    if dtype == "fp8" and not all(device.fp8 for device in devices):
        raise DeviceError(
            "fp8 needs GPUs of compute capability 8.9 or more, such as L4, L40S, H100", hint="use --dtype bf16"
        )
    if dtype != "auto":
        return dtype
    return "bf16" if all(device.bf16 for device in devices) else "fp32"
