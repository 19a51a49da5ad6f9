"""Thumbnails of a run's images for its page, within a byte budget, and their cache."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from classify.report.images import RunImages
from featurize.base.cache import CacheEntry, cache_folder, read_cache_entry, write_cache_entry
from featurize.base.text import plural
from featurize.base.typing import IntArray
from featurize.images.thumbnails import thumbnails_at
from featurize.store.reader import open_store

BUDGET = 6_000_000  # bytes of all data: addresses of a page
# Longer sides of large and small thumbnails, in pixels. The first pair that fits the budget is used.
STEPS = ((160, 64), (128, 64), (128, 48), (96, 48), (96, 32), (64, 32))
_START = "data:image/webp;base64,"
_PUNCTUATION = 3  # bytes of quotes and comma per address in a JSON list
_FROM_STORE = 0  # stands for a side: the store's own thumbnail of 32 × 32 pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class PageThumbnails:
    """Thumbnails as ``data:`` addresses without duplicates, and the thumbnail of each image."""

    uri: tuple[str, ...]  # "data:image/webp;base64,…"
    number: IntArray  # (n_images,) index into `uri`, -1 for an image without a thumbnail
    sides: tuple[int, int]  # longer side of large and small thumbnails, in pixels
    notes: tuple[str, ...]  # sentences on missing thumbnails and their reasons


def page_thumbnails(
    images: RunImages,
    *,
    data: Path | None,
    large: Sequence[int] | IntArray = (),
    small: Sequence[int] | IntArray = (),
    budget: int = BUDGET,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PageThumbnails:
    """Return thumbnails of some images.

    Thumbnails show the images that the features were computed from. If a file is missing or has changed
    since, the store's thumbnail of 32 × 32 pixels is used instead. Thumbnails are cached by file content, so
    that a second report of the data set decodes no file.

    Parameters
    ----------
    images : RunImages
    data : Path, optional
        Folder of the images, from `classify.report.images.data_folder`.
    large, small : sequences of int
        Images with large and with small thumbnails, the most important first. Large ones take precedence if
        the budget does not suffice, and if an image is in both.
    budget : int, default=6_000_000
        Maximum size of all addresses in bytes.
    folder : Path, optional
        Cache folder.
    on_progress : callable, optional
        Called with (done, total) decoded files.

    Returns
    -------
    PageThumbnails
    """
    first = _first_images(images, [*map(int, large), *map(int, small)])
    is_large = set(_first_images(images, map(int, large)))
    sides_of = {sha256: _sides(large=sha256 in is_large) for sha256 in first}
    path = cache_path(images, folder or cache_folder("thumbnails"))
    thumbnails = load_thumbnails(path)
    missing = [sha256 for sha256, sides in sides_of.items() if not sides <= thumbnails.get(sha256, {}).keys()]
    decoded, problems = _decode(
        images, [first[sha256] for sha256 in missing], sides_of, data=data, on_progress=on_progress
    )
    for sha256, by_side in decoded.items():
        thumbnails[sha256] = {**thumbnails.get(sha256, {}), **by_side}
    if decoded:
        known = set(images.sha256)
        save_thumbnails(path, {sha256: by_side for sha256, by_side in thumbnails.items() if sha256 in known})
    from_store = _store_thumbnails(images, {sha256: first[sha256] for sha256 in problems})
    uris, sides, n_without = _within_budget(
        {sha256: from_store.get(sha256) or thumbnails[sha256] for sha256 in first}, is_large, budget=budget
    )
    index = {sha256: k for k, sha256 in enumerate(uris)}
    number = np.full(len(images), -1, dtype=np.int64)
    for image in {*map(int, large), *map(int, small)}:
        number[image] = index.get(images.sha256[image], -1)
    return PageThumbnails(
        uri=tuple(uris.values()),
        number=number,
        sides=sides,
        notes=tuple(_notes(images, problems, n_without=n_without, data=data)),
    )


def _first_images(images: RunImages, rows: Iterable[int]) -> dict[str, int]:
    """Return the first of these images of each content, in their order."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(images.sha256[row], row)
    return first


def _sides(*, large: bool) -> set[int]:
    """Return the sides that a large or small thumbnail may have."""
    return {step[0 if large else 1] for step in STEPS}


def _decode(
    images: RunImages,
    rows: Sequence[int],
    sides_of: Mapping[str, set[int]],
    *,
    data: Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Thumbnails, dict[str, str]]:
    """Return thumbnails at all sides of `sides_of`, and the problem of each content without any."""
    files = _files(images, rows, data=data)
    problems = {images.sha256[row]: "is missing" for row in rows if row not in files}
    found = [row for row in rows if row in files]
    thumbnails: Thumbnails = {}
    for sides in sorted({tuple(sorted(sides_of[images.sha256[row]])) for row in found}):
        batch = [row for row in found if tuple(sorted(sides_of[images.sha256[row]])) == sides]
        decoded = thumbnails_at(
            [files[row] for row in batch],
            sides=sides,
            on_progress=_offset_progress(on_progress, len(thumbnails) + len(problems), len(rows)),
        )
        for row, results in zip(batch, decoded, strict=True):
            sha256 = images.sha256[row]
            if results[0].sha256 not in ("", sha256):
                problems[sha256] = "has changed"
            elif results[0].problem:
                problems[sha256] = "could not be read"
            else:
                thumbnails[sha256] = {side: one.data for side, one in zip(sides, results, strict=True)}
    return thumbnails, problems


