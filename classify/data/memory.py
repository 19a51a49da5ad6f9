"""How much memory fitting takes, how much it may, and what follows. Importing this is cheap."""

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
# What a comparison takes beside its rows, measured on Linux with the pinned packages.
LIBRARIES = 300 * 10**6  # Python, NumPy, SciPy, scikit-learn, HDF5
NETWORKS = 850 * 10**6  # TensorFlow and Keras, beside that
WORKER = 250 * 10**6  # another process of libraries
AN_IMAGE = 1_100  # path, entry and digest as text, labels, groups and predictions
A_VALUE = 4  # of the features, in float32
A_VALUE_FITTED = 36  # of the rows that a process fits on: copies in float32 and float64, scaled and split
LEAST_WORK = 200 * 10**6  # below this, blocks and samples of rows are too short to be of use
SEARCH_ROWS = 10_000  # that hyper-parameters are searched on, views included, where features stay on disk


@dataclass(frozen=True, kw_only=True)
class StoreSizes:
    """What the size of some stores comes to."""

    n_images: int
    features: int  # bytes of all features in float32
    largest: int  # values of the largest store


def resolve_memory(
    paths: Sequence[Path],
    *,
    memory: str | None,
    networks: bool,
    jobs: int | None,
    join: str,
    fuse: bool,
) -> int | None:
    """Return the memory to fit in where features of these stores stay on disk, None where they need not.

    Raises
    ------
    ConfigError, CompareError
        As `working_bytes`; or if features that stay on disk are to be made anew.
    """
    working = working_bytes(
        store_sizes(paths), memory=memory, networks=networks, jobs=jobs or available_cores()
    )
    for name, wanted in (("--fuse", fuse), ("--join features", join == "features")):
        if wanted and working is not None:
            raise CompareError(
                f"{name} makes features anew in memory, and these do not fit in --memory {memory}. Leave it "
                "out, or raise --memory"
            )
    return working


def parse_memory(text: str) -> int:
    """Return a size such as 4GB, 500MB or 1.5GiB in bytes.

    Raises
    ------
    ConfigError
        If it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = found.group(2).upper() if found else ""
    unit = f"{unit}B" if unit in ("K", "M", "G", "T", "KI", "MI", "GI", "TI") else unit
    if found is None or unit not in UNITS:
        raise ConfigError(f"--memory {text}: expected a number and a unit, such as 4GB, 500MB or 1.5GiB")
    return int(float(found.group(1)) * UNITS[unit])


def store_sizes(paths: Sequence[Path]) -> StoreSizes:
    """Return what stores come to, from the shapes of their datasets."""
    n_images, values = 0, []
    for path in paths:
        with open_store(path) as store:
            n_images = max(n_images, store.n_images)
            rows = store.n_content + store.n_augmented * store.n_views
            values.append(rows * store.n_features)
    return StoreSizes(n_images=n_images, features=A_VALUE * sum(values), largest=max(values, default=0))


def working_bytes(size: StoreSizes, *, memory: str | None, networks: bool, jobs: int) -> int | None:
    """Return the memory that is left to fit in when features stay on disk; None where they fit in memory.

    Parameters
    ----------
    size : StoreSizes
    memory : str, optional
        The limit, as it is typed; without one features are in memory.
    networks : bool
        Whether a head needs TensorFlow.
    jobs : int
        Processes.

    Raises
    ------
    ConfigError
        If the limit is no size.
    CompareError
        If there is not even memory for libraries and tables; without a limit, if the machine has less memory
        than the features take.
    """
    if memory is None:
        there = machine_bytes()
        if there is not None and size.features > there:
            raise CompareError(
                f"the features take {size.features / 1e9:.1f} GB in memory, and this machine has "
                f"{there / 1e9:.1f} GB. Say how much may be taken, and they are read from disk: --memory "
                f"{max(1, there * 6 // 10 // 10**9)}GB"
            )
        return None
    limit = parse_memory(memory)
    base = LIBRARIES + AN_IMAGE * size.n_images + (NETWORKS if networks else 0)
    in_memory = base + size.features + jobs * A_VALUE_FITTED * size.largest + (jobs - 1) * WORKER
    if in_memory <= limit:
        return None
    least = base + LEAST_WORK
    if limit < least:
        raise CompareError(
            f"--memory {memory}: too little: libraries and the tables of {size.n_images:,} images take about "
            f"{base / 1e9:.1f} GB before a row is read. Give at least --memory {-(-least // 10**8) / 10:g}GB"
        )
    return limit - base


def search_rows(working: int, *, n_features: int, jobs: int) -> int:
    """Return how many rows hyper-parameters are searched on, so that a search fits in memory too."""
    for_rows = max(working - (jobs - 1) * WORKER, working // 2)
    return int(min(SEARCH_ROWS, for_rows // (n_features * (A_VALUE + jobs * A_VALUE_FITTED))))


def machine_bytes() -> int | None:
    """Return the memory of this machine; None where the system does not say."""
    try:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None
