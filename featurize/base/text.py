"""Text for terminals, messages and spreadsheets."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@")  # a spreadsheet evaluates a cell that begins with one of these


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """Return a count with its noun: ``1 image``, ``2,000 images``, ``3 classes``.

    Parameters
    ----------
    count : int
        Shown with thousands separators.
    noun : str
        Singular form.
    plural_noun : str, optional
        Plural form; by default `noun` with an "s".
    """
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def printable(text: str) -> str:
    r"""Return text that is safe in any terminal, CSV or JSON: control and undecodable bytes become ``\xNN``.

    Characters of all scripts are kept, including their spaces and joiners. Line separators and characters
    that change the writing direction are escaped.
    """
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _needs_escape(c) else c for c in shown)


def _needs_escape(character: str) -> bool:
    # Control characters, line and paragraph separators, then characters that change the writing direction.
    return (
        unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def safe_cell(text: str) -> str:
    """Return printable text for a spreadsheet cell, protected from evaluation as a formula.

    Text that begins like a formula, or with a tab or a line end, gets a leading apostrophe. Leading spaces
    and invisible characters are ignored, and full-width characters are treated like ASCII characters.
    """
    start = "".join(c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Zl", "Zp", "Zs"})[:1]
    evaluated = unicodedata.normalize("NFKC", start).startswith(_FORMULA) or text.startswith(
        ("\t", "\r", "\n")
    )
    return f"'{printable(text)}" if evaluated else printable(text)


def flatten(values: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the distinct words of a repeated `CommaList` option, in order of first appearance."""
    return tuple(dict.fromkeys(word for value in values for word in value))


def human_bytes(count: float) -> str:
    """Return a byte count with a binary unit: 1536 → ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ". Did you mean 'resnet50'?" where a known word is similar to this one, else ""."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a single ``str`` is one name, never a sequence of characters."""
    return (names,) if isinstance(names, str) else tuple(names)


def split_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a single ``str`` is split at commas, as on the command line."""
    if isinstance(names, str):
        return tuple(word.strip() for word in names.split(",") if word.strip())
    return tuple(names)
