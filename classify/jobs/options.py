"""Options of the jobs: checks, and the cache, device and workers that they select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head, make_head

if TYPE_CHECKING:
    from classify.model_selection.cache import TaskCache
    from classify.model_selection.dask import DaskJobs


CALIBRATIONS = ("none", "temperature")
MAX_SEED = 2**32 - 1  # limit of NumPy and scikit-learn


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """Options of the dense head, with the defaults of the tutorial."""

    units: tuple[int, ...] = (512, 128, 64)
    dropout: float = 0.2
    learning_rate: float = 1e-3
    epochs: int = 300
    batch_size: int = 128
    patience: int = 30


def check_options(
    heads: Sequence[str], *, dense: DenseOptions, seed: int, device: str, gpu_memory: float | None
) -> None:
    """Check options before the work starts.

    Raises
    ------
    CompareError
        If the seed or an option of the dense head is out of range.
    ConfigError
        If the device or the fraction of its memory is not valid.
    """
    from featurize.engines.device import check_device  # imports NumPy, which --help must not

    if not 0 <= seed <= MAX_SEED:
        raise CompareError(f"seed is {seed}: expected a whole number from 0 to {MAX_SEED}")
    check_device(device, gpu_memory=gpu_memory)
    for name in heads or HEADS:
        if name in HEADS and get_head(name).tensorflow:
            make_head(name, params=asdict(dense)).check_parameters()


def device_when_needed(device: str, *, gpu_memory: float | None) -> Callable[[], object]:
    """Return a function that selects the device of TensorFlow on its first call.

    It must be called before TensorFlow starts.
    """

    def select_device() -> None:
        from featurize.engines.device import use_device

        use_device(device, gpu_memory=gpu_memory)

    return cache(select_device)


def task_cache(heads: Sequence[str], device: str, *, fresh: bool) -> TaskCache:
    """Return the cache of task results, which depend on the device for TensorFlow heads."""
    from classify.model_selection.cache import TaskCache
    from featurize.base.cache import cache_folder
    from featurize.engines.select import gpus

    gpu_possible = device != "cpu" and any(get_head(head).tensorflow for head in heads)
    capabilities = [gpu.capability for gpu in gpus()] if gpu_possible else []
    name = f"{device} of {capabilities}" if capabilities or device not in ("auto", "cpu") else "cpu"
    return TaskCache(folder=cache_folder("tuning"), device=name, fresh=fresh)


def dask_jobs(
    dask: str,
    *,
    device: str,
    gpu_memory: float | None,
    stack: ExitStack,
    note: Callable[[str], None] | None,
) -> DaskJobs:
    """Return the workers of a cluster, which are disconnected when the stack is closed."""
    from classify.model_selection.dask import DaskJobs
    from featurize.base.dask_cluster import connect_cluster

    cluster = stack.enter_context(connect_cluster(dask, note=note or (lambda text: None)))
    return DaskJobs(cluster=cluster, device=device, gpu_memory=gpu_memory)
