"""Module."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def flatten(values: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Join what a repeated `CommaList` option brought, keeping the first of equal words."""
    return tuple(dict.fromkeys(word for value in values for word in value))


def printable(text: str) -> str:
    r"""Return text that any terminal, CSV or JSON can show: undecodable and control bytes as ``\xNN``.

    Every other character stays as it is, the spaces and joiners of other scripts too; line separators and
    the marks that reorder what is read are shown as escapes.
    """
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _disturbs(c) else c for c in shown)


def _disturbs(character: str) -> bool:
    if unicodedata.category(character) in {"Cc", "Zl", "Zp"}:  # control characters, line and paragraph ends
        return True
    return "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"  # directions of writing


def human_bytes(count: float) -> str:
    """Return a byte count as people read it: 1536 → ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
