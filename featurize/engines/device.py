"""Which devices are meant, and what TensorFlow is told about them before it starts. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurize.engines import select
from featurize.errors import ConfigError, EngineError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """The GPUs to use, none for the CPU, and how much of each."""

    gpus: tuple[int, ...]  # as TensorFlow counts the visible ones, ascending
    named: bool  # asked for by number: no other will do
    memory_limits: tuple[int | None, ...]  # MiB of each to take at once; None: grow as needed

    @property
    def device(self) -> str:
        """How a store's record and the summary name it: "cpu" or "gpu:0,gpu:2"."""
        return ",".join(f"gpu:{gpu}" for gpu in self.gpus) or "cpu"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the work goes."""

    device: str  # as in `DevicePlan.device`
    names: tuple[str, ...]  # one a device, as TensorFlow spells it in this process: "/GPU:0"
    models: tuple[str, ...] = ()  # of the GPUs, each once: "NVIDIA L4"


def parse_device(device: str) -> tuple[str, tuple[int, ...]]:
    """Read what ``--device`` says.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" (all of them), "gpu:N", or several as in "gpu:0,gpu:2".

    Returns
    -------
    kind : str
        "auto", "cpu" or "gpu".
    numbers : tuple of int
        The GPUs that are named, ascending; empty where none is.

    Raises
    ------
    ConfigError
        If it is none of these, or names a GPU twice.
    """
    if device in ("auto", "cpu", "gpu"):
        return device, ()
    if not re.fullmatch(r"gpu:[0-9]+(,gpu:[0-9]+)*", device):
        raise ConfigError(
            f"--device {device}: expected auto, cpu, gpu or gpu:N, such as gpu:0, or several: gpu:0,gpu:1"
        )
    numbers = [int(name.removeprefix("gpu:")) for name in device.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--device {device}: names a GPU twice. Name each once")
    return "gpu", tuple(sorted(numbers))


def plan_device(
    device: str,
    *,
    n_gpus: int,
    gpu_memory: float | None = None,
    gpu_total: Callable[[int], int] | None = None,
    visible: str | None = None,
    most: int | None = None,
) -> DevicePlan:
    """Decide where to run, from what was asked and what is there.

    Parameters
    ----------
    device : str
        As in `parse_device`; "auto" is every GPU, or the CPU where there is none. GPUs are counted as
        TensorFlow does, among those that CUDA_VISIBLE_DEVICES leaves.
    n_gpus : int
        GPUs that TensorFlow finds.
    gpu_memory : float, optional
        Fraction of each GPU's memory to take at once.
    gpu_total : callable, optional
        From a GPU's number to its memory in bytes; asked only with `gpu_memory`.
    visible : str, optional
        The value of CUDA_VISIBLE_DEVICES, to be named in the error.
    most : int, optional
        How many GPUs the work can use; the first of those meant.

    Raises
    ------
    ConfigError
        If `device` is no device's name.
    EngineError
        If a GPU is not there; the text says what is.
    """
    kind, numbers = parse_device(device)
    if kind == "cpu" or (kind == "auto" and not n_gpus):
        return DevicePlan(gpus=(), named=False, memory_limits=())
    if not n_gpus or any(number >= n_gpus for number in numbers):
        found = ", ".join(f"gpu:{i}" for i in range(n_gpus)) or "no GPU"
        hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
        instead = "cpu" if not n_gpus else f"gpu:{n_gpus - 1}" if len(numbers) == 1 else "gpu"
        raise EngineError(
            f"--device {device}: TensorFlow finds {found} here{hidden}. Type --device {instead}"
        )
    gpus = (numbers or tuple(range(n_gpus)))[:most]
    return DevicePlan(
        gpus=gpus,
        named=bool(numbers),
        memory_limits=tuple(_memory_limit(gpu, gpu_memory, gpu_total) for gpu in gpus),
    )


def _memory_limit(gpu: int, fraction: float | None, gpu_total: Callable[[int], int] | None) -> int | None:
    """Return MiB."""
    if fraction is None:
        return None
    total = gpu_total(gpu) if gpu_total else 0
    if total <= 0:
        raise EngineError(f"--gpu-memory: the memory of gpu:{gpu} cannot be told. Leave the option out")
    return max(1, int(total * fraction) >> 20)


def gpu_total_memory(index: int) -> int:
    """Return a GPU's memory in bytes, 0 when it cannot be asked: TensorFlow tells no total."""
    here = select.gpus()
    return here[index].memory if index < len(here) else 0


