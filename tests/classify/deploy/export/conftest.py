"""Fitted heads of all kinds, and bundles on synthetic images of two backbones of different sizes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.heads.registry import HEADS, make_head

N_FEATURES = 12
DENSE = {"units": (16, 8), "epochs": 3}
CLASSES = ("award", "low", "middle")


def make_rows(n: int, n_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features like a backbone's, float32 and not negative, and classes that overlap."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, N_FEATURES))
    X = np.maximum(centres[y] + generator.normal(size=(n, N_FEATURES)) + 1, 0)
    X[:, 3] = 0.25  # a constant column
    return X.astype(np.float32), y


@lru_cache
def _fitted(head: str, n_classes: int, params: tuple[tuple[str, Any], ...]) -> Any:
    more = DENSE if HEADS[head].tensorflow else {}
    return make_head(head, params={**more, **dict(params)}).fit(*make_rows(90, n_classes))


@pytest.fixture(scope="session")
def fitted_head() -> Callable[..., Any]:
    """Fit a head, once in a session: ``fitted_head(head, n_classes, **params)``."""
    return lambda head, n_classes, **params: _fitted(head, n_classes, tuple(params.items()))


@pytest.fixture(scope="session", name="make_rows")
def rows_maker() -> Callable[..., Any]:
    """Make rows; see `make_rows`."""
    return make_rows


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Rows to predict: new ones, training rows, and values from zero to huge."""
    ordinary, _ = make_rows(200, 3, seed=1)
    known, _ = make_rows(90, 3)
    spike = ordinary[:1].copy()
    spike[0, 0] = 1e4
    extreme = [np.zeros((1, N_FEATURES)), ordinary[:2] * 1e-6, ordinary[:2] * 1e3, ordinary[:1] * 1e5, spike]
    return np.concatenate([ordinary, known, *extreme]).astype(np.float32)


@pytest.fixture(scope="session")
def as_network() -> Callable[..., Any]:
    """Make a Keras model of heads, ``as_network({name: (head, fitted)})``: features in, float64 out."""
    import keras

    from classify.deploy.export.network import head_probabilities

    def make(heads: dict[str, tuple[str, Any]]) -> Any:
        features = keras.Input((N_FEATURES,), dtype="float32", name="features")
        outputs = {
            name: keras.layers.Identity(dtype="float64", name=name)(
                head_probabilities(head, fitted, features, name=f"head_{name}")
            )
            for name, (head, fitted) in heads.items()
        }
        return keras.Model(features, outputs)

    return make


def draw_portfolio(folder: Path) -> Path:
    """Draw pictures whose classes differ a little in colour: train and test, PNG, no two alike."""
    generator = np.random.default_rng(5)
    for split, n in (("train", 7), ("test", 3)):
        for shade, name in enumerate(CLASSES):
            for number in range(n):
                patches = generator.normal(110 + 25 * shade, 55, size=(12, 10, 3))
                patches[..., shade] += 30
                image = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
                file = folder / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.resize((130, 150), Image.Resampling.BICUBIC).save(file)
    return folder


@pytest.fixture(scope="session")
def portfolio(tmp_path_factory) -> Path:
    """Drawn pictures."""
    return draw_portfolio(tmp_path_factory.mktemp("drawn") / "drawn")


@pytest.fixture(scope="session")
def stores(portfolio, tmp_path_factory) -> list[Path]:
    """The pictures in a packaged network with its levels at 64 pixels, and in a random one at 80, cropped."""
    from featurize import extract

    shared: dict[str, Any] = {
        "views": 0,
        "precision": "float32",
        "order": ("low", "middle", "award"),
        "out": tmp_path_factory.mktemp("features"),
    }
    lite0 = extract(portfolio, backbones=["efficientnet_lite0"], input_size=64, levels=True, **shared)
    other = {"input_size": 80, "resize": "crop", "resample": "lanczos"}
    return [
        lite0[0].path,
        extract(portfolio, backbones=["mobilenet"], weights="random", **other, **shared)[0].path,
    ]


@pytest.fixture(scope="session")
def bundles(stores, tmp_path_factory) -> dict[str, Path]:
    """Bundles: "final" and "all" levels of one backbone, two "fused", and the "ensemble" of unlike ones."""
    from classify.data.fusion import fuse
    from classify.data.samples import load_samples
    from classify.io.bundle_extras import prepare_weights
    from classify.io.bundle_writer import save_bundle, save_ensemble
    from classify.io.head_file import dump_head
    from featurize import open_store

    folder = tmp_path_factory.mktemp("bundles")
    alone = [load_samples(path) for path in stores]
    weights: dict[str, Any] = {}
    for path, samples in zip(stores, alone, strict=True):
        with open_store(path) as store, warnings.catch_warnings():
            # Keras' own conversion of its variables to NumPy 2 arrays.
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            carried, notes = prepare_weights(
                folder / "weights",
                store=samples.store,
                config=samples.config,
                created_with=store.created_with,
            )
        assert notes == ()
        weights[samples.store] = carried

    def save(name: str, samples: Any, head: str, *, temperature: float = 1.0, **params: Any) -> Path:
        levels = {"levels": params.pop("levels")} if "levels" in params else {}
        known = samples.plain[
            samples.content[samples.fit_images], samples.columns(levels.get("levels", "final"))
        ]
        fitted = make_head(head, params=params).fit(known, samples.y[samples.fit_images])
        save_bundle(
            folder / name,
            dump_head(fitted, head),
            head=head,
            params={**params, **levels},
            samples=samples,
            weights=weights if samples.parts else weights[samples.store],
            metrics={},
            seed=0,
            temperature=temperature,
        )
        return folder / name

    lite0, small = alone
    made = {
        "final": save("final", lite0, "svm-rbf", levels="final", C=10.0),
        "all": save("all", lite0, "logreg", levels="all", C=1e-3, temperature=2.5),
        "random": save("random", small, "svm-linear", scaling="l2", C=100.0, temperature=0.7),
        "fused": save("fused", fuse(alone), "logreg", levels="all", scaling="l2", C=10.0),
    }
    save_ensemble(
        folder / "ensemble",
        [made[name] for name in ("final", "all", "fused")],
        head="ensemble",
        samples=lite0,
        metrics={},
    )
    return {**made, "ensemble": folder / "ensemble"}
