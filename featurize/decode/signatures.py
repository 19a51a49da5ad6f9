"""What can be said of a file that no decoder reads, from its first and last bytes."""

import os
from typing import BinaryIO, Literal

_CONVERT = "convert it to JPEG or PNG"
_ENDS = 64  # bytes looked at, at either end

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
    head = _read(file, 0, _ENDS)
    for start, advice in _OTHERS:
        if head.startswith(start):
            return f"not an image: {advice}"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return f"not an image: it is HEIC, which cannot be read here; {_CONVERT}"
    if is_cut_short(file):
        return "truncated"
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    for start, name in starts.items():
        if head.startswith(start):
            return f"damaged: the header of this {name} file cannot be read"
    return "not an image"


def is_cut_short(file: BinaryIO) -> bool:
    """Return whether a file that begins as an image ends before the end that its format promises."""
    head = _read(file, 0, _ENDS)
    length = file.seek(0, os.SEEK_END)
    tail = _read(file, max(0, length - _ENDS), _ENDS)
    if head.startswith(b"\xff\xd8\xff"):  # JPEG
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in tail
    if head.startswith((b"GIF87a", b"GIF89a")):
        return not tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return length < 8 + int.from_bytes(head[4:8], "little")
    if head.startswith((b"II*\0", b"MM\0*")):  # TIFF: its directory lies anywhere, often at the end
        return length < _end_of_tiff_directory(file, byteorder="little" if head.startswith(b"I") else "big")
    if head[4:12] == b"ftypavif":
        return length < _end_of_boxes(file, length)
    return False


def _end_of_tiff_directory(file: BinaryIO, *, byteorder: Literal["little", "big"]) -> int:
    start = int.from_bytes(_read(file, 4, 4), byteorder)
    n_entries = int.from_bytes(_read(file, start, 2), byteorder)
    return start + 2 + 12 * max(1, n_entries)


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    """Return where the last of the boxes ends that an ISO media file is made of."""
    end = 0
    while end < length:
        size = int.from_bytes(_read(file, end, 4), "big")
        if size < 8:  # the two special sizes: to the end of the file, and more than 4 GiB
            return length
        end += size
    return end


def _read(file: BinaryIO, start: int, n_bytes: int) -> bytes:
    file.seek(start)
    return file.read(n_bytes)
