"""Keras code for features of a frozen network, as in tutorials."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featurize.backbones.networks import build_network
from featurize.backbones.registry import get_backbone
from featurize.backbones.weights import find_weights

Run = Callable[..., dict[str, Any]]
BATCH = 32  # the default of image_dataset_from_directory and of predict


def standard_loop(*, backbone: str, weights: str) -> Run:
    """Return an arm: ``image_dataset_from_directory``, ``preprocess_input`` and ``model.predict``.

    One plain pass over every split; then, for each augmented view, one pass over the training images with
    Keras' random layers in the ``tf.data`` pipeline, mapped over all cores.
    """
    import keras
    import tensorflow as tf

    start = time.perf_counter()
    model, preprocess, size = _model(backbone, weights)
    model.predict(np.zeros((BATCH, size, size, 3), np.float32), verbose=0)  # the first call traces the model
    setup = time.perf_counter() - start
    augment = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(40 / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
            keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), fill_mode="nearest"),
        ]
    )

    def predict(folder: Path, *, augmented: bool) -> int:
        images = keras.utils.image_dataset_from_directory(
            folder, image_size=(size, size), batch_size=BATCH, shuffle=False, verbose=False
        )
        if augmented:
            images = images.map(
                lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE
            )
        features = model.predict(images.map(lambda x, y: (preprocess(x), y)), verbose=0)
        return len(features)

    def run(*, data: str, views: int, **_: Any) -> dict[str, Any]:
        plain = sum(predict(folder, augmented=False) for folder in sorted(Path(data).iterdir()))
        more = sum(predict(Path(data) / "train", augmented=True) for _ in range(views))
        return {
            "units": plain,
            "renderings": plain + more,
            "precision": "float32",
            "batch_size": BATCH,
            "setup_seconds": setup,
        }

    return run


def network(*, backbone: str, weights: str, call: str, features: str) -> Run:
    """Return an arm that only runs the model, on preprocessed pixels, with `predict` or ``model(x)``."""
    model, preprocess, _ = _model(backbone, weights)

    def forward(batch: np.ndarray) -> np.ndarray:
        if call == "predict":
            return model.predict(batch, batch_size=BATCH, verbose=0)
        return model(batch, training=False).numpy()

    def run(*, pixels: str, seconds: float, **_: Any) -> dict[str, Any]:
        images = np.array(preprocess(np.load(pixels).astype(np.float32)))
        # One call of `predict` for all images, so that its fixed cost is paid once.
        step = len(images) if call == "predict" else BATCH
        batches = [images[i : i + step] for i in range(0, len(images), step)]
        if not Path(features).exists():
            np.save(features, np.concatenate([forward(batch) for batch in batches]))
        done, start = 0, time.perf_counter()
        for batch in itertools.cycle(batches):
            if time.perf_counter() - start >= seconds:
                break
            done += len(forward(batch))
        return {
            "units": done,
            "seconds_counted": time.perf_counter() - start,
            "precision": "float32",
            "batch_size": BATCH,
        }

    return run


def _model(backbone: str, weights: str) -> tuple[Any, Callable[[Any], Any], int]:
    """Return a model as with ``include_top=False, pooling="avg"``, preprocess_input and the input size."""
    import keras

    entry = get_backbone(backbone)
    network = build_network(entry, find_weights(entry, weights))
    pooled = keras.layers.GlobalAveragePooling2D()(network.output)
    if entry.convention == "lite":  # not in keras.applications
        preprocess: Callable[[Any], Any] = lambda x: (x - 127.0) / 128.0  # noqa: E731
    else:
        module = importlib.import_module(f"keras.applications.{entry.factory.split('.')[0]}")
        preprocess = module.preprocess_input
    return keras.Model(network.input, pooled), preprocess, entry.size
