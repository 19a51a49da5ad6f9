"""Small pictures kept in the user's cache by what the files contained, one file a data set."""

from __future__ import annotations

import hashlib
from pathlib import Path

from classify.report.images import Shown
from featurize import Kept, keep, load_kept

Made = dict[str, dict[int, bytes]]  # SHA-256 of a content → longer side in pixels → WebP file

LIMIT = 256 << 20  # bytes of all that is kept, of all data sets together
_ENDING = ".thumbnails"


def place_of(shown: Shown, folder: Path) -> Path:
    """Return where the pictures of a data set are kept: it goes by its name and the folder it came from."""
    name = "\0".join(("1", shown.dataset, shown.source)).encode("utf-8", "surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:32]}{_ENDING}"


def keep_pictures(path: Path, made: Made) -> None:
    """Keep pictures in place of those that were kept there."""
    about = {sha256: {str(side): len(data) for side, data in found.items()} for sha256, found in made.items()}
    blob = b"".join(data for found in made.values() for data in found.values())
    keep(path, Kept(about=about, parts={"pictures": blob}), limit=LIMIT)


def load_pictures(path: Path) -> Made:
    """Return what was kept there; nothing where that is not whole."""
    kept = load_kept(path)
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
