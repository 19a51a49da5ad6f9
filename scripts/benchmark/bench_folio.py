"""Arms of Folio: each function prepares one and returns the function that runs it."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions
from featurize.extraction.extract import extract
from featurize.store.reader import open_store

Run = Callable[..., dict[str, Any]]


def extraction(*, backbone: str, weights: str, **options: Any) -> Run:
    """Return an arm that runs ``featurize.extract`` into a new folder, with these options."""

    def run(*, data: str, views: int, **_: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as out:
            (result,) = extract(data, backbones=[backbone], weights=weights, views=views, out=out, **options)
            with open_store(result.path) as store:
                created_with = store.created_with
        return {
            "units": result.n_content,
            "renderings": result.n_forward,
            "engine": created_with["engine"],
            "precision": result.config["precision"],
            "device": result.device,
            "seconds": {step: round(value, 3) for step, value in result.seconds.items()},
        }

    return run


def decoding(*, size: int) -> Run:
    """Return an arm that only decodes and warps, in worker processes that are kept between runs."""
    from featurize.images import dataset
    from featurize.images.augment import ViewRanges
    from featurize.images.pool import Decoder, DecodeRequest
    from featurize.images.render import RenderSettings

    rendering = RenderSettings(
        size=size, resize="squash", resample="bicubic", max_pixels=10**9, ranges=ViewRanges(), seed=0
    )
    decoders: dict[int, Decoder] = {}  # by the number of views
    requests: dict[tuple[str, int], list[DecodeRequest]] = {}

    def run(*, data: str, views: int, **_: Any) -> dict[str, Any]:
        if (data, views) not in requests:
            requests[data, views] = [
                DecodeRequest(
                    path=Path(data) / image.path,
                    sha256=image.sha256,
                    views=tuple(range(views + 1)) if image.split == "train" else (0,),
                )
                for image in dataset.load_dataset(data).images
            ]
        if views not in decoders:
            decoders[views] = Decoder(rendering, most_views=views + 1)
        batch = requests[data, views]
        start = time.perf_counter()
        problems = [result.problem for result in decoders[views].decode(batch) if result.problem]
        assert not problems, problems[0]
        return {"units": len(batch), "seconds_counted": time.perf_counter() - start}

    return run


def network(*, backbone: str, weights: str, engine: str, precision: str, features: str = "") -> Run:
    """Return an arm that only runs the network, on batches in memory, several in flight if the engine can."""
    from collections import deque

    from featurize.backbones.registry import get_backbone
    from featurize.backbones.weights import find_weights
    from featurize.engines.factory import create_engine

    entry = get_backbone(backbone)
    forward = create_engine(entry, find_weights(entry, weights), engine=engine, precision=precision)

    def run(*, pixels: str, seconds: float, **_: Any) -> dict[str, Any]:
        images = np.load(pixels)
        batches = [
            images[i : i + forward.batch_size]
            for i in range(0, len(images) - forward.batch_size + 1, forward.batch_size)
        ]
        if features and not Path(features).exists():
            np.save(features, np.concatenate([forward(batch) for batch in batches]))
        in_flight, done, start = deque(), 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for batch in batches:
                if len(in_flight) >= forward.in_flight:
                    in_flight.popleft().result()
                in_flight.append(forward.submit(batch))
                done += len(batch)
        while in_flight:
            in_flight.popleft().result()
        return {
            "units": done,
            "seconds_counted": time.perf_counter() - start,
            "engine": forward.name,
            "precision": forward.precision,
            "device": forward.device,
            "batch_size": forward.batch_size,
        }

    return run


def store_extraction(*, backbone: str, weights: str) -> Run:
    """Return an arm that extracts into a given folder."""

    def run(*, data: str, views: int, out: str) -> dict[str, Any]:
        (result,) = extract(data, backbones=[backbone], weights=weights, views=views, out=out)
        return {"units": result.n_content, "path": str(result.path)}

    return run


def dense_epochs(*, store: str, epochs: int) -> Run:
    """Return an arm that fits the dense head with fixed hyper-parameters for this number of epochs."""
    from classify.jobs.fit import fit

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            fit(
                store,
                head="dense",
                params={"scaling": "standardise"},
                dense=DenseOptions(epochs=epochs, patience=epochs),
                out=Path(folder) / "bundle",
                fresh=True,
            )
        return {"epochs": epochs}

    return run


def comparison(*, store: str, dense: dict[str, Any] | None = None) -> Run:
    """Return an arm that runs ``classify.compare`` on one store, without the cache of earlier runs."""
    import keras  # noqa: F401 - its import is not part of the measured search

    options = DenseOptions(**(dense or {}))

    def run(*, heads: Sequence[str], seed: int = 0) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            comparison = compare(
                [store], heads=heads, out=Path(folder) / "run", seed=seed, dense=options, fresh=True
            )
            with (comparison.folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
                predictions = list(csv.DictReader(file))
        return {
            "heads": {
                result["head"]: {
                    "params": result["params"],
                    "cv_balanced_accuracy": result["cv_balanced_accuracy"],
                    "accuracy": result["metrics"]["accuracy"],
                    "predicted": [
                        row["predicted_class"] for row in predictions if row["head"] == result["head"]
                    ],
                }
                for result in comparison.record["results"]
                if result["head"] in heads
            }
        }

    return run


def dense_fits(*, store: str, options: dict[str, Any]) -> Run:
    """Return an arm that fits the dense head once per seed and returns the test accuracies."""
    from classify.data.samples import load_samples
    from classify.heads.registry import make_head

    samples = load_samples(store)
    rows, plain = samples.rows(samples.train_images), samples.rows(samples.test_images, views=False)

    def run(*, seeds: Sequence[int], params: dict[str, Any]) -> dict[str, Any]:
        accuracies = []
        for seed in seeds:
            head = make_head("dense", params={**options, **params}, seed=seed)
            head.fit(rows.X, rows.y, groups=rows.groups, image=rows.image)
            accuracies.append(float(np.mean(head.predict(plain.X) == plain.y)))
        return {"units": len(seeds), "accuracies": accuracies}

    return run
