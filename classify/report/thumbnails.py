"""Small pictures of a run's images for its page, within a number of bytes."""

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
from featurize.base.typing import IntArray
from featurize.images.thumbnails import thumbnails_at
from featurize.store.reader import open_store

BUDGET = 6_000_000  # bytes of all addresses of a page together
# Longer sides of large and of small pictures, in pixels: the first pair that fits is taken.
STEPS = ((160, 64), (128, 64), (128, 48), (96, 48), (96, 32), (64, 32))
_START = "data:image/webp;base64,"
_PUNCTUATION = 3  # bytes about each address in a list
_OWN = 0  # the "side" of a store's own picture


@dataclass(frozen=True, kw_only=True, eq=False)
class PageThumbnails:
    """Addresses of pictures, each of them once, and which image has which."""

    uri: tuple[str, ...]  # "data:image/webp;base64,…"
    number: IntArray  # (n_images,) index into `uri`, -1 for an image without a picture
    sides: tuple[int, int]  # longer side of large and of small ones, in pixels
    notes: tuple[str, ...]  # what is not as it should be: sentences for the reader


def page_thumbnails(
    shown: RunImages,
    *,
    data: Path | None,
    wanted: Sequence[int] | IntArray = (),
    small: Sequence[int] | IntArray = (),
    budget: int = BUDGET,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PageThumbnails:
    """Return small pictures of some images.

    What is shown is what the features were made of: a file that has changed since, or is not there, is stood
    in for by the picture of 32 × 32 pixels that the store holds. Pictures are kept in the user's cache by
    what the files contained, so that a second report of the data set decodes nothing.

    Parameters
    ----------
    shown : RunImages
    data : Path, optional
        The folder of the images, from `classify.report.images.data_folder`.
    wanted, small : sequences of int
        Rows of `shown` that are looked at and that are only glanced at, the one that is needed most first.
        The former have larger pictures and come first where not all fit; an image in both has a large one.
    budget : int, default=6_000_000
        Bytes that the addresses of all contents may take together.
    folder : Path, optional
        Where pictures are kept.
    on_progress : callable, optional
        Called with (done, total) files that are decoded.

    Returns
    -------
    PageThumbnails
    """
    first = _first_rows(shown, [*map(int, wanted), *map(int, small)])
    large = set(_first_rows(shown, map(int, wanted)))
    sides_of = {sha256: _sides(large=sha256 in large) for sha256 in first}
    path = cache_path(shown, folder or cache_folder("thumbnails"))
    made = load_thumbnails(path)
    missing = [sha256 for sha256, sides in sides_of.items() if not sides <= made.get(sha256, {}).keys()]
    decoded, lacking = _decode(
        shown, [first[sha256] for sha256 in missing], sides_of, data=data, on_progress=on_progress
    )
    for sha256, found in decoded.items():
        made[sha256] = {**made.get(sha256, {}), **found}
    if decoded:
        known = set(shown.sha256)
        save_thumbnails(path, {sha256: found for sha256, found in made.items() if sha256 in known})
    stand_ins = _stand_ins(shown, {sha256: first[sha256] for sha256 in lacking})
    uris, sides, n_without = _within(
        {sha256: stand_ins.get(sha256) or made[sha256] for sha256 in first}, large, budget=budget
    )
    place = {sha256: k for k, sha256 in enumerate(uris)}
    number = np.full(len(shown), -1, dtype=np.int64)
    for row in {*map(int, wanted), *map(int, small)}:
        number[row] = place.get(shown.sha256[row], -1)
    return PageThumbnails(
        uri=tuple(uris.values()),
        number=number,
        sides=sides,
        notes=tuple(_notes(shown, lacking, n_without=n_without, data=data)),
    )


def _first_rows(shown: RunImages, rows: Iterable[int]) -> dict[str, int]:
    """Return of each content the first of these rows, in their order."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(shown.sha256[row], row)
    return first


def _sides(*, large: bool) -> set[int]:
    """Return the sides that a picture may be asked for at."""
    return {step[0 if large else 1] for step in STEPS}


def _decode(
    shown: RunImages,
    rows: Sequence[int],
    sides_of: Mapping[str, set[int]],
    *,
    data: Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Made, dict[str, str]]:
    """Return what could be decoded, at all sides that are wanted, and why the others could not."""
    places = _places(shown, rows, data=data)
    lacking = {shown.sha256[row]: "is not there" for row in rows if row not in places}
    there = [row for row in rows if row in places]
    made: Made = {}
    for sides in sorted({tuple(sorted(sides_of[shown.sha256[row]])) for row in there}):
        some = [row for row in there if tuple(sorted(sides_of[shown.sha256[row]])) == sides]
        n_before = len(made) + len(lacking)
        found = thumbnails_at(
            [places[row] for row in some],
            sides=sides,
            on_progress=_shifted(on_progress, n_before, len(rows)),
        )
        for row, pictures_ in zip(some, found, strict=True):
            sha256 = shown.sha256[row]
            if pictures_[0].sha256 not in ("", sha256):
                lacking[sha256] = "has changed"
            elif pictures_[0].problem:
                lacking[sha256] = "could not be read"
            else:
                made[sha256] = {side: one.data for side, one in zip(sides, pictures_, strict=True)}
    return made, lacking


def _shifted(
    on_progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)


def _places(shown: RunImages, rows: Sequence[int], *, data: Path | None) -> dict[int, Path]:
    """Return the file of each of these rows, or of a copy of it, where there is one."""
    copies: dict[str, list[int]] = {shown.sha256[row]: [row] for row in rows}
    for row, sha256 in enumerate(shown.sha256):
        if sha256 in copies:
            copies[sha256].append(row)
    places: dict[int, Path] = {}
    if data is None:
        return places
    for row in rows:
        paths = (shown.path[copy] for copy in copies[shown.sha256[row]])
        found = next((path for path in paths if _is_below(path) and os.path.exists(data / path)), None)
        if found is not None:
            places[row] = data / found
    return places


def _is_below(path: str) -> bool:
    """Tell whether a store's path stays within the folder it is relative to."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def _stand_ins(shown: RunImages, rows: Mapping[str, int]) -> Made:
    """Return the store's own pictures, in the proportions of the images where they show all of them."""
    if not rows:
        return {}
    from io import BytesIO

    from PIL import Image

    with open_store(shown.store) as store:
        own = store.content.thumbnail[shown.content[list(rows.values())]]
    made: Made = {}
    for (sha256, row), pixels in zip(rows.items(), own, strict=True):
        image, file = Image.fromarray(pixels), BytesIO()
        if shown.squashed:
            longest = max(int(shown.width[row]), int(shown.height[row]), 1)
            width, height = (
                max(1, round(image.width * int(side[row]) / longest)) for side in (shown.width, shown.height)
            )
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        image.save(file, "WEBP", quality=70)
        made[sha256] = {_OWN: file.getvalue()}
    return made


def _within(
    made: Mapping[str, Mapping[int, bytes]], large: set[str], *, budget: int
) -> tuple[dict[str, str], tuple[int, int], int]:
    """Return addresses within the budget, the sides that they have, and how many had no room."""

    def at(sha256: str, step: tuple[int, int]) -> bytes:
        found = made[sha256]
        return found[_OWN] if _OWN in found else found[step[0 if sha256 in large else 1]]

    for step in STEPS:
        if sum(_cost(at(sha256, step)) for sha256 in made) <= budget:
            break
    uris: dict[str, str] = {}
    left = budget
    for sha256 in made:
        left -= _cost(at(sha256, step))
        if left < 0:
            break
        uris[sha256] = _START + base64.b64encode(at(sha256, step)).decode("ascii")
    return uris, step, len(made) - len(uris)


def _cost(data: bytes) -> int:
    return len(_START) + (len(data) + 2) // 3 * 4 + _PUNCTUATION


def _notes(
    shown: RunImages, lacking: Mapping[str, str], *, n_without: int, data: Path | None
) -> Iterable[str]:
    if lacking and data is None:
        where = f"{shown.source}: not there" if shown.source else "the store does not name it"
        yield (
            f"{_images(len(lacking))} shown at 32 pixels, as the store holds them, because the folder "
            f"of the images was not found ({where}). Name it with: classify report RUN --data FOLDER"
        )
    elif lacking:
        counts = Counter(lacking.values())
        why = ", ".join(f"{n} {_plural(reason, n)}" for reason, n in counts.most_common())
        yield (
            f"{_images(len(lacking))} shown at 32 pixels, as the store holds them, because their files are "
            f"not as they were when their features were made: {why}."
        )
    if n_without:
        yield f"{_images(n_without)} not shown, to keep this page small."


def _images(n: int) -> str:
    return "1 image is" if n == 1 else f"{n} images are"


def _plural(reason: str, n: int) -> str:
    return reason if n == 1 else reason.replace("is not", "are not").replace("has ", "have ")


Made = dict[str, dict[int, bytes]]  # SHA-256 of a content → longer side in pixels → WebP file

LIMIT = 256 << 20  # bytes of all that is kept, of all data sets together
_ENDING = ".thumbnails"


def cache_path(shown: RunImages, folder: Path) -> Path:
    """Return where the pictures of a data set are kept: it goes by its name and the folder it came from."""
    name = "\0".join(("1", shown.dataset, shown.source)).encode("utf-8", "surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:32]}{_ENDING}"


def save_thumbnails(path: Path, made: Made) -> None:
    """Keep pictures in place of those that were kept there."""
    about = {sha256: {str(side): len(data) for side, data in found.items()} for sha256, found in made.items()}
    blob = b"".join(data for found in made.values() for data in found.values())
    write_cache_entry(path, CacheEntry(about=about, parts={"pictures": blob}), limit=LIMIT)


def load_thumbnails(path: Path) -> Made:
    """Return what was kept there; nothing where that is not whole."""
    kept = read_cache_entry(path)
    made: Made = {}
    if kept is None:
        return made
    try:
        start, blob = 0, kept.parts["pictures"]
        for sha256, lengths in kept.about.items():
            found: dict[int, bytes] = {}
            for side, length in lengths.items():
                found[int(side)] = blob[start : start + length]
                start += length
            made[sha256] = found
    except (KeyError, TypeError, ValueError, AttributeError):  # not as this version writes it
        return {}
    return made
