"""What to say about a file that no decoder recognises, from its first and last bytes."""

import os
from typing import BinaryIO

_CONVERT = "convert it to JPEG or PNG"
_HEAD = 64  # bytes looked at
_TAIL = 64

# First bytes of what people put among pictures by mistake, and what to do about it.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", f"it is a PDF; export its pages as images, or {_CONVERT}"),
    (b"%!PS", f"it is PostScript; {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"it is PostScript; {_CONVERT}"),
    (b"<svg", f"it is SVG; {_CONVERT}"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def why_not_identified(file: BinaryIO) -> str:
    """Return the reason: "not an image", or "truncated" or "damaged" for what begins as an image does."""
    file.seek(0)
    head = file.read(_HEAD)
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _TAIL))
    tail = file.read(_TAIL)
    for start, advice in _OTHERS:
        if head.startswith(start):
            return f"not an image: {advice}"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return f"not an image: it is HEIC, which cannot be read here; {_CONVERT}"
    known = _known(head, tail, length)
    if known is None:
        return "not an image"
    kind, whole = known
    return f"damaged: the header of this {kind} file cannot be read" if whole else "truncated"


def _known(head: bytes, tail: bytes, length: int) -> tuple[str, bool] | None:
    """Return the format that the first bytes promise, and whether the file reaches its promised end."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG", b"\xff\xd9" in tail
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", b"IEND" in tail
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP", length >= 8 + int.from_bytes(head[4:8], "little")
    if head.startswith((b"II*\0", b"MM\0*")):
        # The directory lies where these bytes say, often at the very end.
        return "TIFF", length > 8 and length > int.from_bytes(
            head[4:8], "little" if head[:1] == b"I" else "big"
        ) + 2
    if head[4:12] == b"ftypavif":
        return "AVIF", False
    return None
