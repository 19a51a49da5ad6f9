"""Runs of a small data set of real picture files, some of them with names that want to be markup."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify.data.load import load_same_dataset
from classify.jobs.compare import compare
from classify.jobs.options import DenseOptions
from classify.report.images import RunImages, run_images
from classify.report.predictions import TestedEntries
from featurize.config import config_digest
from featurize.store.reader import ContentRow, ImageTable
from featurize.store.writer import write_store

CLASSES = ("low", "middle", "award")
COUNTS = {"train": 12, "test": 8}
# Of the first test picture of each class, which is made to look like another class: it is a mistake.
HOSTILE = {
    "low": "<img src=x onerror=alert(1)>.jpg",
    "middle": "\"'><script>alert(2)<&amp;.jpg",
    "award": "line\nbreak \u202egpj.jpg",
}
DATASET = "photos <svg onload=alert(3)>"


def picture(seed: int, *, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw soft blobs of colour: no two seeds look alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def write_photos(root: Path) -> Path:
    """Write pictures of three classes, a copy, one without a grade, and a file that is none."""
    seed = 0
    for name in CLASSES:
        for split, count in COUNTS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed += 1
                file = HOSTILE[name] if split == "test" and number == 0 else f"{number:02}.jpg"
                size = (100, 400) if number == 1 else (320, 240)
                picture(seed, size=size).save(folder / file, "JPEG", quality=90)
    (root / "train/award/copy.jpg").write_bytes((root / "train/award/00.jpg").read_bytes())
    (root / "new").mkdir()
    picture(1000).save(root / "new" / "unknown.jpg")
    (root / "train/low/broken.jpg").write_text("no picture")
    return root


def write_photo_store(path: Path, root: Path, config: dict[str, Any], *, seed: int) -> Path:
    """Write the store that extraction would make of such a folder, with features that are drawn.

    A class has a direction of its own; what has a hostile name has that of the next class.
    """
    names = sorted(
        (file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()), key=os.fsencode
    )
    sha256 = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
    good = {sha256[name]: name for name in names if "broken" not in name}
    contents = sorted(good)
    images = ImageTable(
        path=names,
        sha256=[sha256[name] for name in names],
        content=np.array(
            [contents.index(sha256[name]) if sha256[name] in good else -1 for name in names], dtype=np.int64
        ),
        label=np.array([_label(name) for name in names], dtype=np.int16),
        split=[name.split("/")[0] for name in names],
        entry=names,
        skipped=["" if sha256[name] in good else "not an image" for name in names],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_store(
        path,
        config=config,
        config_digest=config_digest(config),
        rows=[_row(content, root / good[content], good[content], seed=seed) for content in contents],
        n_views=0,
        n_features=6,
        images=images,
        classes=CLASSES,
        ordered=True,
        created_with={"dataset": DATASET, "data": str(root)},
    )
    return path


def _label(name: str) -> int:
    parts = name.split("/")
    return CLASSES.index(parts[1]) if parts[0] in COUNTS else -1


def _row(sha256: str, path: Path, name: str, *, seed: int) -> ContentRow:
    generator = np.random.default_rng([seed, int(sha256[:12], 16)])
    features = generator.normal(size=6)
    seems = _label(name) + (path.name in HOSTILE.values())
    features[seems % len(CLASSES)] += 3.5
    with Image.open(path) as image:
        return ContentRow(
            sha256=sha256,
            width=image.width,
            height=image.height,
            phash=int(generator.integers(2**63)),
            thumbnail=np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX)),
            plain=features.astype(np.float32),
            augmented=None,
        )


@dataclass(frozen=True, kw_only=True)
class PhotoRun:
    """A comparison of two stores of the pictures, with its report."""

    folder: Path
    data: Path
    stores: tuple[Path, Path]
    record: dict[str, Any]

    @property
    def page(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory, store_config) -> PhotoRun:
    """Made once for all tests: none of them may change what is in its folders."""
    base = tmp_path_factory.mktemp("photos")
    data = write_photos(base / "data")
    stores = tuple(
        write_photo_store(base / f"{name}.h5", data, {**store_config, "backbone": name}, seed=seed)
        for seed, name in enumerate(("efficientnet_lite0", "vgg16"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLIO_CACHE", str(base / "cache"))
        done = compare(
            stores,
            heads=("logreg", "knn", "dense"),
            order=CLASSES,
            dense=DenseOptions(units=(8,), epochs=12, patience=12),
            study=("labels", "learning"),
            out=base / "run",
            jobs=1,
        )
    assert done.notes == ()
    return PhotoRun(folder=done.folder, data=data, stores=stores, record=dict(done.record))


def hand_result(
    store: str, head: str, y: np.ndarray, said: np.ndarray | None, classes: Sequence[str], *, cv: float | None
) -> dict[str, Any]:
    """Write down one head as results.json has it, with scikit-learn's figures; without `said` it failed.

    What takes more than a line to work out is 0.25.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support as scores_of

    about = {"store": store, "head": head, "undefined": {}, "notes": [], "training": None, "n_test": len(y)}
    names = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "brier_score")
    names = (*names, "calibration_error", "quadratic_kappa", "mean_absolute_error", "off_by_two")
    if said is None:
        return {
            **about,
            "status": "failed: no convergence <b>",
            "metrics": dict.fromkeys(names),
            "per_class": None,
            "confusion_matrix": None,
            "reliability": None,
            "intervals": {},
            "cv_balanced_accuracy": None,
            "bundle_params": None,
            "fit_seconds": 0.0,
        }
    graded, labels = said.argmax(axis=1), list(range(len(classes)))
    off = np.abs(graded - y)
    metrics: dict[str, float | None] = {
        **dict.fromkeys(names, 0.25),
        "accuracy": float(accuracy_score(y, graded)),
        "mean_absolute_error": float(off.mean()),
        "off_by_two": float((off > 1).mean()),
    }
    precision, recall, f1, support = scores_of(y, graded, labels=labels, zero_division=0)
    sure = said.max(axis=1)
    return {
        **about,
        "status": "ok",
        "metrics": metrics,
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "error": 1 - float(recall[k]),
                "support": int(support[k]),
            }
            for k, name in enumerate(classes)
        },
        "confusion_matrix": confusion_matrix(y, graded, labels=labels).tolist(),
        "reliability": [
            {"low": 0.0, "high": 0.1, "count": 0, "confidence": None, "accuracy": None},
            {
                "low": 0.1,
                "high": 1.0,
                "count": len(y),
                "confidence": float(sure.mean()),
                "accuracy": metrics["accuracy"],
            },
        ],
        "intervals": {
            name: {"low": value - 0.125, "high": value + 0.125}
            for name, value in metrics.items()
            if value is not None
        },
        "cv_balanced_accuracy": cv,
        "bundle_params": {"members": ["one", "two"]} if head == "ensemble" else {"C": 0.1, "scaling": "l2"},
        "fit_seconds": 1.25,
    }


