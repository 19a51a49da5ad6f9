"""The TensorFlow engine: one frozen graph a backbone, on the CPU or one GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurize.backbones import Backbone
from featurize.engines import Done, Pending, auto_batch_size, check_images
from featurize.engines.frozen import frozen_forward
from featurize.errors import ConfigError, EngineError
from featurize.nets.networks import check_input_size
from featurize.weights import Weights

PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """What to tell TensorFlow before it starts, and where to run."""

    device: str  # "cpu" or "gpu:N"
    hide_gpus: bool  # take nothing of any GPU
    memory_limit: int | None  # MiB of that GPU to take at once; None: grow as needed

    @property
    def tensorflow_name(self) -> str:
        """The device as TensorFlow spells it."""
        return f"/{self.device.upper()}" if ":" in self.device else "/CPU:0"


def plan_device(
    device: str,
    *,
    n_gpus: int,
    gpu_memory: float | None = None,
    gpu_total: Callable[[int], int] | None = None,
    visible: str | None = None,
) -> DevicePlan:
    """Decide where to run, from what was asked and what is there.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" or "gpu:N", N counted as TensorFlow does, among the visible ones.
    n_gpus : int
        GPUs that TensorFlow finds.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take at once.
    gpu_total : callable, optional
        From a GPU's number to its memory in bytes; asked only with `gpu_memory`.
    visible : str, optional
        The value of CUDA_VISIBLE_DEVICES, to be named in the error.

    Raises
    ------
    ConfigError
        If `device` is no device's name.
    EngineError
        If that GPU is not there; the text says what is.
    """
    if device == "auto":
        device = "gpu:0" if n_gpus else "cpu"
    if device == "cpu":
        return DevicePlan(device="cpu", hide_gpus=True, memory_limit=None)
    kind, _, number = device.partition(":")
    if kind != "gpu" or not (number or "0").isdecimal():
        raise ConfigError(f"--device {device}: expected auto, cpu or gpu:N, such as gpu:0")
    index = int(number or 0)
    if index >= n_gpus:
        found = ", ".join(f"gpu:{i}" for i in range(n_gpus)) or "no GPU"
        hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
        instead = f"--device gpu:{n_gpus - 1}" if n_gpus else "--device cpu"
        raise EngineError(f"--device {device}: TensorFlow finds {found} here{hidden}. Type {instead}")
    limit = None
    if gpu_memory is not None:
        total = gpu_total(index) if gpu_total else 0
        if total <= 0:
            raise EngineError(f"--gpu-memory: the memory of gpu:{index} cannot be told. Leave the option out")
        limit = max(1, int(total * gpu_memory) >> 20)
    return DevicePlan(device=f"gpu:{index}", hide_gpus=False, memory_limit=limit)


def check_precision(precision: str, *, device: str) -> None:
    """Refuse a precision that the device has no arithmetic for.

    Raises
    ------
    ConfigError
        If there is no such precision.
    EngineError
        If it is float16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: unknown. Choose one of: {', '.join(PRECISIONS)}")
    if precision == "float16" and device == "cpu":
        raise EngineError(
            "--precision float16 needs a GPU, and this is a CPU. Type --precision bfloat16 or float32"
        )


def gpu_total_memory(index: int) -> int:
    """Return a GPU's memory in bytes as CUDA's driver tells it, 0 when it cannot be asked.

    TensorFlow tells no total. The driver counts devices as TensorFlow does: CUDA_VISIBLE_DEVICES applies.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    handle, total = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), index)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    )
    return 0 if failed else total.value


def apply_plan(plan: DevicePlan, config: Any) -> None:
    """Tell TensorFlow, before it starts, how to treat the GPUs.

    Parameters
    ----------
    plan : DevicePlan
        From `plan_device`.
    config : module
        `tf.config`, or what stands in for it.

    Raises
    ------
    EngineError
        If TensorFlow has already started in another way that the plan cannot live with.
    """
    gpus = config.list_physical_devices("GPU")
    if plan.hide_gpus:
        with contextlib.suppress(
            RuntimeError
        ):  # started already: the graph is pinned to the CPU all the same
            config.set_visible_devices([], "GPU")
        return
    gpu = gpus[int(plan.device.split(":")[1])]
    if gpu not in config.get_visible_devices("GPU"):
        raise EngineError(
            f"--device {plan.device}: this process has already hidden its GPUs, for an engine on the CPU. "
            f"Make the engine on the GPU first, or in a process of its own"
        )
    try:
        for other in gpus:
            if other == gpu and plan.memory_limit is not None:
                logical = config.LogicalDeviceConfiguration(memory_limit=plan.memory_limit)
                config.set_logical_device_configuration(gpu, [logical])
            else:
                config.experimental.set_memory_growth(other, True)
    except (RuntimeError, ValueError) as error:  # already started, or already set the other way
        in_force = config.get_logical_device_configuration(gpu)
        if plan.memory_limit is not None and (not in_force or in_force[0].memory_limit != plan.memory_limit):
            raise EngineError(
                f"--gpu-memory: TensorFlow already runs on {plan.device} in this process with another limit. "
                f"Ask for it before anything else uses the GPU"
            ) from error


class TensorFlowEngine:
    """A backbone as one frozen graph: uint8 in; preprocessing, network, mean over the maps; float32 out.

    Variables are constants in it, so TensorFlow folds the batch norms into the convolutions.
    Parameters as in `featurize.engines.create_engine`.
    """

    name = "tensorflow"
    in_flight = 1

    def __init__(
        self,
        backbone: Backbone,
        weights: Weights,
        *,
        input_size: int | None,
        preprocess: str,
        statistics: Mapping[str, Sequence[float]] | None,
        device: str,
        gpu_memory: float | None,
        precision: str,
        batch_size: int | str,
        levels: bool = False,
    ) -> None:
        import tensorflow as tf

        plan = plan_device(
            device,
            n_gpus=len(tf.config.list_physical_devices("GPU")),
            gpu_memory=gpu_memory,
            gpu_total=gpu_total_memory,
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        check_precision(precision, device=plan.device)
        self.size = check_input_size(backbone, input_size)
        apply_plan(plan, tf.config)
        self.device = plan.device
        self.precision = precision
        self.batch_size = (
            auto_batch_size(self.device, input_size=self.size) if batch_size == "auto" else int(batch_size)
        )
        frozen = frozen_forward(
            backbone,
            weights,
            input_size=self.size,
            preprocess=preprocess,
            statistics=statistics,
            precision=precision,
            levels=levels,
            batch_size=self.batch_size,
            device_name=plan.tensorflow_name,
        )
        self._forward = frozen.function
        self.level_names, self.level_ends = frozen.level_names, frozen.level_ends
        self.n_features = self.level_ends[-1]

    def submit(self, images: npt.NDArray[np.uint8]) -> Pending:
        """Compute at once; see `featurize.engines.Engine`."""
        return Done(self(images))

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return one feature vector a picture; see `featurize.engines.Engine`."""
        import tensorflow as tf

        check_images(images, size=self.size, batch_size=self.batch_size)
        batch = images
        if len(images) < self.batch_size:
            batch = np.zeros((self.batch_size, self.size, self.size, 3), dtype=np.uint8)
            batch[: len(images)] = images
        (features,) = self._forward(tf.constant(batch))
        return features.numpy()[: len(images)].copy()
