"""Small synthetic stores: features are the class mean plus noise; views are the plain features plus noise."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from featurize.config import config_digest
from featurize.store.reader import ContentRow, ImageTable
from featurize.store.writer import write_store

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
    "store_dtype": "float32",
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


def write_synthetic_store(
    path: Path,
    *,
    counts=None,
    classes=("award", "low"),
    n_features=8,
    n_views=2,
    distance=3.0,
    view_noise=0.1,
    seed=0,
    config=None,
    permute_labels=False,
    copy_test_into_train=False,
    weights_path=None,
    dataset="posters",
    level_names=("final",),
    level_ends=None,
    telling=slice(None),
    per_entry=1,
) -> Path:
    """Write a store of independent contents.

    ``counts``: split → images per class. ``telling``: the columns in which the classes differ.
    ``permute_labels``: shuffle the labels over all contents and splits.
    ``copy_test_into_train``: also list every test content as a train image.
    ``per_entry``: images per entry, which is a folder; the counts are multiples of it.
    """
    counts = counts or {"train": 20, "test": 10}
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(len(classes), n_features))
    means[:, ~np.isin(np.arange(n_features), np.arange(n_features)[telling])] = 0.0
    means *= distance / np.linalg.norm(means, axis=1, keepdims=True)
    splits = [split for split, n in counts.items() for _ in range(n * len(classes))]
    labels = np.concatenate([np.repeat(np.arange(len(classes)), n) for n in counts.values()])
    if permute_labels:
        labels = generator.permutation(labels)
    contents = []
    for split, label in zip(splits, labels, strict=True):
        number = len(contents)
        plain = means[label] + generator.normal(size=n_features)
        if permute_labels:
            plain = generator.normal(size=n_features)
        views = plain + view_noise * generator.normal(size=(n_views, n_features))
        contents.append(
            {
                "row": ContentRow(
                    sha256=hashlib.sha256(f"{seed}-{number}".encode()).hexdigest(),
                    width=300,
                    height=200,
                    phash=int(generator.integers(2**63)),
                    thumbnail=generator.integers(0, 255, (32, 32, 3), dtype=np.uint8),
                    plain=plain.astype(np.float32),
                    augmented=views.astype(np.float32) if split != "test" and n_views else None,
                ),
                "split": split,
                "label": int(label) if split != "new" else -1,
                "name": f"{number:04}.jpg"
                if per_entry == 1
                else f"e{number // per_entry:03}/{number:04}.jpg",
            }
        )
    files = [(item, item["split"]) for item in contents]
    if copy_test_into_train:
        files += [(item, "train") for item in contents if item["split"] == "test"]
    contents.sort(key=lambda item: item["row"].sha256)
    row_of = {item["row"].sha256: row for row, item in enumerate(contents)}
    rows = []
    for item, split in files:
        folder = split if item["label"] < 0 else f"{split}/{classes[item['label']]}"
        rows.append((f"{folder}/{item['name']}", item, split))
    rows.sort(key=lambda row: row[0])
    images = ImageTable(
        path=[path for path, _, _ in rows],
        sha256=[item["row"].sha256 for _, item, _ in rows],
        content=np.array([row_of[item["row"].sha256] for _, item, _ in rows], dtype=np.int64),
        label=np.array([item["label"] for _, item, _ in rows], dtype=np.int16),
        split=[split for _, _, split in rows],
        entry=[path if per_entry == 1 else path.rpartition("/")[0] for path, _, _ in rows],
        skipped=[""] * len(rows),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    full_config = {**CONFIG, **(config or {}), "levels": len(level_names) > 1}
    write_store(
        path,
        config=full_config,
        config_digest=config_digest(full_config),
        rows=[item["row"] for item in contents],
        n_views=n_views,
        n_features=n_features,
        images=images,
        classes=classes,
        ordered=False,
        created_with={"dataset": dataset, "weights_path": weights_path},
    )
    with h5py.File(path, "r+") as file:  # as in docs/store-format.md
        file["features/plain"].attrs["level_names"] = np.array(level_names, dtype=h5py.string_dtype("utf-8"))
        file["features/plain"].attrs["level_ends"] = np.array(level_ends or [n_features], dtype=np.int64)
    return path


@pytest.fixture(scope="session")
def store_config() -> dict:
    """The config of the synthetic stores."""
    return {**CONFIG}


@pytest.fixture(autouse=True)
def without_report(request, monkeypatch) -> None:
    """Write no report, which takes seconds, unless the test has the marker ``report``."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr("classify.jobs.compare._write_report", lambda folder, samples: (None, ()))


@pytest.fixture(autouse=True)
def cache(own_cache, tmp_path_factory, monkeypatch) -> Path:
    """Use a cache of its own for every test; only the converted networks are shared."""
    folder = tmp_path_factory.mktemp("cache")
    (own_cache / "models").mkdir(exist_ok=True)
    (folder / "models").symlink_to(own_cache / "models", target_is_directory=True)
    monkeypatch.setenv("FOLIO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def store_maker() -> Callable[[Path], Callable[..., Path]]:
    """Return a function like `make_store` for another folder, for fixtures of a wider scope."""

    def maker(folder: Path) -> Callable[..., Path]:
        def make(name: str = "efficientnet_lite0", **options) -> Path:
            return write_synthetic_store(folder / "features" / f"{name}.h5", **options)

        return make

    return maker


@pytest.fixture
def make_store(store_maker, tmp_path: Path) -> Callable[..., Path]:
    """Write a synthetic store; see `write_synthetic_store`."""
    return store_maker(tmp_path)


@pytest.fixture(scope="session")
def coloured() -> ModuleType:
    """The module coloured.py, which is also a script: a network with known features, and images for it."""
    spec = importlib.util.spec_from_file_location("coloured", Path(__file__).with_name("coloured.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def coloured_store(coloured, tmp_path_factory) -> Path:
    """A store of images of one colour each; the image files exist too."""
    return coloured.write_portfolio(tmp_path_factory.mktemp("colours"), CONFIG)


@pytest.fixture(scope="session")
def coloured_bundle(coloured_store, tmp_path_factory) -> Path:
    """A bundle that predicts from colours, not with the network that its manifest names."""
    from classify.jobs.fit import fit

    out = tmp_path_factory.mktemp("bundles") / "plain"
    return fit(coloured_store, head="logreg", params={"C": 0.0001}, out=out, jobs=1).bundle
