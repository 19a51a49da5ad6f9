"""One file to small pictures, as the bytes of WebP files: the other work of a decode worker."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

QUALITY = 70  # of WebP, which at that takes about a third of a JPEG that looks the same
_DRAFT = 2  # a JPEG is decoded at this many times the side or more: its own scaling alone looks rough


@dataclass(frozen=True, kw_only=True)
class Shrinking:
    """How files become small pictures; the same for every file of a list."""

    sides: tuple[int, ...]  # longest side of each wanted picture, in pixels
    max_pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Shrinking:
        """Return what `to_json` described."""
        return cls(sides=tuple(values["sides"]), max_pixels=values["max_pixels"])


def shrink(request: dict[str, Any], shrinking: Shrinking) -> dict[str, Any]:
    """Decode one file and return it small.

    Parameters
    ----------
    request : dict
        "path".
    shrinking : Shrinking
        How.

    Returns
    -------
    dict
        "problem", "" or the reason why there is no picture; "seconds"; "sha256" of the content, "" where it
        could not be read; and of a picture "small": for each side its "width", its "height" and its "data",
        a WebP file in base 64.
    """
    from featurize.images import SkippedImage, opened_upright, read_content  # Pillow: in the worker only

    start = time.perf_counter()
    sha256, small = "", []
    most = max(shrinking.sides)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged EXIF block is no news to anyone
            data = read_content(request["path"], max_pixels=shrinking.max_pixels)
            sha256 = hashlib.sha256(data).hexdigest()
            with opened_upright(
                data, size=_DRAFT * most, resize="pad", max_pixels=shrinking.max_pixels
            ) as upright:
                size = upright.width, upright.height
                small = [_webp(upright.image, side, size) for side in shrinking.sides]
    except SkippedImage as skipped:
        return {"problem": skipped.reason, "sha256": sha256, "seconds": time.perf_counter() - start}
    return {"problem": "", "sha256": sha256, "small": small, "seconds": time.perf_counter() - start}


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size of a picture whose longer side is at most `side`: never larger, never below 1 pixel."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def webp(image: Image.Image) -> bytes:
    """Return an RGB image as a WebP file, without anything that was written about it."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4, icc_profile=b"", exif=b"", xmp=b"")
    return file.getvalue()


def _webp(image: Image.Image, side: int, size: tuple[int, int]) -> dict[str, Any]:
    from PIL import Image as Pillow

    width, height = fitted(*size, side)
    if image.size != (width, height):
        image = image.resize((width, height), Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    return {"width": width, "height": height, "data": base64.b64encode(webp(image)).decode("ascii")}
