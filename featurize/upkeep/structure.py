"""Which datasets and attributes a store has, with their types and shapes; format version 1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from featurize.store import FORMAT, FORMAT_VERSION, THUMBNAIL
from featurize.store_writer import TEXTS

CONTENT_COLUMNS = {
    "content/width": "<i4",
    "content/height": "<i4",
    "content/phash": "<u8",
    "content/thumbnail": "|u1",
    "content/crc32": "<u4",
}
IMAGE_COLUMNS = {"images/content": "<i8", "images/label": "<i2"}
FEATURES = ("features/plain", "features/augmented")
REQUIRED = {"format", "format_version", "config", "config_digest", "classes", "ordered", "created_with"}
OPTIONAL = {"text_crc32"}


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The counts of a store, as its datasets have them."""

    n_content: int
    n_images: int
    n_augmented: int
    n_views: int
    n_features: int
    n_chunks: int


def shapes(file: h5py.File) -> Shapes:
    """Return the counts of a store whose datasets are all there."""
    augmented = file["features/augmented"].shape
    n_chunks = 0
    for name in (*CONTENT_COLUMNS, *IMAGE_COLUMNS, *FEATURES, "features/augmented_content"):
        if file[name].chunks is not None:
            n_chunks += -(-file[name].shape[0] // file[name].chunks[0])
    return Shapes(
        n_content=file["content/sha256"].shape[0],
        n_images=file["images/path"].shape[0],
        n_augmented=augmented[0],
        n_views=augmented[1],
        n_features=file["features/plain"].shape[1],
        n_chunks=n_chunks,
    )


def check_structure(file: h5py.File) -> list[tuple[str, str]]:
    """Return what is not as the format has it: where, and what. Nothing else is worth reading then."""
    file.visititems(lambda name, item: None)  # raises where a name leads nowhere
    return _attributes(file) or _types(file) or _shapes(file)


def _attributes(file: h5py.File) -> list[tuple[str, str]]:
    names = set(file.attrs)
    faults = [(name, "this attribute is missing") for name in sorted(REQUIRED - names)]
    faults += [(name, "this attribute is not in the format") for name in sorted(names - REQUIRED - OPTIONAL)]
    if faults:
        return faults
    if file.attrs["format"] != FORMAT or file.attrs["format_version"] != FORMAT_VERSION:
        found = f"{file.attrs['format']!r} version {file.attrs['format_version']}"
        faults.append(("format", f"is {found}; expected {FORMAT!r} version {FORMAT_VERSION}"))
    for name in ("config", "created_with", *(OPTIONAL & names)):
        try:
            is_object = isinstance(json.loads(file.attrs[name]), dict)
        except (TypeError, ValueError):
            is_object = False
        if not is_object:
            faults.append((name, "is not a JSON object"))
    return faults


def _types(file: h5py.File) -> list[tuple[str, str]]:
    stored = json.loads(file.attrs["config"]).get("store_dtype", "float32")
    features = np.dtype(stored).newbyteorder("<").str
    numbers = {
        **CONTENT_COLUMNS,
        **IMAGE_COLUMNS,
        **dict.fromkeys(FEATURES, features),
        "features/augmented_content": "<i8",
    }
    faults = []
    for name, dtype in numbers.items():
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            faults.append((name, "this dataset is missing"))
        elif dataset.dtype != np.dtype(dtype):
            faults.append((name, f"its type is {dataset.dtype}; expected {np.dtype(dtype)}"))
        elif dataset.chunks is not None and not dataset.fletcher32:
            faults.append((name, "it has no checksums (fletcher32)"))
    for name in TEXTS:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            faults.append((name, "this dataset is missing"))
        elif h5py.check_string_dtype(dataset.dtype) is None:
            faults.append((name, f"its type is {dataset.dtype}; expected text"))
    return faults


def _shapes(file: h5py.File) -> list[tuple[str, str]]:
    plain, augmented = (file[name].shape for name in FEATURES)
    if len(plain) != 2:
        return [("features/plain", f"its shape is {plain}; expected (n_content, n_features)")]
    if len(augmented) != 3:
        return [
            ("features/augmented", f"its shape is {augmented}; expected (n_augmented, n_views, n_features)")
        ]
    expected: dict[str, tuple[int, ...]] = {name: (len(file["content/sha256"]),) for name in CONTENT_COLUMNS}
    expected["content/thumbnail"] += (THUMBNAIL, THUMBNAIL, 3)
    expected["features/plain"] = (len(file["content/sha256"]), plain[1])
    expected["features/augmented"] = (len(file["features/augmented_content"]), augmented[1], plain[1])
    expected |= dict.fromkeys((*IMAGE_COLUMNS, *TEXTS[1:]), (len(file["images/path"]),))
    faults = [
        (name, f"its shape is {file[name].shape}; expected {shape}")
        for name, shape in expected.items()
        if file[name].shape != shape
    ]
    return faults or _too_large(file, expected) or _levels(file["features/plain"])


def _too_large(file: h5py.File, expected: dict[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """Rows that HDF5 would make up: chunks that are not in the file come as zeros, without an end."""
    there = file.id.get_filesize()
    for name, shape in expected.items():
        if np.prod(shape, dtype=object) * file[name].dtype.itemsize > there:
            return [(name, f"its shape is {shape}, more than the whole file of {there} bytes can hold")]
        chunks: Any = file[name].chunks
        if chunks is None and np.prod(shape) and name not in TEXTS:
            return [(name, "it is not chunked")]
        if chunks is not None and chunks[1:] != shape[1:]:
            return [(name, f"its chunks are {chunks}; expected whole rows")]
    return []


def _levels(plain: h5py.Dataset) -> list[tuple[str, str]]:
    names, ends = plain.attrs.get("level_names"), plain.attrs.get("level_ends")
    if names is None or ends is None or len(names) != len(ends):
        return [("features/plain", "its attributes level_names and level_ends do not fit together")]
    ends = [0, *map(int, ends)]
    if ends[-1] != plain.shape[1] or any(a >= b for a, b in pairwise(ends)):
        return [("features/plain", f"level_ends {ends[1:]} are not the ends of {plain.shape[1]} columns")]
    return []