def hand_record(
    y: Sequence[int] | np.ndarray,
    said: Mapping[tuple[str, str], Any],
    *,
    classes: Sequence[str] = CLASSES,
    ordered: bool = True,
    recommended: tuple[str, str] | None = None,
    **more: Any,
) -> tuple[dict[str, Any], TestedEntries]:
    """Write down a record and what was tested: `said` is store, head → probabilities, None of a failed one.

    Heads are given best first: each has 0.01 less in cross-validation than the one before it.
    """
    y = np.asarray(y, dtype=np.int64)
    told = {key: None if one is None else np.asarray(one, dtype=np.float64) for key, one in said.items()}
    graded = ordered and len(classes) > 2
    record: dict[str, Any] = {
        "format": "folio-run",
        "format_version": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "created_with": {"folio-grader": "0.1.0"},
        "dataset": "posters",
        "classes": list(classes),
        "ordered": ordered,
        "positive_class": classes[1] if len(classes) == 2 else None,
        "seed": 0,
        "join": None,
        "protocol": {"kind": "test split", "text": "Each head is tested once.", "notes": []},
        "facts": [],
        "stores": [
            {
                "store": store,
                "path": f"features/{store}.h5",
                "parts": [],
                "config_digest": "0" * 64,
                "backbone": "efficientnet_lite0",
                "weights": {"kind": "imagenet"},
                "n_features": 6,
                "n_views": 0,
                "level_names": ["final"],
            }
            for store in dict.fromkeys(store for store, _ in said)
        ],
        "statistics": {
            "intervals": "Wilson's",
            "n_resamples": 2000,
            "seed": 0,
            "primary_metric": "quadratic_kappa" if graded else "accuracy",
            "test": "random swaps",
            "correction": "Holm-corrected over 1 pair",
            "n_entries": len(y),
            "n_groups": len(y),
            "approximate": False,
            "why": "",
        },
        "recommended": recommended
        and {"store": recommended[0], "head": recommended[1], "bundle": "bundles/it"},
        "results": [
            hand_result(store, head, y, one, classes, cv=None if one is None else 0.9 - 0.01 * k)
            for k, ((store, head), one) in enumerate(told.items())
        ],
        "verdicts": [],
        "studies": {},
        "made": {"command": "classify compare features/a.h5", "extract": ["featurize extract posters"]},
    }
    tested = TestedEntries(
        entry=tuple(f"test/{classes[label]}/{k:02}.jpg" for k, label in enumerate(y)),
        y=y,
        probabilities={key: one for key, one in told.items() if one is not None},
    )
    return {**record, **more}, tested


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., tuple[dict[str, Any], TestedEntries]]:
    """Write down a record without a run; see `hand_record`."""
    return hand_record


@pytest.fixture
def copied_run(photo_run, tmp_path) -> Path:
    """The run in a folder of its own, to be spoiled."""
    return Path(shutil.copytree(photo_run.folder, tmp_path / "run"))


@pytest.fixture(scope="session")
def photo_store() -> Callable[..., Path]:
    """Write a store of a folder of pictures; see `write_photo_store`."""
    return write_photo_store


@pytest.fixture(scope="session")
def draw_picture() -> Callable[..., Image.Image]:
    """Draw soft blobs of colour; see `picture`."""
    return picture


@pytest.fixture(scope="session")
def photo_samples(photo_run) -> list[Any]:
    """What the heads of the run were fitted on."""
    return load_same_dataset(photo_run.stores, order=CLASSES)


@pytest.fixture(scope="session")
def photo_shown(photo_run, photo_samples) -> RunImages:
    """The images of the run."""
    return run_images(photo_samples, store=photo_run.stores[0])
