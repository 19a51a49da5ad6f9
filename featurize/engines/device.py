"""Choice of the devices from --device, and their configuration in TensorFlow before it starts."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from featurize.errors import ConfigError, EngineError


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """The GPUs to use (none: the CPU), and their memory limits."""

    gpus: tuple[int, ...]  # TensorFlow's numbers among the visible GPUs, ascending
    explicit: bool  # requested by number: no other GPU may replace them
    memory_limits: tuple[int | None, ...]  # MiB to reserve per GPU; None: grow as needed

    @property
    def device(self) -> str:
        """Name of the devices in stores and summaries: "cpu" or "gpu:0,gpu:2"."""
        return ",".join(f"gpu:{gpu}" for gpu in self.gpus) or "cpu"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The devices in use, configured in TensorFlow."""

    device: str  # as in `DevicePlan.device`
    names: tuple[str, ...]  # TensorFlow's device names in this process, one per device: "/GPU:0"
    models: tuple[str, ...] = ()  # distinct GPU models: "NVIDIA L4"


def parse_device(device: str) -> tuple[str, tuple[int, ...]]:
    """Parse the value of ``--device``.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" (all GPUs), "gpu:N", or several as in "gpu:0,gpu:2".

    Returns
    -------
    kind : str
        "auto", "cpu" or "gpu".
    numbers : tuple of int
        Numbers of the listed GPUs, ascending; empty if none is listed.

    Raises
    ------
    ConfigError
        If the value is invalid, or lists a GPU twice.
    """
    if device in ("auto", "cpu", "gpu"):
        return device, ()
    if not re.fullmatch(r"gpu:[0-9]+(,gpu:[0-9]+)*", device):
        raise ConfigError(
            f"--device {device}: expected auto, cpu, gpu or gpu:N, such as gpu:0, or several: gpu:0,gpu:1"
        )
    numbers = [int(name.removeprefix("gpu:")) for name in device.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--device {device}: lists a GPU twice. List each GPU once")
    return "gpu", tuple(sorted(numbers))


def plan_device(
    device: str,
    *,
    n_gpus: int,
    gpu_memory: float | None = None,
    gpu_total: Callable[[int], int] | None = None,
    visible: str | None = None,
    max_gpus: int | None = None,
) -> DevicePlan:
    """Choose the devices from the request and the available GPUs.

    Parameters
    ----------
    device : str
        As in `parse_device`; "auto" is every GPU, or the CPU if there is no GPU. GPU numbers are
        TensorFlow's: they count the GPUs that CUDA_VISIBLE_DEVICES leaves visible.
    n_gpus : int
        Number of GPUs that TensorFlow finds.
    gpu_memory : float, optional
        Fraction of each GPU's memory to reserve.
    gpu_total : callable, optional
        Returns a GPU's memory in bytes, given its number; called only with `gpu_memory`.
    visible : str, optional
        Value of CUDA_VISIBLE_DEVICES, for the error message.
    max_gpus : int, optional
        Use only the first `max_gpus` of the requested GPUs.

    Raises
    ------
    ConfigError
        If `device` is invalid.
    EngineError
        If a requested GPU does not exist; the message lists the available ones.
    """
    kind, numbers = parse_device(device)
    if kind == "cpu" or (kind == "auto" and not n_gpus):
        return DevicePlan(gpus=(), explicit=False, memory_limits=())
    if not n_gpus or any(number >= n_gpus for number in numbers):
        found = ", ".join(f"gpu:{i}" for i in range(n_gpus)) or "no GPU"
        hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
        instead = "cpu" if not n_gpus else f"gpu:{n_gpus - 1}" if len(numbers) == 1 else "gpu"
        raise EngineError(
            f"--device {device}: TensorFlow finds {found} here{hidden}. Type --device {instead}"
        )
    gpus = (numbers or tuple(range(n_gpus)))[:max_gpus]
    return DevicePlan(
        gpus=gpus,
        explicit=bool(numbers),
        memory_limits=tuple(_memory_limit(gpu, gpu_memory, gpu_total) for gpu in gpus),
    )


def _memory_limit(gpu: int, fraction: float | None, gpu_total: Callable[[int], int] | None) -> int | None:
    """Return the memory to reserve on a GPU, in MiB, or None without a fraction."""
    if fraction is None:
        return None
    total = gpu_total(gpu) if gpu_total else 0
    if total <= 0:
        raise EngineError(f"--gpu-memory: cannot determine the memory of gpu:{gpu}. Leave the option out")
    return max(1, int(total * fraction) >> 20)


def gpu_total_memory(index: int) -> int:
    """Return a GPU's memory in bytes from the driver, or 0 if unknown; TensorFlow does not report it."""
    from featurize.engines import select

    gpus = select.gpus()
    return gpus[index].memory if index < len(gpus) else 0


def configure_devices(plan: DevicePlan, config: Any) -> Placement:
    """Configure the GPUs that TensorFlow uses, before it starts; hide the other GPUs.

    Parameters
    ----------
    plan : DevicePlan
        From `plan_device`.
    config : module
        `tf.config`, or a replacement with the same functions.

    Returns
    -------
    Placement
        May have fewer GPUs than the plan, if the plan is not explicit and this process has hidden some.

    Raises
    ------
    EngineError
        If TensorFlow has already started with settings that contradict the plan.
    """
    gpus = config.list_physical_devices("GPU")
    with contextlib.suppress(RuntimeError):  # TensorFlow has started: its visible devices cannot change
        config.set_visible_devices([gpus[number] for number in plan.gpus], "GPU")
    if not plan.gpus:
        return Placement(device="cpu", names=("/CPU:0",))
    visible = [gpu for gpu in gpus if gpu in config.get_visible_devices("GPU")]
    planned = zip(plan.gpus, plan.memory_limits, strict=True)
    used = [(number, limit) for number, limit in planned if gpus[number] in visible]
    hidden = [f"gpu:{number}" for number in plan.gpus if gpus[number] not in visible]
    if not used or (plan.explicit and hidden):
        raise EngineError(
            f"--device {plan.device}: other work in this process has already hidden {', '.join(hidden)}. "
            f"Create the GPU engine first, or in a separate process"
        )
    for number, limit in used:
        _set_memory(f"gpu:{number}", gpus[number], limit, config)
    details = [config.experimental.get_device_details(gpus[number]) for number, _ in used]
    return Placement(
        device=",".join(f"gpu:{number}" for number, _ in used),
        # TensorFlow's names number only the visible GPUs.
        names=tuple(f"/GPU:{visible.index(gpus[number])}" for number, _ in used),
        models=tuple(sorted({str(detail.get("device_name", "")) for detail in details})),
    )


def _set_memory(device: str, gpu: Any, limit: int | None, config: Any) -> None:
    try:
        if limit is None:
            config.experimental.set_memory_growth(gpu, True)
        else:
            logical = config.LogicalDeviceConfiguration(memory_limit=limit)
            config.set_logical_device_configuration(gpu, [logical])
    except (RuntimeError, ValueError) as error:  # already started, or configured in the other way
        current = config.get_logical_device_configuration(gpu)
        if limit is not None and (not current or current[0].memory_limit != limit):
            raise EngineError(
                f"--gpu-memory: TensorFlow already runs on {device} in this process with another limit. "
                f"Set it before anything else uses the GPU"
            ) from error


def resolve_device(
    device: str, *, gpu_memory: float | None = None, max_gpus: int | None = None, config: Any
) -> Placement:
    """Choose and configure the devices of this machine; see `plan_device` and `configure_devices`."""
    plan = plan_device(
        device,
        n_gpus=len(config.list_physical_devices("GPU")),
        gpu_memory=gpu_memory,
        gpu_total=gpu_total_memory,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        max_gpus=max_gpus,
    )
    return configure_devices(plan, config)


def use_device(device: str = "auto", *, gpu_memory: float | None = None) -> str:
    """Configure one device in TensorFlow before it starts; return its name.

    Parameters
    ----------
    device : str
        "auto", "cpu", "gpu" or "gpu:N"; the first of several GPUs is used.
    gpu_memory : float, optional
        Fraction of the GPU's memory to reserve, in (0, 1]; by default memory grows as needed.

    Raises
    ------
    ConfigError, EngineError
        As for extraction.
    """
    check_device(device, gpu_memory=gpu_memory)
    import tensorflow as tf  # takes seconds

    return resolve_device(device, gpu_memory=gpu_memory, max_gpus=1, config=tf.config).device


def check_device(device: str, *, gpu_memory: float | None) -> None:
    """Raise ConfigError if an option is invalid on any machine."""
    parse_device(device)
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {gpu_memory}: expected a fraction above 0 and up to 1, such as 0.5")
