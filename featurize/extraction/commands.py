"""The command that a user types next, from what a store says of itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.backbones.registry import BACKBONES
from featurize.base.terminal import default_of
from featurize.extraction.extract import extract
from featurize.extraction.options import ExtractOptions
from featurize.extraction.recompute import SAMPLE, SEED
from featurize.images.augment import ViewRanges

if TYPE_CHECKING:
    from featurize.store.reader import Store


AS_ASKED = ("resize", "resample", "preprocess", "store_dtype")  # as in the config, so in the options


def repair_command(
    path: Path, *, data: str | Path | None, weights: str | Path | None, sample: int, seed: int
) -> str:
    """Return the command that mends a store; it draws the sample that found what is off."""
    words = ["featurize", "repair", str(path)]
    for name, value in (("--data", data), ("--weights", weights)):
        words += [name, str(value)] if value is not None else []
    words += ["--sample", str(sample)] if sample != SAMPLE else []
    words += ["--seed", str(seed)] if seed != SEED else []
    return shlex.join(words)


def anew_command(path: Path, config: Mapping[str, Any] | None, created_with: Mapping[str, Any] | None) -> str:
    """Return how to make a store again from nothing, where what is there cannot be used."""
    data = (created_with or {}).get("data") or "DATA"
    words = ["featurize", "extract", data, "--out", str(path.parent)]
    words += (
        _options(config, created_with or {})
        if config is not None
        else ["--backbone", path.name.partition("+")[0].removesuffix(".h5")]
    )
    words += _differing((created_with or {}).get("options", {}))
    return f"move {shlex.quote(str(path))} away, then: {shlex.join(words)}"


def extract_words(store: Store) -> list[str]:
    """Return the words of the command that makes this store, from the same images and on such a machine.

    Parameters
    ----------
    store : Store
        Open.

    Returns
    -------
    list of str
        Not quoted; a word may hold undecodable bytes, as `os.fsdecode` has them.
    """
    created_with, folder = store.created_with, store.path.parent
    words = ["featurize", "extract", str(created_with.get("data") or "DATA")]
    words += ["--out", str(folder)] if folder != ExtractOptions.default_folder(store.dataset) else []
    words += _options(store.config, created_with)
    words += ["--engine", str(store.config["engine"])] if "engine" in store.config else []
    words += _differing({"views": store.n_views})
    words += ["--order", ",".join(store.classes)] if store.ordered else []
    return words + _differing(created_with.get("options", {}))


def _options(config: Mapping[str, Any], created_with: Mapping[str, Any]) -> list[str]:
    """Return the options of `featurize extract` that give this config, defaults left out."""
    words = ["--backbone", config["backbone"]]
    weights = config["weights"]
    if weights["kind"] != "imagenet":
        file = str(created_with.get("weights_path") or "FILE")
        words += ["--weights", file if weights["kind"] == "file" else weights["kind"]]
    backbone = BACKBONES.get(config["backbone"])
    if backbone is None or config["input_size"] != backbone.size:
        words += ["--input-size", str(config["input_size"])]
    words += _differing({name: config[name] for name in AS_ASKED})
    # What was asked, not what that settled: the file is named by it.
    asked = (created_with.get("precision") or {}).get("asked", config["precision"])
    words += _differing({"precision": asked})
    words += ["--levels"] if config["levels"] else []
    for name, default in asdict(ViewRanges()).items():
        value, option = config["views"][name], name.replace("_", "-")
        if value != default and isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value != default:
            words += [f"--{option}", str(value)]
    return words + _differing({"seed": config["views"]["seed"]})


def _differing(options: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in options.items():
        if value != default_of(extract, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
