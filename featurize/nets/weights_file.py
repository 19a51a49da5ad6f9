"""A weights file in any of Keras' formats into a network: all of it or an error. Content tells the format."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.errors import WeightsError

if TYPE_CHECKING:
    import keras

_INSIDE_KERAS_FILE = "model.weights.h5"


def load_weights_file(network: keras.Model, path: Path, *, name: str) -> None:
    """Give `network` every weight from a file, and use every weight of the file.

    Parameters
    ----------
    network : keras.Model
        Built, without its top.
    path : Path
        HDF5 in the layout of `.weights.h5` or of the legacy `*_notop.h5`, or a `.keras` archive, of which
        only the weights are read: nothing in it is ever deserialised or run.
    name : str
        The backbone's name, for messages.

    Raises
    ------
    WeightsError
        If the file is damaged, of another network, with a top, or leaves any variable as it was.
    """
    try:
        with _as_hdf5(path) as (hdf5, legacy):
            _compare(network, _file_shapes(hdf5, legacy), path, name)
            _fill_with_nan(network)
            ending = ".h5" if legacy else ".weights.h5"
            with _with_ending(hdf5, ending) as named, warnings.catch_warnings():
                # Keras warns of layers it leaves out; here the marks tell, and it is an error.
                warnings.simplefilter("ignore")
                network.load_weights(named)
    except (
        OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise WeightsError(_wrong(path, name, reason)) from error
    untouched = [weight.path for weight in network.weights if _left_as_it_was(weight)]
    if untouched:
        raise WeightsError(
            _wrong(path, name, f"{len(untouched)} arrays got no number, the first of them {untouched[0]}")
        )


def _wrong(path: Path, name: str, reason: str) -> str:
    return (
        f"{path}: not a whole weights file of {name}: {reason}. Expected all weights without the top, as "
        f".weights.h5, *_notop.h5 or .keras. If this is a download, delete it and try again"
    )


@contextlib.contextmanager
def _as_hdf5(path: Path) -> Iterator[tuple[Path, bool]]:
    """Give the HDF5 file, out of a `.keras` archive if need be, and whether its layout is the legacy one."""
    import h5py

    with contextlib.ExitStack() as stack:
        if not h5py.is_hdf5(path) and zipfile.is_zipfile(path):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            with zipfile.ZipFile(path) as archive:
                path = Path(archive.extract(_INSIDE_KERAS_FILE, folder))
        if not h5py.is_hdf5(path):
            raise ValueError("it is not HDF5")
        with h5py.File(path, "r") as file:
            group = _legacy_group(file)
        yield path, group is not None


def _legacy_group(file: Any) -> Any:
    """Return the group that holds legacy layers, or None: a whole legacy model keeps them one level down."""
    for group in (file, file.get("model_weights")):
        if group is not None and any(key in group.attrs for key in ("layer_names", "layer_names0")):
            return group
    return None


def _file_shapes(path: Path, legacy: bool) -> Counter[tuple[int, ...]]:
    """Count the shapes of the network's arrays in the file, without an optimiser's or generator's state."""
    import h5py

    shapes: Counter[tuple[int, ...]] = Counter()

    def count(name: str, item: Any) -> None:
        parts = name.split("/")
        if isinstance(item, h5py.Dataset) and not {"optimizer", "seed_generator", "metrics"} & set(parts):
            shapes[tuple(item.shape)] += 1

    with h5py.File(path, "r") as file:
        (_legacy_group(file) if legacy else file).visititems(count)
    return shapes


def _compare(network: keras.Model, found: Counter[tuple[int, ...]], path: Path, name: str) -> None:
    expected = Counter(tuple(weight.shape) for weight in network.weights)
    if found == expected:
        return
    width = network.output.shape[-1]
    missing, extra = expected - found, found - expected
    if not missing and any(len(shape) >= 2 and shape[-2] == width for shape in extra):
        reason = "it has a top as well; take the file without it (*_notop.h5)"
    else:
        example = next(iter((missing or extra).elements()))
        reason = (
            f"expected {expected.total()} arrays, found {found.total()}; "
            f"{missing.total()} are missing and {extra.total()} too many, such as one of shape {example}"
        )
    raise WeightsError(_wrong(path, name, reason))


def _fill_with_nan(network: keras.Model) -> None:
    """Mark every variable, so that one which loading forgets is seen."""
    for weight in network.weights:
        weight.assign(np.full(weight.shape, _mark(weight), dtype=weight.dtype))


def _mark(weight: Any) -> float:
    return float("nan") if np.issubdtype(np.dtype(weight.dtype), np.floating) else -1


def _left_as_it_was(weight: Any) -> bool:
    numbers = np.asarray(weight)
    if np.issubdtype(numbers.dtype, np.floating):
        return not np.isfinite(numbers).all()
    return bool((numbers == -1).any())


@contextlib.contextmanager
def _with_ending(path: Path, ending: str) -> Iterator[Path]:
    """Give the same file under a name that ends as Keras wants it to: Keras goes by the name."""
    if path.name.endswith(ending) and (ending != ".h5" or not path.name.endswith(".weights.h5")):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"weights{ending}"
        try:
            os.symlink(path.resolve(), named)
        except OSError:  # no right to make links
            shutil.copyfile(path, named)
        yield named
