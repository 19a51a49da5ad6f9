"""Optional content of bundles: example images that the head was fitted on, and the backbone's weights."""

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
from classify.io.manifest import EXAMPLES, MANIFEST, WEIGHTS, make_again
from featurize.base.text import plural, printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from classify.data.samples import Samples
    from classify.io.bundle import Bundle
    from featurize.store.reader import Store


SIDE = 96  # longer side of a thumbnail, in pixels
_ARRAYS = ("features", "y", "names", "pictures", "ends")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Images that a head was fitted on, to show which of them resemble a new image."""

    features: npt.NDArray[np.float32]  # (n, width) plain view, final level, each row of length 1
    y: npt.NDArray[np.int64]  # (n,) index into the classes of the bundle
    names: tuple[str, ...]  # file names without folders
    pictures: tuple[bytes, ...]  # thumbnails as WebP; b"" where there is none
    config_digest: str  # of the features
    columns: tuple[int, int]  # first column in all features, and the one after the last


def prepare_examples(folder: Path, samples: Samples, store: Store) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the images that the heads of a store are fitted on to a file that its bundles will include.

    The file contains features in half precision, grades, file names and thumbnails. Folders are left out of
    the names, because they can be named after people. An entry with averaged features is one example, with
    name and thumbnail of its first image.

    Parameters
    ----------
    folder : Path
        Folder for the file, which is named after the store; created if it is missing.
    samples : Samples
        Samples of a single store.
    store : Store
        The open store, with paths, thumbnails and digests of the images.

    Returns
    -------
    examples : dict
        Argument of `classify.io.bundle_writer.save_bundle`.
    notes : tuple of str
        Notes for the user.
    """
    import numpy as np

    from classify.data.neighbors import unit_rows

    images = samples.fit_images
    columns = samples.columns("final")
    rows = samples.rows(images, views=False, levels="final").X.astype(np.float64)
    paths = _files(samples, store, images)
    pictures, notes = _pictures(store, paths)
    names = "\n".join(printable(PurePosixPath(path).name) for path in paths)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{samples.store}.{EXAMPLES}"
    np.savez(
        file,
        features=unit_rows(rows).astype(np.float16),
        y=samples.y[images].astype(np.int16),
        names=np.frombuffer(names.encode("utf-8"), dtype=np.uint8),
        pictures=np.frombuffer(b"".join(pictures), dtype=np.uint8),
        ends=np.cumsum([len(data) for data in pictures], dtype=np.int64),
    )
    examples = {
        "path": file,
        "sha256": file_digest(file),
        "n_images": len(images),
        "store": samples.store,
        "config_digest": samples.config_digest,
        "columns": (columns.start, columns.stop),
    }
    return examples, notes


def add_examples(folder: Path, examples: Mapping[str, Any]) -> dict[str, Any]:
    """Add prepared examples to a bundle; return the field "examples" of its manifest."""
    link_or_copy(Path(examples["path"]), folder / EXAMPLES)
    return {"file": EXAMPLES, **{key: value for key, value in examples.items() if key != "path"}}


