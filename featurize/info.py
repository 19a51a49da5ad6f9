"""What a store holds, as plain facts for a person or a program."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from featurize.store import open_store
from featurize.terminal import printable


def store_facts(path: Path) -> dict[str, Any]:
    """Return what a store holds, JSON-able; names are made printable.

    Raises
    ------
    StoreError
        If the file is no store, or is damaged.
    """
    with open_store(path) as store, store.damage_named("what it says of itself"):
        images = store.images
        splits: dict[str, Counter[str]] = {}
        for split, label, row in zip(images.split, images.label, images.content, strict=True):
            if row >= 0:
                name = printable(store.classes[label]) if label >= 0 else "ungraded"
                splits.setdefault(split, Counter())[name] += 1
        weights = store.config["weights"]
        proof = store.created_with.get("precision") or {}
        return {
            "store": printable(str(path)),
            "dataset": printable(store.dataset),
            "data": printable(str(store.created_with.get("data", ""))),
            "backbone": store.backbone,
            "weights": f"{weights['kind']} (SHA-256 {weights['sha256'][:12]}…)",
            "classes": " < ".join(map(printable, store.classes))
            if store.ordered
            else ", ".join(map(printable, store.classes)),
            "ordered": store.ordered,
            "images": store.n_images,
            "contents": store.n_content,
            "splits": {split: dict(counts) for split, counts in splits.items()},
            "entries": len(set(images.entry)),
            "features": store.n_features,
            "views": store.n_views,
            "contents with views": store.n_augmented,
            "levels": dict(zip(store.level_names, store.level_ends, strict=True)),
            "engine": store.created_with.get("engine", ""),
            "precision": {"format": store.config.get("precision"), **proof},  # and how that was settled
            "bytes": Path(path).stat().st_size,
            "config": store.config,
            "config digest": store.config_digest,
            "made with": {
                key: store.created_with.get(key) for key in ("engine", "device", "folio", "packages")
            },
            "skipped": [
                f"{printable(name)}: {printable(reason)}"
                for name, reason in zip(images.path, images.skipped, strict=True)
                if reason
            ],
        }
