"""Prediction from colours: a network whose features are the channel means, so that predictions are known.

As a script it is the command ``classify`` with this network instead of the real one:
``python coloured.py serve BUNDLE --port 0``.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
CLASSES = ("award", "low", "middle")
HUES = {"award": (220, 40, 40), "low": (40, 220, 40), "middle": (40, 40, 220)}
N_IMAGES = 8  # per class
GATE = "COLOURED_GATE"  # environment variable with a path; while the file exists, no features are returned


class MeanEngine:
    """Features are the channel means of the pixels."""

    name, device, notes = "stand-in", "cpu", ()
    size, batch_size, in_flight, n_features = SIZE, 4, 1, 3

    def submit(self, images: np.ndarray):
        from featurize.engines.base import ReadyFeatures

        assert images.dtype == np.uint8
        while os.path.exists(os.environ.get(GATE, "")):  # while a test has closed the gate
            time.sleep(0.02)
        return ReadyFeatures(images.mean(axis=(1, 2)).astype(np.float32))


def prepare(reader, n_files: int) -> MeanEngine:
    """Replace `FeatureReader.prepare`: the usual decoding processes, but another network."""
    reader._decoder.start(n_files)
    return MeanEngine()


def picture(colour: tuple[int, int, int], *, size: tuple[int, int] = (48, 40), kind: str = "PNG") -> bytes:
    """Return an image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def colour(grade: str, number: int) -> tuple[int, int, int]:
    """Return a colour of a grade; all colours are different."""
    red, green, blue = HUES[grade]
    return red + 3 * number - 12, green + number, blue + 2 * number


def write_portfolio(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write images to fit on under `folder`, and a store of their colours; return its path."""
    from featurize.config import config_digest
    from featurize.store.reader import ContentRow, ImageTable
    from featurize.store.writer import write_store

    found = []
    for label, grade in enumerate(CLASSES):
        for number in range(N_IMAGES):
            data, path = picture(colour(grade, number)), f"train/{grade}/{grade} {number}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            row = ContentRow(
                sha256=hashlib.sha256(data).hexdigest(),
                width=48,
                height=40,
                phash=int.from_bytes(hashlib.sha256(data).digest()[:7]),  # nothing is a near duplicate
                thumbnail=np.full((32, 32, 3), colour(grade, number), dtype=np.uint8),
                plain=np.array(colour(grade, number), dtype=np.float32),
                augmented=None,
            )
            found.append((path, label, row))
    found.sort(key=lambda item: item[2].sha256)
    order = sorted(range(len(found)), key=lambda k: found[k][0])
    images = ImageTable(
        path=[found[k][0] for k in order],
        sha256=[found[k][2].sha256 for k in order],
        content=np.array(order, dtype=np.int64),
        label=np.array([found[k][1] for k in order], dtype=np.int16),
        split=["train"] * len(found),
        entry=[found[k][0] for k in order],
        skipped=[""] * len(found),
    )
    full_config = {**config, "input_size": SIZE}
    store = folder / "features" / "efficientnet_lite0.h5"
    store.parent.mkdir()
    write_store(
        store,
        config=full_config,
        config_digest=config_digest(full_config),
        rows=[row for _, _, row in found],
        n_views=0,
        n_features=3,
        images=images,
        classes=CLASSES,
        ordered=False,
        created_with={"dataset": "colours", "data": str(folder)},
    )
    return store


if __name__ == "__main__":
    import featurize.extraction.inference
    from classify.cli.main import main

    featurize.extraction.inference.FeatureReader.prepare = prepare  # type: ignore[method-assign,assignment]
    main()
