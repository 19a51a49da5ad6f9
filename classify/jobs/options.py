"""What a job is asked for: options checked before the work, and what they settle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

from classify.errors import CompareError
from classify.heads.registry import HEADS, get_head, make_head
from featurize.base.dask_cluster import connect_cluster
from featurize.engines.device import check_device

if TYPE_CHECKING:
    from classify.model_selection.cache import TaskCache
    from classify.model_selection.dask import DaskJobs


CALIBRATIONS = ("none", "temperature")
MAX_SEED = 2**32 - 1  # NumPy's and scikit-learn's limit


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """What can be said of the dense head; the defaults are the tutorial's."""

    units: tuple[int, ...] = (512, 128, 64)
    dropout: float = 0.2
    learning_rate: float = 1e-3
    epochs: int = 300
    batch_size: int = 128
    patience: int = 30


def check_options(
    heads: Sequence[str], *, dense: DenseOptions, seed: int, device: str, gpu_memory: float | None
) -> None:
    """Raise at once what would otherwise be found after minutes, or never.

    Raises
    ------
    CompareError
        If the seed or an option of the dense head is out of range.
    ConfigError
        If the device or the share of its memory is not written as one.
    """
    if not 0 <= seed <= MAX_SEED:
        raise CompareError(f"seed is {seed}: expected a whole number from 0 to {MAX_SEED}")
    check_device(device, gpu_memory=gpu_memory)
    for name in heads or HEADS:
        if name in HEADS and get_head(name).tensorflow:
            make_head(name, params=asdict(dense)).check_parameters()


def device_when_needed(device: str, *, gpu_memory: float | None) -> Callable[[], object]:
    """Return what settles, once, where the dense head runs: to be called before TensorFlow starts."""

    def settle() -> None:
        from featurize.engines.device import use_device

        use_device(device, gpu_memory=gpu_memory)

    return cache(settle)


def task_cache(heads: Sequence[str], device: str, *, fresh: bool) -> TaskCache:
    """Return where outcomes of earlier runs are kept, and where those of TensorFlow heads are computed."""
    from classify.model_selection.cache import TaskCache
    from featurize.base.cache import cache_folder
    from featurize.engines.select import gpus

    asked = device != "cpu" and any(get_head(head).tensorflow for head in heads)
    there = [gpu.capability for gpu in gpus()] if asked else []
    place = f"{device} of {there}" if there or device not in ("auto", "cpu") else "cpu"
    return TaskCache(folder=cache_folder("tuning"), device=place, fresh=fresh)


def dask_jobs(
    dask: str,
    *,
    device: str,
    gpu_memory: float | None,
    stack: ExitStack,
    note: Callable[[str], None] | None,
) -> DaskJobs:
    """Return the workers of a cluster, connected for as long as the stack is open."""
    from classify.model_selection.dask import DaskJobs

    cluster = stack.enter_context(connect_cluster(dask, note=note or (lambda text: None)))
    return DaskJobs(cluster=cluster, device=device, gpu_memory=gpu_memory)
