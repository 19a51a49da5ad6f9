"""Memory limit of a job: estimates, and whether features fit in memory or stay on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from classify.errors import CompareError
from featurize.base.cores import available_cores
from featurize.errors import ConfigError
from featurize.store.reader import open_store

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
# Bytes, measured on Linux with the pinned packages.
LIBRARY_BYTES = 300 * 10**6  # Python, NumPy, SciPy, scikit-learn, HDF5
TENSORFLOW_BYTES = 850 * 10**6  # TensorFlow and Keras, in addition
WORKER_BYTES = 250 * 10**6  # each further process, with its libraries
BYTES_PER_IMAGE = 1_100  # path, entry and digest as text, labels, groups and predictions
BYTES_PER_VALUE = 4  # float32 features
BYTES_PER_FITTED_VALUE = (
    36  # of the rows that a process fits on: copies in float32 and float64, scaled and split
)
MIN_WORKING_BYTES = 200 * 10**6  # with less, blocks and samples of rows would be too small
MAX_SEARCH_ROWS = (
    10_000  # rows, views included, that hyper-parameters are searched on if features stay on disk
)


@dataclass(frozen=True, kw_only=True)
class StoreSizes:
    """Total sizes of some stores."""

    n_images: int
    features: int  # bytes of all features in float32
    largest: int  # number of feature values of the largest store


def resolve_memory(
    paths: Sequence[Path],
    *,
    memory: str | None,
    networks: bool,
    jobs: int | None,
    join: str,
    fuse: bool,
) -> int | None:
    """Return the bytes for fitting if the stores' features must stay on disk; None if they fit in memory.

    Raises
    ------
    ConfigError, CompareError
        As `working_bytes`; CompareError also if an option computes new features and they must stay on disk.
    """
    working = working_bytes(
        store_sizes(paths), memory=memory, networks=networks, jobs=jobs or available_cores()
    )
    for name, is_set in (("--fuse", fuse), ("--join features", join == "features")):
        if is_set and working is not None:
            raise CompareError(
                f"{name} computes new features in memory, but they do not fit in --memory {memory}. Remove "
                f"{name} or increase --memory"
            )
    return working


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as 4GB, 500MB or 1.5GiB.

    Raises
    ------
    ConfigError
        If the text is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = match.group(2).upper() if match else ""
    unit = f"{unit}B" if unit in ("K", "M", "G", "T", "KI", "MI", "GI", "TI") else unit
    if match is None or unit not in UNITS:
        raise ConfigError(f"--memory {text}: expected a number and a unit, such as 4GB, 500MB or 1.5GiB")
    return int(float(match.group(1)) * UNITS[unit])


def store_sizes(paths: Sequence[Path]) -> StoreSizes:
    """Return the total sizes of stores, from the shapes of their datasets."""
    n_images, values = 0, []
    for path in paths:
        with open_store(path) as store:
            n_images = max(n_images, store.n_images)
            rows = store.n_content + store.n_augmented * store.n_views
            values.append(rows * store.n_features)
    return StoreSizes(
        n_images=n_images, features=BYTES_PER_VALUE * sum(values), largest=max(values, default=0)
    )


def working_bytes(size: StoreSizes, *, memory: str | None, networks: bool, jobs: int) -> int | None:
    """Return the bytes left for fitting if features must stay on disk; None if they fit in memory.

    Parameters
    ----------
    size : StoreSizes
    memory : str, optional
        The limit as typed. Without a limit, features are always in memory.
    networks : bool
        Whether a head needs TensorFlow.
    jobs : int
        Number of processes.

    Raises
    ------
    ConfigError
        If the limit is not a size.
    CompareError
        If the limit is too small for libraries and tables; without a limit, if the features need more memory
        than the machine has.
    """
    if memory is None:
        total = machine_bytes()
        if total is not None and size.features > total:
            raise CompareError(
                f"the features need {size.features / 1e9:.1f} GB of memory, but this machine has "
                f"{total / 1e9:.1f} GB. Set a limit, so that they are read from disk: --memory "
                f"{max(1, total * 6 // 10 // 10**9)}GB"
            )
        return None
    limit = parse_memory(memory)
    base = LIBRARY_BYTES + BYTES_PER_IMAGE * size.n_images + (TENSORFLOW_BYTES if networks else 0)
    per_job = BYTES_PER_FITTED_VALUE * size.largest
    in_memory = base + size.features + jobs * per_job + (jobs - 1) * WORKER_BYTES
    if in_memory <= limit:
        return None
    minimum = base + MIN_WORKING_BYTES
    if limit < minimum:
        raise CompareError(
            f"--memory {memory}: too small. Libraries and the tables of {size.n_images:,} images need "
            f"about {base / 1e9:.1f} GB. Give at least --memory {-(-minimum // 10**8) / 10:g}GB"
        )
    return limit - base


def search_rows(working: int, *, n_features: int, jobs: int) -> int:
    """Return the number of rows that a hyper-parameter search can use within the memory limit."""
    for_rows = max(working - (jobs - 1) * WORKER_BYTES, working // 2)
    bytes_per_row = n_features * (BYTES_PER_VALUE + jobs * BYTES_PER_FITTED_VALUE)
    return int(min(MAX_SEARCH_ROWS, for_rows // bytes_per_row))


def machine_bytes() -> int | None:
    """Return the bytes of memory of this machine; None if the system does not report them."""
    try:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None
