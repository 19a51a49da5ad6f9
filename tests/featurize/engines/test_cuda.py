"""GPUs as reported by simulated CUDA drivers."""

import ctypes

import pytest

from featurize.engines import select
from featurize.engines.select import Gpu, query_driver

GIB = 1 << 30


class _Driver:
    """Answers as CUDA's driver does: 0 for success, values by reference; attributes numbered as in cuda.h."""

    def __init__(self, *cards, failing=None):
        self.cards, self.failing = cards, failing  # (memory in bytes, major, minor)

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.failing:
                return 100  # CUDA_ERROR_NO_DEVICE
            return getattr(self, f"_{name}")(*arguments)

        return call

    def _cuInit(self, flags):
        assert flags == 0
        return 0

    def _cuDeviceGetCount(self, count):
        count._obj.value = len(self.cards)
        return 0

    def _cuDeviceGet(self, handle, index):
        handle._obj.value = 1000 + index
        return 0

    def _cuDeviceTotalMem_v2(self, memory, handle):
        memory._obj.value = self.cards[handle.value - 1000][0]
        return 0

    def _cuDeviceGetAttribute(self, value, attribute, handle):
        value._obj.value = self.cards[handle.value - 1000][{75: 1, 76: 2}[attribute]]
        return 0


def test_every_gpu_is_returned():
    driver = _Driver((80 * GIB, 9, 0), (16 * GIB, 7, 5))
    assert query_driver(driver) == (
        Gpu(capability=(9, 0), memory=80 * GIB),
        Gpu(capability=(7, 5), memory=16 * GIB),
    )


def test_a_driver_without_gpus():
    assert query_driver(_Driver()) == ()


@pytest.mark.parametrize(
    "failing", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute"]
)
def test_a_driver_that_fails_has_no_gpus(failing):
    assert query_driver(_Driver((GIB, 8, 0), failing=failing)) == ()


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert select.gpus() == ()