def configure_devices(plan: DevicePlan, config: Any) -> Placement:
    """Tell TensorFlow, before it starts, which GPUs to take and how; the others it leaves alone.

    Parameters
    ----------
    plan : DevicePlan
        From `plan_device`.
    config : module
        `tf.config`, or what stands in for it.

    Returns
    -------
    Placement
        Fewer GPUs than planned where the plan names none and this process has hidden some already.

    Raises
    ------
    EngineError
        If TensorFlow has already started in another way that the plan cannot live with.
    """
    gpus = config.list_physical_devices("GPU")
    with contextlib.suppress(RuntimeError):  # started already: what it shows now is what there is
        config.set_visible_devices([gpus[number] for number in plan.gpus], "GPU")
    if not plan.gpus:
        return Placement(device="cpu", names=("/CPU:0",))
    visible = [gpu for gpu in gpus if gpu in config.get_visible_devices("GPU")]
    planned = zip(plan.gpus, plan.memory_limits, strict=True)
    taken = [(number, limit) for number, limit in planned if gpus[number] in visible]
    hidden = [f"gpu:{number}" for number in plan.gpus if gpus[number] not in visible]
    if not taken or (plan.named and hidden):
        raise EngineError(
            f"--device {plan.device}: other work in this process has already hidden {', '.join(hidden)}. "
            f"Make the engine on the GPU first, or in a process of its own"
        )
    for number, limit in taken:
        _set_memory(f"gpu:{number}", gpus[number], limit, config)
    details = [config.experimental.get_device_details(gpus[number]) for number, _ in taken]
    return Placement(
        device=",".join(f"gpu:{number}" for number, _ in taken),
        # TensorFlow counts anew what it is shown.
        names=tuple(f"/GPU:{visible.index(gpus[number])}" for number, _ in taken),
        models=tuple(sorted({str(detail.get("device_name", "")) for detail in details})),
    )


def _set_memory(device: str, gpu: Any, limit: int | None, config: Any) -> None:
    try:
        if limit is None:
            config.experimental.set_memory_growth(gpu, True)
        else:
            logical = config.LogicalDeviceConfiguration(memory_limit=limit)
            config.set_logical_device_configuration(gpu, [logical])
    except (RuntimeError, ValueError) as error:  # already started, or already set the other way
        in_force = config.get_logical_device_configuration(gpu)
        if limit is not None and (not in_force or in_force[0].memory_limit != limit):
            raise EngineError(
                f"--gpu-memory: TensorFlow already runs on {device} in this process with another limit. "
                f"Ask for it before anything else uses the GPU"
            ) from error


def resolve_device(
    device: str, *, gpu_memory: float | None = None, most: int | None = None, config: Any
) -> Placement:
    """Plan with what this machine has, and apply; all as in `plan_device` and `configure_devices`."""
    plan = plan_device(
        device,
        n_gpus=len(config.list_physical_devices("GPU")),
        gpu_memory=gpu_memory,
        gpu_total=gpu_total_memory,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        most=most,
    )
    return configure_devices(plan, config)


def use_device(device: str = "auto", *, gpu_memory: float | None = None) -> str:
    """Tell TensorFlow, before it starts, which device to use; return it.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" or "gpu:N"; of several GPUs the first.
    gpu_memory : float, optional
        Fraction of the GPU's memory to take at once, in (0, 1]; by default it grows as needed.

    Raises
    ------
    ConfigError, EngineError
        As for extraction.
    """
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
    import tensorflow as tf  # some seconds

    return resolve_device(device, gpu_memory=gpu_memory, most=1, config=tf.config).device


def check_device(device: str, *, gpu_memory: float | None) -> None:
    """Raise ConfigError unless both are written as they should be, whatever the machine has."""
    parse_device(device)
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
