"""What a head was fitted on, carried by its bundle when asked to: to show what a new image resembles."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from classify.errors import BundleError
from classify.io.head_file import file_digest
from classify.io.manifest import EXAMPLES, WEIGHTS
from featurize.base.text import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.data.samples import Samples
    from classify.io.bundle import Bundle
    from featurize.store.reader import Store


SIDE = 96  # pixels of a thumbnail's longer side
_ARRAYS = ("features", "y", "names", "pictures", "ends")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """The images that a head was fitted on."""

    features: npt.NDArray[np.float32]  # (n, width), plain view, final level, each row of length 1
    y: npt.NDArray[np.int64]  # (n,) index into the bundle's classes
    names: tuple[str, ...]  # of the files, without their folders
    pictures: tuple[bytes, ...]  # WebP; b"" where there is none
    config_digest: str  # of the features
    columns: tuple[int, int]  # that these are of all features: first, and the one after the last


def carry_examples(folder: Path, samples: Samples, store: Store) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keep a store's fitted images for its bundles: features in half precision, grades, names, thumbnails.

    The name of a file is kept without its folders, which may be named after people. An entry whose images'
    features were joined is one example, with the name and picture of its first image.

    Parameters
    ----------
    folder : Path
        Where to keep the file, named after the store; made where it is missing.
    samples : Samples
        Not fused.
    store : Store
        That they are of, open: it knows where the images lay and what they looked like.

    Returns
    -------
    examples : dict
        For `classify.io.bundle_writer.save_bundle`.
    notes : tuple of str
        What the user should know.
    """
    import numpy as np

    images = samples.fit_images
    columns = samples.columns("final")
    rows = samples.rows(images, views=False, levels="final").X.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    paths = _files(samples, store, images)
    pictures, notes = _pictures(store, paths)
    names = "\n".join(printable(PurePosixPath(path).name) for path in paths)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{samples.store}.{EXAMPLES}"
    np.savez(
        file,
        features=(rows / np.where(length > 0, length, 1)).astype(np.float16),
        y=samples.y[images].astype(np.int16),
        names=np.frombuffer(names.encode("utf-8"), dtype=np.uint8),
        pictures=np.frombuffer(b"".join(pictures), dtype=np.uint8),
        ends=np.cumsum([len(data) for data in pictures], dtype=np.int64),
    )
    kept = {
        "path": file,
        "sha256": file_digest(file),
        "n_images": len(images),
        "store": samples.store,
        "config_digest": samples.config_digest,
        "columns": (columns.start, columns.stop),
    }
    return kept, notes


