"""Text for people, terminals and spreadsheets."""

from __future__ import annotations

import unicodedata

_FORMULA = ("=", "+", "-", "@")  # first characters of a cell that a spreadsheet evaluates


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """Return a count with its noun: ``1 image``, ``2,000 images``, ``3 classes``.

    Parameters
    ----------
    count : int
    noun : str
        Singular.
    plural_noun : str, optional
        By default `noun` with an "s".
    """
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def printable(text: str) -> str:
    r"""Return text that any terminal, CSV or JSON can show: undecodable and control bytes as ``\xNN``.

    Characters of every script stay, their spaces and joiners too. Line separators and the marks that change
    the direction of writing become escapes.
    """
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _needs_escape(c) else c for c in shown)


def _needs_escape(character: str) -> bool:
    if unicodedata.category(character) in {"Cc", "Zl", "Zp"}:  # control characters, line and paragraph ends
        return True
    return "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"  # directions of writing


def safe_cell(text: str) -> str:
    """Return printable text for a spreadsheet cell that is shown and never evaluated.

    A cell that begins like a formula gets a leading apostrophe. Blanks, line ends and invisible characters at
    its beginning do not count, and full-width characters count as the ordinary ones.
    """
    start = "".join(c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Zl", "Zp", "Zs"})[:1]
    evaluated = unicodedata.normalize("NFKC", start).startswith(_FORMULA)
    return f"'{printable(text)}" if evaluated else printable(text)


def flatten(values: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the words of a repeated `CommaList` option, each once, in order."""
    return tuple(dict.fromkeys(word for value in values for word in value))


def human_bytes(count: float) -> str:
    """Return a byte count for people: 1536 → ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
