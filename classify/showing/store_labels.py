"""Short labels of stores, for tables and sentences that would not hold their names."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

LONGEST = 18  # characters of a name that tables have room for


def store_labels(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a label for each store of a record: its name, or a letter where some name is long.

    A fused store has the letters of its parts: "A+B". A single store keeps its name.

    Parameters
    ----------
    record : mapping
        What results.json holds.
    """
    stores = record["stores"]
    names = [store["store"] for store in stores]
    if len(names) < 2 or max(map(len, names)) <= LONGEST or len(names) > len(ascii_uppercase):
        return {name: name for name in names}
    single = [store["store"] for store in stores if not store.get("parts")]
    letters = dict(zip(single, ascii_uppercase, strict=False))
    fused = {
        store["store"]: "+".join(letters.get(part, part) for part in store["parts"])
        for store in stores
        if store.get("parts")
    }
    return {**letters, **fused}


def label_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what each label stands for; nothing where labels are names."""
    labels = store_labels(record)
    told = [f"{label}: {name}" for name, label in labels.items() if label != name and "+" not in label]
    joined = [f"{label}: their features side by side" for label in labels.values() if told and "+" in label]
    return [f"Stores: {', '.join([*told, *joined])}"] if told else []
