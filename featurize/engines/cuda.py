"""What CUDA's driver says of the GPUs, asked without TensorFlow: milliseconds instead of seconds."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

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
    return asked(driver)


def asked(driver: Any) -> tuple[Gpu, ...]:
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