def load_examples(bundle: Bundle) -> Examples | None:
    """Return the examples of a bundle; of an ensemble, those of the first member with any; None without any.

    Raises
    ------
    BundleError
        If the file is damaged.
    """
    import numpy as np

    if bundle.members:
        return next(filter(None, map(load_examples, bundle.members)), None)
    field = bundle.manifest.get("examples")
    if field is None:
        return None
    path = bundle.path / EXAMPLES
    damaged = BundleError(
        f"{path}: missing, damaged or replaced: its SHA-256 differs from {MANIFEST}. "
        f"{make_again(bundle.path, bundle.manifest)}"
    )
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != field["sha256"]:
            raise damaged
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            features, y, names, pictures, ends = (arrays[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError):
        raise damaged from None
    all_pictures = pictures.tobytes()
    lines = names.tobytes().decode("utf-8", "replace").split("\n")
    if not len(features) == len(y) == len(ends) == len(lines):
        raise damaged
    first, end = field["columns"]
    widths = {part.config_digest: part.level_ends[-1] for part in bundle.parts}
    if (
        not 0 <= first < end <= widths.get(field["config_digest"], 0)
        or features.shape[1:] != (end - first,)
        or y.min(initial=0) < 0
        or y.max(initial=0) >= len(bundle.classes)
    ):
        raise damaged
    return Examples(
        features=features.astype(np.float32),
        y=y.astype(np.int64),
        names=tuple(lines),
        pictures=tuple(all_pictures[a:b] for a, b in zip((0, *ends[:-1]), ends, strict=True)),
        config_digest=field["config_digest"],
        columns=(first, end),
    )


def _files(samples: Samples, store: Store, images: npt.NDArray[np.int64]) -> list[str]:
    """Return the path of each image in the store; for averaged features, the path of the first image."""
    table = store.images
    first: dict[str, str] = {}
    for path, entry, content in zip(table.path, table.entry, table.content, strict=True):
        if content >= 0:
            first.setdefault(entry, path)
    in_store = set(table.path)
    paths = [samples.path[i] for i in images]
    return [path if path in in_store else first[path] for path in paths]


def _pictures(store: Store, paths: Sequence[str]) -> tuple[list[bytes], tuple[str, ...]]:
    """Return a thumbnail of each file, and notes for the user.

    If a file is missing or has changed, the small, square thumbnail of the store is used.
    """
    from featurize.images.thumbnails import thumbnails

    expected = dict(zip(store.images.path, store.images.sha256, strict=True))
    data = Path(str(store.created_with.get("data") or "."))
    large = thumbnails([data / path for path in paths], side=SIDE)
    rows = store.rows_of_contents()
    n_missing, pictures = 0, []
    for path, thumbnail in zip(paths, large, strict=True):
        unchanged = bool(thumbnail.data) and thumbnail.sha256 == expected[path]
        n_missing += not unchanged
        pictures.append(thumbnail.data if unchanged else _small_picture(store, rows[expected[path]]))
    note = (
        f"{store.name}: {n_missing} of {plural(len(paths), 'example')} have the store's small thumbnails, "
        f"because their files in {data} are missing or have changed"
    )
    return pictures, (note,) if n_missing else ()


def _small_picture(store: Store, row: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(store.content.thumbnail[row]).save(file, "WEBP", quality=70)
    return file.getvalue()


def prepare_weights(
    folder: Path, *, store: str, config: Mapping[str, Any], created_with: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the backbone's weights to a file that the bundles of a store will include.

    Published weights are not written, because they can be downloaded.

    Parameters
    ----------
    folder : Path
        Folder for the file; created if it is missing.
    store : str
        Name of the store.
    config, created_with : mapping
        Attributes of the store.

    Returns
    -------
    weights : dict
        Argument of `classify.io.bundle_writer.save_bundle`.
    notes : tuple of str
        Notes for the user, if the weights are not available.
    """
    expected = dict(config["weights"])
    if expected["kind"] == "imagenet":
        return expected, ()
    from featurize.backbones.networks import save_weights
    from featurize.backbones.registry import get_backbone
    from featurize.backbones.weights import find_weights
    from featurize.errors import FolioError

    source = "random" if expected["kind"] == "random" else created_with.get("weights_path")
    try:
        backbone = get_backbone(config["backbone"])
        if source is None:
            raise FolioError("the store does not name their file")
        found = find_weights(backbone, source, seed=expected.get("seed") or 0)
        if found.sha256 != expected["sha256"]:
            raise FolioError(f"{source} has changed since the features were extracted")
        folder.mkdir(parents=True, exist_ok=True)
        file = save_weights(backbone, found, folder / f"{store}.{WEIGHTS}")
    except (FolioError, OSError) as error:
        note = (
            f"{store}: the backbone's weights could not be added to its bundles ({error}), which "
            "therefore predict stored features but no images"
        )
        return {**expected, "missing": str(error)}, (note,)
    return {**expected, "path": file, "file_sha256": file_digest(file)}, ()


def add_weights(folder: Path, weights: Mapping[str, Any], *, name: str = WEIGHTS) -> dict[str, Any]:
    """Add prepared weights to a bundle; return the field "weights" of its manifest."""
    field = dict(weights)
    source = field.pop("path", None)
    if source is not None:
        link_or_copy(Path(source), folder / name)
        field["file"] = name
    return field


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, or a copy if that is not possible."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or a file system without hard links
        shutil.copyfile(source, target)
