"""Which engine runs a network, and which formats shorter than float32 the hardware computes in by itself."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.errors import ConfigError, EngineError

ENGINES = ("auto", "tensorflow", "openvino")
PRECISIONS = ("float32", "float16", "bfloat16")
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


def choose_engine(
    engine: str,
    *,
    device: str,
    precision: str,
    native: tuple[str, ...],
    openvino_here: bool,
    n_driver_gpus: int,
    n_tensorflow_gpus: Callable[[], int],
) -> str:
    """Return "tensorflow" or "openvino".

    Parameters
    ----------
    engine : {"auto", "tensorflow", "openvino"}
        What was asked for. "auto" is TensorFlow where a GPU is meant or usable, and OpenVINO on CPUs, unless
        it is not installed or cannot compute in the format asked for.
    device : str
        What was asked for: "auto", "cpu", or something with "gpu".
    precision : str
        Format of the arithmetic.
    native : tuple of str
        Formats beside float32 that this CPU computes in by itself.
    openvino_here : bool
        Whether OpenVINO is installed.
    n_driver_gpus : int
        GPUs that CUDA's driver finds.
    n_tensorflow_gpus : callable
        Returns how many of them TensorFlow can use; asked only where that decides, since TensorFlow takes
        seconds to import.

    Raises
    ------
    ConfigError
        If there is no such engine or precision.
    EngineError
        If OpenVINO was asked for what it does not do here.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: unknown. Choose one of: {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: unknown. Choose one of: {', '.join(PRECISIONS)}")
    if engine == "openvino":
        _check_openvino(device=device, precision=precision)
        return engine
    if engine == "tensorflow" or not openvino_here or device not in ("auto", "cpu"):
        return "tensorflow"
    if device == "auto" and n_driver_gpus and n_tensorflow_gpus():
        return "tensorflow"
    return "openvino" if precision == "float32" or precision in native else "tensorflow"


def _check_openvino(*, device: str, precision: str) -> None:
    if device not in ("auto", "cpu"):
        raise EngineError(
            f"--engine openvino --device {device}: OpenVINO runs on the CPU here. Type --device cpu, or "
            f"--engine tensorflow"
        )
    if precision == "float16":
        raise EngineError(
            "--precision float16 needs a GPU, and --engine openvino runs on the CPU. "
            "Type --precision bfloat16 or float32"
        )


def engine_here(engine: str, *, device: str, precision: str) -> str:
    """Return which engine runs on this machine; parameters and errors as in `choose_engine`."""
    return choose_engine(
        engine,
        device=device,
        precision=precision,
        native=fast_precisions("openvino", "cpu"),
        openvino_here=importlib.util.find_spec("openvino") is not None,
        n_driver_gpus=len(gpus()) if device == "auto" else 0,
        n_tensorflow_gpus=_tensorflow_gpus,
    )


def _tensorflow_gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def fast_precisions(engine_name: str, device: str) -> tuple[str, ...]:
    """Return the formats shorter than float32 in which the hardware itself computes, and faster, best first.

    Parameters
    ----------
    engine_name : {"tensorflow", "openvino"}
        `Engine.name`.
    device : str
        `Engine.device`: "cpu", "gpu:N", or several GPUs as in "gpu:0,gpu:2".

    Returns
    -------
    tuple of str
        Of "float16" and "bfloat16"; empty where there is none, or where it cannot be told, and for TensorFlow
        on CPUs: whatever the hardware, it gains little on large networks and loses on small ones.
    """
    if device == "cpu":
        return cpu_formats(_cpuinfo()) if engine_name == "openvino" else ()
    numbers = [int(name.partition(":")[2] or 0) for name in device.split(",")]
    here = gpus()
    if any(number >= len(here) for number in numbers):
        return ()
    return gpu_formats(min(here[number].capability for number in numbers))


def cpu_formats(cpuinfo: str) -> tuple[str, ...]:
    """Return the formats of a CPU, from the text of Linux' /proc/cpuinfo.

    What OpenVINO lists as a CPU's capabilities is no guide: there bfloat16 may mean float32 arithmetic with
    rounded operands, which is no faster.
    """
    flags = {
        flag
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() == "flags"
        for flag in line.partition(":")[2].split()
    }
    return ("bfloat16",) if flags & _BFLOAT16_FLAGS else ()


def gpu_formats(capability: tuple[int, int]) -> tuple[str, ...]:
    """Return the formats of an NVIDIA GPU, from its compute capability.

    Tensor cores compute in float16 from 7.0 (Volta) on and in bfloat16 from 8.0 (Ampere) on.
    """
    if capability >= (8, 0):
        return ("float16", "bfloat16")
    return ("float16",) if capability >= (7, 0) else ()


def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, by its place among those that CUDA_VISIBLE_DEVICES leaves, as TensorFlow counts them."""

    capability: tuple[int, int]  # compute capability: (8, 0) is Ampere
    memory: int  # bytes


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that this process may see; none where there is no driver."""
    try:
        # Linux alone: TensorFlow has no CUDA elsewhere.
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    return query_driver(driver)


def query_driver(driver: Any) -> tuple[Gpu, ...]:
    """Return what a driver answers; none where it fails, as it does when a container got no GPU.

    Parameters
    ----------
    driver : ctypes.CDLL
        Or what stands in for it. Its functions return 0 when all went well.
    """
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for index in range(count.value):
        handle, memory = ctypes.c_int(), ctypes.c_size_t()
        major, minor = ctypes.c_int(), ctypes.c_int()
        failed = (
            driver.cuDeviceGet(ctypes.byref(handle), index)
            or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
        )
        if failed:
            return ()
        found.append(Gpu(capability=(major.value, minor.value), memory=memory.value))
    return tuple(found)
