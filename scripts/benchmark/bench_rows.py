"""Stores of synthetic features of any size, to measure heads on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurize.config import config_digest
from featurize.store.reader import ContentRow, ImageTable
from featurize.store.writer import StoreWriter

CLASSES = ("low", "middle", "award")  # ordered, so that every head can be fitted
SHARES = (0.5, 0.3, 0.2)
TEST_SHARE = 0.1
PER_ENTRY = 2  # images per entry, which is a group
DISTANCE = 1.0  # between means of neighbouring classes, in standard deviations of the noise
FACTORS = 48  # directions of correlated variance, as in features of a network
ENTRY_VARIANCE = 0.4  # fraction of that variance shared by the images of an entry
_BLOCK = 8192  # rows drawn at a time
CONFIG = {
    "backbone": "efficientnet_lite0",
    "weights": {"kind": "imagenet", "sha256": "0" * 64, "seed": None},
    "input_size": 224,
    "resize": "squash",
    "resample": "bicubic",
    "preprocess": "native",
    "statistics": None,
    "precision": "float32",
    "levels": False,
    "store_dtype": "float16",
    "views": {
        "rotation": 40.0,
        "width_shift": 0.2,
        "height_shift": 0.2,
        "shear": 0.2,
        "zoom_low": 0.8,
        "zoom_high": 1.2,
        "horizontal_flip": True,
        "vertical_flip": False,
        "seed": 0,
    },
}


def make_rows_store(
    path: Path, *, n_rows: int, n_features: int = 1280, n_views: int = 0, seed: int = 0
) -> float:
    """Write a store of synthetic features in format version 1; return the seconds it took.

    Classes overlap along two directions, so that no head is perfect. The images of an entry are similar.
    There are no image files.

    Parameters
    ----------
    path : Path
        Path of the store.
    n_rows : int
        Number of images, each with its own content. A tenth of them are the test split.
    n_features : int, default=1280
        Columns, stored in float16.
    n_views : int, default=0
        Augmented views of each training image.
    seed : int, default=0
    """
    start = time.perf_counter()
    generator = np.random.default_rng(seed)
    label, entry = _entries(n_rows, generator)
    is_test = np.arange(len(label)) < TEST_SHARE * n_rows
    # Contents are sorted by SHA-256, so images are in random order.
    order = generator.permutation(n_rows)
    sha256 = sorted(hashlib.sha256(f"{seed}-{k}".encode()).hexdigest() for k in range(n_rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with StoreWriter(
        path,
        config=CONFIG,
        config_digest=config_digest(CONFIG),
        n_features=n_features,
        n_views=n_views,
        most_rows=n_rows,
        store_dtype="float16",
    ) as writer:
        drawn = _features(label[order], entry[order], n_features, n_views, generator)
        for row, (plain, views, phash, thumbnail) in enumerate(drawn):
            writer.add(
                ContentRow(
                    sha256=sha256[row],
                    width=300,
                    height=200,
                    phash=phash,
                    thumbnail=thumbnail,
                    plain=plain,
                    augmented=views if n_views and not is_test[order[row]] else None,
                )
            )
        writer.finish(
            images=_images(label, entry, is_test, order=order, sha256=sha256),
            classes=CLASSES,
            ordered=True,
            created_with={"dataset": f"synthetic-{n_rows}"},
        )
    return time.perf_counter() - start


def _entries(
    n_rows: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return class and entry of each image."""
    entry = np.arange(n_rows) // PER_ENTRY
    return generator.choice(len(CLASSES), size=int(entry[-1]) + 1, p=SHARES)[entry], entry


def _features(
    label: npt.NDArray[np.int64],
    entry: npt.NDArray[np.int64],
    n_features: int,
    n_views: int,
    generator: np.random.Generator,
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int, npt.NDArray[np.uint8]]]:
    """Yield features, views, perceptual hash and thumbnail of each content."""
    directions = np.linalg.qr(generator.normal(size=(n_features, FACTORS)))[0].T.astype(np.float32)
    strength = np.linspace(3.0, 0.5, FACTORS, dtype=np.float32)  # of each direction, relative to the noise
    grade = np.arange(len(CLASSES)) - 1.0
    means = np.zeros((len(CLASSES), FACTORS), dtype=np.float32)
    means[:, FACTORS // 3] = DISTANCE * grade  # ordered classes
    means[:, FACTORS // 2] = DISTANCE * np.array(
        [-0.5, 1.0, -0.5]
    )  # the middle class differs in this direction
    shared = generator.standard_normal((int(entry.max()) + 1, FACTORS), dtype=np.float32)
    centre = generator.uniform(0.5, 1.5, n_features).astype(np.float32)
    width = generator.uniform(0.2, 2.0, n_features).astype(np.float32)  # columns differ in scale
    rest = np.float32(np.sqrt(1 - ENTRY_VARIANCE))
    for start in range(0, len(label), _BLOCK):
        part = slice(start, start + _BLOCK)
        n = len(label[part])
        hidden = np.float32(np.sqrt(ENTRY_VARIANCE)) * shared[entry[part]]
        hidden += rest * generator.standard_normal((n, FACTORS), dtype=np.float32)
        hidden = (hidden + means[label[part]]) * strength

        def observed(hidden: npt.NDArray[np.float32] = hidden) -> npt.NDArray[np.float32]:
            noise = generator.standard_normal((len(hidden), n_features), dtype=np.float32)
            return (hidden @ directions + np.float32(0.3) * noise) * width + centre

        plain = observed()
        views = np.stack([observed() for _ in range(n_views)], axis=1) if n_views else plain[:, None]
        phash = generator.integers(2**63, size=n, dtype=np.uint64)
        thumbnail = generator.integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
        yield from zip(plain, views, phash.tolist(), thumbnail, strict=True)


def _images(
    label: npt.NDArray[np.int64],
    entry: npt.NDArray[np.int64],
    is_test: npt.NDArray[np.bool_],
    *,
    order: npt.NDArray[np.int64],
    sha256: list[str],
) -> ImageTable:
    """Return the table of images, with one folder per entry, below class and split."""
    content = np.empty_like(order)
    content[order] = np.arange(len(order))
    folder = [
        f"{'test' if test else 'train'}/{CLASSES[grade]}/e{number:08}"
        for test, grade, number in zip(is_test.tolist(), label.tolist(), entry.tolist(), strict=True)
    ]
    path = [f"{entry_folder}/{k}.jpg" for k, entry_folder in enumerate(folder)]
    rows = sorted(range(len(path)), key=path.__getitem__)
    return ImageTable(
        path=[path[k] for k in rows],
        sha256=[sha256[content[k]] for k in rows],
        content=content[rows].astype(np.int64),
        label=label[rows].astype(np.int16),
        split=["test" if is_test[k] else "train" for k in rows],
        entry=[folder[k] for k in rows],
        skipped=[""] * len(rows),
    )
