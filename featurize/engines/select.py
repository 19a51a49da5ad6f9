"""Choice of the engine, and detection of the fast arithmetic formats of the hardware."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.errors import ConfigError, EngineError

ENGINES = ("auto", "tensorflow", "openvino")
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


def choose_engine(
    engine: str,
    *,
    device: str,
    precision: str,
    cpu_precisions: tuple[str, ...],
    has_openvino: bool,
    n_driver_gpus: int,
    n_tensorflow_gpus: Callable[[], int],
) -> str:
    """Return "tensorflow" or "openvino".

    Parameters
    ----------
    engine : {"auto", "tensorflow", "openvino"}
        The requested engine. "auto" is TensorFlow if a GPU is requested or usable, else OpenVINO, unless it
        is not installed or does not support the precision.
    device : str
        The requested device: "auto", "cpu", or a string that begins with "gpu".
    precision : str
        Format of the arithmetic.
    cpu_precisions : tuple of str
        Formats besides float32 for which this CPU has instructions.
    has_openvino : bool
        Whether OpenVINO is installed.
    n_driver_gpus : int
        Number of GPUs that the CUDA driver finds.
    n_tensorflow_gpus : callable
        Returns the number of GPUs that TensorFlow can use; called only if the choice depends on it, since
        importing TensorFlow takes seconds.

    Raises
    ------
    ConfigError
        If the engine or the precision is unknown.
    EngineError
        If OpenVINO is requested with a device or precision that it does not support.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: unknown. Choose one of: {', '.join(ENGINES)}")
    from featurize.config import PRECISIONS  # imports NumPy, which --help must not

    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: unknown. Choose one of: {', '.join(PRECISIONS)}")
    if engine == "openvino":
        _check_openvino(device=device, precision=precision)
        return engine
    if engine == "tensorflow" or not has_openvino or device not in ("auto", "cpu"):
        return "tensorflow"
    if device == "auto" and n_driver_gpus and n_tensorflow_gpus():
        return "tensorflow"
    return "openvino" if precision == "float32" or precision in cpu_precisions else "tensorflow"


def _check_openvino(*, device: str, precision: str) -> None:
    if device not in ("auto", "cpu"):
        raise EngineError(
            f"--engine openvino --device {device}: OpenVINO runs on the CPU only. Type --device cpu, or "
            f"--engine tensorflow"
        )
    if precision == "float16":
        raise EngineError(
            "--precision float16 needs a GPU, and --engine openvino runs on the CPU. "
            "Type --precision bfloat16 or float32"
        )


def resolve_engine(engine: str, *, device: str, precision: str) -> str:
    """Return the engine to use on this machine; parameters and errors as in `choose_engine`."""
    return choose_engine(
        engine,
        device=device,
        precision=precision,
        cpu_precisions=fast_precisions("openvino", "cpu"),
        has_openvino=importlib.util.find_spec("openvino") is not None,
        n_driver_gpus=len(gpus()) if device == "auto" else 0,
        n_tensorflow_gpus=_tensorflow_gpus,
    )


def _tensorflow_gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def fast_precisions(engine_name: str, device: str) -> tuple[str, ...]:
    """Return the formats shorter than float32 that the hardware computes in faster, best first.

    Parameters
    ----------
    engine_name : {"tensorflow", "openvino"}
        `Engine.name`.
    device : str
        `Engine.device`: "cpu", "gpu:N", or several GPUs as in "gpu:0,gpu:2".

    Returns
    -------
    tuple of str
        Subset of "float16" and "bfloat16". Empty if there is none or the hardware is unknown, and always for
        TensorFlow on a CPU, where large networks gain little and small networks become slower.
    """
    if device == "cpu":
        return cpu_formats(_cpuinfo()) if engine_name == "openvino" else ()
    numbers = [int(name.partition(":")[2] or 0) for name in device.split(",")]
    available = gpus()
    if any(number >= len(available) for number in numbers):
        return ()
    return gpu_formats(min(available[number].capability for number in numbers))


def cpu_formats(cpuinfo: str) -> tuple[str, ...]:
    """Return the fast formats of a CPU, given the text of /proc/cpuinfo on Linux.

    OpenVINO's list of CPU capabilities cannot be used: there bfloat16 may mean float32 arithmetic with
    rounded operands, which is not faster.
    """
    flags = {
        flag
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() == "flags"
        for flag in line.partition(":")[2].split()
    }
    return ("bfloat16",) if flags & _BFLOAT16_FLAGS else ()


def gpu_formats(capability: tuple[int, int]) -> tuple[str, ...]:
    """Return the fast formats of an NVIDIA GPU, given its compute capability.

    Tensor cores support float16 since 7.0 (Volta) and bfloat16 since 8.0 (Ampere).
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
    """Properties of one GPU."""

    capability: tuple[int, int]  # compute capability: (8, 0) is Ampere
    memory: int  # bytes


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves visible, in TensorFlow's order.

    Empty without a driver.
    """
    try:
        # Linux only: TensorFlow supports CUDA nowhere else.
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    return query_driver(driver)


def query_driver(driver: Any) -> tuple[Gpu, ...]:
    """Return the GPUs that a driver reports; empty if it fails, as in a container without a GPU.

    Parameters
    ----------
    driver : ctypes.CDLL
        The CUDA driver library, or a replacement. Its functions return 0 on success.
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