def place_examples(folder: Path, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Put kept examples into a bundle's folder; return what its manifest says of them."""
    link_or_copy(Path(examples["path"]), folder / EXAMPLES)
    return {"file": EXAMPLES, **{key: value for key, value in examples.items() if key != "path"}}


def load_examples(bundle: Bundle) -> Examples | None:
    """Return a bundle's examples, of an ensemble those of its first member; None where it carries none.

    Raises
    ------
    BundleError
        If they are damaged.
    """
    import numpy as np

    if bundle.members:
        return next(filter(None, map(load_examples, bundle.members)), None)
    said = bundle.manifest.get("examples")
    if said is None:
        return None
    path = bundle.path / EXAMPLES
    damaged = BundleError(
        f"{path}: missing, damaged or replaced: its SHA-256 is not the manifest's. Make the bundle anew."
    )
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != said["sha256"]:
            raise damaged
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            features, y, names, pictures, ends = (arrays[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError):
        raise damaged from None
    shown = pictures.tobytes()
    lines = names.tobytes().decode("utf-8", "replace").split("\n")
    if not len(features) == len(y) == len(ends) == len(lines):
        raise damaged
    first, end = said["columns"]
    widths = {part.config_digest: part.level_ends[-1] for part in bundle.parts}
    if (
        not 0 <= first < end <= widths.get(said["config_digest"], 0)
        or features.shape[1:] != (end - first,)
        or y.min(initial=0) < 0
        or y.max(initial=0) >= len(bundle.classes)
    ):
        raise damaged
    return Examples(
        features=features.astype(np.float32),
        y=y.astype(np.int64),
        names=tuple(lines),
        pictures=tuple(shown[a:b] for a, b in zip((0, *ends[:-1]), ends, strict=True)),
        config_digest=said["config_digest"],
        columns=(first, end),
    )


def _files(samples: Samples, store: Store, images: npt.NDArray[np.int64]) -> list[str]:
    """Return the path of each image in the store; of joined ones that of the first."""
    table = store.images
    first: dict[str, str] = {}
    for path, entry, content in zip(table.path, table.entry, table.content, strict=True):
        if content >= 0:
            first.setdefault(entry, path)
    known = set(table.path)
    paths = [samples.path[i] for i in images]
    return [path if path in known else first[path] for path in paths]


def _pictures(store: Store, paths: Sequence[str]) -> tuple[list[bytes], tuple[str, ...]]:
    """Return a thumbnail of each file, and what the user should know of them.

    Where a file is gone or has changed it is the store's own, which is small and square.
    """
    from featurize.images.thumbnails import thumbnails

    expected = dict(zip(store.images.path, store.images.sha256, strict=True))
    data = Path(str(store.created_with.get("data") or "."))
    found = thumbnails([data / path for path in paths], side=SIDE)
    rows = store.rows_of_contents()
    n_lacking, pictures = 0, []
    for path, one in zip(paths, found, strict=True):
        as_extracted = bool(one.data) and one.sha256 == expected[path]
        n_lacking += not as_extracted
        pictures.append(one.data if as_extracted else _small_picture(store, rows[expected[path]]))
    note = (
        f"{store.name}: the pictures of {n_lacking} of {len(paths)} examples are the store's small ones: in "
        f"{printable(str(data))} their files are gone or have changed"
    )
    return pictures, (note,) if n_lacking else ()


def _small_picture(store: Store, row: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(store.content.thumbnail[row]).save(file, "WEBP", quality=70)
    return file.getvalue()


def carry_weights(
    folder: Path, *, store: str, config: Mapping[str, Any], created_with: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keep the backbone's weights for the bundles of a store, unless they are the published ones.

    Parameters
    ----------
    folder : Path
        Where to keep them, once a store.
    store : str
        The store's name.
    config, created_with : mapping
        Of the store.

    Returns
    -------
    weights : dict
        For `classify.io.bundle_writer.save_bundle`.
    notes : tuple of str
        What could not be carried, and what it means.
    """
    from featurize.backbones.networks import save_weights
    from featurize.backbones.registry import get_backbone
    from featurize.backbones.weights import find_weights
    from featurize.errors import FolioError

    wanted = dict(config["weights"])
    if wanted["kind"] == "imagenet":
        return wanted, ()
    source = "random" if wanted["kind"] == "random" else created_with.get("weights_path")
    try:
        backbone = get_backbone(config["backbone"])
        if source is None:
            raise FolioError("the store does not say which file they came from")
        found = find_weights(backbone, source, seed=wanted.get("seed") or 0)
        if found.sha256 != wanted["sha256"]:
            raise FolioError(f"{source} holds other weights now than the features were made with")
        folder.mkdir(parents=True, exist_ok=True)
        kept = save_weights(backbone, found, folder / f"{store}.{WEIGHTS}")
    except (FolioError, OSError) as error:
        note = (
            f"{store}: the backbone's weights could not be put into its bundles ({printable(str(error))}); "
            "they grade stored features, not images"
        )
        return {**wanted, "missing": printable(str(error))}, (note,)
    return {**wanted, "path": kept, "file_sha256": file_digest(kept)}, ()


def place_weights(folder: Path, weights: Mapping[str, Any], *, name: str = WEIGHTS) -> dict[str, Any]:
    """Put carried weights into a bundle's folder; return what its manifest says of them."""
    carried = dict(weights)
    source = carried.pop("path", None)
    if source is not None:
        link_or_copy(Path(source), folder / name)
        carried["file"] = name
    return carried


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