def _offset_progress(
    on_progress: Callable[[int, int], None] | None, offset: int, total: int
) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, _: on_progress(offset + done, total)


def _files(images: RunImages, rows: Sequence[int], *, data: Path | None) -> dict[int, Path]:
    """Return an existing file of each of these images, or of a copy of it."""
    files: dict[int, Path] = {}
    if data is None:
        return files
    copies: dict[str, list[int]] = {images.sha256[row]: [row] for row in rows}
    for row, sha256 in enumerate(images.sha256):
        if sha256 in copies:
            copies[sha256].append(row)
    for row in rows:
        paths = (images.path[copy] for copy in copies[images.sha256[row]])
        found = next((path for path in paths if _is_below(path) and os.path.exists(data / path)), None)
        if found is not None:
            files[row] = data / found
    return files


def _is_below(path: str) -> bool:
    """Return whether a path in a store stays below the folder that it is relative to."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _store_thumbnails(images: RunImages, rows: Mapping[str, int]) -> Thumbnails:
    """Return the store's own thumbnails; those of whole images get the aspect ratio of the image."""
    if not rows:
        return {}
    from io import BytesIO

    from PIL import Image

    with open_store(images.store) as store:
        pixels_of_rows = store.content.thumbnail[images.content[list(rows.values())]]
    thumbnails: Thumbnails = {}
    for (sha256, row), pixels in zip(rows.items(), pixels_of_rows, strict=True):
        image, file = Image.fromarray(pixels), BytesIO()
        if images.squashed:
            width, height = int(images.width[row]), int(images.height[row])
            scale = image.width / max(width, height, 1)
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(file, "WEBP", quality=70)
        thumbnails[sha256] = {_FROM_STORE: file.getvalue()}
    return thumbnails


def _within_budget(
    thumbnails: Mapping[str, Mapping[int, bytes]], large: set[str], *, budget: int
) -> tuple[dict[str, str], tuple[int, int], int]:
    """Return addresses within the budget, their sides, and the number of contents that did not fit."""

    def at(sha256: str, step: tuple[int, int]) -> bytes:
        by_side = thumbnails[sha256]
        return by_side[_FROM_STORE] if _FROM_STORE in by_side else by_side[step[0 if sha256 in large else 1]]

    for step in STEPS:
        if sum(_cost(at(sha256, step)) for sha256 in thumbnails) <= budget:
            break
    uris: dict[str, str] = {}
    left = budget
    for sha256 in thumbnails:
        left -= _cost(at(sha256, step))
        if left < 0:
            break
        uris[sha256] = _START + base64.b64encode(at(sha256, step)).decode("ascii")
    return uris, step, len(thumbnails) - len(uris)


def _cost(data: bytes) -> int:
    return len(_START) + (len(data) + 2) // 3 * 4 + _PUNCTUATION


def _notes(
    images: RunImages, problems: Mapping[str, str], *, n_without: int, data: Path | None
) -> Iterable[str]:
    if problems and data is None:
        where = f"{images.source}: not found" if images.source else "the store does not name it"
        yield (
            f"{_images_are(len(problems))} shown with the store's thumbnail of 32 pixels, because the image "
            f"folder was not found ({where}). Pass it with: classify report RUN --data FOLDER"
        )
    elif problems:
        counts = Counter(problems.values())
        reasons = ", ".join(f"{n} {_plural_reason(reason, n)}" for reason, n in counts.most_common())
        yield (
            f"{_images_are(len(problems))} shown with the store's thumbnail of 32 pixels, because of changes "
            f"since the features were extracted: {reasons}."
        )
    if n_without:
        yield f"{_images_are(n_without)} not shown, to limit the size of this page."


def _images_are(n: int) -> str:
    return f"{plural(n, 'image')} {'is' if n == 1 else 'are'}"


def _plural_reason(reason: str, n: int) -> str:
    return reason if n == 1 else reason.replace("is ", "are ").replace("has ", "have ")


Thumbnails = dict[str, dict[int, bytes]]  # SHA-256 of a content → longer side in pixels → WebP file

LIMIT = 256 << 20  # bytes of the cache, for all data sets together
_ENDING = ".thumbnails"


def cache_path(images: RunImages, folder: Path) -> Path:
    """Return the cache file of a data set, named by a hash of its name and its image folder."""
    name = "\0".join(("1", images.dataset, images.source)).encode("utf-8", "surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:32]}{_ENDING}"


def save_thumbnails(path: Path, thumbnails: Thumbnails) -> None:
    """Write thumbnails to a cache file, replacing it."""
    lengths = {
        sha256: {str(side): len(data) for side, data in by_side.items()}
        for sha256, by_side in thumbnails.items()
    }
    blob = b"".join(data for by_side in thumbnails.values() for data in by_side.values())
    write_cache_entry(path, CacheEntry(about=lengths, parts={"pictures": blob}), limit=LIMIT)


def load_thumbnails(path: Path) -> Thumbnails:
    """Return the thumbnails of a cache file; none if the file is missing or damaged."""
    entry = read_cache_entry(path)
    thumbnails: Thumbnails = {}
    if entry is None:
        return thumbnails
    try:
        start, blob = 0, entry.parts["pictures"]
        for sha256, lengths in entry.about.items():
            by_side: dict[int, bytes] = {}
            for side, length in lengths.items():
                by_side[int(side)] = blob[start : start + length]
                start += length
            thumbnails[sha256] = by_side
    except (KeyError, TypeError, ValueError, AttributeError):  # written by another version
        return {}
    return thumbnails
